"""Sets of files as chunks: a manifest that does not fit into one has parts.

The first chunk names the set. It lists files, then the parts; each part lists more of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_protocol import codec, limits
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import Digest, digest
from robocompute_protocol.messages import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from robocompute_protocol.messages import FileEntry

_FRAME: Final = 2_048
"""Bytes left for what is around the files: the names of the fields, and the parts' digests."""
ROOM: Final = limits.MAX_CHUNK_BYTES - _FRAME
"""Bytes of one chunk that files' entries may fill."""


MAX_ENTRIES_BYTES: Final = limits.MAX_MANIFEST_BYTES - (1 + limits.MAX_PARTS) * _FRAME
"""Bytes that all files' entries together may take, however they fall into chunks."""
MAX_FILE_CHUNKS: Final = 30_720
"""Chunks of one file, 30 GiB: with the longest path its entry still fits one chunk."""


class TooManyFiles(LocalProtocolError):
    """A set of files is larger than a manifest can say."""

    code = "too_many_files"


def pack(files: Iterable[FileEntry]) -> tuple[bytes, ...]:
    """Return the chunks of a manifest of ``files``, the one that names it first.

    Raises:
        TooManyFiles: more files, or with more chunks, than one manifest holds.
    """
    groups: list[list[FileEntry]] = [[]]
    count = size = filled = 0
    for file in files:
        length = len(codec.encode(file))
        count, size, filled = count + 1, size + length, filled + length
        if len(file.chunks) > MAX_FILE_CHUNKS:
            raise TooManyFiles(f"{file.path} is too large: one file may have 30 GiB")
        if filled > ROOM:
            groups.append([])
            filled = length
        groups[-1].append(file)
    if count > limits.MAX_FILES or len(groups) > 1 + limits.MAX_PARTS:
        raise TooManyFiles(f"{count:,} files are too many: {limits.MAX_FILES:,} may go together")
    if size > MAX_ENTRIES_BYTES:
        raise TooManyFiles("the files' names and chunks take more than 16 MiB: put them together")
    parts = [codec.encode(Manifest(files=tuple(group))) for group in groups[1:]]
    first = Manifest(files=tuple(groups[0]), parts=tuple(digest(part) for part in parts))
    return (codec.encode(first), *parts)


def parts_of(first: bytes) -> tuple[Digest, ...]:
    """Return which further chunks make up the manifest whose first one this is.

    Raises:
        RemoteProtocolError: this is none.
    """
    return codec.decode(Manifest, first, limit=limits.MAX_CHUNK_BYTES).parts


def unpack(name: Digest, get: Callable[[Digest], bytes]) -> Manifest:
    """Return the whole manifest called ``name``, without parts, from its chunks.

    Raises:
        RemoteProtocolError: its chunks are not a manifest within the limits.
        Exception: whatever ``get`` raises for a chunk that it does not have.
    """
    encoded = get(name)
    first = codec.decode(Manifest, encoded, limit=limits.MAX_CHUNK_BYTES)
    files, size = list(first.files), len(encoded)
    for name_of_part in first.parts:
        encoded = get(name_of_part)
        size += len(encoded)
        part = codec.decode(Manifest, encoded, limit=limits.MAX_CHUNK_BYTES)
        if part.parts:
            raise RemoteProtocolError(
                "a part of a manifest has parts of its own", code="malformed"
            )
        files += part.files
        if len(files) > limits.MAX_FILES or size > limits.MAX_MANIFEST_BYTES:
            raise RemoteProtocolError("a manifest of too many files", code="too_large")
    return Manifest(files=tuple(files))
