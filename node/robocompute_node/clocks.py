"""The one place where the daemon reads clocks."""

from __future__ import annotations

import time

import trio

from robocompute_protocol.money import Millis


class Clock:
    """Milliseconds since the Unix epoch that never jump while the process lives.

    The wall clock is read once; from then on the monotonic clock of trio counts, so a stepped
    system clock neither bills nor frees a job, and tests run on trio's mock clock.
    """

    def __init__(self) -> None:
        self._epoch_ms = time.time_ns() // 1_000_000
        self._started = trio.current_time()

    def now_ms(self) -> Millis:
        return Millis(self._epoch_ms + int((trio.current_time() - self._started) * 1000))
