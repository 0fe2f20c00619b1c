from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from robocompute_node.blobs import FileBlobStore
from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import Digest

if TYPE_CHECKING:
    from pathlib import Path


def test_a_chunk_is_found_again_by_its_digest_by_another_store_too(tmp_path: Path):
    chunk = FileBlobStore(tmp_path / "b").put(b"data")
    assert chunk == sha256(b"data").digest()
    again = FileBlobStore(tmp_path / "b")
    assert again.get(chunk) == b"data"
    assert again.has(chunk)
    assert again.put(b"data") == chunk


def test_missing_chunks_are_named_once_and_in_order(tmp_path: Path):
    store = FileBlobStore(tmp_path)
    here = store.put(b"")
    one, two = Digest(b"\1" * 32), Digest(b"\2" * 32)
    assert store.missing((two, here, one, two)) == (two, one)
    with pytest.raises(KeyError):
        store.get(one)


def test_a_damaged_chunk_is_an_error_once_and_missing_from_then_on(tmp_path: Path):
    store = FileBlobStore(tmp_path)
    chunk = store.put(b"data")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(b"DATA")
    with pytest.raises(StoreError, match="damaged"):
        store.get(chunk)
    assert store.missing((chunk,)) == (chunk,)
    store.put(b"data")
    assert store.get(chunk) == b"data"


def test_a_store_that_cannot_write_says_so_and_leaves_nothing(tmp_path: Path):
    store = FileBlobStore(tmp_path / "b")
    name = sha256(b"data").hexdigest()
    (tmp_path / "b" / name[:2]).write_bytes(b"in the way")
    with pytest.raises(StoreError, match="cannot be stored"):
        store.put(b"data")
