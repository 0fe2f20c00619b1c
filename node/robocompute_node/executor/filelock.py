"""A lock that is a file: held over all processes of this machine, and let go when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

_POLL_S: Final = 0.05


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Hold the lock file ``path``, made where it is missing.

    The file may be deleted by who holds it; whoever waited for it then takes the one made anew.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(fd):  # noqa: ASYNC110 (another process's, not an event of ours)
                await trio.sleep(_POLL_S)
            if _is_at(fd, path):
                yield
                return
        finally:
            os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), found)
