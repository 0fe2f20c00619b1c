"""Sets of files in the chunk store: an upload, or what a job made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol.manifests import pack, parts_of, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_node.executor.port import BlobStore
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.messages import FileEntry, Manifest


def keep_files(blobs: BlobStore, files: Iterable[FileEntry]) -> Digest:
    """Put the manifest of ``files`` into the store and return its name. Durable when it returns.

    Raises:
        TooManyFiles: more than a manifest can say; nothing was put.
        StoreError: the disk did not take it.
    """
    first, *parts = pack(files)
    for part in parts:
        blobs.put(part)
    return blobs.put(first)


def read_files(blobs: BlobStore, name: Digest) -> Manifest:
    """Return the whole manifest called ``name``.

    Raises:
        KeyError: it, or a part of it, is not here.
        StoreError: it is damaged.
        RemoteProtocolError: it is no manifest within the limits.
    """
    return unpack(name, blobs.get)


def part_names(blobs: BlobStore, name: Digest) -> tuple[Digest, ...]:
    """Return the names of a manifest's further parts. Raises as ``read_files``."""
    return parts_of(blobs.get(name))


def chunks_of(manifest: Manifest) -> tuple[Digest, ...]:
    """Every chunk the files of a whole manifest need, each once, in order."""
    return tuple(dict.fromkeys(chunk for file in manifest.files for chunk in file.chunks))


def all_chunks(blobs: BlobStore, name: Digest) -> tuple[Digest, ...]:
    """Everything that a set is made of: its manifest, the manifest's parts, the files' chunks.

    Raises as ``read_files``.
    """
    return (name, *part_names(blobs, name), *chunks_of(read_files(blobs, name)))
