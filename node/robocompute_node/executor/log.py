"""Reads a job's numbered records while its supervisor writes them."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor import segments
from robocompute_node.executor.watch import FolderWatch
from robocompute_protocol.errors import StoreError
from robocompute_protocol.messages import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.executor.folder import JobFolder

_READ_BYTES: Final = 1_048_576
"""One read of a segment: large enough to catch up fast, small enough to yield often."""


class RecordReader:
    """Records from a number on, live, ending after the last one of an ended job.

    A number that was dropped (only far behind a flood) is passed over: numbers always grow. A
    cancelled ``__anext__`` loses nothing; one reader serves one task at a time.
    """

    def __init__(
        self,
        folder: JobFolder,
        *,
        start: int,
        finished: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._next = start
        self._finished = finished
        self._ready: deque[Output] = deque()
        self._watch: FolderWatch | None = None
        self._segment: int | None = None
        self._fd = -1
        self._rest = b""

    def __aiter__(self) -> RecordReader:
        return self

    async def __anext__(self) -> Output:
        while not self._ready:
            await trio.lowlevel.checkpoint()
            if self._watch is None:
                await self._open_watch()
            # Asked before reading: whatever was written before the end is then read as well.
            finished = self._finished()
            if self._read():
                continue
            if finished:
                self.close()
                raise StopAsyncIteration
            if self._watch is not None:
                await self._watch.changed()
        return self._ready.popleft()

    async def _open_watch(self) -> None:
        if self._folder.log.is_dir():
            self._watch = FolderWatch([self._folder.log, self._folder.path])
        elif not self._finished():
            watch = FolderWatch([self._folder.path])
            try:
                if not self._folder.log.is_dir():
                    await watch.changed()
            finally:
                watch.close()

    def _read(self) -> bool:
        """Take in what is there; False when there is nothing new."""
        if self._fd < 0 and not self._open(self._following()):
            return False
        data = os.read(self._fd, _READ_BYTES)
        if not data:
            following = self._following()
            # The next one exists, so this one is complete: what it got since the last read first.
            data = os.read(self._fd, _READ_BYTES) if following is not None else b""
            if not data:
                return self._open(following)
        try:
            records, used = segments.parse(self._rest + data)
        except ValueError as exc:
            raise StoreError(f"{self._folder.path.name}: its output log is damaged") from exc
        self._rest = (self._rest + data)[used:]
        for stream, kind, sequence, ns, payload in records:
            if sequence >= self._next:
                self._next = sequence + 1
                self._ready.append(
                    Output(
                        sequence=sequence,
                        stream=segments.STREAMS[stream],
                        kind=segments.KINDS[kind],
                        at_ns=ns,
                        data=payload,
                    )
                )
        return True

    def _following(self) -> int | None:
        """Return the segment to read next: at first the one that holds the number asked for."""
        numbers = segments.segment_numbers(str(self._folder.log))
        if self._segment is None:
            behind = [number for number in numbers if number <= self._next]
            return behind[-1] if behind else min(numbers, default=None)
        return min((number for number in numbers if number > self._segment), default=None)

    def _open(self, number: int | None) -> bool:
        if number is None:
            return False
        path = self._folder.log / segments.segment_name(number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Dropped in this moment: there are newer ones.
            self._segment = number
            return True
        self._close_segment()
        self._fd, self._segment, self._rest = fd, number, b""
        return True

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Give descriptors back. Repeating is harmless; dropping the reader does the same."""
        self._close_segment()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def aclose(self) -> None:
        """As ``close``: what ``contextlib.aclosing`` calls."""
        await trio.lowlevel.checkpoint()
        self.close()

    def __del__(self) -> None:
        self._close_segment()
