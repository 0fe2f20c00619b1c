"""Several executors as one: each task goes to the one it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from robocompute_node.executor.port import PrepareFailed
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.abc import HalfCloseableStream

    from robocompute_node.executor.port import (
        Executor,
        JobExit,
        JobOrder,
        JobStatus,
        Progress,
    )
    from robocompute_node.executor.supervised import SupervisedJobs
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.messages import Appended, Manifest, Output, Usage
    from robocompute_protocol.money import Millis


class ChosenExecutor:
    """Implements ``port.Executor`` with several others, by the names that tasks know them by."""

    def __init__(self, executors: dict[str, SupervisedJobs]) -> None:
        self._executors = executors

    async def probe(self) -> tuple[str, ...]:
        found: list[str] = []
        for executor in self._executors.values():
            found += await executor.probe()
        return tuple(found)

    async def prepare(self, order: JobOrder, upload: Manifest, progress: Progress) -> None:
        name = order.task.requirements.executor
        executor = self._executors.get(name)
        if executor is None:
            await trio.lowlevel.checkpoint()
            raise PrepareFailed(f"there is no executor {name!r} here", cause=Cause.SANDBOX_FAILED)
        await executor.prepare(order, upload, progress)

    def _of(self, job_id: str) -> Executor:
        """The executor that has the job; any of them says of an unknown one that it is unknown."""
        having = [each for each in self._executors.values() if each.has(job_id)]
        return (having or [*self._executors.values()])[0]

    async def start(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        await self._of(job_id).start(job_id, prepaid=prepaid, reserve=reserve)

    async def extend(self, job_id: str, *, prepaid: Millis, reserve: Millis) -> None:
        await self._of(job_id).extend(job_id, prepaid=prepaid, reserve=reserve)

    async def stop(self, job_id: str, *, cause: Cause, detail: str, grace: Millis) -> None:
        await self._of(job_id).stop(job_id, cause=cause, detail=detail, grace=grace)

    async def status(self, job_id: str) -> JobStatus:
        return await self._of(job_id).status(job_id)

    async def wait(self, job_id: str) -> JobExit:
        return await self._of(job_id).wait(job_id)

    def records(self, job_id: str, *, start: int) -> AsyncIterator[Output]:
        return self._of(job_id).records(job_id, start=start)

    def appended(self, job_id: str, *, offsets: dict[str, int]) -> AsyncIterator[Appended]:
        return self._of(job_id).appended(job_id, offsets=offsets)

    def usage(self, job_id: str) -> AsyncIterator[Usage]:
        return self._of(job_id).usage(job_id)

    async def connect(self, job_id: str, port: int) -> HalfCloseableStream:
        return await self._of(job_id).connect(job_id, port)

    async def collect(self, job_id: str) -> tuple[Digest, Manifest]:
        return await self._of(job_id).collect(job_id)

    def jobs(self) -> tuple[str, ...]:
        return tuple(sorted(job for each in self._executors.values() for job in each.jobs()))

    async def remove(self, job_id: str) -> None:
        await self._of(job_id).remove(job_id)
