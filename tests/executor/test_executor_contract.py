"""What every executor promises, on the real one and on the fake that the services' tests use."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from podman_engine import IMAGE

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.bubblewrap import BubblewrapExecutor
from robocompute_node.executor.container import ContainerExecutor
from robocompute_node.executor.fake import (
    Append,
    Exit,
    FakeExecutor,
    IgnoreTerm,
    Pause,
    Say,
    Step,
)
from robocompute_node.executor.images import Allowed
from robocompute_node.executor.port import Executor, JobOrder, JobState, PrepareFailed
from robocompute_protocol import codec, limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import (
    FileEntry,
    Manifest,
    Output,
    Requirements,
    TaskSpec,
)
from robocompute_protocol.money import Millis
from robocompute_protocol.receipts import NO_OUTPUT, chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

LONG = Millis(600_000)
NOW = Millis(0)
SECOND = Millis(1_000)


def program(steps: Sequence[Step]) -> str:
    """The script as Python, for the executor that runs programs."""
    lines = ["import sys, time, signal, os"]
    for step in steps:
        match step:
            case Say():
                lines.append(f"print({step.text!r}, file=sys.{step.stream}, flush=True)")
            case Pause():
                lines.append(f"time.sleep({step.ms / 1000})")
            case Append():
                place = "/volume" if step.path.startswith("volume/") else "/job"
                path = f"{place}/{step.path.partition('/')[2]}"
                lines.append(f"os.makedirs(os.path.dirname({path!r}), exist_ok=True)")
                lines.append(f"open({path!r}, 'ab').write({step.data!r})")
            case IgnoreTerm():
                lines.append("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
            case Exit():
                lines.append(f"sys.stdout.flush(); os._exit({step.code})")
            case _:
                raise AssertionError(step)
    return "\n".join(lines)


@dataclass
class Stand:
    """One executor, and scripted jobs for it."""

    executor: Executor
    blobs: FileBlobStore
    scripts: dict[str, tuple[Step, ...]]
    kind: str

    async def prepare(self, *steps: Step, upload: Manifest | None = None) -> str:
        job_id = secrets.token_hex(16)
        name = f"script-{len(self.scripts)}"
        self.scripts[name] = steps
        argv = ("python", "-c", name if self.kind == "fake" else program(steps))
        container = self.kind == "container"
        order = JobOrder(
            job_id=job_id,
            task=TaskSpec(
                app_name=name,
                argv=argv,
                requirements=Requirements(executor="container" if container else "bubblewrap"),
                upload=Digest(bytes(32)),
                wall_ms=LONG,
                image=IMAGE if container else None,
            ),
        )
        await self.executor.prepare(order, upload or Manifest(files=()), quiet)
        return job_id

    async def start(self, *steps: Step, prepaid: int = LONG, reserve: int = 0) -> str:
        job_id = await self.prepare(*steps)
        await self.executor.start(job_id, prepaid=Millis(prepaid), reserve=Millis(reserve))
        return job_id

    async def records(self, job_id: str, start: int = 0) -> list[Output]:
        return [record async for record in self.executor.records(job_id, start=start)]

    async def until_said(self, job_id: str, text: bytes) -> None:
        async for record in self.executor.records(job_id, start=0):
            if text in record.data:
                return
        raise AssertionError(f"the job ended without saying {text!r}")


async def quiet(_stage: str, _detail: str) -> None:
    await trio.lowlevel.checkpoint()


SANDBOX = pytest.mark.sandbox


@pytest.fixture(
    params=[
        "fake",
        pytest.param("bubblewrap", marks=SANDBOX),
        pytest.param("container", marks=SANDBOX),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clock(kind: str) -> trio.abc.Clock | None:
    """Processes live in real time; scripts in a clock that jumps."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "fake" else None


@pytest.fixture
async def stand(
    kind: str,
    clock: trio.abc.Clock | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Stand]:
    blobs = FileBlobStore(tmp_path / "blobs")
    scripts: dict[str, tuple[Step, ...]] = {}
    executor: Executor
    if kind == "fake":
        executor = FakeExecutor(blobs, script=lambda task: scripts[task.app_name])
    elif kind == "container":
        executor = ContainerExecutor(
            tmp_path / "data",
            blobs,
            sockets=(request.getfixturevalue("engine"),),
            allowed=Allowed(local=(IMAGE,)),
        )
        assert await executor.probe() == ("container",)
    else:
        executor = BubblewrapExecutor(tmp_path / "data", blobs)
    yield Stand(executor, blobs, scripts, kind)
    for job_id in executor.jobs():
        await executor.remove(job_id)
    assert executor.jobs() == ()


