"""Is this node's clock right? What the chain's own time says of it. Pure.

A tick that a clock which is ahead signs begins in the future: no client takes it, and once the
clock is set right its node must wait until all it signed is over. The chain's time is the one that
decides about leases and closing channels, so it is what a clock is held against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from robocompute_protocol import limits
from robocompute_protocol.money import Millis

TOLERANCE: Final = limits.MAX_CLOCK_AHEAD
"""Clients refuse what begins further ahead than this; a chain's time is right to a few seconds."""
PACE_OVER: Final = Millis(20_000)
"""The chain's pace is judged over at least this long: its time comes in whole seconds, and a read
is a second or two late."""
PACE_SHARE: Final = 3 / 4
"""A chain whose time goes on slower than this stands or is overloaded, and lags behind for that: it
tells nothing of anybody's clock."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment."""

    own_ms: Millis
    chain_s: int

    @property
    def ahead_ms(self) -> int:
        """How far the own clock is ahead; negative where it is behind."""
        return self.own_ms - self.chain_s * 1_000


@dataclass(frozen=True, slots=True)
class ClockWatch:
    """What the readings so far say."""

    last: Reading | None = None
    """The newest; None before the first."""
    base: Reading | None = None
    """What the chain's pace is judged from next."""
    keeps_pace: bool = True

    @property
    def ahead_ms(self) -> int | None:
        """How far the own clock is ahead of the chain's; None where that is not known."""
        return None if self.last is None or not self.keeps_pace else self.last.ahead_ms

    @property
    def off_ms(self) -> int:
        """How far the own clock is off beyond what is tolerated, with its sign; 0 where it is not."""
        if self.last is None or not self.keeps_pace or abs(self.last.ahead_ms) <= TOLERANCE:
            return 0
        return self.last.ahead_ms


def observe(watch: ClockWatch, reading: Reading) -> ClockWatch:
    """Return the watch after one more reading."""
    base = watch.base
    if base is None:
        return ClockWatch(last=reading, base=reading)
    passed = reading.own_ms - base.own_ms
    if passed < PACE_OVER:
        return replace(watch, last=reading)
    keeps_pace = (reading.chain_s - base.chain_s) * 1_000 >= passed * PACE_SHARE
    return ClockWatch(last=reading, base=reading, keeps_pace=keeps_pace)


def clock_text(off_ms: int) -> str:
    """Say how far a clock is off, in words."""
    side = "ahead of" if off_ms > 0 else "behind"
    return f"{abs(off_ms) // 1_000} s {side} the chain's"
