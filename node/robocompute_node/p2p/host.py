"""The real network: a libp2p host under a supervisor, behind the port."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.peerstore import PeerStore as Libp2pPeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX, Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from robocompute_protocol.errors import ConfigError, ProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import NodeKey
from robocompute_protocol.money import Millis

from . import tuning
from .addresses import parse_address
from .bounds import PeerBounds, StreamGate
from .dialing import Dialer
from .framing import PipeFrames
from .gossip import Gossip
from .guards import GuardedHost, GuardedSwarm, Protected, is_live
from .identity import key_pair_of, node_key_of, peer_id_of
from .inflight import BoundedUpgrader, UnreadBudget
from .links import Links
from .listening import GuardedTCP, dialable, has_family
from .metrics import Meters, NetworkStatus
from .peerstore import PeerStore
from .port import FrameStream, PeerGone, StreamHandler, Validator
from .pubsub import PEER_STREAM_CHECK_S, GuardedPubsub, GuardedRouter, new_pubsub
from .streams import YamuxPipe, choose_protocol
from .supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from libp2p.abc import INetConn, INetStream

    from .connections import ConnectionTable
    from .relay import RelayBounds

__all__ = ["Libp2pNetwork", "node_key_of", "peer_id_of"]

log = logging.getLogger(__name__)

STALE_S: Final = 2.0
"""A known connection may leave a new stream unanswered this long; then another is dialled."""
LAG_LOOK_S: Final = 0.25
"""How often it is measured how late this process runs."""
LAG_DECAY: Final = 0.9
"""After a stall of ten seconds newcomers are let in again five seconds later."""
CLOSING_S: Final = 2.0
"""Seconds for goodbyes when the host stops."""


class Libp2pNetwork:
    """A libp2p host: TCP and noise, nothing else. Implements ``port.Network``.

    Handlers, subscriptions and addresses belong to this object and outlive the host, which
    ``run`` starts again whenever libp2p fails.
    """

    def __init__(
        self,
        seed: bytes,
        *,
        listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
        announce: Iterable[str] = (),
        bootstrap: Iterable[str] = (),
        bounds: PeerBounds | None = None,
        patches: Iterable[str] = tuning.ALL,
        remembered: PeerStore | None = None,
        relay: RelayBounds | None = None,
    ) -> None:
        """Prepare a host; nothing happens before ``run``.

        Args:
            seed: The 32 bytes of the node's ed25519 key.
            listen: Multiaddrs to listen on; port 0 takes a free one and keeps it.
            announce: Addresses to name in place of those listened on (behind a router).
            bootstrap: Multiaddrs with /p2p/ to stay connected to.
            bounds: What one peer may ask.
            patches: Which patches of ``tuning`` to install.
            remembered: Peers reached in earlier lives; its ``run`` is the caller's to start.
            relay: Carry others' connections within these bounds; else none.

        Raises:
            ConfigError: a key or an address is no such thing.
        """
        try:
            self._key_pair = key_pair_of(seed)
            self._listen = tuple(Multiaddr(text) for text in listen)
            self._announce = tuple(str(parse_address(text)[1]) for text in announce)
        except ValueError as exc:
            raise ConfigError(f"network settings: {exc}") from exc
        self._key = NodeKey(self._key_pair.public_key.to_bytes())
        self._bounds = bounds or PeerBounds()
        self._patches = frozenset(patches)
        if remembered is None:
            remembered = PeerStore(None, lambda: Millis(0))
        self._remembered = remembered
        self._dialer = Dialer(self._key, bootstrap, remembered=self._remembered)
        self.links = Links(self._key, self._dialer, relay)
        """Its connections, and how it is reached through relays."""
        self._meters = Meters()
        self._gossip = Gossip(self._meters)
        self._supervisor = Supervisor("libp2p")
        self._protected: Protected = frozenset[NodeKey]
        self._handlers: dict[str, StreamHandler] = {}
        self._addresses: tuple[str, ...] = ()
        self._host: GuardedHost | None = None
        self._swarm: GuardedSwarm | None = None
        self._nursery: trio.Nursery | None = None
        self._up = trio.Event()

    @property
    def starts(self) -> int:
        """How often the host came up: more than once means that libp2p failed."""
        return self._supervisor.starts

    def protect(self, peers: Protected) -> None:
        """Never prune the connections of ``peers()``, asked each time, nor of bootstrap peers."""
        self._protected = peers

    def status(self) -> NetworkStatus:
        """The network at this moment, for its owner."""
        meters, swarm, host = self._meters, self._swarm, self._host
        bytes_in, bytes_out = swarm.traffic() if swarm else (meters.bytes_in, meters.bytes_out)
        inbound = swarm.table.inbound if swarm else 0
        return NetworkStatus(
            connections_in=inbound,
            connections_out=swarm.table.total - inbound if swarm else 0,
            half_open=swarm.table.half_open if swarm else 0,
            connections_refused=dict(meters.connections_refused),
            connections_pruned=meters.connections_pruned,
            peers_barred=meters.peers_barred,
            streams=host.gate.total if host else 0,
            streams_in=meters.streams_in,
            streams_out=meters.streams_out,
            streams_refused=meters.streams_refused,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            unread=swarm.unread.total if swarm else 0,
            gossip_in=meters.gossip_in,
            gossip_out=meters.gossip_out,
            gossip_dropped=dict(meters.gossip_dropped),
            dials=meters.dials,
            dial_failures=meters.dial_failures,
            starts=self._supervisor.starts,
            last_failure=self._supervisor.last_failure,
            remembered=len(self._remembered),
        )

    @property
    def key(self) -> NodeKey:
        return self._key

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._addresses + self.links.addresses))

    def peers(self) -> tuple[NodeKey, ...]:
        swarm = self._swarm
        if swarm is None:
            return ()
        return tuple(
            node_key_of(peer_id)
            for peer_id, conns in swarm.connections.items()
            if any(is_live(conn) for conn in conns) and _has_node_key(peer_id)
        )

    @property
    def bootstrap(self) -> frozenset[NodeKey]:
        """The peers to stay connected to for ever."""
        return self._dialer.bootstrap

    def add_addresses(self, peer: NodeKey, addresses: tuple[str, ...]) -> None:
        self._dialer.book.add(peer, addresses)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler
        if self._host is not None:
            self._serve_on(self._host, protocol, handler)

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._gossip.publish(topic, payload)

    def subscribe(
        self, topic: str, validator: Validator
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[NodeKey, bytes]]]:
        return self._gossip.subscribe(topic, validator)

    @asynccontextmanager
    async def open(
        self, peer: NodeKey, protocol: str, *, timeout_s: float = 10.0
    ) -> AsyncGenerator[FrameStream]:
        try:
            with trio.fail_after(timeout_s):
                frames, pipe = await self._open(peer, protocol)
        except trio.TooSlowError:
            raise PeerGone(
                f"peer {peer_id_of(peer)} did not answer within {timeout_s:g} s"
            ) from None
        try:
            yield frames
        except BaseException:
            await frames.abort()
            raise
        await frames.close()
        if self._nursery is not None:
            self._nursery.start_soon(pipe.linger, self._bounds.linger_s)

    async def _open(self, peer: NodeKey, protocol: str) -> tuple[PipeFrames, YamuxPipe]:
        while self._swarm is None:
            await self._up.wait()
        swarm = self._swarm
        conn = self._dialer.connection(swarm, peer)
        if conn is not None:
            can_dial = bool(self._dialer.book.of(peer))
            try:
                with trio.move_on_after(STALE_S if can_dial else float("inf")):
                    return await self._stream_on(conn, peer, protocol)
                log.info("peer %s is slow to answer, dialling it anew", peer_id_of(peer))
            except PeerGone:
                if is_live(conn):
                    raise
        fresh = await self._dialer.connect(swarm, peer, instead_of=conn)
        return await self._stream_on(fresh, peer, protocol)

    async def _stream_on(
        self, conn: INetConn, peer: NodeKey, protocol: str
    ) -> tuple[PipeFrames, YamuxPipe]:
        try:
            stream = await conn.new_stream()
        except Exception as exc:
            raise PeerGone(f"the connection to peer {peer_id_of(peer)} is broken") from exc
        self._meters.streams_out += 1
        pipe = YamuxPipe(stream)
        try:
            unread = await choose_protocol(pipe, protocol)
        except BaseException:
            await pipe.abort()
            raise
        return self._frames(pipe, peer, unread), pipe

    def _frames(self, pipe: YamuxPipe, peer: NodeKey, unread: bytes = b"") -> PipeFrames:
        deadline = self._bounds.write_deadline_s
        return PipeFrames(pipe, peer, write_deadline_s=deadline, unread=unread)

    def _serve_on(self, host: GuardedHost, protocol: str, handler: StreamHandler) -> None:
        async def on_stream(stream: INetStream) -> None:
            peer = node_key_of(stream.muxed_conn.peer_id)
            pipe = YamuxPipe(stream)
            frames = self._frames(pipe, peer)
            try:
                await handler(frames)
            except (PeerGone, ProtocolError) as exc:
                log.info("%s with %s ended: %s", protocol, peer_id_of(peer), exc)
                await frames.abort()
                if isinstance(exc, RemoteProtocolError) and self._swarm is not None:
                    self._swarm.punish(peer, f"what it sends by {protocol} is none of it")
            except Exception:
                log.exception("%s with %s failed", protocol, peer_id_of(peer))
                await frames.abort()
            else:
                if self._swarm is not None:
                    self._swarm.table.note_useful(peer, trio.current_time())
                await frames.close()
                await pipe.linger(self._bounds.linger_s)

        host.set_stream_handler(TProtocol(protocol), on_stream)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the host until cancelled, starting it again whenever libp2p fails.

        Started once it listens.

        Raises:
            ConfigError: it could not listen at the first start.
        """
        tuning.apply(self._patches)
        self._listen = _present(self._listen)

        async def once() -> None:
            await self._run_host(task_status)

        try:
            await self._supervisor.run(once)
        except Exception as exc:  # noqa: BLE001 whatever it is, its clearest part is raised
            raise _clearest(exc) from None

    async def _run_host(self, task_status: trio.TaskStatus[None]) -> None:
        host, swarm = self._new_host()
        pubsub, router = new_pubsub(host, swarm, self._bounds, self._meters, self._gossip.deliver)
        for protocol, handler in self._handlers.items():
            self._serve_on(host, protocol, handler)
        self.links.attach(host, swarm, lambda: self._addresses)
        try:
            async with (
                host.run(self._listen),
                background_trio_service(pubsub),
                background_trio_service(router),
                trio.open_nursery() as nursery,
            ):
                self._note_addresses(host)
                await pubsub.wait_until_ready()
                await self._gossip.attach(pubsub)
                self._host, self._swarm, self._nursery = host, swarm, nursery
                self._up.set()
                self._supervisor.came_up()
                nursery.start_soon(self._dialer.keep_connected, swarm)
                nursery.start_soon(self._repair, swarm, pubsub, router)
                nursery.start_soon(self._gossip.catch_up)
                nursery.start_soon(_measure_lag, swarm.table)
                if self.starts == 1:
                    task_status.started()
                try:
                    await trio.sleep_forever()
                finally:  # before anything closes, so that nobody starts more on it
                    self._host = self._swarm = self._nursery = None
                    self._up = trio.Event()
                    self._gossip.detach()
        finally:
            self._gossip.detach()
            self.links.detach()
            deadline = trio.current_time() + CLOSING_S
            with trio.CancelScope(shield=True, deadline=deadline):
                await swarm.hang_up()

    def _new_host(self) -> tuple[GuardedHost, GuardedSwarm]:
        peer_id = peer_id_of(self._key)
        peerstore = Libp2pPeerStore()
        peerstore.add_key_pair(peer_id, self._key_pair)
        bounds = self._bounds
        # Only what is named here can be negotiated. The default list also holds plaintext and
        # secio, with which a stranger who knows a public key passes for its owner.
        security = {NOISE: Noise(self._key_pair, noise_privkey=new_x25519().private_key)}
        upgrader = BoundedUpgrader(security, {TProtocol(YAMUX): Yamux}, bounds.handshake_s)
        upgrader.budget = UnreadBudget(bounds)
        upgrader.patience_s = bounds.unread_s
        most = bounds.connections + bounds.half_open_connections + bounds.dials_at_once
        config = ConnectionConfig(
            max_connections=most,  # ours are counted, and pruned, in the swarm's table
            high_watermark=most,
            low_watermark=0,  # the swarm must not dial on its own: it dials anyone it heard of
            min_connections=0,
            max_connections_per_peer=bounds.connections_per_peer + 1,
            inbound_upgrade_timeout=bounds.handshake_s,
            outbound_upgrade_timeout=bounds.handshake_s,
            inbound_stream_protocol_negotiation_timeout=bounds.handshake_s,
            outbound_stream_protocol_negotiation_timeout=bounds.handshake_s,
        )
        swarm = GuardedSwarm(
            peer_id,
            peerstore,
            upgrader,
            transports=[GuardedTCP()],
            retry_config=RetryConfig(max_retries=0),
            connection_config=config,
        )
        swarm.use_bounds(bounds, self._meters, self._all_protected)
        swarm.unread = upgrader.budget
        host = GuardedHost(swarm, disable_identify_address_discovery=True)
        host.gate = StreamGate(bounds)
        return host, swarm

    def _all_protected(self) -> frozenset[NodeKey]:
        return self._dialer.bootstrap.union(self._protected())

    def _note_addresses(self, host: GuardedHost) -> None:
        bound = host.get_transport_addrs()
        if len(bound) < len(self._listen):
            wanted = ", ".join(str(each) for each in self._listen)
            raise ConfigError(
                f"cannot listen on {wanted}: taken, or no address of this machine; "
                "correct listen in [p2p] (port 0 takes a free one)"
            )
        self._listen = tuple(bound)  # a restart takes the same ports again
        plain = self._announce or tuple(
            address for each in bound for address in dialable(str(each))
        )
        suffix = f"/p2p/{peer_id_of(self._key)}"
        self._addresses = tuple(address + suffix for address in plain)

    async def _repair(
        self, swarm: GuardedSwarm, pubsub: GuardedPubsub, router: GuardedRouter
    ) -> None:
        backoff: dict[Any, tuple[float, float]] = {}
        while True:
            await trio.sleep(PEER_STREAM_CHECK_S)
            swarm.forget_dead_connections()
            await pubsub.repair_peers(backoff)
            router.forget_strangers(set(swarm.connections))


async def _measure_lag(table: ConnectionTable) -> None:
    """Keep ``table.lag_s`` at how late this process wakes up; it falls slower than it rises."""
    while True:
        due = trio.current_time() + LAG_LOOK_S
        await trio.sleep_until(due)
        table.lag_s = max(trio.current_time() - due, table.lag_s * LAG_DECAY)


def _present(listen: tuple[Multiaddr, ...]) -> tuple[Multiaddr, ...]:
    """Those of a family this machine has; all of them where that is none."""
    found = tuple(each for each in listen if has_family(each))
    for missing in listen:
        if missing not in found:
            log.warning("not listening on %s: this machine has no such address family", missing)
    return found or listen


def _clearest(exc: Exception) -> Exception:
    """The ConfigError inside libp2p's nested groups, where there is one."""
    if isinstance(exc, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", exc)
        found = [_clearest(each) for each in group.exceptions]
        return next((each for each in found if isinstance(each, ConfigError)), found[0])
    return exc


def _has_node_key(peer_id: Any) -> bool:
    try:
        node_key_of(peer_id)
    except ValueError:
        return False
    return True
