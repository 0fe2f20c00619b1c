"""Which agreement a settlement paid for: receipts laid along a channel's settled total.

A channel settles a running total, so a settlement pays a range of it, and so does a receipt: the
first ended the first of it, the next what follows. Where the ranges overlap is what one
transaction paid for one agreement. So the lines of a settlement add up to it, those of a receipt
to its amount, and the fees of all to what the program took, whatever the ranges are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_protocol.money import MicroUnits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_node.accounting import ChannelStory, Evidence
    from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, NodeKey
    from robocompute_protocol.money import Millis

NOTHING: Final = MicroUnits(0)
BPS: Final = 10_000
"""A fee is in hundredths of a per cent."""


class LineState(StrEnum):
    """How far a line's money has come."""

    SETTLED = "settled"
    """Paid by the transaction that the line names."""
    SETTLED_UNSEEN = "settled_unseen"
    """Paid by one that the chain's history does not show: too new, or too old for the endpoint."""
    UNSETTLED = "unsettled"
    """Owed by a receipt, and not paid on chain yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """What one agreement came to, as its receipt says."""

    agreement: AgreementId
    channel: ChannelId
    amount: MicroUnits
    receipt: Digest
    """Of the signed receipt: what the channel's ledger closes the agreement by."""
    job: str
    """The task at the client, the job at the provider."""
    other: NodeKey
    """The other side's node."""
    ended_ms: Millis
    metered_ms: Millis
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A part of a channel's total: from ``start`` to ``end`` of what its vouchers promise."""

    state: LineState
    start: MicroUnits
    end: MicroUnits
    fee: MicroUnits
    evidence: Evidence | None

    @property
    def amount(self) -> MicroUnits:
        return MicroUnits(self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One agreement's lines; ``receipted`` is None for what was settled without a receipt here."""

    channel: ChannelId
    receipted: Receipted | None
    lines: tuple[Line, ...]

    def amount(self, *states: LineState) -> MicroUnits:
        """What the lines in these states add up to; in all of them, where none is named."""
        wanted = states or tuple(LineState)
        return MicroUnits(sum(line.amount for line in self.lines if line.state in wanted))

    def fee(self, *states: LineState) -> MicroUnits:
        """The fees of the same lines."""
        wanted = states or tuple(LineState)
        return MicroUnits(sum(line.fee for line in self.lines if line.state in wanted))


def fee_of(total: int, fee_bps: int) -> int:
    """Return what the program takes of a settled total, rounded up once, on the total."""
    return -(-total * fee_bps // BPS)


def bills_of(
    story: ChannelStory,
    receipted: Iterable[Receipted],
    *,
    settled: MicroUnits = NOTHING,
    known_from: MicroUnits = NOTHING,
) -> tuple[Bill, ...]:
    """Return the channel's bills, the oldest first, and last what no receipt explains.

    ``settled`` is what the chain says now, which the history may lag behind. Of the total up to
    ``known_from`` no receipt is left: it was settled before this node's books begin.
    """
    ordered = sorted(receipted, key=lambda one: (one.ended_ms, one.agreement))
    ranges = list[tuple[int, int, Receipted | None]]()
    at = int(known_from)
    if known_from:
        ranges.append((0, at, None))
    for one in ordered:
        ranges.append((at, at + one.amount, one))
        at += one.amount
    total = max(settled, story.settled)
    if total > at:
        ranges.append((at, total, None))
    return tuple(
        Bill(channel=story.channel, receipted=one, lines=_lines(story, start, end, total))
        for start, end, one in ranges
    )


def _lines(story: ChannelStory, start: int, end: int, settled: int) -> tuple[Line, ...]:
    """Cut one range of the total where settlements begin and end."""
    lines: list[Line] = []

    def add(state: LineState, low: int, high: int, evidence: Evidence | None) -> None:
        low, high = max(low, start), min(high, end)
        if low < high:
            fee = fee_of(high, story.fee_bps) - fee_of(low, story.fee_bps)
            lines.append(
                Line(
                    state=state,
                    start=MicroUnits(low),
                    end=MicroUnits(high),
                    fee=MicroUnits(fee),
                    evidence=evidence,
                )
            )

    reached = 0
    for each in story.settlements:
        add(LineState.SETTLED_UNSEEN, reached, each.start, None)
        add(LineState.SETTLED, each.start, each.end, each.evidence)
        reached = each.end
    add(LineState.SETTLED_UNSEEN, reached, settled, None)
    add(LineState.UNSETTLED, max(reached, settled), end, None)
    return tuple(lines)
