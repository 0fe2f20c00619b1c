"""Patches to py-libp2p 0.8.1, from outside, each with its reason and a switch.

``apply()`` installs them once in the process. They reach into private parts, so they are
installed only on the very version they were measured with; on another one the node runs
untuned and says so.
"""
# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false

from __future__ import annotations

import logging
import socket
import struct
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import trio
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.io.trio import TrioTCPStream
from libp2p.network import swarm as swarm_module
from libp2p.pubsub import gossipsub as gossipsub_module, pubsub as pubsub_module
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux as yamux_module
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.tcp import tcp as tcp_module

from . import fast_paths
from .fast_paths import QuietLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

LIBP2P_VERSION: Final = "0.8.1"
"""What every patch here was written for and measured with."""

FRAME_WRITE_DEADLINE_S: Final = 30.0
"""Seconds one yamux frame may wait for the socket before the connection is given up."""
YAMUX_DATA_BYTES: Final = 65_507
"""Payload of one yamux frame, so that with its header of 12 it fits a noise packet's 65,519."""
MAX_WINDOW_BYTES: Final = 2 * 1024 * 1024
"""Receive window of one stream at most: 20 MB/s at 100 ms, and a bound on a peer's memory here."""
NOISE_READ_BYTES: Final = 262_144
"""Asked of the socket at once: four noise packets."""
UNSENT_BYTES: Final = 1024 * 1024
"""The kernel takes this much before a write waits; trio's 16 kB wakes us for every packet."""
RECORD_AGE_S: Final = 30.0
"""A signed peer record is rebuilt this often, so new addresses travel within it."""
HAPPY_EYEBALLS_S: Final = 0.01
"""Stock libp2p waits this long after a dial that may well have succeeded: 250 ms."""
KEEPALIVE_S: Final = 4.0
"""Seconds between pings on an idle or busy connection."""
PONG_DEADLINE_S: Final = 10.0
"""A peer that answers no ping for this long is gone; a busy Python peer may stall for seconds."""
PONG_GRACE_S: Final = 1.0
"""Time for our own reader, after our own process stood still longer than the deadline."""
GOSSIP_QUEUE: Final = 2_048
"""Gossip messages waiting for one peer: a queue of 32 lost 92 % of a burst of 200."""
GOSSIP_RPC_BYTES: Final = 65_536
"""Largest gossip RPC we send; we accept twice that."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One change. ``install`` replaces attributes of libp2p and keeps nothing else."""

    name: str
    reason: str
    install: Callable[[], None]


def _cache_records() -> None:
    built: WeakKeyDictionary[Any, tuple[float, bytes]] = WeakKeyDictionary()
    accepted: WeakKeyDictionary[Any, dict[Any, bytes]] = WeakKeyDictionary()
    build = pubsub_module.env_to_send_in_RPC
    consume = pubsub_module.maybe_consume_signed_record

    def env_to_send(host: Any) -> tuple[bytes, bool]:
        now = trio.current_time()
        known = built.get(host)
        if known is not None and now - known[0] < RECORD_AGE_S:
            return known[1], False
        envelope, fresh = build(host)
        built[host] = (now, envelope)
        return envelope, fresh

    def maybe_consume(message: Any, host: Any, peer_id: Any) -> bool:
        if not message.HasField("senderRecord"):
            return True
        of_host = accepted.setdefault(host, {})
        if of_host.get(peer_id) == message.senderRecord:
            return True
        good = consume(message, host, peer_id)
        if good:
            if len(of_host) >= 1024:
                of_host.clear()
            of_host[peer_id] = message.senderRecord
        return good

    modules: tuple[Any, ...] = (pubsub_module, gossipsub_module)
    for module in modules:
        module.env_to_send_in_RPC = env_to_send
        module.maybe_consume_signed_record = maybe_consume


def _buffer_varints() -> None:
    longest = 10

    async def read_prefixed(stream: Any, limit: int) -> bytes:
        held: bytearray = stream.__dict__.setdefault("_held_bytes", bytearray())
        while True:
            length = used = 0
            for used, byte in enumerate(held[:longest], 1):
                length |= (byte & 127) << (7 * (used - 1))
                if byte < 128:
                    break
            else:
                if len(held) >= longest:
                    raise MessageTooLarge("a length prefix of more than ten bytes")
                held += await stream.read(65_536)
                continue
            break
        if length > limit:
            raise MessageTooLarge(f"a message of {length} bytes; {limit} are allowed")
        while len(held) < used + length:
            held += await stream.read(65_536)
        message = bytes(held[used : used + length])
        del held[: used + length]
        return message

    pubsub_module.read_varint_prefixed_bytes_limited = read_prefixed


