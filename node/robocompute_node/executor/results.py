"""Collects what a job made: all of /volume, and the files of its working folder it made or changed.

Runs after the end, when no process of the job is left.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from robocompute_node.executor import beneath
from robocompute_node.executor.unpack import stamp
from robocompute_protocol import codec, limits
from robocompute_protocol.manifests import MAX_ENTRIES_BYTES, MAX_FILE_CHUNKS
from robocompute_protocol.messages import FileEntry, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO
    from pathlib import Path

    from robocompute_node.executor.port import BlobStore
    from robocompute_node.executor.unpack import Stamp
    from robocompute_protocol.identifiers import Digest

LEFT_OUT: Final = "volume/LEFT_OUT.txt"
"""Lists what the job made and could not be taken along, and why."""
_OWN_ENTRY: Final = 4_096
"""Bytes of the manifest kept for that list's own entry."""
_MAX_NOTES: Final = 1_000
_FILES: Final = limits.MAX_FILES - 1
"""One is kept for the list of what was left out."""


def collect(
    *,
    work: Path,
    volume: Path,
    upload: Manifest,
    stamps: Mapping[str, Stamp],
    blobs: BlobStore,
    max_bytes: int,
) -> Manifest:
    """Return the results, every chunk of them in ``blobs``, sorted by path.

    Links, devices, pipes and names that are not UTF-8 are left out, as is what is over
    ``max_bytes`` altogether; the list ``LEFT_OUT`` then says so.
    """
    harvest = _Harvest(blobs, max_bytes)
    harvest.take_folder("volume", volume, {}, {})
    harvest.take_folder("work", work, {entry.path: entry for entry in upload.files}, stamps)
    return harvest.manifest()


class _Harvest:
    def __init__(self, blobs: BlobStore, max_bytes: int) -> None:
        self._blobs = blobs
        self._left = max_bytes
        self._unsaid = MAX_ENTRIES_BYTES - _OWN_ENTRY
        self._files: dict[str, FileEntry] = {}
        self._notes: list[str] = []

    def take_folder(
        self,
        prefix: str,
        folder: Path,
        uploaded: Mapping[str, FileEntry],
        stamps: Mapping[str, Stamp],
    ) -> None:
        try:
            root = beneath.open_root(folder)
        except OSError as exc:
            self._note(prefix, str(exc))
            return
        try:
            for found in sorted(beneath.walk(root), key=lambda each: each.path):
                path = f"{prefix}/{found.path}"
                if found.problem is not None:
                    self._note(path, found.problem)
                    continue
                try:
                    fd = beneath.open_regular(root, found.path.encode())
                except OSError as exc:
                    self._note(path, exc.strerror or str(exc))
                    continue
                with open(fd, "rb", buffering=0) as file:
                    if stamps.get(found.path) != stamp(os.fstat(fd)):
                        self._take(path, file, uploaded.get(found.path))
        finally:
            os.close(root)

    def _take(self, path: str, file: FileIO, before: FileEntry | None) -> None:
        status = os.fstat(file.fileno())
        if len(path.encode()) > limits.MAX_PATH_BYTES:
            self._note(path[:200] + "…", "its path is too long")
            return
        if status.st_size > self._left or len(self._files) >= _FILES:
            self._note(path, f"{status.st_size:,} bytes are more than may be sent back")
            return
        if status.st_size > MAX_FILE_CHUNKS * limits.MAX_CHUNK_BYTES:
            self._note(path, f"{status.st_size:,} bytes are more than one file may have")
            return
        chunks: list[Digest] = []
        size = 0
        while data := _read_chunk(file):
            chunks.append(self._blobs.put(data))
            size += len(data)
        entry = FileEntry(path=path, mode=status.st_mode & 0o777, size=size, chunks=tuple(chunks))
        same = before is not None and (before.chunks, before.mode) == (entry.chunks, entry.mode)
        if not same:
            said = len(codec.encode(entry))
            if said > self._unsaid:
                self._note(path, "the list of files is full")
                return
            self._unsaid -= said
            self._left -= size
            self._files[path] = entry

    def _note(self, path: str, reason: str) -> None:
        self._notes.append(f"{path}: {reason}\n")

    def manifest(self) -> Manifest:
        if self._notes:
            shown = self._notes[:_MAX_NOTES]
            if len(self._notes) > len(shown):
                shown.append(f"and {len(self._notes) - len(shown):,} more\n")
            text = "".join(shown).encode("utf-8", "backslashreplace")[: limits.MAX_CHUNK_BYTES]
            self._files[LEFT_OUT] = FileEntry(
                path=LEFT_OUT, mode=0o644, size=len(text), chunks=(self._blobs.put(text),)
            )
        return Manifest(files=tuple(self._files[path] for path in sorted(self._files)))


def _read_chunk(file: FileIO) -> bytes:
    parts: list[bytes] = []
    left = limits.MAX_CHUNK_BYTES
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
