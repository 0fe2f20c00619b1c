"""Follows the growing metric files of a running job: ``/volume/aspara/**/*.jsonl``."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor import beneath
from robocompute_protocol.messages import Appended

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LOOK_S: Final = 0.2
"""How often the files are looked at: charts need no more."""
_PIECE_BYTES: Final = 65_536
"""Of one message."""
_MAX_FILES: Final = 1_000
"""Files followed at once; a run of the tracker makes one."""
_ROUND_PIECES: Final = 64
"""Pieces taken from all files before anything is handed on: bounds memory, shares fairly."""


class GrowthReader:
    """What live files grew by, from the given offsets, ending after the job's end.

    Paths are as in the artifacts (``volume/aspara/…``). A file that shrank is not followed
    further: what it held before is on its way or there already. Cancelling loses nothing.
    """

    def __init__(
        self, volume: Path, *, offsets: Mapping[str, int], finished: Callable[[], bool]
    ) -> None:
        self._volume = volume
        self._offsets = dict(offsets)
        self._finished = finished
        self._ready: deque[Appended] = deque()

    def __aiter__(self) -> GrowthReader:
        return self

    async def __anext__(self) -> Appended:
        while not self._ready:
            await trio.lowlevel.checkpoint()
            # Asked before looking: whatever was written before the end is then found as well.
            finished = self._finished()
            self._look()
            if self._ready:
                break
            if finished:
                raise StopAsyncIteration
            await trio.sleep(_LOOK_S)
        return self._ready.popleft()

    async def aclose(self) -> None:
        """For ``contextlib.aclosing``; nothing is held open between calls."""
        await trio.lowlevel.checkpoint()

    def _look(self) -> None:
        try:
            volume = beneath.open_root(self._volume)
        except OSError:
            return
        try:
            try:
                root = beneath.open_beneath(volume, b"aspara", os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return
            try:
                self._look_below(root)
            finally:
                os.close(root)
        finally:
            os.close(volume)

    def _look_below(self, root: int) -> None:
        names = sorted(
            found.path
            for found in beneath.walk(root)
            if found.problem is None and found.path.endswith(".jsonl")
        )
        for name in names[:_MAX_FILES]:
            if len(self._ready) >= _ROUND_PIECES:
                return
            try:
                fd = beneath.open_regular(root, name.encode())
            except OSError:
                continue
            try:
                self._take(f"volume/aspara/{name}", fd)
            finally:
                os.close(fd)

    def _take(self, path: str, fd: int) -> None:
        offset = self._offsets.get(path, 0)
        while len(self._ready) < _ROUND_PIECES:
            data = os.pread(fd, _PIECE_BYTES, offset)
            if not data:
                return
            self._ready.append(Appended(path=path, offset=offset, data=data))
            offset += len(data)
            self._offsets[path] = offset
