"""A client takes only ticks that would prove a double sale: of now, and as long as what is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from fake_world import fake_world
from reckless_renters import ShiftedClock
from test_core_rules import TERMS

from robocompute_node.api.port import TaskStatus
from robocompute_node.core.lease_windows import objection_to_date, objection_to_length
from robocompute_node.executor.fake import Pause
from robocompute_protocol import leases
from robocompute_protocol.identifiers import Address, AgreementId, Signature
from robocompute_protocol.messages import LeaseTick
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trio
    from fake_world import FakeNode

    from robocompute_node.services.lettings import LettingRecord
    from robocompute_protocol.steps import SignTick

HOUR_S = 3_600


def tick(start_s: int, end_s: int) -> LeaseTick:
    return LeaseTick(
        stake=Address(bytes(32)), agreement=AgreementId(bytes(32)), payer=Address(bytes(32)),
        slots=1, start_s=start_s, end_s=end_s, signature=Signature(bytes(64)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "left_ms", "fits"),
    [(60, 60_000, True), (59, 60_000, False), (300, 3_600_000, True), (1, -5_000, True)],
)
def test_a_tick_is_as_long_as_what_is_paid_or_as_long_as_any_may_be(
    seconds: int, left_ms: int, fits: bool
) -> None:
    objection = objection_to_length(tick(1_000, 1_000 + seconds), left_ms=Millis(left_ms))
    assert (objection is None) == fits


def lie(provider: FakeNode, shift_s: int, longest_s: int) -> None:
    """Let a provider date what it signs otherwise: two of its ticks need never overlap."""
    honest: Callable[[LettingRecord, SignTick], LettingRecord] = getattr(  # noqa: B009 - from outside
        provider.lettings, "_with_tick"
    )

    def with_tick(record: LettingRecord, effect: SignTick) -> LettingRecord:
        told = honest(record, effect).tick
        assert told is not None
        start_s = told.start_s + shift_s
        end_s = start_s + min(longest_s, told.end_s - told.start_s)
        lied = leases.sign_tick(
            provider.key, stake=told.stake, agreement=told.agreement, payer=told.payer,
            slots=told.slots, start_s=start_s, end_s=end_s,
        )  # fmt: skip
        return msgspec.structs.replace(record, tick=lied)

    setattr(provider.lettings, "_with_tick", with_tick)  # noqa: B010 - from outside


@pytest.mark.parametrize(
    ("shift_s", "longest_s"),
    [(HOUR_S, 300), (-HOUR_S, 300), (0, 1)],
    ids=["of the future", "of the past", "too short"],
)
async def test_a_tick_that_could_not_prove_a_double_sale_is_no_lease(
    shift_s: int, longest_s: int, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(20_000),)))
        lie(provider, shift_s, longest_s)
        client = await world.start(await world.client())
        task = await client.until_ended(await client.submit("run"))
        assert task.status is not TaskStatus.COMPLETED
        assert (task.cost or 0) == 0


async def test_a_client_whose_own_clock_is_wrong_takes_honest_ticks_by_the_chains_time(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await world.start(await world.provider(script=lambda _: (Pause(100_000),)))
        right, world.clock = world.clock, ShiftedClock(world.clock, 100)
        client = await world.start(await world.client())
        world.clock = right
        task = await client.until_ended(await client.submit("run", wait=True))
        assert task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    ("start_s", "fits"), [(1_000, False), (1_040, True), (1_154, True), (1_161, False)]
)
def test_a_later_tick_is_dated_between_when_it_fell_due_and_now(start_s: int, fits: bool) -> None:
    objection = objection_to_date(
        tick(start_s, start_s + 60),
        TERMS,
        started_ms=Millis(1_000_000),
        had_ms=Millis(154_000),  # the next falls due 100 s after the start
        now_ms=Millis(1_100_000),
    )
    assert (objection is None) == fits
