"""Sets of files that fit one chunk, and sets that take several."""

from __future__ import annotations

import pytest

from robocompute_protocol import codec, limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import Digest, digest
from robocompute_protocol.manifests import TooManyFiles, pack, parts_of, unpack
from robocompute_protocol.messages import FileEntry, Manifest


def file(number: int, *, chunks: int = 1, path: str = "data/sample-{:06}.bin") -> FileEntry:
    return FileEntry(
        path=path.format(number),
        mode=0o644,
        size=7,
        chunks=(digest(bytes([number % 256])),) * chunks,
    )


def stored(chunks: tuple[bytes, ...]) -> dict[Digest, bytes]:
    return {digest(chunk): chunk for chunk in chunks}


@pytest.mark.parametrize("count", [0, 1, 1_000])
def test_a_set_that_fits_is_one_chunk(count: int) -> None:
    files = tuple(map(file, range(count)))
    (only,) = pack(files)
    assert parts_of(only) == ()
    assert codec.decode(Manifest, only, limit=limits.MAX_CHUNK_BYTES) == Manifest(files=files)
    assert unpack(digest(only), stored((only,)).__getitem__) == Manifest(files=files)


def test_thirty_thousand_files_take_several_chunks_and_come_out_in_order() -> None:
    files = tuple(map(file, range(30_000)))
    chunks = pack(files)
    assert 2 < len(chunks) < 6
    assert all(len(chunk) <= limits.MAX_CHUNK_BYTES for chunk in chunks)
    assert parts_of(chunks[0]) == tuple(digest(chunk) for chunk in chunks[1:])
    assert unpack(digest(chunks[0]), stored(chunks).__getitem__) == Manifest(files=files)
    assert pack(files) == chunks, "the same files have the same name"


def test_the_most_files_that_there_may_be_can_be_said() -> None:
    files = tuple(map(file, range(limits.MAX_FILES)))
    chunks = pack(files)
    assert len(unpack(digest(chunks[0]), stored(chunks).__getitem__).files) == limits.MAX_FILES
    with pytest.raises(TooManyFiles, match="100,000"):
        pack((*files, file(limits.MAX_FILES)))


def test_what_no_manifest_can_say_is_refused_in_words() -> None:
    with pytest.raises(TooManyFiles, match="30 GiB"):
        pack([file(0, chunks=31_000)])
    with pytest.raises(TooManyFiles, match="16 MiB"):
        pack([file(number, chunks=10_000) for number in range(60)])
    pack([file(0, chunks=30_720)])  # 30 GiB


def test_a_missing_part_is_the_store_s_own_error() -> None:
    chunks = pack(tuple(map(file, range(30_000))))
    with pytest.raises(KeyError):
        unpack(digest(chunks[0]), stored(chunks[:-1]).__getitem__)


def test_parts_of_parts_and_sets_beyond_the_limits_are_refused() -> None:
    inner = codec.encode(Manifest(files=(), parts=(digest(b"more"),)))
    outer = codec.encode(Manifest(files=(), parts=(digest(inner),)))
    with pytest.raises(RemoteProtocolError, match="parts of its own"):
        unpack(digest(outer), stored((inner, outer)).__getitem__)
    long = codec.encode(Manifest(files=tuple(map(file, range(10_000)))))
    again = codec.encode(Manifest(files=(), parts=(digest(long),) * 11))
    with pytest.raises(RemoteProtocolError, match="too many files"):
        unpack(digest(again), stored((long, again)).__getitem__)
    wide = codec.encode(Manifest(files=(file(0, chunks=30_000),)))
    again = codec.encode(Manifest(files=(), parts=(digest(wide),) * 17))
    with pytest.raises(RemoteProtocolError, match="too many files"):
        unpack(digest(again), stored((wide, again)).__getitem__)
    with pytest.raises(RemoteProtocolError):
        unpack(digest(b"junk"), {digest(b"junk"): b"junk"}.__getitem__)
