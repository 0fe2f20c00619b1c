"""Shorter ways through py-libp2p 0.8.1 for what happens with every message.

Each function replaces attributes of libp2p and keeps nothing else; ``tuning`` lists them with
their reasons, and installs them only on the version they were written for.
"""
# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.exceptions import StreamClosed, StreamReset
from libp2p.network.stream.net_stream import NetStream
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import PeerScorer
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.utils.varint import encode_uvarint

if TYPE_CHECKING:
    from types import TracebackType

    from libp2p.peer.id import ID

RAW_WRITE_DEADLINE_S: Final = 30.0
"""Seconds the kernel may refuse a write before the connection is given up."""
UNYIELDED_BYTES: Final = 65_536
"""Bytes written at once before other tasks get their turn: one full frame."""
UNYIELDED_WRITES: Final = 16
"""The same in writes: 16 small messages take a millisecond."""


class QuietLock:
    """A lock that costs a turn of the scheduler only when somebody else holds it.

    Who waits gets it in the order of coming.
    """

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._held:
            await self._waiting.park()  # whoever wakes us hands it over, still held
        self._held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._waiting:
            self._waiting.unpark()
        else:
            self._held = False


def quieten_locks() -> None:
    """Give what every message passes through locks that do not reschedule."""
    of_class: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (NetStream, ("_state_lock",)),
        (YamuxStream, ("window_lock",)),
        (Yamux, ("streams_lock", "_write_lock")),
        (TrioTCPStream, ("read_lock", "write_lock")),
    )
    for changed, names in of_class:
        _make_with_locks(changed, names)


def _make_with_locks(changed: Any, names: tuple[str, ...]) -> None:
    original = changed.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for name in names:
            setattr(self, name, QuietLock())

    changed.__init__ = init


