from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from chisel.upload import CHUNK_BYTES, DigestCache, UploadError, scan

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def paths(root: Path) -> list[str]:
    return [file.path for file in scan(root).files]


def test_a_folder_is_sent_without_what_tools_leave_in_it(tmp_path: Path) -> None:
    put(tmp_path, "train.py", "pkg/a.py", "pkg/__pycache__/a.pyc", ".git/config", "x.pyc")
    put(tmp_path, ".venv/lib/x.py", "myenv/pyvenv.cfg", "myenv/bin/python", "chisel-out/1/r.json")
    put(tmp_path, "data/ä ö.csv", ".hidden")
    assert paths(tmp_path) == [".hidden", "data/ä ö.csv", "pkg/a.py", "train.py"]


def test_likely_secrets_stay_at_home_and_that_is_said(tmp_path: Path) -> None:
    put(tmp_path, ".env", ".env.example", "id_ed25519", "id_ed25519.pub", "server.key", "a.pem")
    put(tmp_path, ".ssh/config", "wallet.json", "train.py")
    upload = scan(tmp_path)
    assert [f.path for f in upload.files] == [".env.example", "id_ed25519.pub", "train.py"]
    assert set(upload.left_out["likely secrets"]) == {
        ".env",
        "id_ed25519",
        "server.key",
        "a.pem",
        ".ssh/",
        "wallet.json",
    }


def test_ignore_files_hold_as_in_git_and_chiselignore_has_the_last_word(tmp_path: Path) -> None:
    put(
        tmp_path,
        "keep.py",
        "a.log",
        "sub/b.log",
        "sub/keep.log",
        "data/big.bin",
        "build/x",
        ".env",
    )
    (tmp_path / ".gitignore").write_text("*.log\n/data/\nbuild/\n")
    (tmp_path / "sub" / ".gitignore").write_text("!keep.log\n")
    (tmp_path / ".chiselignore").write_text("!/data/\n!.env\nkeep.py\n")
    assert paths(tmp_path) == [
        ".chiselignore",
        ".env",
        ".gitignore",
        "data/big.bin",
        "sub/.gitignore",
        "sub/keep.log",
    ]


def test_ignore_files_above_count_inside_a_repository(tmp_path: Path) -> None:
    put(tmp_path, "sub/a.log", "sub/a.py", ".git/config")
    (tmp_path / ".gitignore").write_text("*.log\n")
    assert paths(tmp_path / "sub") == ["a.py"]


def test_links_are_followed_inside_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(tmp_path, "root/real.txt", "outside.txt", "root/sub/x", "root/.env")
    (root / "link").symlink_to("real.txt")
    (root / "out").symlink_to(tmp_path / "outside.txt")
    (root / "folder").symlink_to("sub")
    (root / "loop").symlink_to("loop")
    (root / "secret").symlink_to(".env")
    os.mkfifo(root / "pipe")
    upload = scan(root)
    assert [f.path for f in upload.files] == ["link", "real.txt", "sub/x"]
    left = upload.left_out["links that lead out of the folder, or to folders"]
    assert set(left) == {"out", "folder", "loop", "secret"}
    assert upload.left_out["neither files nor folders"] == ("pipe",)


def test_files_are_cut_into_chunks_named_by_their_content(tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 1)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "copy").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    upload = scan(tmp_path)
    big, copy, empty = upload.files
    assert big.chunks == copy.chunks
    assert big.chunks[0] == sha256(data[:CHUNK_BYTES]).hexdigest()
    assert (len(big.chunks), empty.chunks, empty.size) == (3, (), 0)
    assert len(upload.chunks()) == 3
    assert b"".join(upload.read(set(upload.chunks()))) == data


def test_a_file_that_changes_while_it_is_sent_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    upload = scan(tmp_path)
    (tmp_path / "a").write_text("two")
    with pytest.raises(UploadError, match="changed while"):
        list(upload.read(set(upload.chunks())))


def test_digests_are_remembered_only_for_files_that_have_settled(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "a")
    cache = tmp_path / "cache.json"
    changed = (root / "a").stat().st_mtime_ns
    scan(root, cache=DigestCache(cache, now_ns=lambda: changed + 10**9))
    assert not cache.exists()
    scan(root, cache=DigestCache(cache, now_ns=lambda: changed + 10**10))
    before = cache.read_text()
    (root / "a").write_text("A")
    os.utime(root / "a", ns=(changed, changed))
    inode_and_all_the_same = scan(root, cache=DigestCache(cache))
    assert inode_and_all_the_same.files[0].chunks[0] in before
    (root / "a").write_text("longer")
    assert scan(root, cache=DigestCache(cache)).files[0].chunks[0] not in before


def test_a_broken_cache_costs_only_time(tmp_path: Path) -> None:
    put(tmp_path / "root", "a")
    for text in ("nonsense", "[]", '{"x": 3}'):
        (tmp_path / "cache.json").write_text(text)
        assert len(scan(tmp_path / "root", cache=DigestCache(tmp_path / "cache.json")).files) == 1
