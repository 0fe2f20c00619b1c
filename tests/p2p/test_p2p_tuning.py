"""Each patch does what it is for, on the pinned libp2p."""

from __future__ import annotations

import logging
import socket
import struct
from importlib.metadata import version
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import MessageTooLarge
from libp2p.io.trio import TrioTCPStream
from libp2p.network import swarm as swarm_module
from libp2p.pubsub import pubsub as pubsub_module
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, Yamux, YamuxStream
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp import tcp as tcp_module

from robocompute_node.p2p import tuning
from robocompute_node.p2p.host import Libp2pNetwork

HEADER = struct.Struct("!BBHII")


@pytest.fixture(autouse=True)
def tuned() -> None:
    assert tuning.apply() == tuning.ALL


class Wire:
    """A secured connection that keeps what is written and reads nothing until it is closed."""

    is_initiator = True

    def __init__(self, *, stall: bool = False) -> None:
        self.frames: list[bytes] = []
        self.closed = trio.Event()
        self.stall = stall
        self.moved = trio.Event()

    async def write(self, data: bytes) -> None:
        if self.stall:
            await self.moved.wait()
        self.frames.append(bytes(data))

    async def read(self, n: int | None = None) -> bytes:
        del n
        await self.closed.wait()
        raise OSError("closed")

    async def close(self) -> None:
        self.closed.set()


def muxed(wire: Any) -> Any:
    return Yamux(wire, "somebody", is_initiator=True)  # pyright: ignore[reportArgumentType]


def stream_of(conn: Any) -> Any:
    stream = YamuxStream(1, conn, True)
    conn.streams[1] = stream
    conn.stream_buffers[1] = bytearray()
    conn.stream_events[1] = trio.Event()
    return stream


def test_the_pinned_version_is_the_installed_one() -> None:
    assert version("libp2p") == tuning.LIBP2P_VERSION


def test_another_libp2p_is_left_alone_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tuning.apply(found="0.9.0")
    assert "running it untuned" in caplog.text


def test_an_unknown_patch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such patch: nonsense"):
        tuning.apply(["nonsense"])


def test_applying_twice_installs_once() -> None:
    installed = Yamux._write_frame  # pyright: ignore[reportPrivateUsage]
    tuning.apply()
    assert Yamux._write_frame is installed  # pyright: ignore[reportPrivateUsage]


def test_every_patch_says_why() -> None:
    assert all(patch.reason for patch in tuning.PATCHES)
    assert len(tuning.ALL) == len(tuning.PATCHES)


async def test_the_signed_record_is_built_once_and_known_ones_are_not_verified_again() -> None:
    host, _ = Libp2pNetwork(bytes(32))._new_host()  # pyright: ignore[reportPrivateUsage]
    module: Any = pubsub_module
    first, _ = module.env_to_send_in_RPC(host)
    again, fresh = module.env_to_send_in_RPC(host)
    assert again is first
    assert not fresh
    message = rpc_pb2.RPC(senderRecord=first)
    assert module.maybe_consume_signed_record(message, host, host.get_id())
    message.senderRecord = b"\x99" * 40
    assert not module.maybe_consume_signed_record(message, host, host.get_id())


