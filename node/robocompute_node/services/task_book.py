"""The client's tasks: their records in the store, their event logs on disk, who waits for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from robocompute_node.api.port import TaskEvent, TaskNotFound, TaskStatus
from robocompute_node.api.views import task_json
from robocompute_node.core.tasks import TaskRecord
from robocompute_node.events import TaskLog
from robocompute_node.store import Store, Table, Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from robocompute_node.clocks import Clock

TASKS: Final = Table("tasks/1", TaskRecord)
IDEMPOTENCY: Final = Table("task-idempotency/1", str)
OPEN_LOGS: Final = 128
"""Event logs kept open: each is one file descriptor and eight bytes an event."""


class TaskBook:
    """All tasks this node was ever given, newest first by creation time."""

    def __init__(self, store: Store, folder: Path, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._folder = folder
        self._logs: OrderedDict[str, TaskLog] = OrderedDict()
        store.declare(TASKS, IDEMPOTENCY)
        self._records: dict[str, TaskRecord] = {
            key.decode(): record for key, record in store.all(TASKS)
        }
        self._cancelled: dict[str, trio.Event] = {}

    def add(self, record: TaskRecord) -> None:
        """Durable when it returns."""
        with self._store.transaction() as txn:
            txn.put(TASKS, record.task_id.encode(), record)
            if record.idempotency_key is not None:
                txn.put(IDEMPOTENCY, record.idempotency_key.encode(), record.task_id)
        self._records[record.task_id] = record

    def by_idempotency_key(self, key: str) -> TaskRecord | None:
        task_id = self._store.get(IDEMPOTENCY, key.encode())
        return None if task_id is None else self._records.get(task_id)

    def get(self, task_id: str) -> TaskRecord:
        """Raises: TaskNotFound."""
        try:
            return self._records[task_id]
        except KeyError:
            raise TaskNotFound(
                f"no task {task_id} here; `chisel jobs` lists them", details={"task_id": task_id}
            ) from None

    def update(self, task_id: str, **changes: Any) -> TaskRecord:
        """Replace fields of the record, durably."""
        with self._store.transaction() as txn:
            self.put(txn, task_id, **changes)
        return self._records[task_id]

    def put(self, txn: Transaction, task_id: str, **changes: Any) -> None:
        """Like ``update``, in the caller's transaction."""
        record = msgspec.structs.replace(self.get(task_id), **changes)
        txn.put(TASKS, task_id.encode(), record)
        txn.after(lambda: self._records.__setitem__(task_id, record))

    def enter_stage(self, task_id: str, stage: str, detail: str) -> None:
        """Say where the task is, to whoever follows it; a repeat says nothing."""
        task = self.get(task_id)
        if (task.stage, task.stage_detail) != (stage, detail) and not task.ended:
            self.note(task_id, stage=stage, stage_detail=detail)
            entry = {"stage": stage, "detail": detail, "at_ms": self._clock.now_ms()}
            self.log(task_id).append("stage", entry)

    def note(self, task_id: str, **changes: Any) -> TaskRecord:
        """Replace fields that a restart may forget (a stage): in memory only."""
        record = msgspec.structs.replace(self.get(task_id), **changes)
        self._records[task_id] = record
        return record

    def listed(self, *, status: TaskStatus | None, limit: int, offset: int) -> list[TaskRecord]:
        chosen = [r for r in self._records.values() if status is None or r.status == status]
        chosen.sort(key=lambda record: (-record.created_ms, record.task_id))
        return chosen[offset : offset + limit]

    def all(self) -> list[TaskRecord]:
        return list(self._records.values())

    def unfinished(self) -> list[TaskRecord]:
        return [record for record in self._records.values() if not record.ended]

    def log(self, task_id: str) -> TaskLog:
        """The task's event log. Raises: TaskNotFound."""
        record = self.get(task_id)
        log = self._logs.get(task_id)
        if log is None:
            log = TaskLog(self._folder / task_id / "events.log")
            if record.ended and not log.ended:  # stopped between the record and the event
                log.append("ended", task_json(record.view()))
            self._logs[task_id] = log
            if len(self._logs) > OPEN_LOGS:
                self._close_one_ended()
        self._logs.move_to_end(task_id)
        return log

    def _close_one_ended(self) -> None:
        for task_id, log in self._logs.items():
            if log.ended and not log.readers:
                log.close()
                del self._logs[task_id]
                return

    def events(self, task_id: str, *, after: int) -> AsyncGenerator[TaskEvent]:
        """Events above ``after``, live, ending after "ended". Close it: it keeps the log open."""
        return self.log(task_id).follow(after=after)

    def cancelled(self, task_id: str) -> trio.Event:
        """Set once the owner asked for the end (also when that was before a restart)."""
        event = self._cancelled.setdefault(task_id, trio.Event())
        if self.get(task_id).cancel_requested:
            event.set()
        return event

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()
