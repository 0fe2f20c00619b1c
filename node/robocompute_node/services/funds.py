"""What a client is told when its balance does not cover what a job needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.api.port import InsufficientFunds
from robocompute_protocol.money import format_amount

if TYPE_CHECKING:
    from robocompute_protocol.money import MicroUnits


def require_funds(needed: MicroUnits, available: MicroUnits) -> None:
    """Check that a channel's deposit can be paid.

    Raises: InsufficientFunds, with how much is missing.
    """
    if available < needed:
        missing = format_amount(needed - available)
        raise InsufficientFunds(
            f"not enough funds: {format_amount(needed)} USDC needed, "
            f"{format_amount(available)} available; add more with "
            f"`robocompute-node wallet deposit {missing}`",
            details={
                "required": format_amount(needed),
                "available": format_amount(available),
                "currency": "USDC",
            },
        )
