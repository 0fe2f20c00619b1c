"""Frames over a pipe of bytes that does what a network does."""

from __future__ import annotations

from hashlib import sha256

import pytest
import trio
from hypothesis import given, strategies as st

from robocompute_node.p2p.framing import PipeFrames
from robocompute_node.p2p.port import PeerGone
from robocompute_node.p2p.streams import choose_protocol
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import NodeKey

PEER = NodeKey(sha256(b"peer").digest())


class ScriptedPipe:
    """Reads what it is given, piece by piece; keeps what is written and how it ended."""

    def __init__(self, *pieces: bytes, stall: bool = False) -> None:
        self.pieces = list(pieces)
        self.written: list[bytes] = []
        self.stall = stall
        self.ends: list[str] = []

    async def read(self, limit: int) -> bytes:
        del limit
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        if self.stall:
            await trio.sleep_forever()
        self.written.append(data)

    async def finish(self) -> None:
        self.ends.append("finished")

    async def abort(self) -> None:
        self.ends.append("aborted")


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.integers(min_value=1, max_value=9), min_size=1),
)
def test_frames_come_out_whole_however_the_bytes_arrive(
    frames: list[bytes], sizes: list[int]
) -> None:
    wire, pieces, at = framed(*frames), list[bytes](), 0
    while at < len(wire):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(wire[at : at + size])
        at += size

    async def read_all() -> list[bytes]:
        stream = PipeFrames(ScriptedPipe(*pieces), PEER)
        got: list[bytes] = []
        while (frame := await stream.receive()) is not None:
            got.append(frame)
        return got

    assert trio.run(read_all) == frames


async def test_one_frame_is_one_write() -> None:
    pipe = ScriptedPipe()
    await PipeFrames(pipe, PEER).send(b"hello")
    assert pipe.written == [framed(b"hello")]


async def test_what_came_with_the_negotiation_is_read_first() -> None:
    stream = PipeFrames(ScriptedPipe(b"lo"), PEER, unread=b"\0\0\0\5hel")
    assert await stream.receive() == b"hello"


@pytest.mark.parametrize("wire", [b"\0\0", b"\0\0\0\5hel"])
async def test_an_end_inside_a_frame_is_a_lost_peer(wire: bytes) -> None:
    with pytest.raises(PeerGone, match="inside a frame"):
        await PipeFrames(ScriptedPipe(wire), PEER).receive()


async def test_an_announced_frame_over_the_limit_resets_the_stream_before_it_is_read() -> None:
    pipe = ScriptedPipe((limits.MAX_FRAME_BYTES + 1).to_bytes(4, "big"), b"unread")
    stream = PipeFrames(pipe, PEER)
    with pytest.raises(RemoteProtocolError):
        await stream.receive()
    assert pipe.ends == ["aborted"]
    assert pipe.pieces == [b"unread"]
    with pytest.raises(PeerGone):
        await stream.send(b"x")


async def test_a_peer_that_does_not_read_for_the_deadline_is_gone(
    autojump_clock: trio.abc.Clock,
) -> None:
    pipe = ScriptedPipe(stall=True)
    with pytest.raises(PeerGone, match="did not read for 30 s"):
        await PipeFrames(pipe, PEER).send(b"x")
    assert pipe.ends == ["aborted"]
    assert autojump_clock.current_time() >= 30


async def test_after_a_cancelled_send_the_stream_is_reset_not_closed(
    autojump_clock: trio.abc.Clock,
) -> None:
    del autojump_clock
    pipe = ScriptedPipe(stall=True)
    stream = PipeFrames(pipe, PEER)
    with trio.move_on_after(1):
        await stream.send(b"x")
    pipe.stall = False
    with pytest.raises(PeerGone):
        await stream.send(b"y")
    await stream.close()
    assert pipe.ends == ["aborted"]


async def test_closing_twice_ends_once() -> None:
    pipe = ScriptedPipe()
    stream = PipeFrames(pipe, PEER)
    await stream.close()
    await stream.close()
    assert pipe.ends == ["finished"]


async def test_a_protocol_is_chosen_in_one_write_and_the_rest_is_kept() -> None:
    pipe = ScriptedPipe(b"\x13/multistream/1.", b"0.0\n\x05/a/1\nmore")
    assert await choose_protocol(pipe, "/a/1") == b"more"
    assert pipe.written == [b"\x13/multistream/1.0.0\n\x05/a/1\n"]


async def test_a_long_protocol_name_has_a_length_of_two_bytes() -> None:
    name = "/" + "a" * 200
    line = bytes((202 & 127 | 128, 202 >> 7)) + name.encode() + b"\n"
    assert await choose_protocol(ScriptedPipe(b"\x13/multistream/1.0.0\n", line), name) == b""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x13/multistream/1.0.0\n\x03na\n", "does not speak"),
        (b"\x13/multistream/1.0.0\n\x03\xff\xfe\n", "does not speak"),
        (b"\x03na\n", "does not negotiate"),
        (b"\xff\xff\x7f", "overlong"),
        (b"\x13/multi", "ended the stream"),
    ],
)
async def test_an_answer_that_is_not_the_protocol_is_a_lost_peer(answer: bytes, why: str) -> None:
    with pytest.raises(PeerGone, match=why):
        await choose_protocol(ScriptedPipe(answer), "/a/1")
