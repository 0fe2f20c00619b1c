"""Circuit relay v2: connections to nodes that cannot be dialled, by way of one that can.

The wire is libp2p's own (its messages are used as they are), the two services are not. Stock keeps
one pair of streams a peer and closes another circuit's with it, dials strangers on request, counts
no circuits by source, and takes circuits from relays nobody reserved with.

Both ends do the noise handshake inside the circuit, with each other's keys, so that a relay carries
ciphertext and can only delay or end it.
"""
# pyright: reportUnknownMemberType=false, reportPrivateUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, StopMessage
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP, STOP_PROTOCOL_ID as STOP
from libp2p.relay.circuit_v2.protocol_buffer import StatusCode, to_proto_status
from multiaddr import Multiaddr

from .bounds import Rates
from .circuits import (
    ANSWER_S,
    READ_BYTES,
    CircuitPipe,
    ask,
    is_direct,
    open_stream,
    patience,
    raw_connection,
    read_message,
    remote_of,
    write_message,
    write_status,
)
from .identity import node_key_of, peer_id_of
from .port import PeerGone
from .streams import YamuxPipe

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from libp2p.abc import INetConn, INetStream

    from robocompute_protocol.identifiers import NodeKey

    from .guards import GuardedHost, GuardedSwarm

log = logging.getLogger(__name__)

REQUESTS_PER_S: Final = 1.0
REQUESTS_BURST: Final = 16
"""Reservations and circuits that one peer may ask for: each costs two streams."""
MAX_TAKEN: Final = 64
"""Circuits that a node takes at once: as many as a relay of these carries in all."""
MIN_RESERVATION_S: Final = 60
MAX_RESERVATION_S: Final = 86_400
"""Seconds that a relay may claim a reservation lasts: its clock may be off by hours."""
RENEW_AT: Final = 0.5
"""A reservation is renewed when half of it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """What this node gives away when it relays."""

    reservations: int = 128
    """Nodes that may be reached through this one: each holds a connection anyway."""
    reservations_per_host: int = 8
    """Of those, at one address: a household or a rack."""
    reservation_s: int = 3_600
    """Seconds a reservation lasts; it is renewed before."""
    circuits: int = 64
    """Circuits at once: each holds two streams and up to two windows of 2 MiB."""
    circuits_per_peer: int = 8
    """Of those, begun by one peer, or ending at one."""
    circuit_s: int = 7_200
    """Seconds one circuit lasts; its ends dial anew, and their streams resume."""
    circuit_bytes: int = 1 << 30
    """Bytes one circuit carries: a job's code and results, not a data set."""
    bytes_per_second: int = 1_048_576
    """Carried in all, both ways together; more waits."""


