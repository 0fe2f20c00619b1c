"""Deadlines are durations from the agreement: a machine's clock may say what it likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FakeNode, World, fake_world
from reckless_renters import ShiftedClock

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause, Say
from robocompute_protocol.identifiers import AgreementId

if TYPE_CHECKING:
    from pathlib import Path

HORIZON_MS = 30_000
DAY_S = 86_400


async def restart(world: World, node: FakeNode, *, shift_s: int) -> None:
    """Start a node again on a machine whose clock was set meanwhile."""
    theirs, world.clock = world.clock, ShiftedClock(world.clock, shift_s)
    try:
        await world.start(node)
    finally:
        world.clock = theirs


@pytest.mark.parametrize("shift_s", [DAY_S, 45, 5, 0, -5])
async def test_a_client_that_comes_back_with_another_time_pays_no_further_ahead_than_its_horizon(
    shift_s: int, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(
            await world.provider(script=lambda _: (Say("hello"), Pause(100_000)))
        )
        client = await world.start(await world.client())
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        agreement = AgreementId(bytes.fromhex(client.api.task(task_id).agreement or ""))
        await client.kill()
        await trio.sleep(3)
        await restart(world, client, shift_s=shift_s)
        ahead: list[int] = []
        while client.api.task(task_id).ended_ms is None:
            letting = provider.lettings.get(agreement)
            assert letting is not None
            promised = client.channel_with(provider).ledger.paid(agreement)
            if not letting.over:  # a micro-unit a millisecond
                ahead.append(promised - provider.lettings.elapsed(letting))
            await trio.sleep(0.5)
        assert ahead
        assert max(ahead) <= HORIZON_MS + 1_000
        task = client.api.task(task_id)
        assert task.status is TaskStatus.COMPLETED
        assert 100_000 <= (task.cost or 0) <= 101_500
        world.check_agreed(client, provider)


async def test_a_provider_that_comes_back_with_another_time_neither_loses_nor_takes_more(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(
            await world.provider(script=lambda _: (Say("hello"), Pause(100_000)))
        )
        client = await world.start(await world.client())
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        await provider.kill()
        await trio.sleep(3)
        await restart(world, provider, shift_s=DAY_S)
        task = await client.until_ended(task_id)
        payee = world.check_agreed(client, provider)
        assert payee.ledger.owed == task.cost
        assert (task.cost or 0) <= 101_500
