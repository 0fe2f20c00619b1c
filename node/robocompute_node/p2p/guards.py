"""What one peer may ask of this node, and the seams where libp2p would let it ask more.

One bad peer, or one bug in a handler, ends a stream or a connection and never the node.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm

from .identity import node_key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IMuxedConn, INetConn, INetStream
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.network.connection.swarm_connection import SwarmConn
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

MAX_TRACKED_PEERS: Final = 4_096
"""Peers whose rates are remembered; the one not heard of for longest is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBounds:
    """What the node allows. The defaults suit a node with a thousand peers on two cores."""

    streams_at_once: int = 128
    """Streams one peer may have open here: each costs up to a window of memory."""
    streams_per_second: float = 100.0
    """Streams one peer may open in the long run: each costs about a millisecond to negotiate."""
    streams_burst: int = 256
    """Streams one peer may open at once after a quiet time."""
    connections_per_peer: int = 3
    """Two sides that dial at the same moment make two; one more while an old one dies."""
    connections: int = 320
    """Open connections in all: each costs a socket and about 150 kB."""
    inbound_connections: int = 256
    """Of those, from outside: so strangers cannot keep this node from dialling."""
    half_open_connections: int = 192
    """Inbound handshakes under way: a stranger gets ``handshake_s`` and no more."""
    handshake_s: int = 5
    """Seconds for a handshake, and for naming the protocol of a new stream."""
    linger_s: float = 30.0
    """Seconds a peer may take to end its side of a stream after we ended ours."""
    write_deadline_s: float = 30.0
    """Seconds a peer may leave one frame unread."""
    gossip_per_second: float = 200.0
    """Gossip messages one peer may forward in the long run: a whole Python node relays 300."""
    gossip_burst: int = 2_048
    """Gossip messages one peer may forward at once: a full queue of an honest peer."""
    topics_per_peer: int = 64
    """Topics one peer may subscribe to: two kinds for a closed list of classes."""


