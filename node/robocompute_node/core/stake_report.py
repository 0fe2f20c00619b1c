"""What a provider should know of its own stake: what it backs, and what threatens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import MicroUnits, format_amount

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_settlement.port import StakeView


@dataclass(frozen=True, slots=True, kw_only=True)
class StakeReport:
    """A stake, seen from its node."""

    slots_covered: int | None
    """None where a slot needs no stake at all."""
    slots_wanted: int
    """What this node's settings let; 0 for a node that lets nothing."""
    missing: MicroUnits
    """What is to be added for all wanted slots."""
    claimable: bool
    """Whether what is on its way out may be taken now."""
    threats: tuple[str, ...]
    """Each one line: what is wrong or in danger, and what to do."""


def report_on(
    stake: StakeView,
    *,
    slot_stake: MicroUnits,
    slash_bps: int,
    node_key: NodeKey,
    slots_wanted: int,
    now_s: int,
) -> StakeReport:
    """Return what there is to know of ``stake`` at ``now_s``."""
    covered = stake.bonded // slot_stake if slot_stake else None
    missing = MicroUnits(max(0, slots_wanted * slot_stake - stake.bonded))
    claimable = stake.unbonding > 0 and now_s >= stake.unbond_at_s
    threats: list[str] = []
    if missing:
        threats.append(
            f"only {covered} of {slots_wanted} slots are backed, and clients refuse the others: "
            f"`robocompute-node stake add {format_amount(missing)}`, or let fewer slots"
        )
    if stake.node_key != node_key:
        threats.append(
            f"leases count only with the key {to_base58(stake.node_key)}, and node.key is "
            f"{to_base58(node_key)}: put the old key back, or `robocompute-node stake rotate-key`"
        )
    if stake.unbonding and not claimable:
        threats.append(
            f"{format_amount(stake.unbonding)} on its way out can still be slashed for "
            f"{stake.unbond_at_s - now_s} s"
        )
    if stake.slashed:
        threats.append(
            f"{format_amount(stake.slashed)} was slashed: a slot was leased to two payers at "
            "once; if you did not do that, somebody has node.key: `robocompute-node stake "
            "rotate-key` with a new one"
        )
    if stake.bonded or stake.unbonding:
        penalty = (stake.bonded + stake.unbonding) * slash_bps // 10_000
        threats.append(
            f"leasing one slot to two payers at once costs {format_amount(penalty)}: never run "
            "two nodes with one node.key"
        )
    return StakeReport(
        slots_covered=covered,
        slots_wanted=slots_wanted,
        missing=missing,
        claimable=claimable,
        threats=tuple(threats),
    )
