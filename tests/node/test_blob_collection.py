"""Chunks that nobody needs any more go; those that somebody needs, or just saw, never do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fake_world import FakeNode, fake_world

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.fake import Append, Pause, Say
from robocompute_node.file_sets import all_chunks
from robocompute_node.services.blob_access import GRANTS
from robocompute_node.services.blob_collection import BlobCollection
from robocompute_node.services.blob_exchange import at_once

if TYPE_CHECKING:
    import trio

    from robocompute_protocol.identifiers import Digest

HOUR = 3_600.0
NOTHING: set[Digest] = set()
COLLECTOR = Path(__file__).with_name("blob_collector.py")


def age(blobs_folder: Path, seconds: float = 2 * HOUR) -> None:
    """Make every file as old as if it had not been touched for so long."""
    then = time.time() - seconds
    for path in blobs_folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_what_is_not_needed_goes_oldest_first_down_to_what_is_kept(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    chunks = [blobs.put(bytes([number]) * 1_000) for number in range(10)]
    for number, chunk in enumerate(chunks):
        path = tmp_path / chunk.hex()[:2] / chunk.hex()[2:]
        os.utime(path, (number, number))
    done = blobs.collect({chunks[0]}, keep_bytes=4_000, young_s=HOUR)
    assert (done.removed, done.freed, done.kept) == (5, 5_000, 4_000)
    assert [blobs.holds(chunk) for chunk in chunks] == [True] + [False] * 5 + [True] * 4
    assert blobs.collect({chunks[0]}, keep_bytes=4_000, young_s=HOUR).removed == 0


def test_what_was_put_or_asked_for_a_moment_ago_stays(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    put, asked, missing, old = (blobs.put(bytes([number])) for number in range(4))
    age(tmp_path)
    blobs.put(b"\0")
    assert blobs.has(asked)
    assert blobs.missing((missing,)) == ()
    blobs.collect(NOTHING, keep_bytes=0, young_s=HOUR)
    assert [blobs.holds(chunk) for chunk in (put, asked, missing, old)] == [True] * 3 + [False]


def test_puts_that_were_cut_short_are_swept_and_removals_that_were_are_undone(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    chunk = blobs.put(b"data")
    path = tmp_path / chunk.hex()[:2] / chunk.hex()[2:]
    (path.parent / ".0123").write_bytes(b"da")
    path.rename(tmp_path / "leaving" / chunk.hex())
    again = FileBlobStore(tmp_path)
    assert again.get(chunk) == b"data"
    age(tmp_path)
    again.collect({chunk}, keep_bytes=0, young_s=HOUR)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_a_chunk_that_is_put_again_while_it_is_collected_is_there_afterwards(tmp_path: Path):
    blobs = FileBlobStore(tmp_path)
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            blobs.collect(NOTHING, keep_bytes=0, young_s=0.05)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for number in range(200):
            chunk = blobs.put(b"again")
            assert blobs.get(chunk) == b"again", number
            if number % 50 == 0:
                age(tmp_path)
    finally:
        stop.set()
        thread.join()


def test_killed_at_any_moment_a_collection_never_costs_a_needed_chunk(tmp_path: Path):
    folder, chosen = tmp_path / "blobs", random.Random(7)
    blobs = FileBlobStore(folder)
    needed = [blobs.put(b"needed %d" % number) for number in range(20)]
    names = tmp_path / "needed"
    names.write_text("\n".join(chunk.hex() for chunk in needed))
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, str(COLLECTOR), str(folder), str(names)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(chosen.random() / 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        after = FileBlobStore(folder)
        assert after.missing(tuple(needed)) == ()
        assert all(after.get(chunk) for chunk in needed)
    age(folder)
    done = blobs.collect(set(needed), keep_bytes=0, young_s=HOUR)
    assert done.kept == 0
    assert sum(path.is_file() for path in folder.rglob("*")) == len(needed)


def collection(node: FakeNode, keep_bytes: int = 0) -> BlobCollection:
    made = BlobCollection(
        node.blobs, node.access, node.tasks, node.book, keep_bytes=keep_bytes, work=at_once
    )
    made.lettings = getattr(node, "lettings", None)
    return made


async def test_both_sides_keep_what_a_job_needs_and_only_as_long_as_it_does(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        script = (Say("hello"), Append("volume/out", b"result"), Pause(60_000))
        provider = await world.provider(script=lambda _: script)
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("run", files=[("main.py", b"print()")])
        await client.until_stage(task_id, "running")
        upload = all_chunks(client.blobs, client.tasks.get(task_id).spec.upload)

        async def collect(node: FakeNode) -> None:
            age(node.folder / "blobs")
            await collection(node).collect()

        def held(node: FakeNode, chunks: tuple[Digest, ...]) -> bool:
            return all(map(node.blobs.holds, chunks))

        for node in (client, provider):
            await collect(node)
            assert held(node, upload)
        await client.until_ended(task_id)
        artifacts = client.tasks.get(task_id).artifacts
        assert artifacts is not None
        results = all_chunks(client.blobs, artifacts)
        for node in (client, provider):
            await collect(node)
            assert not any(map(node.blobs.holds, upload))
        assert held(client, results)
        assert not any(map(provider.blobs.holds, results))
        assert provider.store.all(GRANTS) == []
        # The same job again: what was removed is sent again, and all is well.
        again = await client.submit("run", files=[("main.py", b"print()")])
        assert (await client.until_ended(again)).exit_code == 0
