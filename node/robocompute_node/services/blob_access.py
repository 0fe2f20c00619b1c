"""Who may use which chunk: a digest alone opens nothing.

Chunks are shared on disk but not between strangers. A client that merely knows the digest of
somebody else's file can neither fetch it, nor name it in an upload of its own, nor learn whether it
is here: for each peer only what it sent, or what its own jobs made, exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_node.store import Store, Table
from robocompute_protocol.identifiers import ID_BYTES, Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.executor.port import BlobStore
    from robocompute_protocol.identifiers import NodeKey

GRANTS: Final = Table("blob-grants/1", bool)
"""Key: peer, then chunk."""


FORGET_AT_ONCE: Final = 10_000
"""Rights dropped in one transaction: the store has one writer."""


class BlobAccess:
    """The blob store as one peer may see it."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        store.declare(GRANTS)

    def grant(self, peer: NodeKey, chunks: tuple[Digest, ...]) -> None:
        """Let ``peer`` use ``chunks``, for good. Durable when it returns."""
        new = self.missing(peer, chunks)
        if new:
            with self._store.transaction() as txn:
                for chunk in new:
                    txn.put(GRANTS, peer + chunk, True)

    def forget(self, gone: Callable[[Digest], bool]) -> int:
        """Drop rights to chunks that are ``gone``; return how many. Durable when it returns."""
        stale = [key for key, _ in self._store.all(GRANTS) if gone(Digest(key[ID_BYTES:]))]
        for start in range(0, len(stale), FORGET_AT_ONCE):
            with self._store.transaction() as txn:
                for key in stale[start : start + FORGET_AT_ONCE]:
                    txn.delete(GRANTS, key)
        return len(stale)

    def missing(self, peer: NodeKey, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]:
        """Return those of ``chunks`` that do not exist for ``peer``, in order, each once."""
        with self._store.view() as txn:
            return tuple(
                chunk
                for chunk in dict.fromkeys(chunks)
                if txn.get(GRANTS, peer + chunk) is None or not self._blobs.has(chunk)
            )
