"""One run of a job on the executor, from preparing to collected results, and what others see of it.

A run belongs to one task; feeds watch it through ``JobRuns``. Nothing here knows of money: prepaid
time comes in as numbers, the end goes out as a cause.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor.port import (
    BlobStore,
    Executor,
    JobExit,
    JobOrder,
    JobState,
    PrepareFailed,
)
from robocompute_node.file_sets import all_chunks, keep_files, read_files
from robocompute_protocol import codec, limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import RoboComputeError
from robocompute_protocol.messages import Stage, TaskSpec
from robocompute_protocol.money import Millis
from robocompute_protocol.receipts import NO_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.clocks import Clock
    from robocompute_protocol.identifiers import AgreementId, Digest

log = logging.getLogger(__name__)

STOP_GRACE: Final = Millis(5_000)
"""Between SIGTERM and SIGKILL: what a provider can lose on a job that nobody pays any more."""
RECONNECT_SECONDS: Final = 5.0
"""After a restart of this node a job that was prepaid until then has at least this long: its client
tries to reach us every few seconds, and could not pay while we were away."""
AWAY: Final = "the provider's node was away when the next payment was due"
STATE_POLL_SECONDS: Final = 1.0
"""How soon a frozen job shows as frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended. ``ran_ms`` is the program's own time, None when it never ran."""

    cause: Cause
    detail: str
    exit_code: int | None
    ran_ms: Millis | None
    frozen_ms: Millis
    records: int
    output: Digest
    artifacts: Digest
    chunks: tuple[Digest, ...]
    """What the artifacts are made of, their manifest included."""


class JobRuns:
    """Every run of this process, by agreement."""

    def __init__(
        self, executor: Executor, blobs: BlobStore, clock: Clock, gpu_uuids: tuple[str, ...]
    ) -> None:
        self._executor = executor
        self._blobs = blobs
        self._clock = clock
        self._gpu_uuids = gpu_uuids
        self._runs: dict[AgreementId, JobRun] = {}

    def claim(self, agreement: AgreementId, job_id: str) -> JobRun | None:
        """Return the run to look after, or None when a task does so already."""
        run = self._run(agreement, job_id)
        if run.claimed:
            return None
        run.claimed = True
        return run

    def _run(self, agreement: AgreementId, job_id: str) -> JobRun:
        run = self._runs.get(agreement)
        if run is None:
            run = JobRun(self._executor, self._blobs, self._clock, self._gpu_uuids, job_id)
            self._runs[agreement] = run
        return run

    def watch(self, agreement: AgreementId, job_id: str) -> JobRun:
        """The run as a feed sees it, also of a job that ended before this process began."""
        return self._run(agreement, job_id)

    def stage_of(self, agreement: AgreementId) -> Stage:
        run = self._runs.get(agreement)
        return Stage(stage="preparing") if run is None else run.stage

    def extend(self, agreement: AgreementId) -> None:
        """There is more prepaid time: the run asks how much."""
        run = self._runs.get(agreement)
        if run is not None:
            run.extended.set()

    def stop(self, agreement: AgreementId, cause: Cause, detail: str) -> None:
        """Ask a run to end; the first cause stays."""
        run = self._runs.get(agreement)
        if run is not None and run.stop_cause is None:
            run.stop_cause = (cause, detail)
            run.stopped.set()

    def finished(self, agreement: AgreementId) -> None:
        """The receipt is stored: feeds may tell the end."""
        run = self._runs.get(agreement)
        if run is not None:
            run.enter("done")
            run.finished.set()

    def forget(self, agreement: AgreementId) -> None:
        self._runs.pop(agreement, None)


