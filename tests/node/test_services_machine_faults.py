"""What goes wrong on a provider's machine ends the job it happened to, and nothing else."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fake_world import fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Say, Step
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import trio

    from robocompute_protocol.messages import TaskSpec


async def test_a_full_disk_fails_a_job_and_the_provider_goes_on(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    full = True

    def script(_task: TaskSpec) -> Sequence[Step]:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/somebody/secret")
        return (Say("fine"),)

    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=script))
        client = await world.start(await world.client("client"))
        task = await client.until_ended(await client.submit("run"))
        assert (task.status, task.cause) == (TaskStatus.FAILED, Cause.SANDBOX_FAILED)
        assert "No space left on device" in task.message
        assert "secret" not in task.message
        assert task.cost == 0
        full = False
        other = await world.start(await world.client("other"))
        assert (await other.until_ended(await other.submit("run"))).status is TaskStatus.COMPLETED
        assert provider.lettings.summary()["slots_taken"] == 0
