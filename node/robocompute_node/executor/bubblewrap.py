"""The executor that runs jobs in bubblewrap sandboxes on this machine.

A thin shell: the supervisor of each job does the work, and its folder holds the truth, so an
executor made after a crash knows as much as the one that started the jobs.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.executor import beneath, cgroups, requirements
from robocompute_node.executor.builder import Builder
from robocompute_node.executor.environments import JOB, Environments
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
    PrepareFailed,
)
from robocompute_node.executor.results import collect
from robocompute_node.executor.runtime import BASE, PARTS, BaseRuntime, Interpreter
from robocompute_node.executor.spawn import AlreadySupervised, Spawner, SpawnFailed
from robocompute_node.executor.spec import SPEC, Bind, Limits, Spec, write_durably
from robocompute_node.executor.unpack import Stamp, unpack
from robocompute_node.executor.usage import UsageReader
from robocompute_node.nvml import NvmlCards
from robocompute_protocol import codec
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import Manifest, Requirements, TaskSpec
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from robocompute_node.cards import Cards
    from robocompute_node.executor.port import BlobStore, Progress
    from robocompute_node.executor.requirements import Wanted
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
_MAX_REQUIREMENTS_BYTES: Final = 1_048_576
_LIVE_FILES: Final = "aspara"
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


@dataclass(slots=True)
class BubblewrapExecutor:
    """Runs jobs below ``data``/jobs. See ``port.Executor`` for what its calls promise.

    One executor at a time on a folder; a new one takes over whatever the last one left.
    """

    data: Path
    blobs: BlobStore
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """The daemon's own environment: pip's and uv's settings are read from it, jobs never see it."""
    caps: Caps = field(default_factory=Caps)
    cards: Cards = field(default_factory=NvmlCards)
    _spawner: Spawner = field(init=False, default_factory=Spawner)
    _jobs: Path = field(init=False)
    _bwrap: str = field(init=False)
    runtime: BaseRuntime = field(init=False)
    environments: Environments = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.data.absolute()
        self._jobs = self.data / "jobs"
        self._jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._bwrap = shutil.which("bwrap") or "/usr/bin/bwrap"
        runtimes = self.data / "runtimes"
        runtimes.mkdir(exist_ok=True)
        self.runtime = BaseRuntime(runtimes / "base", Interpreter.of_this_process())
        self.environments = Environments(
            root=self.data / "envs",
            builder=Builder(
                base=self.runtime,
                bwrap=self._bwrap,
                spawner=self._spawner,
                environment=self.environment,
                home=Path.home(),
                cache=self.data / "envs" / "cache",
            ),
            room_bytes=self.caps.environment_bytes,
            in_use=self._environments_in_use,
        )

    # --- what can be offered --------------------------------------------------------------------

    async def probe(self) -> tuple[str, ...]:
        """Run a tiny job. Call this before the first real one: it also claims cgroups."""
        cgroups.delegate()
        job_id = f".probe-{secrets.token_hex(8)}"
        order = JobOrder(
            job_id=job_id,
            task=TaskSpec(
                app_name="probe",
                argv=("python", "-c", "print(6 * 7)"),
                requirements=Requirements(),
                upload=_no_digest(),
                wall_ms=Millis(30_000),
            ),
        )
        try:
            await self.prepare(order, _EMPTY, _silent)
            await self.start(job_id, prepaid=Millis(60_000), reserve=Millis(0))
            said = [record.data async for record in self.records(job_id, start=0)]
            end = await self.wait(job_id)
        except (PrepareFailed, OSError) as exc:
            log.warning("no sandbox can be offered: %s", exc)
            return ()
        finally:
            with trio.CancelScope(shield=True):
                await self.remove(job_id)
        if end.exit_code != 0 or said != [b"42"]:
            log.warning(
                "no sandbox can be offered: a tiny job ended with %s: %r", end.detail, said
            )
            return ()
        return ("bubblewrap",)

    # --- from order to start --------------------------------------------------------------------

    async def prepare(self, order: JobOrder, upload: Manifest, progress: Progress) -> None:
        """See the port. Repeating it after success does nothing; after a failure it starts over."""
        folder = self._folder(order.job_id)
        if folder.prepared():
            return
        _check_words(order)
        await trio.to_thread.run_sync(folder.delete)
        work, volume = folder.path / _WORK, folder.path / _VOLUME
        uid = self._uid(order)
        await progress("preparing", f"Unpacking {len(upload.files):,} files")
        await trio.to_thread.run_sync(
            functools.partial(self._lay_out, folder, order.task, upload, uid)
        )
        wanted = self._wanted(work, order.task, upload)
        self.runtime.ensure()
        async with self.environments.found_or_built(wanted, progress) as environment:
            spec = self._spec(order, environment, uid, work, volume)
            write_durably(str(folder.spec), spec.to_json())

    def _lay_out(
        self, folder: JobFolder, task: TaskSpec, upload: Manifest, uid: int | None
    ) -> None:
        work, volume = folder.path / _WORK, folder.path / _VOLUME
        live = volume / _LIVE_FILES
        for each in (folder.path, work, volume, live):
            each.mkdir(mode=0o700 if each == folder.path else 0o755)
            if uid is not None and each != folder.path:
                os.chown(each, uid, uid)
        disk_bytes = task.requirements.disk_mib * _MIB
        stamps = unpack(upload, self.blobs, work, disk_bytes=disk_bytes, owner=uid)
        record = msgspec.msgpack.encode(_Unpacked(upload, stamps))
        (folder.path / _UPLOAD).write_bytes(record)

    def _wanted(self, work: Path, task: TaskSpec, upload: Manifest) -> Wanted:
        if task.requirements_file is None:
            return requirements.NOTHING
        names = {entry.path for entry in upload.files}

        def load(path: str) -> str:
            if path not in names:
                raise PrepareFailed(
                    f"the requirements file {path!r} is not in the upload",
                    cause=Cause.ENVIRONMENT_FAILED,
                )
            root = beneath.open_root(work)
            try:
                with open(beneath.open_regular(root, path.encode()), "rb") as file:
                    return file.read(_MAX_REQUIREMENTS_BYTES).decode("utf-8", "replace")
            finally:
                os.close(root)

        return requirements.read(task.requirements_file, load)

    def _environments_in_use(self) -> frozenset[str]:
        """The environments that the jobs here were prepared with, ended ones too."""
        used: set[str] = set()
        for path in self._jobs.iterdir():
            try:
                spec = Spec.from_json((path / SPEC).read_text())
            except FileNotFoundError:
                continue
            used |= {Path(bind.source).name for bind in spec.binds if bind.target == JOB}
        return frozenset(used)

    def _uid(self, order: JobOrder) -> int | None:
        if os.geteuid() != 0:
            return None
        if order.slot_indices:
            return _FIRST_JOB_UID + order.slot_indices[0]
        spread = int.from_bytes(order.job_id.encode()[-4:], "big") % _UNSLOTTED_UIDS
        return _FIRST_JOB_UID + _MAX_SLOT + spread

    def _spec(
        self, order: JobOrder, environment: Path | None, uid: int | None, work: Path, volume: Path
    ) -> Spec:
        task = order.task
        asked = task.requirements
        binds = self.runtime.binds()
        if environment is not None:
            binds.append(Bind(str(environment), JOB))
        binds += [Bind(str(path), f"{PARTS}/{name}") for name, path in _part_folders().items()]
        binds += [
            Bind(str(work), "/job", writable=True),
            Bind(str(volume), "/volume", writable=True),
        ]
        return Spec(
            bwrap=self._bwrap,
            argv=task.argv,
            env=_job_environment(order, has_environment=environment is not None),
            binds=binds,
            cwd="/job",
            gpus=order.gpu_uuids,
            limits=Limits(
                wall_ms=task.wall_ms,
                memory_bytes=asked.memory_mib * _MIB,
                cpu_cores=max(1, asked.cpu_cores),
                pids=self.caps.pids,
                disk_bytes=asked.disk_mib * _MIB,
                output_rate=max(1, task.output_rate),
                log_bytes=self.caps.log_bytes,
            ),
            measured=[str(work), str(volume)],
            uid=uid,
        )

    async def start(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        folder = self._folder(job_id)
        if not folder.prepared():
            raise PrepareFailed("the job was not prepared", cause=Cause.SANDBOX_FAILED)
        if folder.begun() or self._ended(folder):
            return
        try:
            await self._spawner.spawn(folder, prepaid=prepaid, reserve=reserve)
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
        self._spawner.reap()
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
        return self.blobs.put(codec.encode(manifest)), manifest

    def jobs(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self._jobs.iterdir() if path.name[0] != "."))

    async def remove(self, job_id: str) -> None:
        folder = self._folder(job_id)
        if not folder.exists():
            return
        await self._spawner.end(folder)
        # Out of sight first: a half-deleted job must not be adopted.
        hidden = folder.path.with_name(f".removed-{secrets.token_hex(8)}")
        folder.path.rename(hidden)
        await trio.to_thread.run_sync(remove_tree, hidden)

    def _folder(self, job_id: str) -> JobFolder:
        if not job_id or "/" in job_id or "\0" in job_id or job_id in (".", ".."):
            raise ValueError(f"not a job's id: {job_id!r}")
        return JobFolder(self._jobs / job_id)


def _no_digest() -> Digest:
    return Digest(bytes(32))


async def _silent(_stage: str, _detail: str) -> None:
    await trio.lowlevel.checkpoint()


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


def _job_environment(order: JobOrder, *, has_environment: bool) -> dict[str, str]:
    """Return all variables of a job; the task may add to them and change the first few."""
    chosen = {
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 (inside: caches are no results)
        "TMPDIR": "/tmp",  # noqa: S108 (inside)
    }
    chosen |= dict(order.task.env) | order.extra_env
    venv = JOB if has_environment else BASE
    places = [f"{JOB}/bin"] if has_environment else []
    chosen |= {
        "PATH": ":".join([*places, f"{BASE}/bin", "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": "/job",
        "VIRTUAL_ENV": venv,
        "CHISEL_BACKEND_RUN": "1",
        "CHISEL_JOB_ID": order.job_id,
        "CHISEL_BACKEND_APP_NAME": order.task.app_name,
        "ASPARA_DATA_DIR": f"/volume/{_LIVE_FILES}",
    }
    # First, also under `python -m`; the environments' .pth files serve `python -I`.
    own = chosen.get("PYTHONPATH")
    chosen["PYTHONPATH"] = f"{PARTS}:{own}" if own else PARTS
    return chosen


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
