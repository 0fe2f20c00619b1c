"""Room for environments: which of them go when there are more than fit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.executor import processes
from robocompute_node.executor.folder import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CACHE_SHARE: Final = 4
"""uv's cache may take one part in this many of the room; over that it is emptied, as a cache may be."""
_UNBOUNDED: Final = 1 << 62
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Kept:
    """An environment on disk."""

    key: str
    size_bytes: int
    used_ns: int
    """When a job last asked for it."""


def to_remove(kept: Iterable[Kept], *, in_use: frozenset[str], room_bytes: int) -> tuple[str, ...]:
    """Return what must go, the longest unused first, so that the rest fits.

    What is in use stays, even where that is more than fits.
    """
    ordered = sorted(kept, key=lambda one: (one.used_ns, one.key))
    over = sum(one.size_bytes for one in ordered) - room_bytes
    gone: list[str] = []
    for one in ordered:
        if over <= 0:
            break
        if one.key not in in_use:
            gone.append(one.key)
            over -= one.size_bytes
    return tuple(gone)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The environments in ``root``: folders named by their key, each with a lock file beside it.

    The lock file's time is when the environment was last used, its text how large it is. Every
    method blocks on the disk, and is called with nobody else changing the folder it is about.
    """

    root: Path
    room_bytes: int

    def lock(self, key: str) -> Path:
        return self.root / f"{key}{_LOCK}"

    def note_use(self, key: str) -> None:
        os.utime(self.lock(key))

    def note_built(self, key: str) -> None:
        """Count a new environment. The caller holds its lock."""
        size = processes.disk_bytes([str(self.root / key)], stop_at=_UNBOUNDED)
        self.lock(key).write_text(f"{size}\n")

    def kept(self) -> tuple[Kept, ...]:
        found: list[Kept] = []
        for lock in self.root.glob(f"*{_LOCK}"):
            key = lock.name.removesuffix(_LOCK)
            if not (self.root / key).exists():
                continue
            text = lock.read_text().strip()
            if not text:  # The machine went down between building and counting.
                used = lock.stat().st_mtime_ns
                self.note_built(key)
                os.utime(lock, ns=(used, used))
                text = lock.read_text()
            found.append(Kept(key, int(text), lock.stat().st_mtime_ns))
        return tuple(found)

    def surplus(self, in_use: frozenset[str]) -> tuple[str, ...]:
        """Return the keys of what must go."""
        return to_remove(self.kept(), in_use=in_use, room_bytes=self.room_bytes)

    def remove(self, key: str) -> None:
        """Delete an environment. The caller holds its lock; nobody will be waiting for the same file.

        First its name, so that nothing half deleted is ever found; its lock last of all.
        """
        hidden = self.root / f".removed-{key}"
        remove_tree(hidden)
        (self.root / key).rename(hidden)
        remove_tree(hidden)
        self.lock(key).unlink()

    def empty_cache(self, cache: Path) -> None:
        """Empty uv's cache where it has outgrown its share. No build may be at work."""
        share = self.room_bytes // CACHE_SHARE
        if processes.disk_bytes([str(cache)], stop_at=share) > share:
            remove_tree(cache)
