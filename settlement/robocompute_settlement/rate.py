"""How often one endpoint may be asked: a token bucket that lets writes go before reads."""

from __future__ import annotations

from typing import Final

import trio

MAX_PAUSE_S: Final = 60.0
"""The longest pause that an endpoint can ask for; longer ones are as good as no endpoint."""


class RateLimiter:
    """``per_s`` requests a second, and ``burst`` at once after a quiet time."""

    def __init__(self, *, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_at: float | None = None
        self._resume_at = float("-inf")
        self._urgent = 0

    async def take(self, *, urgent: bool) -> None:
        """Return when one request may be made; urgent ones before all others."""
        self._urgent += urgent
        try:
            while True:
                pause = self._pause(urgent=urgent)
                if pause <= 0:
                    break
                await trio.sleep(pause)
        finally:
            self._urgent -= urgent
        self._tokens -= 1
        await trio.lowlevel.checkpoint()

    def pause(self, seconds: float) -> None:
        """Let no request go for this long, within bounds: the endpoint asked for it."""
        self._resume_at = max(self._resume_at, trio.current_time() + min(seconds, MAX_PAUSE_S))
        self._tokens = min(self._tokens, 1.0)

    @property
    def paused_s(self) -> float:
        """How long the pause that the endpoint asked for still lasts; 0 when there is none."""
        return max(0.0, self._resume_at - trio.current_time())

    def _pause(self, *, urgent: bool) -> float:
        now = trio.current_time()
        if self._filled_at is not None:
            gained = (now - self._filled_at) * self._per_s
            self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = now
        wanted = 1.0 if urgent else 1.0 + self._urgent
        return max(self._resume_at - now, (wanted - self._tokens) / self._per_s)
