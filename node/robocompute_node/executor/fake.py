"""An executor without processes: scripted jobs in memory, on trio's clock, for services' tests.

It passes the same contract tests as the real one (tests/executor/test_executor_contract.py). Jobs
run in system tasks, so no nursery is needed, as with the real one.
"""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

import trio
from trio.testing import memory_stream_pair

from robocompute_node.executor import segments
from robocompute_node.executor.port import (
    BlobStore,
    JobExit,
    JobOrder,
    JobState,
    JobStatus,
    PortClosed,
    PrepareFailed,
    Progress,
)
from robocompute_node.executor.unpack import check_paths
from robocompute_node.file_sets import keep_files
from robocompute_protocol import limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import (
    Appended,
    FileEntry,
    Manifest,
    Output,
    TaskSpec,
    Usage,
)
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream

_LIVE: Final = "volume/aspara/"
_PIECE_BYTES: Final = 65_536
_USAGE_EVERY_S: Final = 1.0
_SOON_S: Final = 1e-6
"""Moments this close are the same: a jumping clock lands a rounding error beside its target."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Say:
    """Print one line."""

    text: str
    stream: Literal["stdout", "stderr"] = "stdout"


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass. Frozen time does not count."""

    ms: int


@dataclass(frozen=True, slots=True)
class Append:
    """Add to a file: ``volume/…`` or ``work/…``."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Listen:
    """From here on, answer connections to a port with what they say, until the job ends."""

    port: int


@dataclass(frozen=True, slots=True)
class IgnoreTerm:
    """From here on only the end of the grace helps against this job."""


@dataclass(frozen=True, slots=True)
class Exit:
    """End. A script without one ends with 0."""

    code: int


@dataclass(frozen=True, slots=True)
class FailToPrepare:
    """As the first step: ``prepare`` fails with this."""

    cause: Cause
    message: str


Step = Say | Pause | Append | Listen | IgnoreTerm | Exit | FailToPrepare
Script = Callable[[TaskSpec], Sequence[Step]]


def echo(task: TaskSpec) -> Sequence[Step]:
    """Return the script of a job that prints its own command."""
    return (Say(" ".join(task.argv)),)


@dataclass(slots=True)
class _Job:
    order: JobOrder
    upload: Manifest
    steps: Sequence[Step]
    records: list[Output] = field(default_factory=list[Output])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    digest: bytes = segments.EMPTY_CHAIN
    started_at: float | None = None
    frozen_at: float | None = None
    frozen_s: float = 0.0
    freeze_at: float = 0.0
    end_at: float = 0.0
    stopping: tuple[Cause, str] | None = None
    kill_at: float = 0.0
    deaf: bool = False
    ports: set[int] = field(default_factory=set[int])
    exit: JobExit | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def record(
        self,
        stream: Literal["stdout", "stderr", "supervisor"],
        kind: Literal["line", "note"],
        text: str,
    ) -> None:
        sequence, data = len(self.records), text.encode()
        self.digest = segments.chain(self.digest, stream, kind, sequence, data)
        at_ns = int(trio.current_time() * 1e9)
        self.records.append(
            Output(sequence=sequence, stream=stream, kind=kind, at_ns=at_ns, data=data)
        )
        self.notify()

    def thaw(self) -> None:
        if self.frozen_at is not None:
            self.frozen_s += trio.current_time() - self.frozen_at
            self.frozen_at = None

    def frozen_ms(self) -> Millis:
        since = trio.current_time() - self.frozen_at if self.frozen_at is not None else 0.0
        return Millis(round((self.frozen_s + since) * 1000))


class _Stream(Generic[T]):
    """What ``following`` gives out, live, ending with the job."""

    def __init__(
        self, job: _Job, following: Callable[[], T | None], look_again_s: float = math.inf
    ) -> None:
        self._job = job
        self._following = following
        self._look_again_s = look_again_s

    def __aiter__(self) -> _Stream[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        while True:
            changed = self._job.changed
            found = self._following()
            if found is not None:
                return found
            if self._job.exit is not None:
                raise StopAsyncIteration
            with trio.move_on_after(self._look_again_s):
                await changed.wait()

    async def aclose(self) -> None:
        """For ``contextlib.aclosing``."""
        await trio.lowlevel.checkpoint()


class FakeExecutor:
    """Implements ``port.Executor``. ``script`` says what the job of a task does."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        script: Script = echo,
        offers: tuple[str, ...] = ("bubblewrap",),
    ) -> None:
        self._blobs = blobs
        self._script = script
        self._offers = offers
        self._jobs: dict[str, _Job] = {}

    async def probe(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return self._offers

    async def prepare(self, order: JobOrder, upload: Manifest, progress: Progress) -> None:
        await progress("preparing", f"Unpacking {len(upload.files):,} files")
        if order.job_id in self._jobs:
            return
        check_paths(entry.path for entry in upload.files)
        missing = self._blobs.missing(tuple(c for entry in upload.files for c in entry.chunks))
        if missing:
            raise PrepareFailed(f"{len(missing)} chunks were not sent", cause=Cause.UPLOAD_INVALID)
        if order.task.requirements_file is not None:
            await progress("environment", "Installing collected packages…")
        steps = self._script(order.task)
        for step in steps:
            if isinstance(step, FailToPrepare):
                raise PrepareFailed(step.message, cause=step.cause)
        self._jobs[order.job_id] = _Job(order, upload, steps)

    async def start(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        await trio.lowlevel.checkpoint()
        job = self._jobs.get(job_id)
        if job is None:
            raise PrepareFailed("the job was not prepared", cause=Cause.SANDBOX_FAILED)
        if job.started_at is not None or job.exit is not None:
            return
        job.started_at = trio.current_time()
        self._set_lease(job, prepaid, reserve)
        trio.lowlevel.spawn_system_task(self._run, job)
        trio.lowlevel.spawn_system_task(self._keep_lease, job)

    def _set_lease(self, job: _Job, prepaid: Millis, reserve: Millis) -> None:
        job.end_at = trio.current_time() + prepaid / 1000
        job.freeze_at = job.end_at - reserve / 1000

    async def extend(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        await trio.lowlevel.checkpoint()
        job = self._jobs[job_id]
        if job.exit is not None or job.stopping is not None:
            return
        self._set_lease(job, prepaid, reserve)
        if job.frozen_at is not None and trio.current_time() < job.freeze_at:
            job.thaw()
            job.record("supervisor", "note", "thawed")
        job.notify()

    async def stop(self, job_id: str, *, cause: Cause, detail: str, grace: Millis) -> None:
        await trio.lowlevel.checkpoint()
        job = self._jobs.get(job_id)
        if job is None or job.exit is not None:
            return
        if job.started_at is None:
            self._end(job, None, cause, detail)
            return
        kill_at = trio.current_time() + grace / 1000
        job.kill_at = kill_at if job.stopping is None else min(job.kill_at, kill_at)
        self._stop(job, cause, detail)

    def _stop(self, job: _Job, cause: Cause, detail: str) -> None:
        if job.stopping is None:
            job.stopping = (cause, detail)
            job.thaw()
            job.record("supervisor", "note", detail)
        job.notify()

    async def _keep_lease(self, job: _Job) -> None:
        wall_s = job.order.task.wall_ms / 1000
        while job.exit is None and job.stopping is None:
            now = trio.current_time() + _SOON_S
            wall_at = (job.started_at or now) + job.frozen_s + wall_s
            if now >= job.end_at:
                job.kill_at = now
                self._stop(job, Cause.CLIENT_LOST, "the prepaid time is used up")
                return
            if job.frozen_at is None and now >= wall_at:
                job.kill_at = now
                self._stop(job, Cause.WALL_TIME, f"time limit of {wall_s:.0f} s reached")
                return
            if job.frozen_at is None and now >= job.freeze_at:
                job.frozen_at = now
                job.record("supervisor", "note", "frozen: waiting for the next payment")
            due = job.end_at if job.frozen_at is not None else min(job.freeze_at, wall_at)
            with trio.move_on_at(due):
                await job.changed.wait()

    async def _run(self, job: _Job) -> None:
        for step in job.steps:
            if not await self._go_on(job):
                return
            match step:
                case Say():
                    job.record(step.stream, "line", step.text)
                case Append():
                    job.files[step.path] = job.files.get(step.path, b"") + step.data
                    job.notify()
                case Listen():
                    job.ports.add(step.port)
                case IgnoreTerm():
                    job.deaf = True
                case Pause():
                    await self._pass_time(job, step.ms / 1000)
                case Exit():
                    self._end(job, step.code, Cause.EXITED, _how(step.code))
                    return
                case FailToPrepare():
                    raise AssertionError("a job that failed to prepare was started")
        if await self._go_on(job):
            self._end(job, 0, Cause.EXITED, _how(0))

    async def _go_on(self, job: _Job) -> bool:
        """Wait while frozen; end the job if it was stopped."""
        while job.frozen_at is not None and job.stopping is None:
            await job.changed.wait()
        if job.stopping is None:
            return True
        now = trio.current_time()
        killed = job.deaf or now + _SOON_S >= job.kill_at
        if job.deaf:
            await trio.sleep_until(job.kill_at)
        self._end(job, 137 if killed else 143, *job.stopping)
        return False

    async def _pass_time(self, job: _Job, seconds: float) -> None:
        left = seconds
        while left > _SOON_S and job.stopping is None:
            began, changed = trio.current_time(), job.changed
            if job.frozen_at is not None:
                await changed.wait()
                continue
            with trio.move_on_after(left):
                await changed.wait()
            left -= trio.current_time() - began

    def _end(self, job: _Job, code: int | None, cause: Cause, detail: str) -> None:
        job.thaw()
        began = trio.current_time() if job.started_at is None else job.started_at
        frozen_ms = job.frozen_ms()
        job.exit = JobExit(
            exit_code=code,
            cause=cause,
            detail=detail,
            ran_ms=Millis(round((trio.current_time() - began) * 1000) - frozen_ms),
            frozen_ms=frozen_ms,
            records=len(job.records),
            output=Digest(job.digest),
        )
        job.notify()

    async def status(self, job_id: str) -> JobStatus:
        await trio.lowlevel.checkpoint()
        job = self._jobs[job_id]
        if job.exit is not None:
            state = JobState.ENDED
        elif job.started_at is None:
            state = JobState.PREPARED
        else:
            state = JobState.RUNNING if job.frozen_at is None else JobState.FROZEN
        return JobStatus(state=state, next_sequence=len(job.records), frozen_ms=job.frozen_ms())

    async def wait(self, job_id: str) -> JobExit:
        await trio.lowlevel.checkpoint()
        job = self._jobs[job_id]
        while job.exit is None:
            await job.changed.wait()
        return job.exit

    def records(self, job_id: str, *, start: int) -> AsyncIterator[Output]:
        job = self._jobs[job_id]
        at = start

        def following() -> Output | None:
            nonlocal at
            if at >= len(job.records):
                return None
            at += 1
            return job.records[at - 1]

        return _Stream(job, following)

    def appended(self, job_id: str, *, offsets: dict[str, int]) -> AsyncIterator[Appended]:
        job = self._jobs[job_id]
        held = dict(offsets)

        def following() -> Appended | None:
            for path, content in sorted(job.files.items()):
                offset = held.get(path, 0)
                data = content[offset : offset + _PIECE_BYTES]
                if data and path.startswith(_LIVE) and path.endswith(".jsonl"):
                    held[path] = offset + len(data)
                    return Appended(path=path, offset=offset, data=data)
            return None

        return _Stream(job, following)

    def usage(self, job_id: str) -> AsyncIterator[Usage]:
        job = self._jobs[job_id]
        due = trio.current_time()

        def following() -> Usage | None:
            nonlocal due
            now = trio.current_time() + _SOON_S
            if now < due or job.exit is not None:
                return None
            due = now + _USAGE_EVERY_S
            began = now if job.started_at is None else job.started_at
            cpu_ms = Millis(round((now - began) * 1000))
            return Usage(cpu_ms=cpu_ms, memory_bytes=1 << 20, peak_memory_bytes=1 << 20)

        return _Stream(job, following, look_again_s=_USAGE_EVERY_S)

    async def connect(self, job_id: str, port: int) -> HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        job = self._jobs.get(job_id)
        if job is None or job.exit is not None or port not in job.ports:
            raise PortClosed(f"nothing listens on port {port} of the job")
        outside, inside = memory_stream_pair()
        trio.lowlevel.spawn_system_task(_echo, job, inside)
        return outside

    async def collect(self, job_id: str) -> tuple[Digest, Manifest]:
        await trio.lowlevel.checkpoint()
        job = self._jobs[job_id]
        size = limits.MAX_CHUNK_BYTES
        entries = [
            FileEntry(
                path=path,
                mode=0o644,
                size=len(data),
                chunks=tuple(
                    self._blobs.put(data[at : at + size]) for at in range(0, len(data), size)
                ),
            )
            for path, data in sorted(job.files.items())
        ]
        manifest = Manifest(files=tuple(entries))
        return keep_files(self._blobs, manifest.files), manifest

    def jobs(self) -> tuple[str, ...]:
        return tuple(sorted(self._jobs))

    async def remove(self, job_id: str) -> None:
        await trio.lowlevel.checkpoint()
        job = self._jobs.pop(job_id, None)
        if job is not None and job.exit is None:
            job.deaf = False
            job.kill_at = trio.current_time()
            self._stop(job, Cause.PROVIDER_STOPPED, "removed")


async def _echo(job: _Job, inside: HalfCloseableStream) -> None:
    """Send back what comes, to its end or the job's."""
    async with inside, trio.open_nursery() as nursery:

        async def until_ended() -> None:
            while job.exit is None:
                await job.changed.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_ended)
        try:
            while data := await inside.receive_some(_PIECE_BYTES):
                await inside.send_all(data)
            await inside.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever connected has gone
        nursery.cancel_scope.cancel()


def _how(code: int) -> str:
    by_signal = 128 < code < 128 + signal.NSIG
    return f"ended by signal {code - 128}" if by_signal else f"exit code {code}"
