"""When money is settled: what it is worth, how old it is, and never too late."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from robocompute_node.core.settling import (
    SETTLES_A_TRANSACTION,
    Owed,
    Policy,
    Refusal,
    Why,
    batches,
    is_abandoned,
    look_every,
    put_off,
    why_settle,
)
from robocompute_protocol.identifiers import ChannelId
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Iterable

POLICY = Policy(above=MicroUnits(5_000), after_ms=Millis(100_000), least=MicroUnits(10))
OWED = Owed(
    channel=ChannelId(bytes(32)),
    unsettled=MicroUnits(1_000),
    since_ms=Millis(0),
    challenge_s=4_000,
)
LATER = Millis(100_000)
NO_SOL = Refusal(at_ms=Millis(150_000), tries=1, by_program=False)
BY_PROGRAM = Refusal(at_ms=Millis(150_000), tries=1, by_program=True)
CLOSING = {"closing": True, "close_at_s": 4_150}


@pytest.mark.parametrize(
    ("change", "now", "why"),
    [
        ({}, 99_999, None),
        ({}, 100_000, Why.AGE),
        ({"challenge_s": 40}, 10_000, Why.AGE),
        ({"unsettled": MicroUnits(5_000)}, 0, Why.VALUE),
        ({"unsettled": MicroUnits(9)}, 10**9, None),
        ({"unsettled": MicroUnits(9), "asked": True}, 0, Why.ASKED),
        ({"unsettled": MicroUnits(1), "closing": True}, 0, Why.CLOSING),
        ({"unsettled": MicroUnits(0), "closing": True, "asked": True}, 0, None),
        ({"refusal": NO_SOL, **CLOSING}, 179_999, None),
        ({"refusal": NO_SOL}, 180_000, Why.AGE),
        ({"refusal": BY_PROGRAM}, 150_000 + 3_599_999, None),
        ({"refusal": BY_PROGRAM}, 150_000 + 3_600_000, Why.AGE),
        ({"refusal": BY_PROGRAM, **CLOSING}, 179_999, None),
        ({"refusal": BY_PROGRAM, **CLOSING}, 180_000, Why.CLOSING),
    ],
)
def test_a_settlement_waits_for_value_age_an_owner_or_the_channels_close(
    change: dict[str, object], now: int, why: Why | None
) -> None:
    assert why_settle(replace(OWED, **change), POLICY, Millis(now)) is why


def channel(number: int) -> ChannelId:
    return ChannelId(number.to_bytes(32))


def test_closing_channels_go_first_the_nearest_end_before_the_others_and_three_at_a_time() -> None:
    book = (
        replace(OWED, channel=channel(1)),
        replace(OWED, channel=channel(2), unsettled=MicroUnits(6_000)),
        replace(OWED, channel=channel(3), closing=True, close_at_s=900),
        replace(OWED, channel=channel(4), closing=True, close_at_s=500),
        replace(OWED, channel=channel(5), unsettled=MicroUnits(7_000)),
        replace(OWED, channel=channel(6), unsettled=MicroUnits(1)),
    )
    assert batches(book, POLICY, LATER) == (
        (channel(4), channel(3), channel(5)),
        (channel(2), channel(1)),
    )


@given(st.integers(1, 100), st.integers(1, 2_592_000), st.booleans())
def test_a_refused_settlement_of_a_closing_channel_is_tried_again_before_the_channel_ends(
    tries: int, left_s: int, by_program: bool
) -> None:
    owed = replace(OWED, challenge_s=left_s, closing=True, close_at_s=1_000 + left_s)
    pause = put_off(owed, Refusal(at_ms=Millis(1_000_000), tries=tries, by_program=by_program))
    assert 0 < pause <= max(1_000, left_s * 250)


@dataclass
class Chain:
    """A channel that its payer closes, in ticks of an eightieth of the challenge."""

    challenge_s: int
    settled: int = 0
    closing_at: int | None = None


@dataclass
class Run:
    """One provider against one chain, a step of ``step_ms`` at a time."""

    challenge_s: int
    policy: Policy
    down: frozenset[int]
    chain: Chain = field(init=False)
    owed: int = 0
    since: int = 0
    looked: int = -(10**9)
    sees_closing: bool = False

    def __post_init__(self) -> None:
        self.chain = Chain(self.challenge_s)

    def step(self, number: int, now: int) -> None:
        if number in self.down:
            return
        if now - self.looked >= look_every(self.challenge_s):
            self.looked = now
            self.sees_closing = self.chain.closing_at is not None
        owed = Owed(
            channel=channel(1),
            unsettled=MicroUnits(self.owed - self.chain.settled),
            since_ms=Millis(self.since),
            challenge_s=self.challenge_s,
            closing=self.sees_closing,
            close_at_s=((self.chain.closing_at or 0) // 1_000) + self.challenge_s,
        )
        if batches((owed,), self.policy, Millis(now)):
            self.chain.settled = self.owed
            self.since = now


def outages(draws: Iterable[tuple[int, int]], longest: int) -> frozenset[int]:
    """Steps without a chain: each outage shorter than half the challenge, up for a bit between."""
    down, at = set[int](), 0
    for gap, length in draws:
        at += gap
        down |= set(range(at, at + min(length, longest)))
        at += min(length, longest)
    return frozenset(down)


STEPS = 80
"""Of one challenge time."""


@settings(max_examples=300)
@given(
    challenge_s=st.sampled_from([80, 600, 86_400]),
    earns=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4_000)), max_size=20),
    closes=st.integers(0, 400),
    cuts=st.lists(st.tuples(st.integers(STEPS // 8 + 2, 60), st.integers(1, STEPS)), max_size=12),
    least=st.integers(0, 10_000),
)
def test_no_outage_shorter_than_half_the_challenge_loses_anything_that_could_be_claimed(
    challenge_s: int,
    earns: list[tuple[int, int]],
    closes: int,
    cuts: list[tuple[int, int]],
    least: int,
) -> None:
    policy = Policy(above=MicroUnits(10_000), after_ms=Millis(10**12), least=MicroUnits(least))
    run = Run(challenge_s, policy, outages(cuts, STEPS // 2 - 1))
    step_ms = challenge_s * 1_000 // STEPS
    for number in range(closes + STEPS):
        now = number * step_ms
        if number == closes:
            run.chain.closing_at = now
        for at, amount in earns:
            if at == number <= closes:
                run.since = run.since if run.owed > run.chain.settled else now
                run.owed += amount
        run.step(number, now)
    assert run.chain.settled == run.owed


def test_three_vouchers_fit_one_transaction() -> None:
    book = tuple(replace(OWED, channel=channel(n)) for n in range(10))
    assert [len(batch) for batch in batches(book, POLICY, LATER)] == [3, 3, 3, 1]
    assert SETTLES_A_TRANSACTION == 3


@pytest.mark.parametrize(
    ("after", "idle", "abandoned"),
    [(0, 10**12, False), (100, 99, False), (100, 100, True), (100, 10**12, True)],
)
def test_a_channel_is_abandoned_once_it_was_idle_for_as_long_as_is_set(
    after: int, idle: int, *, abandoned: bool
) -> None:
    policy = Policy(
        above=MicroUnits(1),
        after_ms=Millis(1),
        least=MicroUnits(1),
        close_after_ms=Millis(after),
    )
    assert is_abandoned(policy, used_ms=Millis(5), now=Millis(5 + idle)) is abandoned