@dataclass(slots=True)
class TokenBucket:
    """Allows ``burst`` at once and ``per_second`` in the long run."""

    per_second: float
    burst: float
    _left: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float) -> bool:
        """Take one token at time ``now`` (seconds, never going back); False when none is left."""
        if self._at is not None:
            self._left = min(self.burst, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class PeerRates:
    """One bucket a peer, for as many peers as are worth remembering."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[NodeKey, TokenBucket] = OrderedDict()

    def take(self, peer: NodeKey, now: float) -> bool:
        bucket = self._buckets.get(peer)
        if bucket is None:
            while len(self._buckets) >= MAX_TRACKED_PEERS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[peer] = TokenBucket(self._per_second, self._burst)
        else:
            self._buckets.move_to_end(peer)
        return bucket.take(now)


class StreamGate:
    """Counts each peer's inbound streams."""

    def __init__(self, bounds: PeerBounds) -> None:
        self._at_once = bounds.streams_at_once
        self._rates = PeerRates(bounds.streams_per_second, bounds.streams_burst)
        self._open: dict[NodeKey, int] = {}

    def enter(self, peer: NodeKey, now: float) -> bool:
        """Let one more stream of ``peer`` in. True calls for one ``leave``."""
        count = self._open.get(peer, 0)
        if count >= self._at_once or not self._rates.take(peer, now):
            return False
        self._open[peer] = count + 1
        return True

    def leave(self, peer: NodeKey) -> None:
        count = self._open[peer] - 1
        if count:
            self._open[peer] = count
        else:
            del self._open[peer]


class _NoAutoConnector:
    """Stands where stock has a task that dials, unasked, every peer it ever heard of."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        pass

    async def maybe_connect(self) -> None:
        pass

    def record_disconnect(self, peer_id: ID) -> None:
        pass


class GuardedSwarm(Swarm):
    """A swarm that keeps the bounds on connections."""

    bounds: PeerBounds

    def use_bounds(self, bounds: PeerBounds) -> None:
        """Set the bounds. Called once, before the swarm runs."""
        self.bounds = bounds
        self._half_open = trio.CapacityLimiter(bounds.half_open_connections)
        self._inbound_open = 0
        self._made: WeakSet[Any] = WeakSet()
        auto_connector: Any = _NoAutoConnector()
        self.auto_connector = auto_connector

    async def _handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> None:
        # Stock keeps the task and its slot until the swarm stops, even after the connection
        # is gone: after 250 inbound connections it accepts no more, ever.
        if self._inbound_open >= self.bounds.inbound_connections:
            return  # the listener closes the socket when this returns
        try:
            self._half_open.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            muxed: Any = await self.upgrade_inbound_raw_conn(
                RawConnection(read_write_closer, False), maddr
            )
        finally:
            self._half_open.release()
        self._inbound_open += 1
        try:
            await muxed.event_closed.wait()
        finally:
            self._inbound_open -= 1

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        self._made.add(muxed_conn)
        added = await super().add_conn(muxed_conn, direction)
        held = self.live_connections(muxed_conn.peer_id)
        for surplus in held[self.bounds.connections_per_peer :]:
            log.info("peer %s has too many connections, the oldest goes", muxed_conn.peer_id)
            self.manager.run_task(self._close_connection_async, surplus)
        return added

    def live_connections(self, peer_id: ID) -> list[INetConn]:
        """Connections to a peer that still work as far as is known, newest first."""
        found = [conn for conn in self.connections.get(peer_id, []) if is_live(conn)]
        found.sort(key=_age)
        return found

    def forget_dead_connections(self) -> None:
        """Drop records of connections whose own clean-up was cut short."""
        for conns in list(self.connections.values()):
            for conn in list(conns):
                muxed: Any = conn.muxed_conn
                if conn.is_closed and muxed.event_closed.is_set():
                    self.remove_conn(conn)  # pyright: ignore[reportArgumentType]

    async def hang_up(self) -> None:
        """Close every socket and listener, also those whose own clean-up was cut short.

        Cancelled, stock leaves them open: the listeners to system tasks that hold the port.
        """
        async with trio.open_nursery() as nursery:
            for listener in list(self.listeners.values()):
                nursery.start_soon(quietly, listener.close)
            for muxed in list(self._made):
                nursery.start_soon(quietly, muxed.secured_conn.close)

    async def notify_opened_stream(self, stream: INetStream) -> None:
        # nobody here listens, and stock opens a nursery of three tasks for every stream
        pass

    async def notify_closed_stream(self, stream: INetStream) -> None:
        pass


def is_live(conn: INetConn) -> bool:
    """Whether a connection works as far as is known."""
    muxed: Any = conn.muxed_conn
    return not conn.is_closed and not muxed.event_shutting_down.is_set()


def _age(conn: INetConn) -> float:
    swarm_conn: Any = conn
    return -swarm_conn._created_at


class GuardedHost(BasicHost):
    """A host whose every inbound stream is counted, bounded in time, and ends alone."""

    gate: StreamGate

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        # Asking every peer what it speaks costs 10 ms a connection, runs in system tasks whose
        # fault would end the process, and stores addresses nobody signed. Ours come signed.
        pass

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        peer_id = net_stream.muxed_conn.peer_id
        try:
            peer = node_key_of(peer_id)
        except ValueError:
            await quietly(net_stream.reset)
            return
        if not self.gate.enter(peer, trio.current_time()):
            log.info("peer %s opens too many streams, one was refused", peer_id)
            await quietly(net_stream.reset)
            return
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as exc:  # noqa: BLE001 libp2p's own handlers raise nearly anything
            log.info("a stream of peer %s failed: %r", peer_id, exc)
            await quietly(net_stream.reset)
        finally:
            self.gate.leave(peer)


async def quietly(action: Callable[[], Awaitable[None]]) -> None:
    """Do something to a stream or connection that may be dead already."""
    try:
        await action()
    except Exception as exc:  # noqa: BLE001 a dead stream fails to die in many ways
        log.debug("ignored: %r", exc)
