"""Content-addressed chunks as files: ``blobs/<first two hex digits>/<the rest>``."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import Digest

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

_FOLDER_DIGITS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection did."""

    removed: int
    freed: int
    """Bytes."""
    kept: int
    """Bytes of chunks that nobody needs and that are still here."""


class FileBlobStore:
    """Chunks on disk, shared by uploads and results. Safe from several threads and processes.

    A chunk appears whole or not at all, and survives a power cut once ``put`` has returned. What
    was put or found here a moment ago is never collected: whoever saw it may go on to need it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._leaving = root / "leaving"
        self._leaving.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        for path in self._leaving.iterdir():  # a collection was cut short here
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
            else:
                self._bring_back(path)

    def _path(self, chunk: Digest) -> Path:
        name = chunk.hex()
        return self._root / name[:2] / name[2:]

    def has(self, chunk: Digest) -> bool:
        """Whether ``chunk`` is here. If so, it counts as just put."""
        return _touch(self._path(chunk))

    def holds(self, chunk: Digest) -> bool:
        """Whether ``chunk`` is here, leaving it as old as it is."""
        return self._path(chunk).exists()

    def missing(self, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]:
        """Return those of ``chunks`` that are not here, in order, each once."""
        return tuple(chunk for chunk in dict.fromkeys(chunks) if not self.has(chunk))

    def get(self, chunk: Digest) -> bytes:
        """Return a chunk's bytes, checked against its digest.

        Raises:
            KeyError: it is not here.
            StoreError: the bytes on disk are no longer the ones that were put; they are removed,
                so that the chunk counts as missing from now on.
        """
        path = self._path(chunk)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KeyError(chunk) from None
        except OSError as exc:
            raise StoreError(f"a stored chunk cannot be read: {exc}") from exc
        if sha256(data).digest() != chunk:
            path.unlink(missing_ok=True)
            raise StoreError(f"the stored chunk {chunk.hex()} was damaged; send it again")
        return data

    def put(self, data: bytes) -> Digest:
        """Keep ``data`` and return its digest. Putting the same bytes again is free.

        Raises:
            StoreError: the disk did not take it.
        """
        chunk = Digest(sha256(data).digest())
        self._write(chunk, data)
        return chunk

    def keep(self, chunk: Digest, data: bytes) -> bool:
        """Keep ``data`` if it is ``chunk``; say whether it is.

        Raises:
            StoreError: the disk did not take it.
        """
        if sha256(data).digest() != chunk:
            return False
        self._write(chunk, data)
        return True

    def _write(self, chunk: Digest, data: bytes) -> None:
        path = self._path(chunk)
        if _touch(path):
            return
        partial = path.with_name(f".{secrets.token_hex(8)}")
        try:
            made = not path.parent.exists()
            path.parent.mkdir(exist_ok=True, mode=0o700)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            _sync_folder(path.parent)
            if made:
                _sync_folder(self._root)
        except OSError as exc:
            with suppress(OSError):
                partial.unlink()
            raise StoreError(f"a chunk cannot be stored: {exc}") from exc

    # --- collecting -----------------------------------------------------------------------------

    def collect(self, needed: Container[Digest], *, keep_bytes: int, young_s: float) -> Collected:
        """Remove chunks that nobody needs until ``keep_bytes`` of such are left, oldest first.

        A chunk put or found here in the last ``young_s`` stays, whoever needs it. May be killed at
        any step, and run beside everything else but another ``collect``.
        """
        old = self._now() - young_s
        spare: list[tuple[float, int, Path]] = []
        kept = 0
        for path, status in self._files():
            if path.name.startswith("."):
                if status.st_mtime < old:  # a put that was cut short
                    path.unlink(missing_ok=True)
                continue
            if Digest(bytes.fromhex(path.parent.name + path.name)) in needed:
                continue
            kept += status.st_size
            if status.st_mtime < old:
                spare.append((status.st_mtime, status.st_size, path))
        removed = freed = 0
        for _, size, path in sorted(spare):
            if kept - freed <= keep_bytes:
                break
            if self._remove(path, old):
                removed += 1
                freed += size
        return Collected(removed=removed, freed=freed, kept=kept - freed)

    def _now(self) -> float:
        """The moment, by the clock that the chunks' own times are of."""
        probe = self._leaving / f".{secrets.token_hex(8)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in self._root.iterdir():
            if len(folder.name) != _FOLDER_DIGITS:
                continue
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    yield folder / entry.name, entry.stat()

    def _remove(self, path: Path, old: float) -> bool:
        """Remove a chunk unless somebody came for it meanwhile.

        It is taken aside first: from then on nobody finds it, so nobody can come for it any more.
        """
        aside = self._leaving / (path.parent.name + path.name)
        try:
            path.rename(aside)
            if aside.stat().st_mtime < old:
                aside.unlink()
                return True
            self._bring_back(aside)
        except OSError as exc:
            raise StoreError(f"a chunk cannot be removed: {exc}") from exc
        return False

    def _bring_back(self, aside: Path) -> None:
        path = self._root / aside.name[:_FOLDER_DIGITS] / aside.name[_FOLDER_DIGITS:]
        aside.rename(path)


def _touch(path: Path) -> bool:
    """Make a file new again; False where there is none."""
    try:
        os.utime(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
