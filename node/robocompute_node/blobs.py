"""Content-addressed chunks as files: ``blobs/<first two hex digits>/<the rest>``."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import Digest

if TYPE_CHECKING:
    from pathlib import Path


class FileBlobStore:
    """Chunks on disk, shared by uploads and results. Safe from several threads and processes.

    A chunk appears whole or not at all, and survives a power cut once ``put`` has returned.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _path(self, chunk: Digest) -> Path:
        name = chunk.hex()
        return self._root / name[:2] / name[2:]

    def has(self, chunk: Digest) -> bool:
        """Whether ``chunk`` is here."""
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
        if path.exists():
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


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