def _update_windows_by_half() -> None:
    async def update(self: YamuxStream, *, bytes_read: int = 0) -> None:
        del bytes_read
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        missing = self.target_recv_window - (self.recv_window + buffered)
        if missing < self.target_recv_window // 2:
            return
        self.recv_window += missing
        await self.send_window_update(missing + self._apply_autotune_epoch(buffered))

    YamuxStream._auto_tune_and_send_window_update = update


def _enforce_windows() -> None:
    def get_window(self: Any) -> int:
        return self._recv_window

    def set_window(self: Any, value: int) -> None:
        self._recv_window = value
        if value < 0:
            # handle_incoming turns exactly this error into a closed connection
            raise trio.TooSlowError("the peer sent more than the window allowed")

    YamuxStream.recv_window = property(get_window, set_window)
    yamux_module.MAX_WINDOW_SIZE = MAX_WINDOW_BYTES


async def _hang_up(conn: Yamux) -> None:
    # Only the reader may clean up: another task could be cancelled halfway, and the swarm
    # would keep a dead connection for good. Closing the socket makes the reader do it.
    with trio.CancelScope(shield=True):
        await conn.secured_conn.close()


def _write_whole_frames() -> None:
    stream_class: Any = YamuxStream

    def waking(name: str, wakes: Callable[[Any], bool]) -> property:
        slot = f"_patched_{name}"

        def get_value(self: Any) -> Any:
            return self.__dict__[slot]

        def set_value(self: Any, value: Any) -> None:
            self.__dict__[slot] = value
            if wakes(value):
                waiting: trio.Event | None = self.__dict__.get("_window_event")
                if waiting is not None:
                    waiting.set()

        return property(get_value, set_value)

    stream_class.send_window = waking("send_window", lambda value: value > 0)
    stream_class.closed = waking("closed", bool)
    stream_class.send_closed = waking("send_closed", bool)

    async def write(self: Any, data: bytes) -> None:
        if self.send_closed:
            raise MuxedStreamError("the stream is closed for sending")
        lock: QuietLock | None = self.__dict__.get("_stream_write_lock")
        if lock is None:
            lock = self._stream_write_lock = QuietLock()
        async with lock:
            sent, total, view = 0, len(data), memoryview(data)
            while sent < total:
                while self.send_window <= 0 or self.send_closed or self.closed:
                    if self.send_closed or self.closed:
                        raise MuxedStreamError("the stream is closed")
                    self._window_event = trio.Event()
                    await self._window_event.wait()
                size = min(self.send_window, YAMUX_DATA_BYTES, total - sent)
                self.send_window -= size
                header = struct.pack("!BBHII", 0, 0, 0, self.stream_id, size)
                await self.conn._write_frame(header + view[sent : sent + size])
                sent += size

    async def write_frame(self: Yamux, data: bytes) -> None:
        if fast_paths.writes_whole(self):
            async with self._write_lock:
                await self.secured_conn.write(data)
            return
        async with self._write_lock:
            deadline = trio.current_time() + FRAME_WRITE_DEADLINE_S
            with trio.CancelScope(shield=True, deadline=deadline) as scope:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            await _hang_up(self)
            raise MuxedStreamError("the connection stalled and was closed")

    stream_class.write = write
    Yamux._write_frame = write_frame


def _drop_buffers_on_reset() -> None:
    reset = YamuxStream.reset

    async def reset_and_drop(self: YamuxStream) -> None:
        await reset(self)
        held = self.conn.stream_buffers.get(self.stream_id)
        if held is not None:
            held.clear()
            await self.conn._finalize_stream(self, fully_closed=True)

    YamuxStream.reset = reset_and_drop


def _buffer_noise() -> None:
    async def read_msg(self: Any, prefix_encoded: bool = False) -> bytes:
        del prefix_encoded
        held: bytearray = self.__dict__.setdefault("_held_bytes", bytearray())
        raw = self.read_writer.read_write_closer
        while len(held) < 2 or len(held) < 2 + int.from_bytes(held[:2], "big"):
            data = await raw.read(NOISE_READ_BYTES)
            if not data:
                raise IncompleteReadError("closed", expected_bytes=2, received_bytes=len(held))
            held += data
        end = 2 + int.from_bytes(held[:2], "big")
        message = self.decrypt(bytes(held[2:end]))
        del held[:end]
        return message

    NoiseTransportReadWriter.read_msg = read_msg


def _raise_unsent() -> None:
    original: Any = TrioTCPStream.__init__

    def init(self: TrioTCPStream, stream: trio.SocketStream) -> None:
        original(self, stream)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    TrioTCPStream.__init__ = init


def _shorten_dial() -> None:
    swarm_module._HAPPY_EYEBALLS_DELAY = HAPPY_EYEBALLS_S


