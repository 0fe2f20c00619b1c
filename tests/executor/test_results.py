from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.results import LEFT_OUT, collect
from robocompute_node.executor.unpack import unpack
from robocompute_protocol.messages import FileEntry, Manifest

if TYPE_CHECKING:
    from pathlib import Path


class Ended:
    """A job's two folders after its end."""

    def __init__(self, path: Path) -> None:
        self.blobs = FileBlobStore(path / "blobs")
        self.work, self.volume = path / "work", path / "volume"
        self.work.mkdir()
        self.volume.mkdir()
        files = [
            FileEntry(path=name, mode=0o644, size=3, chunks=(self.blobs.put(b"old"),))
            for name in ("kept", "changed", "touched", "same-size", "gone")
        ]
        self.upload = Manifest(files=tuple(files))
        self.stamps = unpack(self.upload, self.blobs, self.work, disk_bytes=1 << 20, owner=None)

    def collect(self, max_bytes: int = 1 << 20) -> dict[str, bytes]:
        manifest = collect(
            work=self.work,
            volume=self.volume,
            upload=self.upload,
            stamps=self.stamps,
            blobs=self.blobs,
            max_bytes=max_bytes,
        )
        assert [entry.path for entry in manifest.files] == sorted(e.path for e in manifest.files)
        found: dict[str, bytes] = {}
        for entry in manifest.files:
            found[entry.path] = b"".join(self.blobs.get(chunk) for chunk in entry.chunks)
            assert len(found[entry.path]) == entry.size
        return found


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    return Ended(tmp_path)


def test_what_was_made_or_changed_comes_back_and_what_was_sent_does_not(ended: Ended):
    (ended.work / "changed").write_bytes(b"new!")
    (ended.work / "touched").write_bytes(b"old")
    (ended.work / "same-size").write_bytes(b"new")
    os.utime(ended.work / "same-size", (0, 0))
    (ended.work / "gone").unlink()
    (ended.work / "deep/er").mkdir(parents=True)
    (ended.work / "deep/er/made").write_bytes(b"made")
    (ended.volume / "trace.json").write_bytes(b"{}")
    assert ended.collect() == {
        "volume/trace.json": b"{}",
        "work/changed": b"new!",
        "work/deep/er/made": b"made",
        "work/same-size": b"new",
    }


def test_a_large_file_comes_in_chunks_of_a_mebibyte(ended: Ended):
    content = os.urandom(1 << 20) + b"rest"
    (ended.volume / "model").write_bytes(content)
    assert ended.collect(1 << 22)["volume/model"] == content


def test_no_link_pipe_or_strange_name_leads_out_of_the_folder(ended: Ended, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"KEY")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "key").write_bytes(b"KEY")
    (ended.volume / "link").symlink_to(secret)
    (ended.volume / "dir").symlink_to(folder)
    os.link(ended.volume / "link", ended.volume / "hard", follow_symlinks=False)
    os.mkfifo(ended.volume / "pipe")
    (ended.volume / "to-root").symlink_to("/")
    (ended.volume / os.fsdecode(b"\xff")).write_bytes(b"odd")
    found = ended.collect()
    notes = found.pop(LEFT_OUT).decode()
    assert found == {}
    for name, why in (
        ("link", "a symbolic link"),
        ("dir", "a symbolic link"),
        ("hard", "a symbolic link"),
        ("to-root", "a symbolic link"),
        ("pipe", "not a regular file"),
        ("\\xff", "its name is not UTF-8"),
    ):
        assert f"volume/{name}: {why}\n" in notes


def test_a_working_folder_that_became_a_link_is_not_followed(ended: Ended, tmp_path: Path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key").write_bytes(b"KEY")
    for path in ended.work.iterdir():
        path.unlink()
    ended.work.rmdir()
    ended.work.symlink_to(secrets)
    assert set(ended.collect()) == {LEFT_OUT}


def test_what_is_over_the_limit_is_left_out_and_named(ended: Ended):
    (ended.volume / "big").write_bytes(b"x" * 1_000)
    (ended.volume / "small").write_bytes(b"x")
    found = ended.collect(max_bytes=100)
    assert found["volume/small"] == b"x"
    assert "volume/big" not in found
    assert b"volume/big: 1,000 bytes" in found[LEFT_OUT]
