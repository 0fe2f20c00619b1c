"""Power is cut right after each write to a node's store; started again, everything converges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Pause, Say, Step

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.messages import TaskSpec

KEY = "only-once"


def chatty(_task: TaskSpec) -> tuple[Step, ...]:
    """Run 26 seconds: long enough for several extensions."""
    said = [(Say(f"line {n}"), Pause(2_000)) for n in range(13)]
    return (*(step for pair in said for step in pair), Append("volume/out", b"result"))


async def run_one_job(
    world: World, client: FakeNode, provider: FakeNode, cut: FakeNode, after: int | None
) -> str:
    """Submit one job and see it to its end, starting ``cut`` again when its power was cut."""
    await world.start(provider, cut_after=after if cut is provider else None)
    await world.start(client, cut_after=after if cut is client else None)
    async with trio.open_nursery() as nursery:

        async def start_again() -> None:
            await cut.down.wait()
            await trio.sleep(2)
            await world.start(cut)

        nursery.start_soon(start_again)
        with trio.fail_after(600):
            task_id = ""
            while not task_id:
                await trio.sleep(0.5)
                if not client.down.is_set():
                    task_id = await client.submit("run", wait=True, key=KEY)
            while client.down.is_set() or client.api.task(task_id).ended_ms is None:  # noqa: ASYNC110 - it may be down
                await trio.sleep(0.5)
            await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return task_id


async def writes_without_a_cut(folder: Path, which: str) -> int:
    async with fake_world(folder) as world:
        provider, client = await world.provider(script=chatty), await world.client()
        node = client if which == "client" else provider
        await run_one_job(world, client, provider, node, None)
        return node.store.writes


@pytest.mark.parametrize("which", ["client", "provider"])
async def test_a_power_cut_after_any_write_loses_no_money_and_no_output(
    which: str, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    total = await writes_without_a_cut(tmp_path, which)
    assert total > 10
    for after in range(1, total + 1):
        folder = tmp_path / f"{after}"
        folder.mkdir()
        async with fake_world(folder) as world:
            provider, client = await world.provider(script=chatty), await world.client()
            node = client if which == "client" else provider
            task_id = await run_one_job(world, client, provider, node, after)
            task = client.api.task(task_id)
            told = f"cut after write {after}: {task}"
            assert task.status is TaskStatus.COMPLETED, told
            assert client.printed(task_id) == [f"line {n}" for n in range(13)], told
            assert [f.path for f in client.api.artifacts(task_id).files] == ["volume/out"], told
            payee = world.check_agreed(client, provider)
            assert payee.ledger.owed == task.cost, told
