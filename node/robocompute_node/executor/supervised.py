"""What all executors of this machine share: jobs in folders, each under its supervisor.

A thin shell: the supervisor of each job does the work, and its folder holds the truth, so an
executor made after a crash knows as much as the one that started the jobs.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.executor.folder import (
    JobFolder,
    SupervisorGone,
    remove_tree,
    wait_for_end,
)
from robocompute_node.executor.livefiles import GrowthReader
from robocompute_node.executor.log import RecordReader
from robocompute_node.executor.port import (
    JobExit,
    JobOrder,
    JobState,
    JobStatus,
    PortClosed,
    PrepareFailed,
)
from robocompute_node.executor.results import collect
from robocompute_node.executor.runtime import PARTS
from robocompute_node.executor.spawn import AlreadySupervised, Spawner, SpawnFailed
from robocompute_node.executor.spec import SPEC, Bind, Limits, Spec, write_durably
from robocompute_node.executor.unpack import Stamp, unpack
from robocompute_node.executor.usage import UsageReader
from robocompute_node.file_sets import keep_files
from robocompute_node.nvml import NvmlCards
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import Manifest, Requirements, TaskSpec
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from robocompute_node.cards import Cards
    from robocompute_node.executor.port import BlobStore, Progress
    from robocompute_protocol.messages import Appended, Output, Usage

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_FIRST_JOB_UID: Final = 200_000
"""Host users of jobs under a root daemon: this and the number of the job's first slot."""
_UNSLOTTED_UIDS: Final = 4_096
"""Jobs without a slot share this many users, above those of all slots."""
_MAX_SLOT: Final = 64
_UPLOAD: Final = "upload.msgpack"
_PARTS: Final = ("chisel", "aspara")
_WORK, _VOLUME = "work", "volume"
LIVE_FILES: Final = "aspara"
"""Below /volume: what is sent to the client while the job runs."""
_EMPTY: Final = Manifest(files=())


