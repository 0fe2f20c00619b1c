"""Removes chunks that no task or agreement needs any more, beyond what is kept for the next one.

Needed are: the upload of every task that has not ended and of every job that is held for a client,
the results of every task, and of every job until its client has them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.file_sets import all_chunks
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import RoboComputeError, StoreError
from robocompute_protocol.messages import Receipt, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_node.blobs import Collected, FileBlobStore
    from robocompute_node.core.tasks import TaskRecord
    from robocompute_node.services.blob_access import BlobAccess
    from robocompute_node.services.blob_exchange import Work
    from robocompute_node.services.lettings import Lettings
    from robocompute_node.services.rental_book import RentalBook
    from robocompute_node.services.task_book import TaskBook
    from robocompute_protocol.identifiers import Digest

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 600.0
"""Between collections: each looks at every chunk."""
YOUNG_SECONDS: Final = 3_600.0
"""A chunk put or asked for within the hour stays: its order or task may be on its way."""


class BlobCollection:
    """Keeps the chunk store bounded."""

    def __init__(
        self,
        blobs: FileBlobStore,
        access: BlobAccess,
        tasks: TaskBook,
        book: RentalBook,
        *,
        keep_bytes: int,
        work: Work,
    ) -> None:
        self._blobs = blobs
        self._access = access
        self._tasks = tasks
        self._book = book
        self._keep_bytes = keep_bytes
        self._work = work
        self.lettings: Lettings | None = None
        """Set where this node provides."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Collect now and then, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(EVERY_SECONDS)
            try:
                done = await self.collect()
            except StoreError as exc:
                log.warning("chunks were not collected, will retry: %s", exc)
                continue
            if done.removed:
                log.info("%d chunks removed, %d bytes", done.removed, done.freed)

    async def collect(self, *, young_s: float = YOUNG_SECONDS) -> Collected:
        """Remove what may go. What becomes needed meanwhile was looked at first, and stays."""
        roots = frozenset(self._roots())

        def collect() -> Collected:
            needed = self._needed(roots)
            return self._blobs.collect(needed, keep_bytes=self._keep_bytes, young_s=young_s)

        done = await self._work(collect)
        if done.removed:
            self._access.forget(lambda chunk: not self._blobs.holds(chunk))
        return done

    def _roots(self) -> Iterable[Digest]:
        for task in self._tasks.all():
            if not task.ended:
                yield task.spec.upload
                yield from self._being_fetched(task)
            if task.artifacts is not None:
                yield task.artifacts
        for record in () if self.lettings is None else self.lettings.holding():
            if record.artifacts is not None:
                yield record.artifacts
            if not record.over:
                yield codec.decode(TaskSpec, record.task, limit=limits.MAX_FRAME_BYTES).upload

    def _being_fetched(self, task: TaskRecord) -> Iterable[Digest]:
        signed = None if task.agreement is None else self._book.get(task.agreement).state.receipt
        if signed is not None:
            yield codec.decode(Receipt, signed.body, limit=limits.MAX_FRAME_BYTES).artifacts

    def _needed(self, roots: frozenset[Digest]) -> set[Digest]:
        needed = set(roots)
        for root in roots:
            try:
                needed.update(all_chunks(self._blobs, root))
            except (KeyError, RoboComputeError) as exc:
                log.debug("a set of files is not whole: %r", exc)
        return needed
