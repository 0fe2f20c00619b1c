"""Lays an upload out as a job's working folder. A manifest is a stranger's: nothing in it is trusted.

The folder is new and nothing runs in it yet, so checking the names is enough: no absolute path, no
``..``, no name twice, no file where a folder must be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.executor.port import PrepareFailed
from robocompute_protocol import limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from robocompute_node.executor.port import BlobStore
    from robocompute_protocol.messages import FileEntry, Manifest

_BLOCK: Final = 4_096
"""What a small file costs on disk."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes whenever a file does: the kernel sets ``ctime_ns``, and a job cannot."""

    inode: int
    size: int
    ctime_ns: int


def stamp(status: os.stat_result) -> Stamp:
    """Return a file's stamp."""
    return Stamp(status.st_ino, status.st_size, status.st_ctime_ns)


def _refuse(text: str) -> PrepareFailed:
    return PrepareFailed(f"the upload cannot be unpacked: {text}", cause=Cause.UPLOAD_INVALID)


def check_paths(paths: Iterable[str]) -> None:
    """Accept a set of relative paths that can all exist below one folder.

    Raises:
        PrepareFailed: they cannot, or one leads out of it.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise _refuse(f"{path!r} is not a plain relative path")
        if len(path.encode("utf-8", "surrogatepass")) > limits.MAX_PATH_BYTES:
            raise _refuse(f"{path[:80]!r}… is too long a path")
        if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts):
            raise _refuse(f"{path[:80]!r}… has a name longer than 255 bytes")
        if path in files:
            raise _refuse(f"{path!r} is there twice")
        files.add(path)
        for depth in range(1, len(parts)):
            folders.add("/".join(parts[:depth]))
    both = files & folders
    if both:
        raise _refuse(f"{min(both)!r} is both a file and a folder")


def unpack(
    upload: Manifest, blobs: BlobStore, target: Path, *, disk_bytes: int, owner: int | None
) -> dict[str, Stamp]:
    """Write every file of ``upload`` below the empty folder ``target``; return what was written.

    ``owner`` (for root only) is who the job runs as.

    Raises:
        PrepareFailed: the upload is not acceptable, or chunks are missing.
    """
    check_paths(entry.path for entry in upload.files)
    total = sum(max(entry.size, _BLOCK) for entry in upload.files)
    if total > disk_bytes:
        raise _refuse(f"it needs {total:,} bytes, and the job may have {disk_bytes:,} on disk")
    missing = blobs.missing(tuple({chunk for entry in upload.files for chunk in entry.chunks}))
    if missing:
        raise _refuse(f"{len(missing)} chunks were not sent")
    made: set[str] = set()
    stamps: dict[str, Stamp] = {}
    for entry in upload.files:
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                (target / folder).mkdir(mode=0o755)
                if owner is not None:
                    os.chown(target / folder, owner, owner)
        stamps[entry.path] = _write(entry, blobs, target / entry.path, owner)
    if owner is not None:
        os.chown(target, owner, owner)
    return stamps


def _write(entry: FileEntry, blobs: BlobStore, path: Path, owner: int | None) -> Stamp:
    try:
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except (OSError, ValueError) as exc:
        raise _refuse(f"{entry.path!r}: {exc}") from exc
    with open(fd, "wb", buffering=0) as file:
        written = 0
        for chunk in entry.chunks:
            try:
                data = blobs.get(chunk)
            except (KeyError, StoreError) as exc:
                raise _refuse(f"a chunk of {entry.path!r} is missing or damaged") from exc
            written += len(data)
            if written > entry.size:
                break
            file.write(data)
        if written != entry.size:
            raise _refuse(f"the chunks of {entry.path!r} are not {entry.size:,} bytes")
        if owner is not None:
            os.fchown(fd, owner, owner)
        os.fchmod(fd, entry.mode)
        return stamp(os.fstat(fd))
