"""A job that fails as soon as it begins, again and again, waits longer each time: no money burns.

Each run costs at least a second and its first tick is prepaid. Who hands the same job in from a loop
gets to see why it waits. A job that succeeds, or runs for a while, never waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from robocompute_protocol.money import Millis

FAST: Final = Millis(10_000)
"""A job that failed sooner than this did not get anywhere: it is about the longest first tick."""
FREE: Final = 3
"""Fast failures in a row that are nobody's business: a person mends a typing error and tries again."""
FIRST_PAUSE: Final = Millis(2_000)
"""After these, a pause that doubles each time…"""
LONGEST_PAUSE: Final = Millis(60_000)
"""…up to a minute: then a loop costs cents an hour."""
FORGOTTEN: Final = Millis(600_000)
"""A streak that ended so long ago is another day's work."""


@dataclass(frozen=True, slots=True)
class Streak:
    """Fast failures of one job in a row, and when the last of them ended."""

    failures: int = 0
    last_ms: Millis = Millis(0)

    def after(self, *, failed: bool, ran: Millis, now: Millis) -> Streak:
        """Return the streak after a run that took ``ran``."""
        if not failed or ran >= FAST:
            return Streak()
        gone_on = self if now - self.last_ms < FORGOTTEN else Streak()
        return Streak(gone_on.failures + 1, now)

    def due(self) -> Millis:
        """Return from when on the job may run again."""
        over = self.failures - FREE
        if over < 0:
            return Millis(0)
        doubled = FIRST_PAUSE << min(over, LONGEST_PAUSE.bit_length())
        return Millis(self.last_ms + min(LONGEST_PAUSE, doubled))