class RelayServer:
    """Carries circuits for others, within its bounds."""

    def __init__(self, bounds: RelayBounds) -> None:
        self.bounds = bounds
        self._reserved: dict[NodeKey, tuple[float, str]] = {}
        self._circuits: Counter[NodeKey] = Counter()
        self._open = 0
        self._asked: Rates[NodeKey] = Rates(REQUESTS_PER_S, REQUESTS_BURST)
        self._free_at = 0.0
        self.carried_bytes = 0

    @property
    def open_circuits(self) -> int:
        return self._open

    def reserved(self) -> tuple[NodeKey, ...]:
        """Who may be reached through this node now."""
        now = trio.current_time()
        return tuple(peer for peer, (until, _) in self._reserved.items() if until > now)

    def attach(
        self, host: GuardedHost, swarm: GuardedSwarm, addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        """Answer on ``host``, which is new; reservations of the one before are gone with it."""
        self._reserved.clear()

        async def on_hop(stream: INetStream) -> None:
            pipe = YamuxPipe(stream)
            try:
                await self._serve(pipe, stream, swarm, addresses)
            except PeerGone as exc:
                log.info("circuit of %s ended: %s", stream.muxed_conn.peer_id, exc)
            finally:
                await pipe.abort()

        host.set_stream_handler(TProtocol(HOP), on_hop)

    async def _serve(
        self,
        pipe: YamuxPipe,
        stream: INetStream,
        swarm: GuardedSwarm,
        addresses: Callable[[], tuple[str, ...]],
    ) -> None:
        peer = node_key_of(stream.muxed_conn.peer_id)
        if not self._asked.take(peer, trio.current_time()):
            await write_status(pipe, StatusCode.RESOURCE_LIMIT_EXCEEDED)
            return
        held = bytearray()
        with patience("who asked for a circuit"):
            asked = await read_message(pipe, HopMessage, held)
        remote = remote_of(stream.muxed_conn)
        if remote is None:  # as the specification has it: no circuits over circuits
            await write_status(pipe, StatusCode.PERMISSION_DENIED)
        elif asked.type == HopMessage.RESERVE:
            await self._reserve(pipe, peer, remote[0], addresses())
        elif asked.type == HopMessage.CONNECT:
            await self._connect(pipe, peer, bytes(asked.peer.id), held, swarm)
        else:
            await write_status(pipe, StatusCode.UNEXPECTED_MESSAGE)

    async def _reserve(
        self, pipe: YamuxPipe, peer: NodeKey, host: str, addresses: tuple[str, ...]
    ) -> None:
        now = trio.current_time()
        for old in [each for each, (until, _) in self._reserved.items() if until <= now]:
            del self._reserved[old]
        others = [at for each, (_, at) in self._reserved.items() if each != peer]
        bounds = self.bounds
        if (
            len(others) >= bounds.reservations
            or others.count(host) >= bounds.reservations_per_host
        ):
            await write_status(pipe, StatusCode.RESERVATION_REFUSED)
            return
        self._reserved[peer] = (now + bounds.reservation_s, host)
        answer = HopMessage(type=HopMessage.STATUS, status=to_proto_status(StatusCode.OK))
        answer.reservation.expire = _unix_s() + bounds.reservation_s
        answer.reservation.addrs.extend(Multiaddr(each).to_bytes() for each in addresses)
        answer.limit.CopyFrom(self._limit())
        await write_message(pipe, answer)
        await pipe.finish()
        await pipe.linger(ANSWER_S)

    def _limit(self) -> Limit:
        return Limit(duration=self.bounds.circuit_s, data=min(self.bounds.circuit_bytes, 2**32))

    async def _connect(
        self,
        pipe: YamuxPipe,
        source: NodeKey,
        wanted: bytes,
        unread: bytearray,
        swarm: GuardedSwarm,
    ) -> None:
        try:
            target = node_key_of(ID(wanted))
        except ValueError:
            await write_status(pipe, StatusCode.MALFORMED_MESSAGE)
            return
        until, _ = self._reserved.get(target, (0.0, ""))
        conns = [conn for conn in swarm.live_connections(ID(wanted)) if is_direct(conn)]
        if until <= trio.current_time() or not conns or target == source:
            await write_status(pipe, StatusCode.NO_RESERVATION)
            return
        with self._counted(source, target) as free:
            if not free:
                await write_status(pipe, StatusCode.RESOURCE_LIMIT_EXCEEDED)
                return
            far: YamuxPipe | None = None
            try:
                with trio.move_on_after(ANSWER_S) as scope:
                    far, back = await self._stop(conns[0], source)
                    await write_status(pipe, StatusCode.OK, self._limit())
                    scope.deadline = float("inf")
                    await self._carry(pipe, bytes(unread), far, back)
                if scope.cancelled_caught:
                    await write_status(pipe, StatusCode.CONNECTION_FAILED)
            except PeerGone as exc:
                log.info("no circuit to %s: %s", peer_id_of(target), exc)
                await write_status(pipe, StatusCode.CONNECTION_FAILED)
            finally:
                if far is not None:
                    await far.abort()

    @contextmanager
    def _counted(self, source: NodeKey, target: NodeKey) -> Generator[bool]:
        bounds, circuits = self.bounds, self._circuits
        if (
            self._open >= bounds.circuits
            or circuits[source] >= bounds.circuits_per_peer
            or circuits[target] >= bounds.circuits_per_peer
        ):
            yield False
            return
        self._open += 1
        circuits.update((source, target))
        try:
            yield True
        finally:
            self._open -= 1
            circuits.subtract((source, target))
            for each in (source, target):
                if not circuits[each]:
                    del circuits[each]

    async def _stop(self, conn: INetConn, source: NodeKey) -> tuple[YamuxPipe, bytes]:
        """Ask the target to take the circuit. Raises: PeerGone."""
        far, held = await open_stream(conn, STOP)
        try:
            question = StopMessage(type=StopMessage.CONNECT, limit=self._limit())
            question.peer.CopyFrom(PeerId(id=peer_id_of(source).to_bytes()))
            await ask(far, question, held)
        except BaseException:
            await far.abort()
            raise
        return far, bytes(held)

    async def _carry(self, near: YamuxPipe, ahead: bytes, far: YamuxPipe, back: bytes) -> None:
        left = self.bounds.circuit_bytes

        async def pump(source: YamuxPipe, data: bytes, sink: YamuxPipe) -> None:
            nonlocal left
            try:
                while True:
                    if not data and not (data := await source.read(READ_BYTES)):
                        break
                    left -= len(data)
                    if left < 0:
                        break
                    await self._wait_for(len(data))
                    await sink.write(data)
                    data = b""
            except PeerGone:
                pass
            # What runs inside is one connection: when one way is over, it is over.
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self.bounds.circuit_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, near, ahead, far)
                nursery.start_soon(pump, far, back, near)

    async def _wait_for(self, count: int) -> None:
        """Wait until ``count`` bytes may be carried; in the order of asking, so that all advance."""
        start = max(trio.current_time(), self._free_at)
        self._free_at = start + count / self.bounds.bytes_per_second
        await trio.sleep_until(start)
        self.carried_bytes += count