class JobRun:
    """One job's way through the executor."""

    def __init__(
        self,
        executor: Executor,
        blobs: BlobStore,
        clock: Clock,
        gpu_uuids: tuple[str, ...],
        job_id: str,
    ) -> None:
        self.job_id = job_id
        self.claimed = False
        self.stage = Stage(stage="preparing")
        self.changed = trio.Event()
        self.program_ran = trio.Event()
        """Set once the program was started: from then on there is output to read."""
        self.finished = trio.Event()
        self.stopped = trio.Event()
        self.stop_cause: tuple[Cause, str] | None = None
        self.extended = trio.Event()
        self._executor = executor
        self._blobs = blobs
        self._clock = clock
        self._gpu_uuids = gpu_uuids
        self._grace_until = 0.0

    def enter(self, stage: str, detail: str = "") -> None:
        """Tell everybody who watches where the job is."""
        self.stage = Stage(stage=stage, detail=detail[:4_096])
        self.changed.set()
        self.changed = trio.Event()

    async def to_its_end(
        self,
        task: bytes,
        slots: tuple[int, ...],
        *,
        prepaid: Callable[[], Millis],
        reserve: Callable[[], Millis],
        start_deadline: Millis,
        found: bool,
        could_pay: bool,
        started: Callable[[bool], None],
    ) -> RunEnd:
        """Prepare, start, wait, collect. Never raises for what a job or its upload does.

        ``found``: the lease began before this process did. Whatever of this was done already is not
        done again. Where prepaid time ran out meanwhile, ``could_pay`` says whose fault that is:
        the client's, if it had a chance to pay before this node went away. ``started`` is told
        whether the program was found running, or ended.
        """
        spec = codec.decode(TaskSpec, task, limit=limits.MAX_FRAME_BYTES)
        adopted = found and await self._began()
        if self.stop_cause is not None and not adopted:
            return self._never_ran(*self.stop_cause)
        if found and prepaid() > 0:
            self._grace_until = trio.current_time() + RECONNECT_SECONDS
        elif found and not adopted:
            if could_pay:
                return self._never_ran(Cause.CLIENT_LOST, "")
            return self._never_ran(Cause.PROVIDER_LOST, AWAY)
        if not adopted:
            failure = await self._bring_up(spec, slots, prepaid, reserve, start_deadline)
            if failure is not None:
                return self._never_ran(*failure)
        started(adopted)
        self.program_ran.set()
        self.enter("running")
        try:
            job_exit = await self._wait(prepaid, reserve, adopted=adopted, could_pay=could_pay)
            self.enter("collecting")
            artifacts, _ = await self._executor.collect(self.job_id)
        except Exception as exc:  # noqa: BLE001 - one job's fault, whatever it is, ends that job
            return self._never_ran(*self._failed_here(exc))
        return RunEnd(
            cause=job_exit.cause,
            detail=job_exit.detail,
            exit_code=job_exit.exit_code,
            ran_ms=job_exit.ran_ms,
            frozen_ms=job_exit.frozen_ms,
            records=job_exit.records,
            output=job_exit.output,
            artifacts=artifacts,
            chunks=all_chunks(self._blobs, artifacts),
        )

    async def _began(self) -> bool:
        """Whether the program was started, by this process or the one before it."""
        if self.job_id not in self._executor.jobs():
            return False
        return (await self._executor.status(self.job_id)).state is not JobState.PREPARED

    def _left(self, prepaid: Callable[[], Millis]) -> Millis:
        grace = Millis(int((self._grace_until - trio.current_time()) * 1000))
        return max(prepaid(), grace)

    def _never_ran(self, cause: Cause, detail: str) -> RunEnd:
        nothing = keep_files(self._blobs, ())
        return RunEnd(
            cause=cause,
            detail=detail,
            exit_code=None,
            ran_ms=None,
            frozen_ms=Millis(0),
            records=0,
            output=NO_OUTPUT,
            artifacts=nothing,
            chunks=(nothing,),
        )

    async def _bring_up(
        self,
        spec: TaskSpec,
        slots: tuple[int, ...],
        prepaid: Callable[[], Millis],
        reserve: Callable[[], Millis],
        start_deadline: Millis,
    ) -> tuple[Cause, str] | None:
        """Return why the program could not be started, or None when it runs."""
        failure: tuple[Cause, str] | None = (Cause.UNKNOWN, "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guard, nursery.cancel_scope, prepaid, start_deadline)
            try:
                upload = read_files(self._blobs, spec.upload)
                order = JobOrder(
                    job_id=self.job_id,
                    task=spec,
                    slot_indices=slots,
                    gpu_uuids=tuple(self._gpu_uuids[i] for i in slots if i < len(self._gpu_uuids)),
                )
                await self._executor.prepare(order, upload, self._progress)
                self.enter("starting")
                await self._executor.start(
                    self.job_id, prepaid=self._left(prepaid), reserve=reserve()
                )
                failure = None
            except PrepareFailed as exc:
                failure = (exc.cause, str(exc))
            except KeyError:
                failure = (Cause.UPLOAD_INVALID, "the upload's manifest is not here")
            except Exception as exc:  # noqa: BLE001 - one job's fault, whatever it is, ends that job
                failure = self._failed_here(exc)
            nursery.cancel_scope.cancel()
        if failure is not None and failure[0] is Cause.UNKNOWN:
            return self.stop_cause or failure
        return failure

    def _failed_here(self, exc: Exception) -> tuple[Cause, str]:
        """A fault of this machine: a full disk, say. The client is told no path of it."""
        log.error("job %s failed here", self.job_id, exc_info=exc)
        match exc:
            case RoboComputeError():
                return Cause.SANDBOX_FAILED, str(exc)
            case OSError():
                return Cause.SANDBOX_FAILED, f"this provider failed: {exc.strerror}"
            case _:
                return Cause.SANDBOX_FAILED, f"this provider failed: {type(exc).__name__}"

    async def _guard(
        self, scope: trio.CancelScope, prepaid: Callable[[], Millis], start_deadline: Millis
    ) -> None:
        """End the preparations when they are not paid any more, too slow, or not wanted."""
        deadline = trio.current_time() + start_deadline / 1000
        while True:
            left = self._left(prepaid)
            late = deadline - trio.current_time()
            if left <= 0:
                self.stop_cause = self.stop_cause or (Cause.CLIENT_LOST, "")
            elif late <= 0:
                self.stop_cause = self.stop_cause or (Cause.NOT_STARTED, "")
            if self.stop_cause is not None:
                scope.cancel()
                return
            with trio.move_on_after(min(left / 1000, late)):
                await self.stopped.wait()

    async def _progress(self, stage: str, detail: str) -> None:
        self.enter(stage, detail)

    async def _wait(
        self,
        prepaid: Callable[[], Millis],
        reserve: Callable[[], Millis],
        *,
        adopted: bool,
        could_pay: bool,
    ) -> JobExit:
        """Wait for the recorded end, passing on extensions and stops meanwhile."""
        if adopted:
            status = await self._executor.status(self.job_id)
            if status.state in (JobState.ENDED, JobState.LOST):
                job_exit = await self._executor.wait(self.job_id)
                return job_exit if could_pay else _unseen(job_exit)
            self.extended.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_extensions, prepaid, reserve)
            nursery.start_soon(self._pass_stop)
            nursery.start_soon(self._show_state)
            job_exit = await self._executor.wait(self.job_id)
            nursery.cancel_scope.cancel()
        return job_exit

    async def _pass_extensions(
        self, prepaid: Callable[[], Millis], reserve: Callable[[], Millis]
    ) -> None:
        while True:
            await self.extended.wait()
            self.extended = trio.Event()
            await self._executor.extend(
                self.job_id, prepaid=self._left(prepaid), reserve=reserve()
            )

    async def _pass_stop(self) -> None:
        await self.stopped.wait()
        assert self.stop_cause is not None
        cause, detail = self.stop_cause
        await self._executor.stop(self.job_id, cause=cause, detail=detail, grace=STOP_GRACE)

    async def _show_state(self) -> None:
        while True:
            await trio.sleep(STATE_POLL_SECONDS)
            state = (await self._executor.status(self.job_id)).state
            if state is JobState.FROZEN and self.stage.stage != "frozen":
                self.enter("frozen", "waiting for the next payment")
            elif state is JobState.RUNNING and self.stage.stage == "frozen":
                self.enter("running")


def _unseen(job_exit: JobExit) -> JobExit:
    """A job whose prepaid time ran out while this node was away: the node's doing, not the client's."""
    if job_exit.cause is not Cause.CLIENT_LOST:
        return job_exit
    return JobExit(
        exit_code=job_exit.exit_code,
        cause=Cause.PROVIDER_LOST,
        detail=AWAY,
        ran_ms=job_exit.ran_ms,
        frozen_ms=job_exit.frozen_ms,
        records=job_exit.records,
        output=job_exit.output,
    )
