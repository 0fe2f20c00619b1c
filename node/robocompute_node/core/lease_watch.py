"""Leases that were seen, compared with each other: two of one slot for two payers are a double sale.

Only what a known stake's key signed comes in here, so nobody can fill this with inventions; and each
stake fills a place of its own, so nobody can push another's leases out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from robocompute_protocol.leases import overlaps
from robocompute_protocol.messages import LeaseTick

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_settlement.port import StakeView

KEPT_S: Final = 600
"""Seconds that a lease is remembered after its end: another of the same time may arrive late."""
LONGEST_S: Final = 3_600
"""A lease is taken to end by then, however long it says it is: honest ones last five minutes."""
AHEAD_S: Final = 30
"""A lease that begins later than this is not looked at yet: honest ones begin as they are signed."""
OF_ONE_PAYER: Final = 16
"""Leases of one payer that are kept of a stake: the others of its are as good as evidence."""
OF_ONE_STAKE: Final = 1_024
"""Leases of one stake: 62 slots have at most as many payers at a time, unless one is sold twice."""
MAX_LEASES: Final = 50_000
"""Leases in all: 40 MB. The stake that was heard of least lately makes room."""
ROTATION_GRACE_S: Final = 300
"""A stake's previous key answers for what began so soon after another took over."""


def signers_of(stake: StakeView, tick: LeaseTick) -> tuple[NodeKey, ...]:
    """Return the keys that may have signed ``tick`` for this stake, as the program judges it."""
    if stake.rotated_at_s and tick.start_s < stake.rotated_at_s + ROTATION_GRACE_S:
        return (stake.node_key, stake.prev_key)
    return (stake.node_key,)


@dataclass(frozen=True, slots=True)
class DoubleSale:
    """Two leases which together cost their provider a part of its stake."""

    first: LeaseTick
    second: LeaseTick


@dataclass(slots=True)
class _OfStake:
    """The leases of one stake by their signature, in the order in which they came."""

    ticks: dict[bytes, LeaseTick] = field(default_factory=dict[bytes, LeaseTick])


class LeaseBook:
    """What was leased lately, as far as this node heard."""

    def __init__(self, *, capacity: int = MAX_LEASES) -> None:
        self._capacity = capacity
        self._stakes: dict[Address, _OfStake] = {}
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def is_news(self, tick: LeaseTick, now_s: int) -> bool:
        """Whether ``tick`` is of about now and was not seen before; changes nothing."""
        if tick.end_s <= tick.start_s or tick.slots == 0 or tick.start_s > now_s + AHEAD_S:
            return False
        if _over_s(tick) <= now_s:
            return False
        of_stake = self._stakes.get(tick.stake)
        return of_stake is None or tick.signature not in of_stake.ticks

    def take(self, tick: LeaseTick, now_s: int) -> DoubleSale | None:
        """Remember ``tick``, whose signature was checked; return what it proves, if anything."""
        if not self.is_news(tick, now_s):
            return None
        of_stake = self._stakes.pop(tick.stake, None) or _OfStake()
        self._stakes[tick.stake] = of_stake  # heard of last
        self._forget(
            of_stake, [key for key, old in of_stake.ticks.items() if _over_s(old) <= now_s]
        )
        proof = [old for old in of_stake.ticks.values() if overlaps(old, tick)]
        other = max(proof, key=lambda old: old.start_s, default=None)  # good for longest
        own = [key for key, old in of_stake.ticks.items() if old.payer == tick.payer]
        self._forget(of_stake, own[: max(0, len(own) - OF_ONE_PAYER + 1)])
        while len(of_stake.ticks) >= OF_ONE_STAKE:
            ends_first = min(of_stake.ticks, key=lambda key: of_stake.ticks[key].end_s)
            self._forget(of_stake, [ends_first])
        of_stake.ticks[tick.signature] = tick
        self._held += 1
        self._make_room(tick.stake)
        return None if other is None else DoubleSale(other, tick)

    def _forget(self, of_stake: _OfStake, keys: list[bytes]) -> None:
        for key in keys:
            del of_stake.ticks[key]
        self._held -= len(keys)

    def _make_room(self, keep: Address) -> None:
        while self._held > self._capacity:
            longest_ago = next(iter(self._stakes))
            of_stake = self._stakes[longest_ago]
            self._forget(of_stake, list(of_stake.ticks)[: 1 if longest_ago == keep else None])
            if not of_stake.ticks:
                del self._stakes[longest_ago]


def _over_s(tick: LeaseTick) -> int:
    return min(tick.end_s, tick.start_s + LONGEST_S) + KEPT_S


def objection_to_evidence(
    sale: DoubleSale, stake: StakeView, *, now_s: int, unbond_s: int, slash_bps: int
) -> str | None:
    """Return why the program would not, or not any more, take this evidence; or None."""
    starts = (sale.first.start_s, sale.second.start_s)
    if min(starts) <= stake.watermark_s:
        return "it was taken to the chain already, or began before something that was"
    if min(starts) <= now_s - unbond_s:
        return "it is too old"
    if (stake.bonded + stake.unbonding) * slash_bps // 10_000 == 0:
        return "there is nothing left of the stake"
    return None
