"""The seams where libp2p would let a peer ask more than it may, and a fault end the node.

One bad peer, or one bug in a handler, ends a stream or a connection and never the node.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm

from robocompute_protocol.identifiers import NodeKey

from .bounds import Offences, PeerBounds, StreamGate
from .connections import ConnectionTable, Refusal, Visit
from .identity import node_key_of, peer_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from libp2p.abc import IMuxedConn, INetConn, INetStream
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.network.connection.swarm_connection import SwarmConn
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from .inflight import UnreadBudget
    from .metrics import Meters

log = logging.getLogger(__name__)

Protected = Callable[[], Collection[NodeKey]]


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
    meters: Meters
    unread: UnreadBudget

    def use_bounds(self, bounds: PeerBounds, meters: Meters, protected: Protected) -> None:
        """Set the bounds. Called once, before the swarm runs.

        ``protected`` says whose connections are never pruned; it is asked each time.
        """
        self.bounds = bounds
        self.meters = meters
        self.table = ConnectionTable(bounds)
        self.offences = Offences(bounds)
        self._protected = protected
        self._dials = trio.CapacityLimiter(bounds.dials_at_once)
        self._visits: WeakKeyDictionary[Any, Visit] = WeakKeyDictionary()
        self._made: WeakSet[Any] = WeakSet()
        auto_connector: Any = _NoAutoConnector()
        self.auto_connector = auto_connector

    async def _handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> None:
        # Stock keeps the task and its slot until the swarm stops, even after the connection
        # is gone: after 250 inbound connections it accepts no more, ever.
        now = trio.current_time()
        knock = self.table.knock(_host_of(read_write_closer), now, self._protected())
        if isinstance(knock, Refusal):
            self.meters.connections_refused[knock] += 1
            return
        visit: Visit | None = None
        try:
            made: Any = await self.upgrade_inbound_raw_conn(
                RawConnection(read_write_closer, False), maddr
            )
            visit = self._visits.get(made)
        finally:
            self.table.answered(knock, visit)
        await made.event_closed.wait()  # the listener closes the socket when this returns

    async def dial_in_turn(self, address: Multiaddr, peer_id: ID) -> INetConn:
        """Dial one address as soon as fewer than the bound are under way.

        Raises:
            Exception: it did not become a connection; libp2p has many words for that.
        """
        async with self._dials:
            self.meters.dials += 1
            return await self.dial_addr(address, peer_id)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        muxed: Any = muxed_conn
        self._made.add(muxed)
        now = trio.current_time()
        refusal = self._refusal_of(muxed_conn.peer_id, now)
        if refusal is not None:
            self.meters.connections_refused[refusal] += 1
            with trio.CancelScope(shield=True):
                await muxed.secured_conn.close()
            raise SwarmException(f"peer {muxed_conn.peer_id} is not let in: {refusal}")
        added = await super().add_conn(muxed_conn, direction)
        inbound = direction != "outbound"
        visit = self.table.arrive(node_key_of(muxed_conn.peer_id), inbound=inbound, now=now)
        self._visits[muxed] = visit
        self.manager.run_task(self._until_closed, muxed, visit)
        held = self.live_connections(muxed_conn.peer_id)
        for surplus in held[self.bounds.connections_per_peer :]:
            log.info("peer %s has too many connections, the oldest goes", muxed_conn.peer_id)
            self.manager.run_task(self._close_connection_async, surplus)
        if self.table.is_over and not self._prune_one():
            self.meters.connections_refused[Refusal.FULL] += 1
            self.manager.run_task(self._close_connection_async, added)
        return added

    def _refusal_of(self, peer_id: ID, now: float) -> Refusal | None:
        try:
            peer = node_key_of(peer_id)
        except ValueError:
            return Refusal.NO_NODE_KEY
        return Refusal.BARRED if self.offences.is_barred(peer, now) else None

    async def _until_closed(self, muxed: Any, visit: Visit) -> None:
        await muxed.event_closed.wait()
        self.table.leave(visit)
        del self._visits[muxed]
        self.meters.bytes_in += muxed.bytes_in
        self.meters.bytes_out += muxed.bytes_out

    def make_room(self) -> bool:
        """Whether this node may make one more connection; one of little use goes for it."""
        return self.table.total < self.bounds.connections or self._prune_one()

    def _prune_one(self) -> bool:
        visit = self.table.least_useful(trio.current_time(), self._protected())
        muxed = next((each for each, of in self._visits.items() if of is visit), None)
        if visit is None or muxed is None:
            return False
        log.info("the connection of peer %s is pruned", muxed.peer_id)
        self.meters.connections_pruned += 1
        self.table.leave(visit)  # now: it takes a moment to close, and must not be chosen twice
        self.manager.run_task(self._hang_up_one, muxed)
        return True

    def punish(self, peer: NodeKey, offence: str) -> None:
        """Note what no honest peer does often; one that did too much is shut out for a while."""
        if not self.offences.note(peer, trio.current_time()):
            return
        log.warning("peer %s is shut out for a while: %s", peer_id_of(peer), offence)
        self.meters.peers_barred += 1
        for conn in self.live_connections(peer_id_of(peer)):
            self.manager.run_task(self._hang_up_one, conn.muxed_conn)

    async def _hang_up_one(self, muxed: Any) -> None:
        # Closing the socket makes its reader clean up; no goodbye is waited for.
        await quietly(muxed.secured_conn.close)

    def _schedule_prune(self) -> None:
        # Stock prunes by tags nobody sets, down to the low watermark, and logs what it does.
        pass

    def traffic(self) -> tuple[int, int]:
        """Bytes in and out over all connections there were."""
        live: list[Any] = list(self._visits)
        return (
            self.meters.bytes_in + sum(muxed.bytes_in for muxed in live),
            self.meters.bytes_out + sum(muxed.bytes_out for muxed in live),
        )

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


def _host_of(connection: Any) -> str:
    """The address at the other end of a TCP connection; stock knows none of IPv6."""
    try:
        return str(connection.stream.socket.getpeername()[0])
    except (AttributeError, OSError):
        return ""


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
        swarm: Any = self.get_network()
        if not self.gate.enter(peer, trio.current_time()):
            log.info("peer %s opens too many streams, one was refused", peer_id)
            swarm.meters.streams_refused += 1
            await quietly(net_stream.reset)
            swarm.punish(peer, "it opens too many streams")
            return
        swarm.meters.streams_in += 1
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