class Chunks:
    """A stream that reads what it is given, piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.reads = 0

    async def read(self, n: int | None = None) -> bytes:
        del n
        self.reads += 1
        return self.pieces.pop(0)


async def test_gossip_messages_are_read_from_a_buffer() -> None:
    read: Any = pubsub_module.read_varint_prefixed_bytes_limited  # pyright: ignore[reportPrivateImportUsage]
    body = bytes(300)
    stream = Chunks(b"\x02ab\x01c\xac", b"\x02" + body[:100], body[100:])
    assert [await read(stream, 1000) for _ in range(3)] == [b"ab", b"c", body]
    assert stream.reads == 3
    with pytest.raises(MessageTooLarge):
        await read(Chunks(b"\x7f"), 100)
    with pytest.raises(MessageTooLarge):
        await read(Chunks(b"\xff" * 11), 100)


async def test_the_window_is_given_back_by_halves() -> None:
    wire = Wire()
    stream = stream_of(muxed(wire))
    stream.recv_window -= 10
    await stream._auto_tune_and_send_window_update(bytes_read=10)
    assert wire.frames == []
    stream.recv_window -= DEFAULT_WINDOW_SIZE // 2
    await stream._auto_tune_and_send_window_update(bytes_read=DEFAULT_WINDOW_SIZE // 2)
    assert len(wire.frames) == 1
    assert HEADER.unpack(wire.frames[0])[4] >= DEFAULT_WINDOW_SIZE // 2


async def test_the_window_never_grows_beyond_its_bound() -> None:
    stream = stream_of(muxed(Wire()))
    for _ in range(20):
        stream.recv_window = 0
        await stream._auto_tune_and_send_window_update()
    assert stream.target_recv_window == tuning.MAX_WINDOW_BYTES


async def test_overrunning_the_window_is_an_error_that_ends_the_connection() -> None:
    stream = stream_of(muxed(Wire()))
    with pytest.raises(trio.TooSlowError):
        stream.recv_window -= DEFAULT_WINDOW_SIZE + 1


async def test_frames_fit_a_noise_packet_and_a_write_waits_for_the_window() -> None:
    wire = Wire()
    stream = stream_of(muxed(wire))
    data = bytes(range(256)) * 1200
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, data)
        await trio.testing.wait_all_tasks_blocked()
        assert sum(len(frame) - 12 for frame in wire.frames) == DEFAULT_WINDOW_SIZE
        stream.send_window += 1_000_000
    assert b"".join(frame[12:] for frame in wire.frames) == data
    assert max(len(frame) for frame in wire.frames) <= 65_519


async def test_a_write_that_waits_for_the_window_ends_when_the_stream_does() -> None:
    stream = stream_of(muxed(Wire()))
    stream.send_window = 0
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(MuxedStreamError):
                await stream.write(b"x")

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        stream.closed = True


async def test_a_cancelled_write_never_tears_a_frame() -> None:
    wire = Wire(stall=True)
    stream = stream_of(muxed(wire))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, bytes(100))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        wire.moved.set()
    assert [len(frame) for frame in wire.frames] == [112]


async def test_a_connection_that_takes_no_frame_is_hung_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire(stall=True)
    stream = stream_of(muxed(wire))
    with pytest.raises(MuxedStreamError, match="stalled"):
        await stream.write(b"x")
    assert wire.closed.is_set()
    assert autojump_clock.current_time() >= tuning.FRAME_WRITE_DEADLINE_S


async def test_a_reset_stream_keeps_no_unread_bytes() -> None:
    conn = muxed(Wire())
    stream = stream_of(conn)
    conn.stream_buffers[1] += bytes(1000)
    await stream.reset()
    assert conn.stream_buffers == {}
    assert conn.streams == {}


async def test_noise_packets_are_read_from_a_buffer() -> None:
    class Plain(NoiseTransportReadWriter):
        def decrypt(self, data: bytes) -> bytes:
            return data

    raw = Chunks(b"\x00\x02ab\x00\x03c", b"de\x00\x01f")
    conn: Any = raw
    state: Any = None
    reader = Plain(conn, state)
    assert [await reader.read_msg() for _ in range(3)] == [b"ab", b"cde", b"f"]
    assert raw.reads == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="not on this system")
async def test_the_kernel_takes_a_megabyte_before_a_writer_waits() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            TrioTCPStream(stream)
            found = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert found == tuning.UNSENT_BYTES


def test_a_dial_does_not_wait_out_the_head_start() -> None:
    module: Any = swarm_module
    assert module._HAPPY_EYEBALLS_DELAY == tuning.HAPPY_EYEBALLS_S


async def test_a_peer_that_answers_no_ping_is_hung_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire()
    conn = muxed(wire)
    await conn._measure_rtt_loop()
    assert wire.closed.is_set()
    assert autojump_clock.current_time() >= tuning.PONG_DEADLINE_S
    assert [HEADER.unpack(frame)[1] for frame in wire.frames] == [2]


async def test_gossip_queues_hold_a_burst_and_small_messages() -> None:
    queue = RpcQueue()
    assert queue.max_message_size == tuning.GOSSIP_RPC_BYTES
    rpc = rpc_pb2.RPC()
    assert all(queue.push(rpc) for _ in range(tuning.GOSSIP_QUEUE))
    assert not queue.push(rpc)


async def test_a_port_is_listened_on_by_one_node_only() -> None:
    module: Any = tcp_module
    (first,) = await module._open_reuseport_listeners("127.0.0.1", 0)
    async with first:
        with pytest.raises(OpenConnectionError, match="in use"):
            await module._open_reuseport_listeners("127.0.0.1", first.socket.getsockname()[1])
