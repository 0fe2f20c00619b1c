"""Which deployment of the settlement program a node trusts with money.

The program itself sets no lower bound on times, so that a test world can have days of seconds. On
mainnet a node insists on real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_settlement.clusters import MAINNET

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Digest
    from robocompute_settlement.port import ConfigView

DAY_S: Final = 86_400
MIN_UNBOND_S: Final = 7 * DAY_S
"""A double sale must be found and proven before its stake is gone."""
MIN_CHALLENGE_S: Final = DAY_S
"""A provider whose chain or machine is away for hours must still be in time to settle."""


def objection_to_deployment(genesis_hash: Digest, config: ConfigView) -> str | None:
    """Return why a node must not use this deployment on this chain, or None."""
    return objection_to_times(
        genesis_hash, unbond_s=config.unbond_s, min_challenge_s=config.min_challenge_s
    )


def objection_to_times(genesis_hash: Digest, *, unbond_s: int, min_challenge_s: int) -> str | None:
    """Return why such settings are not safe on this chain, or None."""
    if genesis_hash != MAINNET:
        return None
    if unbond_s < MIN_UNBOND_S:
        return (
            f"stakes unbond after {unbond_s} s there, and on mainnet nodes want "
            f"{MIN_UNBOND_S} s at least: use another deployment"
        )
    if min_challenge_s < MIN_CHALLENGE_S:
        return (
            f"channels may be closed after {min_challenge_s} s there, and on mainnet nodes want "
            f"{MIN_CHALLENGE_S} s at least: use another deployment"
        )
    return None
