"""``/robocompute/job/1``: everything a job says, from any number on, as often as it is asked for.

Output records are numbered by the job's supervisor; live files are positions in bytes. Both are
safe to ask for again, so a cut link or a restart of either side loses and doubles nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import hear, hear_or_end, say
from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import (
    PROTOCOL_JOB,
    Attach,
    Finished,
    JobMessage,
    Kept,
    Message,
    Refused,
)

if TYPE_CHECKING:
    from robocompute_node.executor.port import Executor
    from robocompute_node.services.job_runs import JobRun, JobRuns
    from robocompute_node.services.lettings import LettingRecord, Lettings

log = logging.getLogger(__name__)

ATTACH_SECONDS: Final = 15.0
"""A client that opened a stream must say which job it wants by then."""
KEPT_SECONDS: Final = 600.0
"""How long the end waits for its acknowledgement: fetching large results takes a while."""

NOT_LEASED: Final = Refused(code="not_leased", message="this agreement is not leased")

Send = Callable[[Message], Awaitable[None]]


class JobFeed:
    """Serves the jobs of this provider to the clients that pay for them."""

    def __init__(
        self, network: Network, executor: Executor, lettings: Lettings, runs: JobRuns
    ) -> None:
        self._network = network
        self._executor = executor
        self._lettings = lettings
        self._runs = runs

    def register(self) -> None:
        """Answer ``/job/1``."""
        self._network.serve(PROTOCOL_JOB, self._serve)

    async def _serve(self, stream: FrameStream) -> None:
        attach = await hear(stream, JobMessage, timeout_s=ATTACH_SECONDS)
        if not isinstance(attach, Attach):
            raise RemoteProtocolError("a job stream begins with Attach")
        never = self._lettings.never.get(attach.agreement)
        if never is not None and never.payer_node == stream.peer:
            await say(stream, NOT_LEASED)
            return
        record = self._lettings.get(attach.agreement)
        if record is None or record.terms.payer_node != stream.peer:
            await say(
                stream, Refused(code="unknown_agreement", message="no such agreement with you")
            )
            return
        if record.state.phase is ProviderPhase.ORDERED:
            await say(stream, NOT_LEASED)
            return
        try:
            await self._feed(stream, attach, record)
        except* PeerGone as exc:
            log.info("job feed cut: %s", exc.exceptions[0])

    async def _feed(self, stream: FrameStream, attach: Attach, record: LettingRecord) -> None:
        sending = trio.Lock()

        async def send(message: Message) -> None:
            async with sending:
                await say(stream, message)

        run = self._runs.watch(attach.agreement, record.job_id)
        async with trio.open_nursery() as telling:
            telling.start_soon(self._stages, run, send)
            if record.state.phase is ProviderPhase.KEPT:
                pass  # the job is deleted: there is only the receipt left to tell
            elif await self._program_ran(record, run):
                telling.start_soon(self._usage, record.job_id, send)
                async with trio.open_nursery() as streams:
                    streams.start_soon(self._records, record.job_id, attach, send)
                    streams.start_soon(self._live_files, record.job_id, attach, send)
            ended = await self._lettings.ended(attach.agreement)
            telling.cancel_scope.cancel()
        if ended is None:
            return
        if ended.state.receipt is not None and ended.artifacts is not None:
            await send(Finished(artifacts=ended.artifacts, receipt=ended.state.receipt))
        answer = await hear_or_end(stream, JobMessage, timeout_s=KEPT_SECONDS)
        if isinstance(answer, Kept) and answer.agreement == attach.agreement:
            self._lettings.kept(attach.agreement)

    async def _program_ran(self, record: LettingRecord, run: JobRun) -> bool:
        """Wait until there is output to read; False when the job ended without ever running."""
        if record.program_started_ms > 0 or run.program_ran.is_set():
            return True
        async with trio.open_nursery() as nursery:
            ran = False

            async def until_ended() -> None:
                await self._lettings.ended(record.state.agreement)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_ended)
            await run.program_ran.wait()
            ran = True
            nursery.cancel_scope.cancel()
        return ran

    async def _stages(self, run: JobRun, send: Send) -> None:
        while True:
            changed = run.changed
            await send(run.stage)
            await changed.wait()

    async def _records(self, job_id: str, attach: Attach, send: Send) -> None:
        async for record in self._executor.records(job_id, start=attach.next_sequence):
            await send(record)

    async def _live_files(self, job_id: str, attach: Attach, send: Send) -> None:
        async for grown in self._executor.appended(job_id, offsets=dict(attach.files)):
            await send(grown)

    async def _usage(self, job_id: str, send: Send) -> None:
        async for usage in self._executor.usage(job_id):
            await send(usage)
