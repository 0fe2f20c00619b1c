"""The real network: a libp2p host under a supervisor, behind the port."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX, Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from robocompute_protocol.errors import ConfigError, ProtocolError
from robocompute_protocol.identifiers import NodeKey

from . import tuning
from .dialing import Dialer, parse_address
from .framing import PipeFrames
from .gossip import PEER_STREAM_CHECK_S, Gossip, GuardedPubsub, new_pubsub
from .guards import GuardedHost, GuardedSwarm, PeerBounds, StreamGate, is_live
from .identity import key_pair_of, node_key_of, peer_id_of
from .port import FrameStream, PeerGone, StreamHandler, Validator
from .streams import YamuxPipe, choose_protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from libp2p.abc import INetConn, INetStream

__all__ = ["Libp2pNetwork", "node_key_of", "peer_id_of"]

log = logging.getLogger(__name__)

RESTART_MIN_S: Final = 0.2
"""First wait before libp2p is started again."""
RESTART_MAX_S: Final = 10.0
"""Longest such wait: a host that falls over at once must not burn a core."""
STEADY_S: Final = 60.0
"""A host that ran this long starts the waits anew."""
STALE_S: Final = 2.0
"""A known connection may leave a new stream unanswered this long; then another is dialled."""
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
    ) -> None:
        """Prepare a host; nothing happens before ``run``.

        Args:
            seed: The 32 bytes of the node's ed25519 key.
            listen: Multiaddrs to listen on; port 0 takes a free one and keeps it.
            announce: Addresses to name in place of those listened on (behind a router).
            bootstrap: Multiaddrs with /p2p/ to stay connected to.
            bounds: What one peer may ask.
            patches: Which patches of ``tuning`` to install.

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
        self._dialer = Dialer(self._key, bootstrap)
        self._gossip = Gossip()
        self._handlers: dict[str, StreamHandler] = {}
        self._addresses: tuple[str, ...] = ()
        self._host: GuardedHost | None = None
        self._swarm: GuardedSwarm | None = None
        self._nursery: trio.Nursery | None = None
        self._up = trio.Event()
        self._starts = 0

    @property
    def starts(self) -> int:
        """How often the host came up: more than once means that libp2p failed."""
        return self._starts

    @property
    def key(self) -> NodeKey:
        return self._key

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def peers(self) -> tuple[NodeKey, ...]:
        swarm = self._swarm
        if swarm is None:
            return ()
        return tuple(
            node_key_of(peer_id)
            for peer_id, conns in swarm.connections.items()
            if any(is_live(conn) for conn in conns) and _has_node_key(peer_id)
        )

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
            except Exception:
                log.exception("%s with %s failed", protocol, peer_id_of(peer))
                await frames.abort()
            else:
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
        delay = RESTART_MIN_S
        while True:
            started = trio.current_time()
            try:
                await self._run_host(task_status)
            except Exception as exc:
                if not self._starts:
                    raise _clearest(exc) from None
                log.exception("libp2p failed, starting it again in %.1f s", delay)
            if trio.current_time() - started > STEADY_S:
                delay = RESTART_MIN_S
            await trio.sleep(delay)
            delay = min(delay * 2, RESTART_MAX_S)
            task_status = trio.TASK_STATUS_IGNORED

    async def _run_host(self, task_status: trio.TaskStatus[None]) -> None:
        host, swarm = self._new_host()
        pubsub = new_pubsub(host, self._gossip, self._bounds)
        router: Any = pubsub.router
        for protocol, handler in self._handlers.items():
            self._serve_on(host, protocol, handler)
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
                self._starts += 1
                nursery.start_soon(self._dialer.keep_connected, swarm)
                nursery.start_soon(self._repair, swarm, pubsub)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:  # before anything closes, so that nobody starts more on it
                    self._host = self._swarm = self._nursery = None
                    self._up = trio.Event()
                    self._gossip.detach()
        finally:
            self._gossip.detach()
            deadline = trio.current_time() + CLOSING_S
            with trio.CancelScope(shield=True, deadline=deadline):
                await swarm.hang_up()

    def _new_host(self) -> tuple[GuardedHost, GuardedSwarm]:
        peer_id = peer_id_of(self._key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, self._key_pair)
        bounds = self._bounds
        # Only what is named here can be negotiated. The default list also holds plaintext and
        # secio, with which a stranger who knows a public key passes for its owner.
        security = {NOISE: Noise(self._key_pair, noise_privkey=new_x25519().private_key)}
        upgrader = TransportUpgrader(security, {TProtocol(YAMUX): Yamux}, bounds.handshake_s)
        config = ConnectionConfig(
            max_connections=bounds.connections,
            high_watermark=bounds.connections,
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
            transports=[TCP()],
            retry_config=RetryConfig(max_retries=0),
            connection_config=config,
        )
        swarm.use_bounds(bounds)
        host = GuardedHost(swarm, disable_identify_address_discovery=True)
        host.gate = StreamGate(bounds)
        return host, swarm

    def _note_addresses(self, host: GuardedHost) -> None:
        bound = host.get_transport_addrs()
        if len(bound) < len(self._listen):
            wanted = ", ".join(str(each) for each in self._listen)
            raise ConfigError(f"cannot listen on {wanted}: taken, or no address of this machine")
        self._listen = tuple(bound)  # a restart takes the same ports again
        plain = self._announce or tuple(
            address for each in bound for address in _dialable(str(each))
        )
        suffix = f"/p2p/{peer_id_of(self._key)}"
        self._addresses = tuple(address + suffix for address in plain)

    async def _repair(self, swarm: GuardedSwarm, pubsub: GuardedPubsub) -> None:
        backoff: dict[Any, tuple[float, float]] = {}
        router: Any = pubsub.router
        while True:
            await trio.sleep(PEER_STREAM_CHECK_S)
            swarm.forget_dead_connections()
            await pubsub.repair_peers(backoff)
            router.recent_message_deliveries.clear()  # grows for ever where nothing adapts


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


def _dialable(address: str) -> tuple[str, ...]:
    """Real addresses for the one that means all of this machine's."""
    for family, every, loopback, outside, name in (
        (socket.AF_INET, "0.0.0.0", "127.0.0.1", "192.0.2.1", "ip4"),  # noqa: S104 compared with, not bound
        (socket.AF_INET6, "::", "::1", "2001:db8::1", "ip6"),
    ):
        if f"/{name}/{every}/" not in address:
            continue
        found = [loopback]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((outside, 9))  # sends nothing: asks the routing table
                found.insert(0, probe.getsockname()[0])
            except OSError:
                pass  # no route out: loopback is all there is
        return tuple(
            address.replace(f"/{name}/{every}/", f"/{name}/{host}/")
            for host in OrderedDict.fromkeys(found)
        )
    return (address,)
