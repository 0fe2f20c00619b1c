"""The executor port: what the provider's services know of running a job.

A job is a folder named by its id. Its supervisor outlives the daemon, so every call here works the
same on a job that this process started and on one it found at start (``jobs``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream

    from robocompute_protocol.causes import Cause
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.messages import Appended, Manifest, Output, TaskSpec, Usage
    from robocompute_protocol.money import Millis


class PrepareFailed(RoboComputeError):
    """The job never started; ``cause`` says whose doing that was, the text says what to do."""

    code = "prepare_failed"

    def __init__(self, message: str, *, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


class PortClosed(RoboComputeError):
    """Nothing in the job listens on that port, or the job does not run."""

    code = "port_closed"


class JobState(StrEnum):
    """A supervisor's view of its job."""

    PREPARED = "prepared"
    RUNNING = "running"
    FROZEN = "frozen"
    ENDED = "ended"
    LOST = "lost"
    """The supervisor is gone without a record of the end (power cut, OOM of the host)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """All an executor needs to run one job."""

    job_id: str
    """Lower-case hex, at most 64: the folder's name, CHISEL_JOB_ID, the name on every screen."""
    task: TaskSpec
    slot_indices: tuple[int, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    extra_env: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A moment of a job."""

    state: JobState
    next_sequence: int
    frozen_ms: Millis
    """Time spent frozen so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobExit:
    """The end of a job's program, as its supervisor recorded it."""

    exit_code: int | None
    """As a shell shows it: 128 + n after signal n. None when the program never ran."""
    cause: Cause
    detail: str
    ran_ms: Millis
    frozen_ms: Millis
    records: int
    output: Digest
    """Chain over all numbered records: digest(previous, stream, kind, data) from 32 zero bytes."""


Progress = Callable[[str, str], Awaitable[None]]
"""(stage, detail): told while preparing, e.g. ("environment", "Installing collected packages…")."""


class BlobStore(Protocol):
    """Content-addressed chunks on disk, shared by uploads and results."""

    def has(self, chunk: Digest) -> bool: ...
    def missing(self, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]: ...
    def get(self, chunk: Digest) -> bytes:
        """Raises: KeyError when it is not here; StoreError when the bytes no longer fit the digest."""
        ...

    def put(self, data: bytes) -> Digest:
        """Durable when it returns; putting the same bytes again is free."""
        ...

    def keep(self, chunk: Digest, data: bytes) -> bool:
        """``put`` what somebody sent as ``chunk``; False, and nothing kept, if it is not that."""
        ...


class Executor(Protocol):
    """Runs jobs. Cancelling a call never harms the job; it can be called again."""

    async def probe(self) -> tuple[str, ...]:
        """Run a tiny real job; return what can be offered ("bubblewrap", …). Empty: nothing can."""
        ...

    async def prepare(self, order: JobOrder, upload: Manifest, progress: Progress) -> None:
        """Unpack the upload and find or build the environment.

        Raises: PrepareFailed.
        """
        ...

    async def start(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        """Start the supervisor; returns when the program was started. Repeating is harmless.

        Raises: PrepareFailed.
        """
        ...

    async def extend(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        """From now the job has ``prepaid`` ms; the last ``reserve`` of them frozen. Thaws it."""
        ...

    async def stop(self, job_id: str, *, cause: Cause, detail: str, grace: Millis) -> None:
        """SIGTERM, SIGKILL after ``grace``. Returns at once; ``wait`` tells the end."""
        ...

    async def status(self, job_id: str) -> JobStatus: ...
    async def wait(self, job_id: str) -> JobExit:
        """Return when the end is recorded on disk; at once if it already is."""
        ...

    def records(self, job_id: str, *, start: int) -> AsyncIterator[Output]:
        """Numbered output from ``start`` on, live, ending after the last record of an ended job."""
        ...

    def appended(self, job_id: str, *, offsets: dict[str, int]) -> AsyncIterator[Appended]:
        """Growth of the job's live files (``/volume/aspara/**/*.jsonl``), ending like ``records``."""
        ...

    def usage(self, job_id: str) -> AsyncIterator[Usage]:
        """About once a second until the job ends."""
        ...

    async def connect(self, job_id: str, port: int) -> HalfCloseableStream:
        """Connect to a TCP port that the running job listens on, inside its own network.

        Raises: PortClosed.
        """
        ...

    async def collect(self, job_id: str) -> tuple[Digest, Manifest]:
        """After the end: put results into the blob store (no links followed, size-capped).

        Paths begin with ``volume/`` (all of /volume) or ``work/`` (files the job made or changed).
        """
        ...

    def jobs(self) -> tuple[str, ...]:
        """Jobs whose folders are here, running or ended."""
        ...

    async def remove(self, job_id: str) -> None:
        """Delete the job's folder and whatever else is left of it. Stops it first if need be."""
        ...