async def test_a_probe_says_what_can_be_offered(stand: Stand, clock: trio.abc.Clock | None):
    name = "container" if stand.kind == "container" else "bubblewrap"
    assert await stand.executor.probe() == (name,)
    assert stand.executor.jobs() == ()


async def test_a_job_says_what_it_says_and_ends_with_its_code(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(Say("one"), Pause(5), Say("two", "stderr"), Exit(7))
    records = await stand.records(job_id)
    assert [(r.sequence, r.stream, r.kind, r.data) for r in records] == [
        (0, "stdout", "line", b"one"),
        (1, "stderr", "line", b"two"),
    ]
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause, end.detail) == (7, Cause.EXITED, "exit code 7")
    assert end.records == 2
    chained = NO_OUTPUT
    for record in records:
        chained = chain(chained, record)
    assert end.output == chained


async def test_output_can_be_read_again_from_any_number(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(*(Say(str(number)) for number in range(10)))
    await stand.executor.wait(job_id)
    assert [record.data for record in await stand.records(job_id, 8)] == [b"8", b"9"]
    assert await stand.records(job_id, 10) == []
    assert len(await stand.records(job_id)) == 10


async def test_a_prepared_job_waits_for_its_start(stand: Stand, clock: trio.abc.Clock | None):
    job_id = await stand.prepare(Say("hello"))
    assert stand.executor.jobs() == (job_id,)
    assert (await stand.executor.status(job_id)).state is JobState.PREPARED
    await stand.executor.start(job_id, prepaid=LONG, reserve=NOW)
    await stand.executor.wait(job_id)
    status = await stand.executor.status(job_id)
    assert (status.state, status.next_sequence) == (JobState.ENDED, 1)


async def test_preparing_and_starting_twice_is_doing_it_once(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(Say("once"), Pause(300))
    await stand.executor.start(job_id, prepaid=NOW, reserve=NOW)
    assert [record.data for record in await stand.records(job_id)] == [b"once"]
    await stand.executor.start(job_id, prepaid=LONG, reserve=NOW)
    assert (await stand.executor.wait(job_id)).exit_code == 0
    assert len(await stand.records(job_id)) == 1


async def test_a_job_that_was_not_prepared_cannot_start(
    stand: Stand, clock: trio.abc.Clock | None
):
    with pytest.raises(PrepareFailed):
        await stand.executor.start("00" * 16, prepaid=LONG, reserve=NOW)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x"])
async def test_an_upload_that_leads_out_is_the_clients_fault(
    path: str, stand: Stand, clock: trio.abc.Clock | None
):
    entry = FileEntry(path=path, mode=0o644, size=1, chunks=(stand.blobs.put(b"x"),))
    with pytest.raises(PrepareFailed) as caught:
        await stand.prepare(Say("never"), upload=Manifest(files=(entry,)))
    assert caught.value.cause is Cause.UPLOAD_INVALID


async def test_missing_chunks_are_the_clients_fault(stand: Stand, clock: trio.abc.Clock | None):
    entry = FileEntry(path="a", mode=0o644, size=1, chunks=(Digest(bytes(32)),))
    with pytest.raises(PrepareFailed) as caught:
        await stand.prepare(Say("never"), upload=Manifest(files=(entry,)))
    assert caught.value.cause is Cause.UPLOAD_INVALID


async def test_a_stopped_job_ends_by_the_signal_and_with_the_first_cause(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(Say("up"), Pause(60_000))
    await stand.until_said(job_id, b"up")
    await stand.executor.stop(job_id, cause=Cause.CANCELLED, detail="Ctrl-C", grace=LONG)
    await stand.executor.stop(job_id, cause=Cause.WALL_TIME, detail="later", grace=LONG)
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause, end.detail) == (143, Cause.CANCELLED, "Ctrl-C")
    note = (await stand.records(job_id))[-1]
    assert (note.stream, note.kind, note.data) == ("supervisor", "note", b"Ctrl-C")


async def test_a_job_deaf_to_sigterm_is_killed_after_the_grace(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(IgnoreTerm(), Say("up"), Pause(60_000))
    await stand.until_said(job_id, b"up")
    await stand.executor.stop(job_id, cause=Cause.CANCELLED, detail="enough", grace=Millis(200))
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (137, Cause.CANCELLED)
    assert end.ran_ms >= 200


async def test_a_job_stopped_before_its_start_never_runs(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.prepare(Say("never"))
    await stand.executor.stop(job_id, cause=Cause.CANCELLED, detail="changed my mind", grace=NOW)
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause, end.ran_ms) == (None, Cause.CANCELLED, 0)
    await stand.executor.start(job_id, prepaid=LONG, reserve=NOW)
    assert await stand.records(job_id) == []


async def test_a_job_is_frozen_in_its_reserve_and_goes_on_when_paid(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(
        *(step for number in range(12) for step in (Say(str(number)), Pause(100))),
        prepaid=60_500,
        reserve=60_000,
    )
    while (await stand.executor.status(job_id)).state is not JobState.FROZEN:  # noqa: ASYNC110
        await trio.sleep(0.05)
    said = (await stand.executor.status(job_id)).next_sequence
    await trio.sleep(0.5)
    status = await stand.executor.status(job_id)
    assert (status.state, status.next_sequence) == (JobState.FROZEN, said)
    assert status.frozen_ms >= 400
    await stand.executor.extend(job_id, prepaid=LONG, reserve=SECOND)
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (0, Cause.EXITED)
    assert end.frozen_ms >= 500
    records = await stand.records(job_id)
    lines = [record.data for record in records if record.stream == "stdout"]
    assert lines == [b"%d" % number for number in range(12)]
    notes = [record.data for record in records if record.kind == "note"]
    assert notes == [b"frozen: waiting for the next payment", b"thawed"]


async def test_a_job_whose_prepaid_time_is_used_up_ends_as_client_lost(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(Say("up"), Pause(60_000), prepaid=900, reserve=300)
    end = await stand.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (137, Cause.CLIENT_LOST)
    assert end.frozen_ms >= 250
    await stand.executor.extend(job_id, prepaid=LONG, reserve=NOW)
    assert (await stand.executor.status(job_id)).state is JobState.ENDED


async def test_a_cancelled_call_harms_no_job(stand: Stand, clock: trio.abc.Clock | None):
    job_id = await stand.start(Say("up"), Pause(600), Say("still here"))
    with trio.move_on_after(0.2) as scope:
        await stand.executor.wait(job_id)
    assert scope.cancelled_caught
    reader = stand.executor.records(job_id, start=0)
    assert (await anext(reader)).data == b"up"
    with trio.move_on_after(0.01) as scope:
        await anext(reader)
    assert scope.cancelled_caught
    assert (await anext(reader)).data == b"still here"
    assert (await stand.executor.wait(job_id)).exit_code == 0


async def test_live_files_grow_from_the_offset_held_and_end_with_the_job(
    stand: Stand, clock: trio.abc.Clock | None
):
    path = "volume/aspara/project/run.jsonl"
    job_id = await stand.start(
        Append(path, b"12345"),
        Append("volume/aspara/x.txt", b"no"),
        Pause(600),
        Append(path, b"6"),
    )
    content = b""
    async for grown in stand.executor.appended(job_id, offsets={path: 2}):
        assert (grown.path, grown.offset) == (path, 2 + len(content))
        content += grown.data
    assert content == b"3456"


async def test_usage_is_told_while_the_job_runs(stand: Stand, clock: trio.abc.Clock | None):
    job_id = await stand.start(Pause(1_500))
    seen = [usage async for usage in stand.executor.usage(job_id)]
    assert seen
    assert all(usage.peak_memory_bytes >= usage.memory_bytes > 0 for usage in seen)


async def test_results_are_in_the_blob_store_under_the_manifests_digest(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(
        Append("volume/app/traces/t.json", b"{}"), Append("work/out.txt", b"result")
    )
    await stand.executor.wait(job_id)
    digest, manifest = await stand.executor.collect(job_id)
    assert await stand.executor.collect(job_id) == (digest, manifest)
    encoded = stand.blobs.get(digest)
    assert codec.decode(Manifest, encoded, limit=limits.MAX_MANIFEST_BYTES) == manifest
    contents = {
        entry.path: b"".join(stand.blobs.get(chunk) for chunk in entry.chunks)
        for entry in manifest.files
    }
    assert contents == {"volume/app/traces/t.json": b"{}", "work/out.txt": b"result"}


async def test_removing_a_running_job_ends_it_and_leaves_nothing(
    stand: Stand, clock: trio.abc.Clock | None
):
    job_id = await stand.start(IgnoreTerm(), Say("up"), Pause(60_000))
    await stand.until_said(job_id, b"up")
    await stand.executor.remove(job_id)
    assert stand.executor.jobs() == ()
    await stand.executor.remove(job_id)