def write_at_once() -> None:
    """Hand bytes to the kernel without a turn of the scheduler; wait only for what it refuses.

    Such a write is whole or ends the connection, whatever is cancelled meanwhile.
    """

    async def write(self: Any, data: bytes) -> None:
        async with self.write_lock:
            stream: trio.SocketStream = self.stream
            try:
                sent = os.write(stream.socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                if stream.socket.fileno() < 0:
                    return  # closed on this side: stock says nothing then
                raise ConnectionClosedError(
                    f"TCP connection lost: {exc}", transport="tcp"
                ) from exc
            if sent < len(data):
                await _write_the_rest(stream, memoryview(data)[sent:])
                self._unyielded = (0, 0)
                return
            size, writes = self.__dict__.get("_unyielded", (0, 0))
            size, writes = size + sent, writes + 1
            if size < UNYIELDED_BYTES and writes < UNYIELDED_WRITES:
                self._unyielded = (size, writes)
                return
            self._unyielded = (0, 0)
        await trio.lowlevel.checkpoint()

    TrioTCPStream.write = write
    TrioTCPStream.writes_whole = True


async def _write_the_rest(stream: trio.SocketStream, data: memoryview) -> None:
    deadline = trio.current_time() + RAW_WRITE_DEADLINE_S
    try:
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            await stream.send_all(data)
    except trio.BrokenResourceError as exc:
        raise ConnectionClosedError(f"TCP connection lost: {exc}", transport="tcp") from exc
    except trio.ClosedResourceError:
        return
    if scope.cancelled_caught:
        await trio.aclose_forcefully(stream)
        raise ConnectionClosedError("the peer takes no bytes", transport="tcp")


def writes_whole(conn: Any) -> bool:
    """Whether no write of ``conn`` can be cut short, because TCP's own cannot."""
    if not hasattr(conn, "_writes_whole"):
        noise: Any = getattr(conn.secured_conn, "conn", None)
        packets: Any = getattr(noise, "read_writer", None)
        bottom: Any = getattr(getattr(packets, "read_write_closer", None), "stream", None)
        conn._writes_whole = bool(getattr(bottom, "writes_whole", False))
    return conn._writes_whole


def read_at_once() -> None:
    """Take what is already here without locks, scopes and turns of the scheduler."""
    read_body: Any = Yamux._read_data_body

    async def body(self: Any, length: int) -> bytes:
        conn = self.secured_conn
        if type(conn) is SecureSession and conn.high_watermark - conn.low_watermark >= length:
            return conn._drain(length)
        return await read_body(self, length)

    async def read_stream(self: Any, stream_id: int, n: int | None = -1) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            stream = self.streams.get(stream_id)
            buffer: bytearray | None = self.stream_buffers.get(stream_id)
            if stream is None or self.event_shutting_down.is_set():
                raise MuxedStreamEOF("the stream or its connection is closed")
            if buffer is None:
                raise MuxedStreamReset if stream.reset_received else MuxedStreamEOF
            if buffer and (stream.recv_closed or not stream.reset_received):
                if n is None or n < 0 or n >= len(buffer):
                    data = bytes(buffer)
                    buffer.clear()
                else:
                    data = bytes(buffer[:n])
                    del buffer[:n]
                if stream.closed:
                    self._finalize_stream_locked(stream, fully_closed=True)
                return data
            if stream.reset_received:
                raise MuxedStreamReset("the stream was reset")
            if stream.recv_closed:
                raise MuxedStreamEOF("the peer ended the stream")
            if stream.closed:
                raise MuxedStreamReset("the stream is closed")
            event: trio.Event | None = self.stream_events.get(stream_id)
            if event is None:
                raise MuxedStreamEOF("the stream was removed")
            await event.wait()
            if stream_id not in self.stream_events:
                raise MuxedStreamEOF("the stream was removed")
            self.stream_events[stream_id] = trio.Event()

    Yamux._read_data_body = body
    Yamux.read_stream = read_stream


def score_without_thresholds() -> None:
    """Do not add up scores that are compared with minus infinity."""
    for name, threshold, answer in (
        ("allow_publish", "publish_threshold", True),
        ("allow_gossip", "gossip_threshold", True),
        ("is_graylisted", "graylist_threshold", False),
    ):
        _gate(name, threshold, answer)


def _gate(name: str, threshold: str, answer: bool) -> None:
    original: Any = getattr(PeerScorer, name)

    def gate(self: Any, peer: ID, topics: list[str]) -> bool:
        if topics and getattr(self.params, threshold) == -math.inf:
            return answer
        return original(self, peer, topics)

    setattr(PeerScorer, name, gate)


def share_rpcs() -> None:
    """Copy and serialise a relayed message once, not once for each peer."""
    send: Any = GossipSub.send_rpc

    def send_rpc(self: Any, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        queue = self.pubsub.peer_queues.get(peer_id) if self.pubsub is not None else None
        if (
            queue is None
            or priority
            or peer_id in self._pending_control
            or not _only_publishes(rpc)
            or rpc.ByteSize() > queue.max_message_size
        ):
            send(self, peer_id, rpc, priority)
        elif not queue.push(rpc):
            self._handle_dropped_rpc(peer_id, rpc, "queue_full")

    async def write_msg(self: Any, stream: Any, rpc_msg: rpc_pb2.RPC) -> bool:
        last: tuple[rpc_pb2.RPC, bytes] | None = self.__dict__.get("_last_written")
        if last is None or last[0] is not rpc_msg:
            body = rpc_msg.SerializeToString()
            last = self._last_written = (rpc_msg, encode_uvarint(len(body)) + body)
        try:
            await stream.write(last[1])
        except (StreamClosed, StreamReset):
            self._handle_dead_peer(stream.muxed_conn.peer_id)
            return False
        return True

    GossipSub.send_rpc = send_rpc
    Pubsub.write_msg = write_msg


def _only_publishes(rpc: rpc_pb2.RPC) -> bool:
    return bool(rpc.publish) and not rpc.subscriptions and not rpc.HasField("control")


def batch_rpcs() -> None:
    """Send what waits for one peer as one RPC: one frame, one packet and one wake-up for all."""
    pop_one: Any = RpcQueue.pop

    async def pop(self: Any) -> rpc_pb2.RPC | None:
        first: rpc_pb2.RPC | None = await pop_one(self)
        waiting = self._queue._non_priority
        if first is None or self._queue._priority or not _only_publishes(first):
            return first
        merged: rpc_pb2.RPC | None = None
        size = first.ByteSize()
        while waiting and _only_publishes(waiting[0]):
            size += waiting[0].ByteSize()
            if size > self.max_message_size:
                break
            if merged is None:  # a copy: the first may wait for other peers too
                merged = rpc_pb2.RPC()
                merged.CopyFrom(first)
            merged.publish.extend(waiting.popleft().publish)
        return first if merged is None else merged

    RpcQueue.pop = pop
