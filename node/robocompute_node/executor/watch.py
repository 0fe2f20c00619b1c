"""Waiting for a folder to change, with inotify where it can be had."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MODIFY, _MOVED_TO, _CREATE, _DELETE_SELF = 0x2, 0x80, 0x100, 0x400
_POLL_S: Final = 0.01
"""Without inotify (its instances are few, per user): a line is seen this late at most."""
_RECHECK_S: Final = 0.5
"""With inotify, callers look again after this long: a dead supervisor changes no file."""
_EVENTS_BYTES: Final = 65_536


class FolderWatch:
    """Tells that something in some folders changed. Must be made before they are first read."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._fd = -1
        libc = ctypes.CDLL(None, use_errno=True)
        fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            return
        mask = _MODIFY | _MOVED_TO | _CREATE | _DELETE_SELF
        for folder in folders:
            if libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
                os.close(fd)
                return
        self._fd = fd

    async def changed(self) -> None:
        """Return after a change since the last call, or after a short while."""
        if self._fd < 0:
            await trio.sleep(_POLL_S)
            return
        with trio.move_on_after(_RECHECK_S):
            await trio.lowlevel.wait_readable(self._fd)
            try:
                os.read(self._fd, _EVENTS_BYTES)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Give the descriptor back. Repeating is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()
