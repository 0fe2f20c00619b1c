from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.unpack import unpack
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import FileEntry, Manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "blobs")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def entry(path: str, *chunks: Digest, size: int = 0, mode: int = 0o644) -> FileEntry:
    return FileEntry(path=path, mode=mode, size=size, chunks=chunks)


def test_files_arrive_with_content_and_mode(blobs: FileBlobStore, target: Path):
    chunks = (blobs.put(b"one "), blobs.put(b"two"))
    manifest = Manifest(
        files=(entry("a/b/run.sh", *chunks, size=7, mode=0o751), entry("a/empty"), entry("é ñ"))
    )
    unpack(manifest, blobs, target, disk_bytes=1 << 20, owner=None)
    assert (target / "a/b/run.sh").read_bytes() == b"one two"
    assert (target / "a/b/run.sh").stat().st_mode & 0o777 == 0o751
    assert (target / "a/empty").read_bytes() == b""
    assert (target / "é ñ").exists()


@pytest.mark.parametrize(
    "paths",
    [
        ["/etc/passwd"],
        ["../x"],
        ["a/../../x"],
        ["a/./b"],
        ["a//b"],
        ["a/"],
        ["."],
        ["a\0b"],
        ["x" * 256],
        ["a", "a"],
        ["a", "a/b"],
        ["a/b/c", "a/b"],
    ],
)
def test_a_set_of_names_that_leads_out_or_contradicts_itself_is_refused(
    paths: list[str], blobs: FileBlobStore, target: Path
):
    manifest = Manifest(files=tuple(entry(path) for path in paths))
    with pytest.raises(PrepareFailed) as caught:
        unpack(manifest, blobs, target, disk_bytes=1 << 20, owner=None)
    assert caught.value.cause is Cause.UPLOAD_INVALID
    assert list(target.iterdir()) == []
    assert not (target.parent / "x").exists()


@pytest.mark.parametrize("size", [2, 4])
def test_a_size_that_the_chunks_do_not_have_is_refused(
    size: int, blobs: FileBlobStore, target: Path
):
    manifest = Manifest(files=(entry("a", blobs.put(b"abc"), size=size),))
    with pytest.raises(PrepareFailed, match="are not"):
        unpack(manifest, blobs, target, disk_bytes=1 << 20, owner=None)


def test_missing_chunks_are_refused_before_anything_is_written(blobs: FileBlobStore, target: Path):
    manifest = Manifest(
        files=(entry("a", blobs.put(b"abc"), size=3), entry("b", Digest(bytes(32)), size=3))
    )
    with pytest.raises(PrepareFailed, match="1 chunks were not sent"):
        unpack(manifest, blobs, target, disk_bytes=1 << 20, owner=None)
    assert list(target.iterdir()) == []


def test_an_upload_larger_than_the_agreed_disk_is_refused(blobs: FileBlobStore, target: Path):
    manifest = Manifest(files=tuple(entry(f"f{number}") for number in range(300)))
    with pytest.raises(PrepareFailed, match="on disk"):
        unpack(manifest, blobs, target, disk_bytes=1 << 20, owner=None)
