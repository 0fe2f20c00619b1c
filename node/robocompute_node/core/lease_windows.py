"""Does a lease tick cover the time that is paid with it? Pure.

Two ticks prove a double sale only where they overlap. A provider that may date its ticks as it likes,
or make them short, sells one slot to many and nobody can prove it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_protocol import limits, terms as rules
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_protocol.messages import LeaseTick, Terms

DATED_WITHIN: Final = Millis(2 * limits.MAX_CLOCK_AHEAD)
"""An honest provider's clock is off the chain's by half of this at most, or it lets nothing; the
other half is for what is known of the chain's time here."""


def objection_to_length(tick: LeaseTick, *, left_ms: Millis) -> str | None:
    """Return why a tick is too short for the prepaid time that was left after it was signed."""
    covered = (tick.end_s - tick.start_s) * 1_000
    needed = min(left_ms, limits.MAX_TICK)
    return f"a tick of {covered} ms for {needed} ms that are paid" if covered < needed else None


def objection_to_date(
    tick: LeaseTick, terms: Terms, *, started_ms: Millis, had_ms: Millis, now_ms: Millis
) -> str | None:
    """Return why a tick that came now is not one of this time; all by the chain's time.

    ``had_ms`` was prepaid before: the voucher for more was not sent before it fell due.
    """
    due = Millis(0)
    if had_ms:
        due, _ = rules.next_extension(terms, elapsed_ms=Millis(0), prepaid_ms=had_ms)
    if tick.start_s * 1_000 > now_ms + DATED_WITHIN:
        return "a tick that begins later than now"
    if tick.start_s * 1_000 < started_ms + due - DATED_WITHIN:
        return "a tick that begins before it was paid for"
    return None
