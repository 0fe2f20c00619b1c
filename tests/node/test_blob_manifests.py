"""Uploads and results of so many files that their list takes several chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fake_world import fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Say
from robocompute_node.file_sets import all_chunks, part_names

if TYPE_CHECKING:
    from pathlib import Path

    import trio

FILES = 30_000


async def test_thirty_thousand_files_go_there_and_as_many_come_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        made = [Append(f"volume/made/{number:06}.bin", b"made") for number in range(FILES)]
        provider = await world.provider(script=lambda _: (Say("hello"), *made))
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        files = [(f"data/{number:06}.bin", b"sample") for number in range(FILES)]
        task_id = await client.submit("run", files=files)
        task = await client.until_ended(task_id)
        assert task.status is TaskStatus.COMPLETED
        record = client.tasks.get(task_id)
        assert len(part_names(client.blobs, record.spec.upload)) >= 1
        assert not provider.blobs.missing(all_chunks(client.blobs, record.spec.upload))
        assert record.artifacts is not None
        assert len(part_names(client.blobs, record.artifacts)) >= 1
        assert len(client.api.artifacts(task_id).files) == FILES