class RelayClient:
    """Reserves with relays, dials through them, and takes what comes from those it reserved with."""

    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self._until: dict[NodeKey, float] = {}
        self._addresses: dict[NodeKey, tuple[str, ...]] = {}
        self._swarm: GuardedSwarm | None = None
        self._taken = 0

    def attach(self, host: GuardedHost, swarm: GuardedSwarm) -> None:
        """Take circuits on ``host``, which is new."""
        self._until.clear()
        self._addresses.clear()
        self._swarm = swarm

        async def on_stop(stream: INetStream) -> None:
            pipe = YamuxPipe(stream)
            try:
                await self._take(pipe, stream, swarm)
            except PeerGone as exc:
                log.info("a circuit by %s ended: %s", stream.muxed_conn.peer_id, exc)
            finally:
                await pipe.abort()

        host.set_stream_handler(TProtocol(STOP), on_stop)

    def detach(self) -> None:
        self._swarm = None
        self._until.clear()
        self._addresses.clear()

    async def _take(self, pipe: YamuxPipe, stream: INetStream, swarm: GuardedSwarm) -> None:
        relay = node_key_of(stream.muxed_conn.peer_id)
        held = bytearray()
        with patience("the relay"):
            question = await read_message(pipe, StopMessage, held)
            status = StatusCode.OK
            if question.type != StopMessage.CONNECT:
                status = StatusCode.UNEXPECTED_MESSAGE
            elif relay not in self.relays():
                status = StatusCode.PERMISSION_DENIED
            elif self._taken >= MAX_TAKEN:
                status = StatusCode.RESOURCE_LIMIT_EXCEEDED
            answer = StopMessage(type=StopMessage.STATUS, status=to_proto_status(status))
            await write_message(pipe, answer)
        if status is not StatusCode.OK:
            raise PeerGone("it was not taken")
        self._taken += 1
        try:
            raw = raw_connection(CircuitPipe(pipe, bytes(held)), relay, initiator=False)
            muxed: Any = await swarm.upgrade_inbound_raw_conn(
                raw, raw.get_transport_addresses()[0]
            )
            await muxed.event_closed.wait()
        finally:
            self._taken -= 1

    def relays(self) -> tuple[NodeKey, ...]:
        """Relays that this node can be reached through now."""
        now = trio.current_time()
        return tuple(relay for relay, until in self._until.items() if until > now)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled through its relays, with its own /p2p/ at the end."""
        own = f"/p2p-circuit/p2p/{peer_id_of(self._key)}"
        return tuple(at + own for relay in self.relays() for at in self._addresses[relay])

    async def reserve(self, conn: INetConn, relay: NodeKey, address: str) -> float:
        """Reserve with ``relay`` over ``conn``; return how many seconds until it is to be renewed.

        ``address`` is where the relay can be dialled, with its /p2p/: what others are told.

        Raises:
            PeerGone: it refused, or it is no relay.
        """
        with patience("the relay"):
            pipe, held = await open_stream(conn, HOP)
            try:
                answer = await ask(pipe, HopMessage(type=HopMessage.RESERVE), held)
            finally:
                await pipe.abort()
        seconds = min(
            max(answer.reservation.expire - _unix_s(), MIN_RESERVATION_S), MAX_RESERVATION_S
        )
        self._until[relay] = trio.current_time() + seconds
        self._addresses[relay] = (address,)
        return seconds * RENEW_AT

    def forget(self, relay: NodeKey) -> None:
        """The connection to ``relay`` is gone, and the reservation with it."""
        self._until.pop(relay, None)
        self._addresses.pop(relay, None)

    async def dial(self, conn: INetConn, relay: NodeKey, peer: NodeKey) -> INetConn:
        """Connect to ``peer`` through ``relay``, which ``conn`` leads to.

        Raises:
            PeerGone: the relay does not carry, or somebody else answers.
        """
        swarm = self._swarm
        if swarm is None:
            raise PeerGone("no network just now")
        with patience("the relay"):
            pipe, held = await open_stream(conn, HOP)
            try:
                question = HopMessage(type=HopMessage.CONNECT)
                question.peer.CopyFrom(PeerId(id=peer_id_of(peer).to_bytes()))
                await ask(pipe, question, held)
                raw = raw_connection(CircuitPipe(pipe, bytes(held)), relay, initiator=True)
                return await swarm.upgrade_outbound_raw_conn(raw, peer_id_of(peer))
            except PeerGone:
                await pipe.abort()
                raise
            except Exception as exc:
                await pipe.abort()
                raise PeerGone(f"no connection through the relay: {exc}") from exc
            except BaseException:
                await pipe.abort()
                raise


def _unix_s() -> int:
    return time.time_ns() // 1_000_000_000
