"""A node's clock is held against the chain's time, as far as that can be relied on."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from robocompute_node.core.chain_clock import (
    PACE_OVER,
    TOLERANCE,
    ClockWatch,
    Reading,
    clock_text,
    observe,
)
from robocompute_protocol.money import Millis

NOW_S = 1_700_000_000


def reading(own_s: float, chain_s: float) -> Reading:
    return Reading(Millis(int((NOW_S + own_s) * 1_000)), int(NOW_S + chain_s))


def after(*readings: Reading) -> ClockWatch:
    watch = ClockWatch()
    for each in readings:
        watch = observe(watch, each)
    return watch


def test_nothing_is_said_against_a_clock_before_the_chain_told_its_time() -> None:
    assert ClockWatch().off_ms == 0


@pytest.mark.parametrize(("ahead_s", "off"), [(30, False), (31, True), (-30, False), (-31, True)])
def test_a_clock_is_off_beyond_the_tolerance_on_either_side(ahead_s: int, *, off: bool) -> None:
    assert (after(reading(ahead_s, 0)).off_ms != 0) is off
    assert TOLERANCE == 30_000


def test_a_chain_that_stands_still_says_nothing_of_a_clock() -> None:
    watch = after(reading(0, 0), *(reading(step, 0) for step in range(2, 100, 2)))
    assert watch.off_ms == 0
    assert not watch.keeps_pace


def test_a_chain_that_stood_while_the_node_was_started_is_found_out_soon() -> None:
    first = reading(0, -500)
    assert after(first).off_ms == 500_000
    assert after(first, reading(10, -500)).off_ms == 510_000
    assert after(first, reading(PACE_OVER / 1_000, -500)).off_ms == 0


def test_a_chain_that_goes_on_again_is_believed_again() -> None:
    stood = after(reading(0, 0), reading(60, 0))
    assert stood.off_ms == 0
    assert observe(stood, reading(90, 30)).off_ms == 60_000
    assert observe(stood, reading(90, 90)).off_ms == 0


@given(
    st.integers(-1_000, 1_000),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 2)), max_size=30),
)
def test_a_chain_that_keeps_pace_tells_exactly_how_far_a_clock_is_off(
    ahead_s: int, steps: list[tuple[int, int]]
) -> None:
    watch, now = after(reading(ahead_s, 0)), 0
    for passed, late in steps:
        now += passed
        watch = observe(watch, reading(now + ahead_s, now - late))
        off = watch.off_ms
        if abs(ahead_s) <= 28:
            assert off == 0
        if abs(ahead_s) > 32:
            assert abs(off - ahead_s * 1_000) <= 2_000


def test_it_is_said_in_words_on_which_side_a_clock_is_off() -> None:
    assert clock_text(95_400) == "95 s ahead of the chain's"
    assert clock_text(-31_000) == "31 s behind the chain's"
