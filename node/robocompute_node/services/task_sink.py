"""Where a job's feed ends: the task's event log, the metrics folder, the blob store."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.file_sets import chunks_of, part_names, read_files
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused
from robocompute_node.services.metrics_inbox import LIVE_PREFIX, MetricsInbox
from robocompute_node.services.rental_link import JobSink
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from robocompute_node.executor.port import BlobStore
    from robocompute_node.services.blob_exchange import BlobExchange
    from robocompute_node.services.task_book import TaskBook
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.messages import Appended, Finished, Manifest, Output, Stage, Usage

MAX_META_BYTES: Final = 1 << 20
"""A run's meta.json that is put beside its metrics at the end: one chunk."""


class TaskSink(JobSink):
    """Puts what one job says where its owner looks."""

    def __init__(
        self,
        tasks: TaskBook,
        inbox: MetricsInbox,
        blobs: BlobStore,
        exchange: BlobExchange,
        task_id: str,
        provider: NodeKey,
    ) -> None:
        self._tasks = tasks
        self._inbox = inbox
        self._blobs = blobs
        self._exchange = exchange
        self._task_id = task_id
        self._provider = provider

    def position(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        return self._tasks.log(self._task_id).next_output, self._inbox.held(self._task_id)

    def stage(self, stage: Stage) -> None:
        if stage.stage != "done":
            self._tasks.enter_stage(self._task_id, stage.stage, stage.detail)

    def output(self, records: list[Output]) -> None:
        log = self._tasks.log(self._task_id)
        new = [record for record in records if record.sequence >= log.next_output]
        for due, record in enumerate(new, log.next_output):
            if record.sequence != due:
                raise RemoteProtocolError(f"output {record.sequence} came where {due} was due")
        if new and log.full:
            log.next_output = new[-1].sequence + 1
            self._tasks.enter_stage(
                self._task_id, "running", "output is too long; the rest is not kept"
            )
        elif new:
            log.extend([("output", _output_json(record)) for record in new])

    def metrics(self, grown: Appended) -> None:
        self._inbox.take(self._task_id, grown)

    def usage(self, usage: Usage) -> None:
        self._tasks.note(self._task_id, usage=usage)

    async def results(self, finished: Finished) -> None:
        try:
            await self._fetch(finished)
        except PeerRefused as exc:
            raise PeerGone(f"the provider does not give its results: {exc}") from exc
        # The provider deletes the job once it is told that all is here.
        self._tasks.log(self._task_id).sync()

    def _check_size(self, manifest: Manifest) -> None:
        """Refuse results beyond the disk that the job was given: they would fill the owner's."""
        agreed = self._tasks.get(self._task_id).spec.requirements.disk_mib << 20
        size = sum(file.size for file in manifest.files)
        padded = any(
            len(file.chunks) > file.size // limits.MAX_CHUNK_BYTES + 1 for file in manifest.files
        )
        if size > agreed or padded:
            raise RemoteProtocolError("results larger than the job's disk", code="too_large")

    async def _fetch(self, finished: Finished) -> None:
        await self._exchange.pull(self._provider, (finished.artifacts,))
        parts = part_names(self._blobs, finished.artifacts)
        await self._exchange.pull(self._provider, parts)
        manifest = read_files(self._blobs, finished.artifacts)
        self._check_size(manifest)
        size = sum(file.size for file in manifest.files)
        await self._exchange.pull(self._provider, chunks_of(manifest), at_most=size)
        for file in manifest.files:
            meta = file.path.startswith(LIVE_PREFIX) and file.path.endswith(".json")
            if meta and file.size <= MAX_META_BYTES and len(file.chunks) <= 1:
                data = b"".join(self._blobs.get(chunk) for chunk in file.chunks)
                self._inbox.replace(self._task_id, file.path, data)


def _output_json(record: Output) -> dict[str, Any]:
    body: dict[str, Any] = {
        "sequence": record.sequence,
        "stream": record.stream,
        "kind": record.kind,
        "at_ns": record.at_ns,
    }
    try:
        body["text"] = record.data.decode()
    except UnicodeDecodeError:
        body["base64"] = b64encode(record.data).decode()
    return body
