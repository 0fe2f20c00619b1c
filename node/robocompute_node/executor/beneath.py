"""Opens and walks what a job left behind, without ever being led out of its folder.

A job chooses the names, links and kinds of its files. Every path is resolved by the kernel with
RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_XDEV, and only regular files are opened.
"""

from __future__ import annotations

import ctypes
import os
import stat
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OPENAT2: Final = 437
"""The same number on every architecture."""
_HOW: Final = Struct("QQQ")
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08
"""NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH."""
_MAX_ENTRIES: Final = 1_000_000
"""Directory entries looked at in one walk: a job can make more than anybody wants to list."""


class NotRegular(OSError):
    """It is not, or no longer, a regular file."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a walk. ``problem`` is set where it cannot be taken, and says why."""

    path: str
    problem: str | None = None


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open ``path`` below the directory descriptor ``root``.

    Raises:
        OSError: it is not there, or a link or mount is on the way.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    how = _HOW.pack(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    fd: int = libc.syscall(_OPENAT2, root, path, how, len(how))
    if fd < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), os.fsdecode(path))
    return fd


def open_regular(root: int, path: bytes) -> int:
    """Open a regular file below ``root`` for reading; a FIFO does not block.

    Raises:
        NotRegular: it is something else.
        OSError: as ``open_beneath``.
    """
    fd = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegular("not a regular file")
    return fd


def open_root(path: Path) -> int:
    """Open one of our own folders as the root of a walk.

    Raises:
        OSError: it is not there.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def walk(root: int) -> Iterator[Found]:
    """Yield all but directories below ``root``, in no order; problems instead of errors."""
    todo = [b""]
    seen = 0
    while todo:
        folder = todo.pop()
        try:
            fd = open_beneath(root, folder or b".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            yield Found(os.fsdecode(folder), exc.strerror)
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MAX_ENTRIES:
                        yield Found(os.fsdecode(folder), "too many files")
                        return
                    path = b"/".join(part for part in (folder, os.fsencode(entry.name)) if part)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(path)
                    else:
                        yield _judge(path, entry)
        finally:
            os.close(fd)


def _judge(path: bytes, entry: os.DirEntry[str]) -> Found:
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        return Found(path.decode("utf-8", "backslashreplace"), "its name is not UTF-8")
    if entry.is_symlink():
        return Found(text, "a symbolic link")
    if not entry.is_file(follow_symlinks=False):
        return Found(text, "not a regular file")
    return Found(text)
