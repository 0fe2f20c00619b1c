"""What a client demands of a provider's stake: inventing a second name for a card must cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol.money import MicroUnits, format_amount

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_settlement.port import StakeView


def objection_to_stake(
    stake: StakeView | None,
    *,
    named: Address,
    node_key: NodeKey,
    slots: int,
    slot_stake: MicroUnits,
) -> str | None:
    """Return why these slot bits are not backed by the stake that the quote names, or None.

    Every slot up to the highest bit must be bonded, so a provider cannot let one card twice under
    two numbers without staking for both.
    """
    if stake is None or stake.stake != named:
        return "the quote names a stake that is not the provider's"
    if stake.node_key != node_key:
        return "the stake is for another node's key"
    needed = MicroUnits(slots.bit_length() * slot_stake)
    if stake.bonded < needed:
        return (
            f"{format_amount(stake.bonded)} is staked, "
            f"{format_amount(needed)} would be for the slots it quotes"
        )
    return None
