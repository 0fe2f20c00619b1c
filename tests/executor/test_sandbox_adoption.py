"""Jobs outlive the daemon that started them, and whoever comes next finds them."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.executor.port import JobState, PrepareFailed
from robocompute_protocol.causes import Cause
from robocompute_protocol.money import Millis
from robocompute_protocol.receipts import NO_OUTPUT, chain

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.sandbox

DAEMON = """
import sys, trio
from pathlib import Path
from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.bubblewrap import BubblewrapExecutor

async def main():
    data, blobs, job_id = sys.argv[1:]
    executor = BubblewrapExecutor(Path(data), FileBlobStore(Path(blobs)))
    await executor.start(job_id, prepaid=600_000, reserve=0)
    async for record in executor.records(job_id, start=0):
        print(record.sequence, flush=True)

trio.run(main)
"""
COUNT = "import time\nfor n in range(60): print(n); time.sleep(0.02)"


def supervisor(bench: Bench, job_id: str) -> int:
    return json.loads((bench.data / "jobs" / job_id / "state.json").read_text())["supervisor"]


async def test_a_job_whose_daemon_is_killed_goes_on_and_no_record_is_lost_or_doubled(
    bench: Bench,
):
    job_id = await bench.prepare(("python", "-c", COUNT))
    daemon = await trio.lowlevel.open_process(
        [sys.executable, "-c", DAEMON, str(bench.data), str(bench.blobs._root), job_id],  # pyright: ignore[reportPrivateUsage]
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    seen = b""
    async with daemon.stdout:
        while seen.count(b"\n") < 5:
            seen += await daemon.stdout.receive_some()
        daemon.kill()
        await daemon.wait()
    held = int(seen.split(b"\n")[-2])

    executor = bench.executor_again()
    assert executor.jobs() == (job_id,)
    assert (await executor.status(job_id)).state is JobState.RUNNING
    rest = [record async for record in executor.records(job_id, start=held + 1)]
    assert [int(record.data) for record in rest] == list(range(held + 1, 60))
    end = await executor.wait(job_id)
    assert (end.exit_code, end.records) == (0, 60)
    chained = NO_OUTPUT
    async for record in executor.records(job_id, start=0):
        chained = chain(chained, record)
    assert chained == end.output


async def test_a_new_executor_extends_and_stops_what_an_old_one_started(bench: Bench):
    job_id = await bench.begin(("sleep", "600"), prepaid=600_000, reserve=599_900)
    executor = bench.executor_again()
    while (await executor.status(job_id)).state is not JobState.FROZEN:  # noqa: ASYNC110
        await trio.sleep(0.02)
    await executor.extend(job_id, prepaid=Millis(600_000), reserve=Millis(0))
    assert (await executor.status(job_id)).state is JobState.RUNNING
    await executor.stop(job_id, cause=Cause.CANCELLED, detail="enough", grace=Millis(5_000))
    assert (await executor.wait(job_id)).cause is Cause.CANCELLED


async def test_a_job_that_ended_while_nobody_looked_is_there_with_its_end_and_results(
    bench: Bench,
):
    job_id = await bench.begin(("sh", "-c", "echo hello; echo x > made; exit 6"))
    await bench.executor.wait(job_id)
    executor = bench.executor_again()
    assert (await executor.wait(job_id)).exit_code == 6
    assert [record.data async for record in executor.records(job_id, start=0)] == [b"hello"]
    _, manifest = await executor.collect(job_id)
    assert [entry.path for entry in manifest.files] == ["work/made"]


async def test_a_job_whose_supervisor_is_killed_is_gone_and_recorded_as_lost(bench: Bench):
    code = "import os, time; print(os.getpid()); time.sleep(600)"
    job_id = await bench.begin(("python", "-c", code))
    await bench.said(job_id, b"2")
    state = json.loads((bench.data / "jobs" / job_id / "state.json").read_text())
    os.kill(state["supervisor"], signal.SIGKILL)
    end, records = await bench.finish(job_id)
    assert (end.exit_code, end.cause, end.records) == (None, Cause.UNKNOWN, 1)
    assert end.output == chain(NO_OUTPUT, records[0])
    with trio.fail_after(5):
        while Path(f"/proc/{state['init']}").exists():  # noqa: ASYNC110, ASYNC240
            await trio.sleep(0.01)
    assert (await bench.executor.status(job_id)).state is JobState.ENDED


async def test_a_frozen_job_whose_supervisor_is_killed_leaves_nothing(bench: Bench):
    job_id = await bench.begin(("sleep", "600"), prepaid=600_000, reserve=599_950)
    while (await bench.executor.status(job_id)).state is not JobState.FROZEN:  # noqa: ASYNC110
        await trio.sleep(0.02)
    os.kill(supervisor(bench, job_id), signal.SIGKILL)
    assert (await bench.executor.wait(job_id)).cause is Cause.UNKNOWN


async def test_a_supervisor_that_is_asked_to_go_stops_its_job_as_the_provider(bench: Bench):
    job_id = await bench.begin(("sleep", "600"))
    os.kill(supervisor(bench, job_id), signal.SIGTERM)
    end = await bench.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (143, Cause.PROVIDER_STOPPED)


async def test_a_dead_daemon_gives_no_time_away(bench: Bench):
    job_id = await bench.begin(("sleep", "600"), prepaid=600, reserve=200)
    with trio.fail_after(20):
        end = await bench.executor_again().wait(job_id)
    assert end.cause is Cause.CLIENT_LOST


async def test_starting_the_same_job_at_the_same_time_starts_it_once(bench: Bench):
    job_id = await bench.prepare(("sh", "-c", "echo once; sleep 0.3"))
    async with trio.open_nursery() as nursery:
        for executor in (bench.executor, bench.executor_again(), bench.executor_again()):

            async def begin(executor=executor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
                await executor.start(job_id, prepaid=Millis(60_000), reserve=Millis(0))

            nursery.start_soon(begin)
    end, records = await bench.finish(job_id)
    assert end.exit_code == 0
    assert [record.data for record in records] == [b"once"]


async def test_a_stop_waits_for_a_supervisor_that_is_slow_to_answer(bench: Bench):
    job_id = await bench.begin(("python", "-c", COUNT.replace("60", "6000")))
    await bench.said(job_id, b"1")
    pid = supervisor(bench, job_id)
    os.kill(pid, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            functools.partial(
                bench.executor.stop, job_id, cause=Cause.CANCELLED, detail="", grace=Millis(0)
            )
        )
        # Longer than one question is waited for.
        await trio.sleep(6)
        os.kill(pid, signal.SIGCONT)
    assert (await bench.executor.wait(job_id)).cause is Cause.CANCELLED


@pytest.mark.parametrize("progress", range(8))
async def test_a_supervisor_killed_while_it_starts_a_job_leaves_nothing(
    progress: int, bench: Bench
):
    """bubblewrap cannot die with its supervisor in its first moments: whoever finds it ends it."""
    job_id = await bench.prepare(("sleep", "600"))
    state = bench.data / "jobs" / job_id / "state.json"
    async with trio.open_nursery() as nursery:

        async def begin() -> None:
            with suppress(PrepareFailed):
                await bench.executor.start(job_id, prepaid=Millis(600_000), reserve=Millis(0))

        nursery.start_soon(begin)
        with trio.fail_after(10):
            while not state.exists():  # noqa: ASYNC110
                await trio.sleep(0.001)
        await trio.sleep(progress * 0.008)
        with suppress(ProcessLookupError):
            os.kill(supervisor(bench, job_id), signal.SIGKILL)
    with trio.fail_after(10):
        end = await bench.executor_again().wait(job_id)
    assert (end.exit_code, end.cause) == (None, Cause.UNKNOWN)


async def test_a_job_removed_while_it_starts_does_not_come_to_life_later(bench: Bench):
    for pause in (0, 0.01, 0.03):
        job_id = await bench.prepare(("sleep", "600"))
        with trio.move_on_after(pause):
            await bench.executor.start(job_id, prepaid=Millis(600_000), reserve=Millis(0))
        await bench.executor.remove(job_id)
        assert bench.leftovers([job_id]) == []
