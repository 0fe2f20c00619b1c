"""What discovery sees of the running host: its connections, and the ways to make and test one."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.rcmgr import Direction
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from .addresses import CIRCUIT, parse_address
from .circuits import is_direct, remote_of
from .discovery.places import ip_address_of
from .discovery.rendezvous import RendezvousPoint, meet_at
from .guards import quietly
from .identity import node_key_of, peer_id_of
from .port import PeerGone
from .relay import RelayBounds, RelayClient, RelayServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import INetConn

    from robocompute_protocol.identifiers import Digest, NodeKey

    from .dialing import Dialer
    from .guards import GuardedHost, GuardedSwarm

log = logging.getLogger(__name__)

PROBE_S: Final = 5.0
"""Seconds to reach an address and shake hands: as for any dial."""


@dataclass(frozen=True, slots=True)
class Link:
    """One connection."""

    peer: NodeKey
    address: str
    """Of the other end, as this one sees it; of a relayed one, the relay."""
    outbound: bool
    relayed: bool

    @property
    def ip(self) -> str | None:
        """The other end's, where it is known."""
        return None if self.relayed else self.address.split("/")[2]


class Links:
    """The connections of a host that may be restarted, and the relays it uses and is."""

    def __init__(self, key: NodeKey, dialer: Dialer, relay: RelayBounds | None) -> None:
        """Serve as a relay within ``relay``, or not at all."""
        self._key = key
        self._dialer = dialer
        self._swarm: GuardedSwarm | None = None
        self.server = None if relay is None else RelayServer(relay)
        self.client = RelayClient(key)
        dialer.circuits = self.dial_circuit
        self._point: RendezvousPoint | None = None
        self._host: GuardedHost | None = None
        self.observed: tuple[str, ...] = ()
        """Addresses at which peers reached this node, besides those it knows of itself."""

    def attach(
        self, host: GuardedHost, swarm: GuardedSwarm, addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        """Work on a new host, which is reached at ``addresses``."""
        self._host, self._swarm = host, swarm
        self.client.attach(host, swarm)
        if self.server is not None:
            self.server.attach(host, swarm, addresses)
        if self._point is not None:
            self._point.attach(host)

    def serve_rendezvous(self, point: RendezvousPoint) -> None:
        """Be a rendezvous point from now on."""
        self._point = point
        if self._host is not None:
            point.attach(self._host)

    def detach(self) -> None:
        """The host is gone."""
        self._host = self._swarm = None
        self.client.detach()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others reach this node besides where it listens, with its /p2p/ at the end."""
        own = f"/p2p/{peer_id_of(self._key)}"
        return tuple(each + own for each in self.observed) + self.client.addresses

    def all(self) -> tuple[Link, ...]:
        """Return all connections that work as far as is known."""
        swarm = self._swarm
        if swarm is None:
            return ()
        found: list[Link] = []
        for peer_id in list(swarm.connections):
            try:
                peer = node_key_of(peer_id)
            except ValueError:
                continue  # such a peer is served nothing
            found += [_link(peer, conn) for conn in swarm.live_connections(peer_id)]
        return tuple(found)

    async def dial(self, peer: NodeKey, addresses: tuple[str, ...]) -> None:
        """Connect to ``peer``, known to be at ``addresses`` too, unless it is connected.

        Raises:
            PeerGone: it cannot be reached.
        """
        swarm = self._swarm
        if swarm is None:
            raise PeerGone("no network just now")
        self._dialer.book.add(peer, addresses)
        await self._dialer.connect(swarm, peer)

    async def dial_circuit(self, address: Multiaddr, peer: NodeKey) -> INetConn:
        """Connect to ``peer`` through the relay in ``address``, dialling that first if need be.

        Raises:
            PeerGone: one of the two cannot be reached.
        """
        swarm = self._swarm
        named, at = parse_address(str(address).removesuffix(CIRCUIT))
        if swarm is None or named is None:
            raise PeerGone("no network just now")
        relay = node_key_of(named)
        if relay == self._key:
            raise PeerGone("that relay is this node itself")
        conn = self._direct(relay)
        if conn is None:
            self._dialer.book.add(relay, (str(at),))
            conn = await self._dialer.connect(swarm, relay)
        if not is_direct(conn):
            raise PeerGone("the relay is itself behind one")
        return await self.client.dial(conn, relay, peer)

    async def reserve(self, relay: NodeKey) -> float:
        """Reserve with a relay that is connected; return the seconds until that is to be renewed.

        Raises:
            PeerGone: it is not connected, or refused.
        """
        conn = self._direct(relay)
        if conn is None:
            self.client.forget(relay)
            raise PeerGone("no connection to the relay")
        at = next((each for each in self.all() if each.peer == relay and not each.relayed), None)
        known = [str(each) for each in self._dialer.book.of(relay) if CIRCUIT not in str(each)]
        address = at.address if at is not None and at.outbound else next(iter(known), None)
        if address is None:
            raise PeerGone("the relay connected to this node: its own address is not known")
        return await self.client.reserve(conn, relay, f"{address}/p2p/{peer_id_of(relay)}")

    async def meet_at(
        self, point: NodeKey, network: Digest, addresses: tuple[str, ...]
    ) -> tuple[tuple[NodeKey, tuple[str, ...]], ...]:
        """Register with a rendezvous point that is connected; return whom it lists.

        Raises:
            PeerGone: it is not connected, or no such point.
        """
        conn = self._direct(point)
        if conn is None:
            raise PeerGone("no connection to the rendezvous point")
        return await meet_at(conn, self._key, network, addresses)

    def _direct(self, peer: NodeKey) -> INetConn | None:
        swarm = self._swarm
        if swarm is None:
            return None
        live = swarm.live_connections(peer_id_of(peer))
        return next((conn for conn in live if is_direct(conn)), None)

    async def probe(self, peer: NodeKey, address: str) -> bool:
        """Whether ``peer`` answers at ``address`` with its key. Makes no connection of it."""
        swarm = self._swarm
        if swarm is None:
            return False
        try:
            with trio.fail_after(PROBE_S):
                raw = await TCP().dial(Multiaddr(address))
                try:
                    await swarm.upgrader.upgrade_security(raw, True, peer_id_of(peer))
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                        await quietly(raw.close)
        except Exception as exc:  # noqa: BLE001 every layer of libp2p has its own errors
            log.debug("%s does not answer at %s: %r", peer_id_of(peer), address, exc)
            return False
        return True


def _link(peer: NodeKey, conn: INetConn) -> Link:
    typed: Any = conn
    outbound = typed.direction is Direction.OUTBOUND
    remote = remote_of(conn.muxed_conn)
    if remote is not None:
        return Link(peer, ip_address_of(remote[0], remote[1]), outbound, relayed=False)
    addresses = [str(each) for each in conn.get_transport_addresses()]
    return Link(peer, next(iter(addresses), CIRCUIT), outbound, relayed=True)
