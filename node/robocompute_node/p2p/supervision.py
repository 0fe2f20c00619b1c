"""The supervisor: what falls over is started again, at intervals that do not burn a core."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

RESTART_MIN_S: Final = 0.2
"""First wait before a failed part is started again."""
RESTART_MAX_S: Final = 10.0
"""Longest such wait: what falls over at once must not burn a core."""
STEADY_S: Final = 60.0
"""What ran this long starts the waits anew."""


class Supervisor:
    """Runs one part for ever, and counts how often it came up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.starts = 0
        self.last_failure: str | None = None

    def came_up(self) -> None:
        """The part is running. Called by the part, once a start."""
        self.starts += 1

    async def run(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run ``part`` again whenever it ends, with whatever error, until cancelled.

        Raises:
            Exception: whatever it ended with before it first came up: that is no accident.
        """
        delay = RESTART_MIN_S
        while True:
            started = trio.current_time()
            try:
                await part()
                self.last_failure = "it ended by itself"
            except Exception as exc:
                if not self.starts:
                    raise
                self.last_failure = _innermost(exc)
                log.exception("%s failed, starting it again in %.1f s", self._name, delay)
            if trio.current_time() - started > STEADY_S:
                delay = RESTART_MIN_S
            await trio.sleep(delay)
            delay = min(delay * 2, RESTART_MAX_S)


def _innermost(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
    return f"{type(exc).__name__}: {exc}"
