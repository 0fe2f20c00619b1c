"""A job's output over a link that is cut and between nodes that restart: no gap, no line twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Pause, Say, Step
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from pathlib import Path

LINES = 600
METRICS = "volume/aspara/run.jsonl"


def talkative() -> list[Step]:
    steps: list[Step] = []
    for number in range(LINES):
        steps.append(Say(f"line {number}", stream="stderr" if number % 7 == 0 else "stdout"))
        steps.append(Append(METRICS, b'{"step": %d}\n' % number))
        if number % 3 == 0:
            steps.append(Pause(150))
    return steps


@pytest.mark.parametrize("seed", range(4))
async def test_every_line_arrives_once_and_in_order_however_often_the_link_is_cut(
    tmp_path: Path, autojump_clock: trio.abc.Clock, seed: int
) -> None:
    chosen = random.Random(seed)
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: talkative())
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("talk")
        await client.until_stage(task_id, "running")
        cuts = 0
        async with trio.open_nursery() as nursery:

            async def cut() -> None:
                nonlocal cuts
                while True:
                    await trio.sleep(chosen.expovariate(2.0))
                    world.hub.cut(client.key.node_key, provider.key.node_key)
                    cuts += 1

            nursery.start_soon(cut)
            task = await client.until_ended(task_id)
            nursery.cancel_scope.cancel()
        assert cuts > 10
        assert (task.status, task.cause) == (TaskStatus.COMPLETED, Cause.EXITED)
        assert client.printed(task_id) == [f"line {number}" for number in range(LINES)]
        made = dict(client.inbox.held(task_id))
        assert made == {METRICS: sum(len(b'{"step": %d}\n' % n) for n in range(LINES))}
        world.check_agreed(client, provider)


@pytest.mark.parametrize("seed", range(3))
async def test_every_line_arrives_once_and_in_order_though_both_nodes_restart(
    tmp_path: Path, autojump_clock: trio.abc.Clock, seed: int
) -> None:
    chosen = random.Random(seed)
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: talkative())
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("talk")
        await client.until_stage(task_id, "running")
        for _ in range(4):
            await trio.sleep(chosen.uniform(1, 5))
            node = chosen.choice((client, provider))
            await node.kill()
            await trio.sleep(chosen.uniform(0, 3))
            await world.start(node)
        task = await client.until_ended(task_id)
        assert task.cause is Cause.EXITED
        assert client.printed(task_id) == [f"line {number}" for number in range(LINES)]
        world.check_agreed(client, provider)
