"""When earned money is turned into balance on chain, and in which order. Pure.

A settlement costs lamports, so it waits for value or age; it must come before a payer that asked to
close its channel may take the rest back. Age counts up to a quarter of the challenge time, looks at
the chain come eight times within it: an outage of up to half of it loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import ChannelId

SETTLES_A_TRANSACTION: Final = 3
"""Vouchers that fit one transaction of 1,232 bytes."""
AGE_SHARE: Final = 4
"""Money is settled when it is older than this part of the challenge time, whatever the settings."""
LOOK_SHARE: Final = 8
"""A channel is looked at this often within its challenge time, to see it closing."""
LOOK_MAX: Final = Millis(60_000)
LOOK_MIN: Final = Millis(1_000)
"""Bounds of the time between looks: not slower than a minute, not faster than a second."""
PUT_OFF_FIRST: Final = Millis(30_000)
"""Before a settlement is tried again that the chain refused for a reason that may pass (no SOL); the
least where the program itself refused, since that try can cost a fee."""
PUT_OFF_LAST: Final = Millis(600_000)
"""The pause doubles up to ten minutes…"""
PUT_OFF_SHARE: Final = 16
"""…and to this part of the challenge time: a wallet that gets its SOL in time loses nothing."""
CLOSE_AGAIN: Final = Millis(3_600_000)
"""Before the close of an abandoned channel is tried again: nothing waits for it."""
PROGRAM_REFUSED: Final = Millis(3_600_000)
"""Before a settlement is tried again that the program itself refused, while the channel is open."""


class Why(StrEnum):
    """What a settlement is made for, the most urgent first."""

    CLOSING = "closing"
    ASKED = "asked"
    VALUE = "value"
    AGE = "age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The owner's settings."""

    above: MicroUnits
    """Settle at once what is worth at least this."""
    after_ms: Millis
    """Settle what is older than this."""
    least: MicroUnits
    """Less is not worth its fee: it waits for more, for the channel's end, or to be asked for."""
    close_after_ms: Millis = Millis(0)
    """Close a channel that nothing was paid over for so long; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A settlement that was refused ``tries`` times in a row, the last time ``at_ms``."""

    at_ms: Millis
    tries: int
    by_program: bool
    """The program would not take it; otherwise it did not get that far (no SOL, say)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What one channel owes and is not settled."""

    channel: ChannelId
    unsettled: MicroUnits
    since_ms: Millis
    challenge_s: int
    closing: bool = False
    close_at_s: int = 0
    asked: bool = False
    refusal: Refusal | None = None


def why_settle(owed: Owed, policy: Policy, now: Millis) -> Why | None:
    """Return what calls for a settlement now; None: it waits."""
    if owed.unsettled <= 0:
        return None
    if owed.refusal is not None and now < owed.refusal.at_ms + put_off(owed, owed.refusal):
        return None
    if owed.closing:
        return Why.CLOSING
    if owed.asked:
        return Why.ASKED
    if owed.unsettled < policy.least:
        return None
    if owed.unsettled >= policy.above:
        return Why.VALUE
    oldest = min(policy.after_ms, owed.challenge_s * 1_000 // AGE_SHARE)
    return Why.AGE if now - owed.since_ms >= oldest else None


def is_abandoned(policy: Policy, *, used_ms: Millis, now: Millis) -> bool:
    """Whether a channel over which nothing runs now is one to close."""
    return 0 < policy.close_after_ms <= now - used_ms


def batches(
    book: tuple[Owed, ...], policy: Policy, now: Millis
) -> tuple[tuple[ChannelId, ...], ...]:
    """Return what to settle now, a transaction each: closing channels first, the nearest end first."""
    order = list(Why)
    due = [
        (order.index(why), owed.close_at_s if owed.closing else 0, -owed.unsettled, owed.channel)
        for owed in book
        if (why := why_settle(owed, policy, now)) is not None
    ]
    chosen = [channel for *_, channel in sorted(due)]
    return tuple(
        tuple(chosen[start : start + SETTLES_A_TRANSACTION])
        for start in range(0, len(chosen), SETTLES_A_TRANSACTION)
    )


def look_every(challenge_s: int) -> Millis:
    """Return the time between looks at a channel."""
    return Millis(max(LOOK_MIN, min(LOOK_MAX, challenge_s * 1_000 // LOOK_SHARE)))


def put_off(owed: Owed, refusal: Refusal) -> Millis:
    """Return how long after ``refusal`` a settlement waits, by what is known of the channel now.

    So a channel that begins to close ends a long wait that began while it was open.
    """
    if refusal.by_program and not owed.closing:
        return PROGRAM_REFUSED
    doubled = PUT_OFF_FIRST << min(max(0, refusal.tries - 1), 8)
    share = owed.challenge_s * 1_000 // PUT_OFF_SHARE
    pause = min(doubled, PUT_OFF_LAST, share)
    if owed.closing:
        pause = min(pause, (owed.close_at_s * 1_000 - refusal.at_ms) // 4)
    least = min(PUT_OFF_FIRST, share) if refusal.by_program else LOOK_MIN
    return Millis(max(LOOK_MIN, least, pause))
