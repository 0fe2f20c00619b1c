"""A client's and a provider's services together: jobs that go well, and the money they move."""

from __future__ import annotations

from pathlib import Path

import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Exit, Pause, Say
from robocompute_protocol.causes import Cause


async def pair(world: World, **client_settings: float) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(
        script=lambda task: (Say("hello"), Pause(int(task.argv[-1])), Append("volume/out", b"x" * 9))
    )
    client = await world.client(**client_settings)
    await world.start(provider)
    await world.start(client)
    return client, provider


async def test_a_job_completes_and_both_ledgers_say_the_same(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        task_id = await client.submit("run", "2500", files=[("main.py", b"print()")])
        task = await client.until_ended(task_id)
        assert (task.status, task.cause, task.exit_code) == (TaskStatus.COMPLETED, Cause.EXITED, 0)
        assert client.printed(task_id) == ["hello"]
        assert [f.path for f in client.api.artifacts(task_id).files] == ["volume/out"]
        payee = world.check_agreed(client, provider)
        assert task.cost == payee.ledger.owed
        assert 2_500 <= payee.ledger.owed <= 3_000
