"""In which order providers are asked: price, what this node saw of them, and why one was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from market_offers import FAIR, MINT, NOW, offer

from robocompute_node.core.matching import fits, misfit, rank, surcharge_bps
from robocompute_node.core.reputation import (
    COOL_FIRST,
    COOL_LONGEST,
    HALF_LIFE,
    NOTHING_KNOWN,
    Evidence,
    Standing,
    after_end,
    after_failure,
    after_good,
    evidence_of,
)
from robocompute_node.core.throttling import FAST, FORGOTTEN, FREE, LONGEST_PAUSE, Streak
from robocompute_protocol.causes import ANSWERABLE, Cause, Side
from robocompute_protocol.messages import Requirements
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from robocompute_node.core.matching import Match
    from robocompute_protocol.identifiers import NodeKey


def ranked(known: dict[int, Evidence], prices: dict[int, int] | None = None) -> list[Match]:
    offers = [
        offer(number, price_per_hour=MicroUnits((prices or {}).get(number, 2_000_000)))
        for number in (1, 2, 3)
    ]

    def evidence(provider: NodeKey) -> Evidence:
        return known.get(provider[0], NOTHING_KNOWN)

    return list(rank(offers, FAIR, max_price=None, mint=MINT, now=NOW, evidence=evidence))


def order(found: list[Match]) -> list[int]:
    return [match.offer.provider[0] for match in found]


@pytest.mark.parametrize(
    "better",
    [
        Evidence(good=20_000),
        Evidence(fees_paid=MicroUnits(5_000_000)),
        Evidence(has_bps=10_000),
    ],
)
def test_of_equal_prices_the_one_that_more_speaks_for_comes_first(better: Evidence) -> None:
    assert order(ranked({3: better})) == [3, 1, 2]


@pytest.mark.parametrize(
    "worse", [Evidence(good=5_000, bad=5_000), Evidence(latency_ms=Millis(400))]
)
def test_of_equal_prices_the_one_that_more_speaks_against_comes_last(worse: Evidence) -> None:
    assert order(ranked({1: worse})) == [2, 3, 1]


def test_a_price_is_worth_a_risk_up_to_a_point() -> None:
    risky = {1: Evidence(good=8_000, bad=2_000), 2: Evidence(good=100_000)}
    assert order(ranked(risky, {1: 1_000_000}))[0] == 1
    assert order(ranked(risky, {1: 1_900_000}))[0] == 2


def test_a_free_machine_that_always_fails_does_not_come_before_a_cheap_one_that_does_not() -> None:
    known = {1: Evidence(bad=50_000), 2: Evidence(good=50_000)}
    assert order(ranked(known, {1: 0, 2: 5_000, 3: 2_000_000}))[0] == 2


def test_a_provider_that_failed_lately_comes_last_whatever_it_costs() -> None:
    found = ranked({1: Evidence(good=10**6, cools=True)}, {1: 1})
    assert order(found) == [2, 3, 1]
    assert "failed lately" in found[2].why


def test_the_choice_explains_itself() -> None:
    known = Evidence(
        good=11_000, bad=1_000, fees_paid=MicroUnits(10**6), latency_ms=Millis(18), has_bps=9_000
    )
    (first, second, third) = ranked({2: known}, {1: 2_400_000, 2: 2_100_000, 3: 2_500_000})
    assert first.why == (
        "4.200000 an hour, H100, offered 0 s ago, the cheapest of 3, 11 of 12 jobs went well here, "
        "has paid fees on chain, 18 ms away, has 90 % of the files"
    )
    assert "0.600000 over the cheapest of 3" in second.why
    assert "never tried here" in third.why


@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**12),
    st.none() | st.integers(0, 10**9), st.integers(0, 10_000),
)  # fmt: skip
def test_a_surcharge_is_bounded_and_grows_with_every_failure(
    good: int, bad: int, fees: int, latency: int | None, has: int
) -> None:
    known = Evidence(
        good=good, bad=bad, fees_paid=MicroUnits(fees), has_bps=has,
        latency_ms=None if latency is None else Millis(latency),
    )  # fmt: skip
    worse = Evidence(
        good=good, bad=bad + 1_000, fees_paid=known.fees_paid, has_bps=has,
        latency_ms=known.latency_ms,
    )  # fmt: skip
    assert 0 <= surcharge_bps(known) <= surcharge_bps(worse) <= 21_500


@given(
    st.builds(
        Requirements,
        resource_class=st.sampled_from(["h100", "cpu"]),
        gpus=st.integers(0, 5),
        gpu_memory_mib=st.sampled_from([0, 81_559, 81_560]),
        cpu_cores=st.integers(0, 40),
        memory_mib=st.sampled_from([0, 65_536, 262_144, 262_145]),
        disk_mib=st.sampled_from([0, 400_000, 400_001]),
        executor=st.sampled_from(["bubblewrap", "container"]),
    ),
    st.none() | st.integers(0, 10_000_000),
)
def test_what_fits_is_what_no_requirement_speaks_against(
    wanted: Requirements, limit: int | None
) -> None:
    price = None if limit is None else MicroUnits(limit)
    assert fits(offer(), wanted, price) == (misfit(offer(), wanted, price) is None)


# --- standing --------------------------------------------------------------------------------------


def seen(standing: Standing, now: int) -> Evidence:
    return evidence_of(standing, Millis(now), fees_paid=MicroUnits(0), latency_ms=None, has_bps=0)


def test_each_failure_in_a_row_cools_for_twice_as_long_up_to_an_hour() -> None:
    standing, pauses = Standing(), list[int]()
    for _ in range(12):
        standing = after_failure(standing, NOW)
        pauses.append(standing.cool_until_ms - NOW)
    assert pauses[:3] == [COOL_FIRST, 2 * COOL_FIRST, 4 * COOL_FIRST]
    assert pauses[-1] == COOL_LONGEST
    assert sorted(pauses) == pauses


def test_a_provider_cools_down_after_a_failure_and_a_good_end_makes_up_for_the_row() -> None:
    failed = after_failure(Standing(), NOW)
    assert seen(failed, NOW + COOL_FIRST - 1).cools
    assert not seen(failed, NOW + COOL_FIRST).cools
    again = after_failure(after_good(after_failure(failed, NOW), NOW), NOW)
    assert again.cool_until_ms == NOW + COOL_FIRST


@pytest.mark.parametrize("cause", Cause)
def test_a_provider_is_blamed_for_the_ends_it_answers_for_and_for_no_other(cause: Cause) -> None:
    known = seen(after_end(Standing(), cause, NOW), NOW)
    at_fault = ANSWERABLE[cause] is Side.PROVIDER
    assert (known.good, known.bad) == ((0, 1_000) if at_fault else (1_000, 0))


def test_what_was_long_ago_counts_less_and_at_last_nothing() -> None:
    standing = Standing()
    for _ in range(10):
        standing = after_failure(standing, NOW)
    shares = [seen(standing, NOW + months * HALF_LIFE).failure_bps for months in range(20)]
    assert sorted(shares, reverse=True) == shares
    assert shares[-1] == NOTHING_KNOWN.failure_bps
    assert seen(standing, NOW + HALF_LIFE).bad == 5_000


def test_nobody_gets_a_reputation_by_one_lucky_job() -> None:
    lucky = seen(after_good(Standing(), NOW), NOW).failure_bps
    assert 1_000 < lucky < NOTHING_KNOWN.failure_bps


# --- throttling ------------------------------------------------------------------------------------


def fail(streak: Streak, times: int, *, now: int = NOW) -> Streak:
    for _ in range(times):
        streak = streak.after(failed=True, ran=Millis(100), now=Millis(now))
    return streak


def test_a_job_that_fails_at_once_in_a_loop_waits_longer_and_longer() -> None:
    waits = [max(0, fail(Streak(), times).due() - NOW) for times in range(FREE + 9)]
    assert waits[:FREE] == [0] * FREE
    assert waits[FREE : FREE + 3] == [2_000, 4_000, 8_000]
    assert waits[-1] == LONGEST_PAUSE


@pytest.mark.parametrize(("failed", "ran"), [(False, 100), (True, FAST), (False, FAST)])
def test_a_job_that_succeeds_or_gets_somewhere_never_waits(failed: bool, ran: int) -> None:
    streak = fail(Streak(), 20).after(failed=failed, ran=Millis(ran), now=NOW)
    assert streak.due() == 0


def test_a_loop_of_another_day_is_forgotten() -> None:
    later = NOW + FORGOTTEN
    assert fail(fail(Streak(), 20), 1, now=later).failures == 1
    assert fail(fail(Streak(), 20), 1, now=later - 1).failures == 21
