"""The client's durable log of what happened to a task: numbered, append-only, one file a task.

Kill-safe: an entry is one write, a torn last entry is cut off at the next open. Numbers are
consecutive from 1, so a reader that knows the last number it saw misses nothing and sees nothing
twice, across restarts of either side.
"""

from __future__ import annotations

import os
import struct
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from robocompute_node.api.port import TaskEvent
from robocompute_protocol.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

_HEADER: Final = struct.Struct(">I")
MAX_LOG_BYTES: Final = 1 << 30
"""Output of one task that is kept: a provider must not fill its client's disk."""
READ_BATCH: Final = 256
"""Entries read from disk at once, so one slow reader holds little memory."""


class TaskLog:
    """The event log of one task. One writer; any number of readers, each at its own pace."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._offsets = array("Q")
        self._grown = trio.Event()
        self.ended = False
        self.readers = 0
        """Followers right now: a log that is being read must stay open."""
        self.next_output = 0
        """The output number that is to come next: where to attach again."""
        self._recover()

    def _recover(self) -> None:
        size = os.fstat(self._file).st_size
        position = 0
        while position + _HEADER.size <= size:
            (length,) = _HEADER.unpack(os.pread(self._file, _HEADER.size, position))
            if position + _HEADER.size + length > size:
                break
            self._offsets.append(position)
            try:
                self._note(self._entry(len(self._offsets)))
            except msgspec.MsgspecError:  # a power cut can leave zeros where bytes were due
                self._offsets.pop()
                break
            position += _HEADER.size + length
        if position != size:
            os.ftruncate(self._file, position)
        self._size = position

    def _note(self, event: TaskEvent) -> None:
        if event.kind == "output":
            sequence = event.data["sequence"]
            assert isinstance(sequence, int)
            self.next_output = sequence + 1
        elif event.kind == "ended":
            self.ended = True

    def _entry(self, number: int) -> TaskEvent:
        offset = self._offsets[number - 1]
        (length,) = _HEADER.unpack(os.pread(self._file, _HEADER.size, offset))
        kind, data = msgspec.msgpack.decode(
            os.pread(self._file, length, offset + _HEADER.size), type=tuple[str, dict[str, Any]]
        )
        return TaskEvent(number=number, kind=kind, data=data)

    @property
    def count(self) -> int:
        return len(self._offsets)

    def append(self, kind: str, data: dict[str, Any]) -> TaskEvent:
        """Add one entry and wake the readers."""
        return self.extend([(kind, data)])[-1]

    def extend(self, entries: list[tuple[str, dict[str, Any]]]) -> list[TaskEvent]:
        """Add entries with one write: a flood of output costs one system call a batch.

        Raises:
            StoreError: the disk did not take them; none was added.
        """
        blob = bytearray()
        offsets: list[int] = []
        for kind, data in entries:
            body = msgspec.msgpack.encode((kind, data))
            offsets.append(self._size + len(blob))
            blob += _HEADER.pack(len(body)) + body
        self._write(blob)
        events: list[TaskEvent] = []
        for offset, (kind, data) in zip(offsets, entries, strict=True):
            self._offsets.append(offset)
            event = TaskEvent(number=len(self._offsets), kind=kind, data=data)
            self._note(event)
            events.append(event)
        self._size += len(blob)
        self._grown.set()
        self._grown = trio.Event()
        return events

    def _write(self, blob: bytearray) -> None:
        try:
            left = memoryview(blob)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise StoreError(f"a task's log cannot be written: {exc}") from exc

    @property
    def full(self) -> bool:
        """Whether it holds as much as one task may say: no more output belongs in it."""
        return self._size >= MAX_LOG_BYTES

    def read(self, *, after: int, limit: int) -> list[TaskEvent]:
        last = min(len(self._offsets), after + limit)
        return [self._entry(number) for number in range(max(1, after + 1), last + 1)]

    async def follow(self, *, after: int) -> AsyncGenerator[TaskEvent]:
        """Events above ``after``, waiting for more until "ended" was given."""
        self.readers += 1
        try:
            while True:
                grown = self._grown
                batch = self.read(after=after, limit=READ_BATCH)
                for event in batch:
                    yield event
                    after = event.number
                    if event.kind == "ended":
                        return
                if not batch:
                    if self.ended:
                        return
                    await grown.wait()
        finally:
            self.readers -= 1

    def last_outputs(self, lines: int) -> list[TaskEvent]:
        """The newest ``lines`` output events, oldest first."""
        found: list[TaskEvent] = []
        number = len(self._offsets)
        while number > 0 and len(found) < lines:
            event = self._entry(number)
            if event.kind == "output":
                found.append(event)
            number -= 1
        return found[::-1]

    def outputs_from(self, start: int, lines: int) -> list[TaskEvent]:
        """Up to ``lines`` output events whose output number is at least ``start``."""
        found: list[TaskEvent] = []
        for number in range(1, len(self._offsets) + 1):
            event = self._entry(number)
            if event.kind == "output" and int(event.data["sequence"]) >= start:  # type: ignore[call-overload]
                found.append(event)
                if len(found) == lines:
                    break
        return found

    def sync(self) -> None:
        """Make what was said so far survive a power cut. Raises: StoreError."""
        try:
            os.fsync(self._file)
        except OSError as exc:
            raise StoreError(f"a task's log cannot be made durable: {exc}") from exc

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