def _keep_alive() -> None:
    async def measure(self: Yamux) -> None:
        while not self.event_shutting_down.is_set():
            self._ping_id = (self._ping_id + 1) & 0xFFFFFFFF
            self._ping_event = trio.Event()
            ping = struct.pack("!BBHII", 0, 2, 1, 0, self._ping_id)
            self._ping_sent_time = trio.current_time()
            try:
                await self._write_frame(ping)
            except Exception:  # noqa: BLE001 any fault of the socket: the reader closes up
                return
            with trio.move_on_after(PONG_DEADLINE_S):
                await self._ping_event.wait()
            with trio.move_on_after(PONG_GRACE_S):  # it may lie unread where we were stalled
                await self._ping_event.wait()
            if not self._ping_event.is_set():
                if not self.event_shutting_down.is_set():
                    log.warning("peer %s answers no ping, connection dropped", self.peer_id)
                    await _hang_up(self)
                return
            with trio.move_on_after(KEEPALIVE_S):
                await self.event_shutting_down.wait()

    Yamux._measure_rtt_loop = measure


def _lengthen_queues() -> None:
    init: Any = RpcQueue.__init__
    init.__defaults__ = (GOSSIP_QUEUE, GOSSIP_RPC_BYTES)


def _own_the_port() -> None:
    def set_reuse_flags(sock: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    module: Any = tcp_module
    module._set_reuse_flags = set_reuse_flags


PATCHES: Final = (
    Patch(
        "cache-records",
        "the signed peer record is rebuilt and verified on every gossip RPC",
        _cache_records,
    ),
    Patch(
        "buffer-varints",
        "gossip reads its length byte by byte, each read a window update",
        _buffer_varints,
    ),
    Patch(
        "half-windows",
        "every small read sends a window update; half a window is soon enough",
        _update_windows_by_half,
    ),
    Patch(
        "enforce-windows",
        "a peer that ignores its window fills the memory; here its connection ends",
        _enforce_windows,
    ),
    Patch(
        "whole-frames",
        "a cancelled write tears a frame and kills the connection; waits poll at 10 ms and give "
        "up at 5 s; frames of 65,536 overflow a noise packet",
        _write_whole_frames,
    ),
    Patch(
        "drop-on-reset",
        "a stream we reset keeps its unread bytes for a minute: memory for anyone who asks",
        _drop_buffers_on_reset,
    ),
    Patch("buffer-noise", "two system calls for every noise packet", _buffer_noise),
    Patch("raise-unsent", "a writer is woken for every 16 kB the kernel sends", _raise_unsent),
    Patch("shorten-dial", "a dial waits out a fixed 250 ms unless it fails", _shorten_dial),
    Patch(
        "keep-alive",
        "pings measure, but nobody minds a missing answer: dead peers stay for hours",
        _keep_alive,
    ),
    Patch("lengthen-queues", "gossip queues of 32 drop bursts", _lengthen_queues),
    Patch(
        "own-the-port",
        "SO_REUSEPORT lets a second node share the port, and half the dials reach the wrong one",
        _own_the_port,
    ),
    Patch(
        "quiet-locks",
        "a message passes ten locks that nobody else wants, each a turn of the scheduler",
        fast_paths.quieten_locks,
    ),
    Patch(
        "write-at-once",
        "a write that the kernel takes at once waits for two turns of the scheduler",
        fast_paths.write_at_once,
    ),
    Patch(
        "read-at-once",
        "bytes that are here already are read under a lock, a deadline and five log lines",
        fast_paths.read_at_once,
    ),
    Patch(
        "score-nothing",
        "each peer's score is added up for each message, to be compared with minus infinity",
        fast_paths.score_without_thresholds,
    ),
    Patch(
        "share-rpcs",
        "a message is copied, split and serialised again for every peer it is relayed to",
        fast_paths.share_rpcs,
    ),
    Patch(
        "batch-rpcs",
        "messages that wait for one peer go out one by one, each a frame, a packet and a wake-up",
        fast_paths.batch_rpcs,
    ),
)
"""Every patch, in the order of installation."""

ALL: Final = frozenset(patch.name for patch in PATCHES)

_installed: set[str] = set()  # libp2p's modules are process-wide, and so is what was done to them


def apply(names: Iterable[str] = ALL, *, found: str | None = None) -> frozenset[str]:
    """Install the patches in ``names`` that are not installed yet; return all that are.

    On another libp2p than the pinned one (``found``, else the installed one) nothing is
    touched and a warning is logged.

    Raises:
        ValueError: an unknown name.
    """
    wanted = frozenset(names)
    if wanted - ALL:
        raise ValueError(f"no such patch: {', '.join(sorted(wanted - ALL))}")
    present = version("libp2p") if found is None else found
    if present != LIBP2P_VERSION:
        log.warning("libp2p is %s, not %s: running it untuned", present, LIBP2P_VERSION)
        return frozenset(_installed)
    for patch in PATCHES:
        if patch.name in wanted and patch.name not in _installed:
            patch.install()
            _installed.add(patch.name)
    return frozenset(_installed)