class _Unpacked(msgspec.Struct, frozen=True):
    """Beside a job's folders: what its upload was, and what changes when one of its files does."""

    upload: Manifest
    stamps: dict[str, Stamp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Limits that no task names; per job, where not said otherwise."""

    pids: int = 4_096
    """Processes and threads."""
    log_bytes: int = 256 * _MIB
    """Output kept on disk; over it the middle is dropped, and readers that far behind miss it."""
    environment_bytes: int = 64 << 30
    """Of all jobs' environments together: a dozen with a torch of their own."""
    image_bytes: int = 128 << 30
    """Of all images that jobs brought together: half a dozen of the largest there are."""


@dataclass
class SupervisedJobs:
    """Jobs below ``data``/jobs. See ``port.Executor`` for what its calls promise.

    One executor at a time on a folder; a new one takes over whatever the last one left. A subclass
    says how a job is prepared: which files, which limits, which box.
    """

    data: Path
    blobs: BlobStore
    caps: Caps = field(default_factory=Caps, kw_only=True)
    cards: Cards = field(default_factory=NvmlCards, kw_only=True)

    def __post_init__(self) -> None:
        self.data = self.data.absolute()
        self.spawner = Spawner()
        self.folders = self.data / "jobs"
        self.folders.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- what a subclass adds -------------------------------------------------------------------

    async def probe(self) -> tuple[str, ...]:
        raise NotImplementedError

    async def equip(self, order: JobOrder, job: Laid, progress: Progress) -> None:
        """Get what a job needs besides its files, and ``record`` what its supervisor is to run.

        Raises: PrepareFailed.
        """
        raise NotImplementedError

    @staticmethod
    def record(job: Laid, spec: Spec) -> None:
        """Put down that the job is prepared: what ``spec`` names is in use from here on."""
        write_durably(str(job.folder / SPEC), spec.to_json())

    async def fault(self, task: TaskSpec, *, says: bytes) -> str:
        """Really run a tiny job; what is wrong with it, or nothing if it says just what it should."""
        job_id = f".probe-{secrets.token_hex(8)}"
        try:
            await self.prepare(JobOrder(job_id=job_id, task=task), _EMPTY, _silent)
            await self.start(job_id, prepaid=Millis(60_000), reserve=Millis(0))
            said = [record.data async for record in self.records(job_id, start=0)]
            end = await self.wait(job_id)
        except (PrepareFailed, OSError) as exc:
            return str(exc)
        finally:
            with trio.CancelScope(shield=True):
                await self.remove(job_id)
        if end.exit_code != 0 or said != [says]:
            return f"a tiny job ended with {end.detail} and said {said!r}"
        return ""

    def specs(self) -> Iterator[Spec]:
        """What the jobs here were prepared with, those that ended too: it is in use."""
        for path in self.folders.iterdir():
            try:
                text = (path / SPEC).read_text()
            except FileNotFoundError:
                continue
            yield Spec.from_json(text)

    def has(self, job_id: str) -> bool:
        """Whether a job's folder is here."""
        return self._folder(job_id).exists()

    # --- from order to start --------------------------------------------------------------------

    async def prepare(self, order: JobOrder, upload: Manifest, progress: Progress) -> None:
        """See the port. Repeating it after success does nothing; after a failure it starts over."""
        folder = self._folder(order.job_id)
        if folder.prepared():
            return
        _check_words(order)
        await trio.to_thread.run_sync(folder.delete)
        job = Laid(upload=upload, folder=folder.path, uid=_uid(order))
        await progress("preparing", f"Unpacking {len(upload.files):,} files")
        await trio.to_thread.run_sync(self._lay_out, job, order.task)
        await self.equip(order, job, progress)

    def _lay_out(self, job: Laid, task: TaskSpec) -> None:
        for each in (job.folder, job.work, job.volume, job.volume / LIVE_FILES):
            each.mkdir(mode=0o700 if each == job.folder else 0o755)
            if job.uid is not None and each != job.folder:
                os.chown(each, job.uid, job.uid)
        disk_bytes = task.requirements.disk_mib * _MIB
        stamps = unpack(job.upload, self.blobs, job.work, disk_bytes=disk_bytes, owner=job.uid)
        record = msgspec.msgpack.encode(_Unpacked(job.upload, stamps))
        (job.folder / _UPLOAD).write_bytes(record)

    def limits(self, task: TaskSpec) -> Limits:
        """Return the caps of a task's job."""
        asked = task.requirements
        return Limits(
            wall_ms=task.wall_ms,
            memory_bytes=asked.memory_mib * _MIB,
            cpu_cores=max(1, asked.cpu_cores),
            pids=self.caps.pids,
            disk_bytes=asked.disk_mib * _MIB,
            output_rate=max(1, task.output_rate),
            log_bytes=self.caps.log_bytes,
        )

    async def start(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        folder = self._folder(job_id)
        if not folder.prepared():
            raise PrepareFailed("the job was not prepared", cause=Cause.SANDBOX_FAILED)
        if folder.begun() or self._ended(folder):
            return
        try:
            await self.spawner.spawn(folder, prepaid=prepaid, reserve=reserve)
        except AlreadySupervised:
            log.info("%s: somebody else is starting it", job_id)
        except SpawnFailed as exc:
            raise PrepareFailed(
                f"the program could not be started: {exc}", cause=Cause.SANDBOX_FAILED
            ) from exc

    # --- while it runs --------------------------------------------------------------------------

    async def extend(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        """See the port. Nothing happens when the job has ended."""
        request: dict[str, object] = {"op": "extend", "prepaid_ms": prepaid, "reserve_ms": reserve}
        try:
            await self._folder(job_id).insist(request)
        except SupervisorGone:
            log.info("%s: not extended, it has ended", job_id)

    async def stop(self, job_id: str, *, cause: Cause, detail: str, grace: Millis) -> None:
        """See the port. Takes as long as its supervisor takes to answer; one that never does dies."""
        folder = self._folder(job_id)
        request: dict[str, object] = {
            "op": "stop",
            "cause": cause.value,
            "detail": detail,
            "grace_ms": grace,
        }
        try:
            await folder.insist(request)
        except SupervisorGone:
            if not folder.exists():
                return
            if folder.supervised():
                log.error("%s: its supervisor does not answer and is killed", job_id)
                await folder.kill()
            folder.end_without_supervisor(cause, detail)

    async def status(self, job_id: str) -> JobStatus:
        folder = self._folder(job_id)
        answer: dict[str, int] = {}
        try:
            answer = await folder.ask({"op": "status"})
        except SupervisorGone:
            lost = folder.lost()
            end = folder.read_exit()
            if end is not None:
                return JobStatus(
                    state=JobState.ENDED, next_sequence=end.records, frozen_ms=end.frozen_ms
                )
            state = JobState.LOST if lost else JobState.PREPARED
            return JobStatus(state=state, next_sequence=0, frozen_ms=Millis(0))
        if answer["frozen"]:
            state = JobState.FROZEN
        else:
            state = JobState.RUNNING if answer["started"] else JobState.PREPARED
        return JobStatus(
            state=state,
            next_sequence=answer["next_sequence"],
            frozen_ms=Millis(answer["frozen_ms"]),
        )

    async def wait(self, job_id: str) -> JobExit:
        folder = self._folder(job_id)
        await wait_for_end(folder, lambda: self._ended(folder))
        self.spawner.reap()
        end = folder.read_exit()
        if end is None:
            raise StoreError(f"the job {job_id} was removed")
        return end

    def records(self, job_id: str, *, start: int) -> AsyncIterator[Output]:
        folder = self._folder(job_id)
        return RecordReader(folder, start=start, finished=lambda: self._ended(folder))

    def appended(self, job_id: str, *, offsets: dict[str, int]) -> AsyncIterator[Appended]:
        folder = self._folder(job_id)
        return GrowthReader(
            folder.path / _VOLUME, offsets=offsets, finished=lambda: self._ended(folder)
        )

    def usage(self, job_id: str) -> AsyncIterator[Usage]:
        folder = self._folder(job_id)
        return UsageReader(folder, self.cards, finished=lambda: self._ended(folder))

    async def connect(self, job_id: str, port: int) -> trio.SocketStream:
        try:
            return await self._folder(job_id).connect(port)
        except SupervisorGone as exc:
            raise PortClosed(f"the job does not run: {exc}") from exc

    def _ended(self, folder: JobFolder) -> bool:
        """Whether the end is on disk; a lost job's is put there now."""
        if folder.read_exit() is not None or not folder.exists():
            return True
        if folder.lost():
            log.warning("%s: lost: its supervisor is gone", folder.path.name)
            folder.recover()
            return True
        return False

    # --- after the end --------------------------------------------------------------------------

    async def collect(self, job_id: str) -> tuple[Digest, Manifest]:
        return await trio.to_thread.run_sync(self._collect, self._folder(job_id))

    def _collect(self, folder: JobFolder) -> tuple[Digest, Manifest]:
        data = (folder.path / _UPLOAD).read_bytes()
        unpacked = msgspec.msgpack.decode(data, type=_Unpacked)
        spec = Spec.from_json(folder.spec.read_text())
        manifest = collect(
            work=folder.path / _WORK,
            volume=folder.path / _VOLUME,
            upload=unpacked.upload,
            stamps=unpacked.stamps,
            blobs=self.blobs,
            max_bytes=spec.limits.disk_bytes,
        )
        return keep_files(self.blobs, manifest.files), manifest

    def jobs(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.folders.iterdir() if path.name[0] != "."))

    async def remove(self, job_id: str) -> None:
        folder = self._folder(job_id)
        if not folder.exists():
            return
        await self.spawner.end(folder)
        # Out of sight first: a half-deleted job must not be adopted.
        hidden = folder.path.with_name(f".removed-{secrets.token_hex(8)}")
        folder.path.rename(hidden)
        await trio.to_thread.run_sync(remove_tree, hidden)

    def _folder(self, job_id: str) -> JobFolder:
        if not job_id or "/" in job_id or "\0" in job_id or job_id in (".", ".."):
            raise ValueError(f"not a job's id: {job_id!r}")
        return JobFolder(self.folders / job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A job whose files are on disk."""

    upload: Manifest
    folder: Path
    uid: int | None
    """The host user it will run as; None is the daemon's own."""

    @property
    def work(self) -> Path:
        return self.folder / _WORK

    @property
    def volume(self) -> Path:
        return self.folder / _VOLUME

    def binds(self) -> list[Bind]:
        """Return what every job is shown: our packages, its own files, its results."""
        return [
            *(Bind(str(path), f"{PARTS}/{name}") for name, path in _part_folders().items()),
            Bind(str(self.work), "/job", writable=True),
            Bind(str(self.volume), "/volume", writable=True),
        ]


def _uid(order: JobOrder) -> int | None:
    if os.geteuid() != 0:
        return None
    if order.slot_indices:
        return _FIRST_JOB_UID + order.slot_indices[0]
    spread = int.from_bytes(order.job_id.encode()[-4:], "big") % _UNSLOTTED_UIDS
    return _FIRST_JOB_UID + _MAX_SLOT + spread


async def _silent(_stage: str, _detail: str) -> None:
    await trio.lowlevel.checkpoint()


def probe_task(name: str, argv: tuple[str, ...], *, image: str | None = None) -> TaskSpec:
    """Return a job that is over in a moment."""
    return TaskSpec(
        app_name=name,
        argv=argv,
        requirements=Requirements(),
        upload=Digest(bytes(32)),
        wall_ms=Millis(30_000),
        image=image,
    )


def _check_words(order: JobOrder) -> None:
    """Refuse what no exec would take.

    Raises:
        PrepareFailed: a word or variable holds a zero byte, or is no variable.
    """
    pairs = (*order.task.env, *order.extra_env.items())
    if any("\0" in word for word in order.task.argv):
        raise PrepareFailed("the command holds a zero byte", cause=Cause.UPLOAD_INVALID)
    for name, value in pairs:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise PrepareFailed(
                f"{name!r} is not an environment variable", cause=Cause.UPLOAD_INVALID
            )


def chosen_environment(order: JobOrder) -> dict[str, str]:
    """Return the variables that a task may change, with its own."""
    return {
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 (inside: caches are no results)
        "TMPDIR": "/tmp",  # noqa: S108 (inside)
        **dict(order.task.env),
        **order.extra_env,
    }


def given_environment(order: JobOrder, chosen: dict[str, str]) -> dict[str, str]:
    """Return the variables of every job that its task has no say in."""
    own = chosen.get("PYTHONPATH")
    return {
        "HOME": "/job",
        "CHISEL_BACKEND_RUN": "1",
        "CHISEL_JOB_ID": order.job_id,
        "CHISEL_BACKEND_APP_NAME": order.task.app_name,
        "ASPARA_DATA_DIR": f"/volume/{LIVE_FILES}",
        # First, also under `python -m`; the environments' .pth files serve `python -I`.
        "PYTHONPATH": f"{PARTS}:{own}" if own else PARTS,
    }


@functools.cache
def _part_folders() -> dict[str, Path]:
    """Return the packages every job finds, found without importing them."""
    found: dict[str, Path] = {}
    for name in _PARTS:
        module = importlib.util.find_spec(name)
        if module is None or not module.submodule_search_locations:
            log.warning("jobs will not find the package %s: it is not installed here", name)
            continue
        found[name] = Path(module.submodule_search_locations[0])
    return found
