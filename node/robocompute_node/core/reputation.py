"""What this node knows of a provider from its own jobs and measurements, and from fees paid on chain.

Nothing here is hearsay: ends are of this node's own agreements, latency and files were measured in
talking to it, and fees are the chain's. Fees cost their payer money, volume would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_protocol.causes import ANSWERABLE, Cause, Side
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Iterable

HALF_LIFE: Final = Millis(30 * 86_400_000)
"""What was a month ago counts half: machines and their owners change."""
UNIT: Final = 1_000
"""One end, in thousandths, so that old ones can count for less than one."""
DOUBT: Final = 4 * UNIT
"""A stranger is judged as by so many jobs of average luck: one lucky job makes no reputation."""
STRANGER_BPS: Final = 2_000
"""Of these, this share is taken to have failed, in hundredths of a per cent."""
FEES_AT_FIRST: Final = MicroUnits(100_000)
"""Fees of a tenth of a unit paid on chain make a stranger a little less strange: each tenfold more
takes another ``FEES_BPS`` off the doubt, and they were not paid for nothing."""
FEES_BPS: Final = 400
FEES_STEPS: Final = 4
COOL_FIRST: Final = Millis(30_000)
"""A provider that failed comes last for half a minute, twice as long each time in a row…"""
COOL_LONGEST: Final = Millis(3_600_000)
"""…up to an hour: then it may have been mended."""
COOL_DOUBLINGS: Final = 7


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider did for this node. Stored, and replaced as a whole."""

    good: int = 0
    """Ends it is not to blame for, in thousandths, older ones counting less."""
    bad: int = 0
    failures_in_a_row: int = 0
    at_ms: Millis = Millis(0)
    """When the last of them was: the counts are as of then."""
    cool_until_ms: Millis = Millis(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What counts for or against a provider at one moment, for one task."""

    good: int = 0
    """In thousandths."""
    bad: int = 0
    fees_paid: MicroUnits = MicroUnits(0)
    latency_ms: Millis | None = None
    """Between asking it for a quote and its answer; None where it was never measured."""
    has_bps: int = 0
    """How much of the task's files it has already, in hundredths of a per cent."""
    cools: bool = False
    """It failed so lately that others come first."""

    @property
    def failure_bps(self) -> int:
        """How likely it is to fail a job, in hundredths of a per cent."""
        doubted = DOUBT * max(0, STRANGER_BPS - _fee_steps(self.fees_paid) * FEES_BPS)
        return (self.bad * 10_000 + doubted) // (self.good + self.bad + DOUBT)

    def in_words(self) -> Iterable[str]:
        """Say what is known, in a few words each."""
        ends = self.good + self.bad
        if ends >= UNIT:
            yield f"{_rounded(self.good)} of {_rounded(ends)} jobs went well here"
        elif not ends:
            yield "never tried here"
        if _fee_steps(self.fees_paid):
            yield "has paid fees on chain"
        if self.latency_ms is not None:
            yield f"{self.latency_ms} ms away"
        if self.has_bps:
            yield f"has {self.has_bps // 100} % of the files"
        if self.cools:
            yield "failed lately: others come first"


NOTHING_KNOWN: Final = Evidence()


def _rounded(thousandths: int) -> int:
    return (thousandths + UNIT // 2) // UNIT


def _fee_steps(fees: MicroUnits) -> int:
    steps, at = 0, FEES_AT_FIRST
    while steps < FEES_STEPS and fees >= at:
        steps, at = steps + 1, MicroUnits(at * 10)
    return steps


def _faded(count: int, for_ms: int) -> int:
    """``count`` after so long: halved each half-life, in a straight line in between."""
    halvings, rest = divmod(max(0, for_ms), HALF_LIFE)
    if halvings >= count.bit_length():
        return 0
    left = count >> halvings
    return left - left * rest // (2 * HALF_LIFE)


def after_good(standing: Standing, now: Millis) -> Standing:
    """Return the standing after a job that ended as it should, or by its owner's doing."""
    return Standing(
        good=_faded(standing.good, now - standing.at_ms) + UNIT,
        bad=_faded(standing.bad, now - standing.at_ms),
        at_ms=now,
    )


def after_failure(standing: Standing, now: Millis) -> Standing:
    """Return the standing after a refusal, a failed upload or start, or an end it answers for."""
    doublings = min(standing.failures_in_a_row, COOL_DOUBLINGS)
    cool = min(COOL_LONGEST, COOL_FIRST << doublings)
    return Standing(
        good=_faded(standing.good, now - standing.at_ms),
        bad=_faded(standing.bad, now - standing.at_ms) + UNIT,
        failures_in_a_row=standing.failures_in_a_row + 1,
        at_ms=now,
        cool_until_ms=Millis(now + cool),
    )


def after_end(standing: Standing, cause: Cause, now: Millis) -> Standing:
    """Return the standing after a receipt, or after the provider was lost."""
    if ANSWERABLE[cause] is Side.PROVIDER:
        return after_failure(standing, now)
    return after_good(standing, now)


def evidence_of(
    standing: Standing,
    now: Millis,
    *,
    fees_paid: MicroUnits,
    latency_ms: Millis | None,
    has_bps: int,
) -> Evidence:
    """Return what counts now."""
    age = now - standing.at_ms
    return Evidence(
        good=_faded(standing.good, age),
        bad=_faded(standing.bad, age),
        fees_paid=fees_paid,
        latency_ms=latency_ms,
        has_bps=has_bps,
        cools=standing.cool_until_ms > now,
    )
