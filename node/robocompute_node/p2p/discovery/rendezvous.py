"""libp2p's rendezvous protocol: a public node keeps a list of who is there.

For nodes of other makes, and for a network that has such points: nodes of this make introduce each
other by peer exchange, whose records are signed and were tried out. Here a point vouches for
nothing but that somebody with that key registered, so what it says is hearsay like any other.

The answers are stock's; the stream is not. Stock reads messages of 4 MiB, keeps a list for any name
that anybody makes up, and bounds neither addresses nor one host's share.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.discovery.rendezvous.config import RENDEZVOUS_PROTOCOL
from libp2p.discovery.rendezvous.messages import (
    create_discover_message,
    create_discover_response_message,
    create_register_message,
    create_register_response_message,
)
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message
from libp2p.discovery.rendezvous.service import RendezvousService
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from robocompute_node.p2p.bounds import Rates
from robocompute_node.p2p.circuits import (
    open_stream,
    patience,
    read_message,
    remote_of,
    write_message,
)
from robocompute_node.p2p.identity import node_key_of, peer_id_of
from robocompute_node.p2p.port import PeerGone
from robocompute_node.p2p.streams import YamuxPipe

from .places import host_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import INetConn, INetStream

    from robocompute_node.p2p.guards import GuardedHost
    from robocompute_protocol.identifiers import Digest, NodeKey

log = logging.getLogger(__name__)

NAMESPACE: Final = "/robocompute/1/"
"""Before the network's name in hexadecimal."""
TTL_S: Final = 7_200
"""A registration lasts so long at most: as a signed record would."""
REFRESH_S: Final = 600.0
"""Between registrations: a point that was restarted has forgotten all."""
MAX_REGISTERED: Final = 512
"""Nodes on the list of a point: 150 kB, and below the thousand at which stock refuses even those
that are on it already."""
MAX_OF_ONE_HOST: Final = 8
"""Of those, from one IPv4 address or IPv6 /64."""
MAX_ADDRESSES: Final = 8
MAX_FOUND: Final = 32
"""Nodes in one answer."""
MAX_ANSWER_BYTES: Final = 16_000
"""32 nodes with eight addresses each, through relays."""
REQUESTS_ON_ONE_STREAM: Final = 8
REQUESTS_PER_S: Final = 0.2
REQUESTS_BURST: Final = 8
"""Requests of one peer."""


def namespace_of(network: Digest) -> str:
    """Return the name under which the nodes of ``network`` register."""
    return NAMESPACE + network.hex()


class RendezvousPoint(RendezvousService):
    """Serves one namespace, within bounds."""

    def __init__(self, network_id: Callable[[], Digest | None]) -> None:
        """Serve the network that ``network_id`` names; while it names none, refuse."""
        self.registrations = {}  # stock would register on a host here, which may be restarted
        self._network_id = network_id
        self._hosts: dict[Any, str] = {}
        self._rates: Rates[NodeKey] = Rates(REQUESTS_PER_S, REQUESTS_BURST)

    def attach(self, host: GuardedHost) -> None:
        """Answer on ``host``."""

        async def on_stream(stream: INetStream) -> None:
            pipe, held = YamuxPipe(stream), bytearray()
            try:
                for _ in range(REQUESTS_ON_ONE_STREAM):
                    await self._answer(pipe, held, stream)
            except PeerGone as exc:
                log.debug("rendezvous with %s ended: %s", stream.muxed_conn.peer_id, exc)
            finally:
                await pipe.abort()

        host.set_stream_handler(TProtocol(RENDEZVOUS_PROTOCOL), on_stream)

    async def _answer(self, pipe: YamuxPipe, held: bytearray, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        with patience("who asked"):
            question = await read_message(pipe, Message, held)
        if not self._rates.take(node_key_of(peer_id), trio.current_time()):
            raise PeerGone("it asks too often")
        if question.type == Message.REGISTER:
            remote = remote_of(stream.muxed_conn)
            host = "relayed" if remote is None else host_of(remote[0])
            await write_message(pipe, self.register(peer_id, host, question.register))
        elif question.type == Message.DISCOVER:
            await write_message(pipe, self.discover(peer_id, question.discover))
        elif question.type == Message.UNREGISTER:
            self._handle_unregister(peer_id, question.unregister)
        else:
            raise PeerGone("not a question")

    def register(self, peer_id: ID, host: str, asked: Message.Register) -> Message:
        """Put ``peer_id``, which connected from ``host``, on the list, or say why not."""
        status = Message.ResponseStatus
        if not self._is_ours(asked.ns):
            text = "this point serves another network"
            return create_register_response_message(status.E_INVALID_NAMESPACE, text)
        self.cleanup_all_expired()
        listed = self.registrations.get(asked.ns, {})
        self._hosts = {each: at for each, at in self._hosts.items() if each in listed}
        others = Counter(at for each, at in self._hosts.items() if each != peer_id)
        is_full = peer_id not in listed and len(listed) >= MAX_REGISTERED
        if is_full or others[host] >= MAX_OF_ONE_HOST or len(asked.peer.addrs) > MAX_ADDRESSES:
            return create_register_response_message(status.E_UNAVAILABLE, "no room")
        asked.ttl = min(asked.ttl or TTL_S, TTL_S)
        answer = self._handle_register(peer_id, asked)
        if answer.registerResponse.status == status.OK:
            self._hosts[peer_id] = host
        return answer

    def discover(self, peer_id: ID, asked: Message.Discover) -> Message:
        """Return some of those on the list."""
        if not self._is_ours(asked.ns):
            return create_discover_response_message(
                [], b"", Message.ResponseStatus.E_INVALID_NAMESPACE, "another network"
            )
        asked.limit = min(asked.limit or MAX_FOUND, MAX_FOUND)
        return self._handle_discover(peer_id, asked)

    def _is_ours(self, namespace: str) -> bool:
        network = self._network_id()
        return network is not None and namespace == namespace_of(network)


async def meet_at(
    conn: INetConn, own: NodeKey, network: Digest, addresses: tuple[str, ...]
) -> tuple[tuple[NodeKey, tuple[str, ...]], ...]:
    """Register at the point that ``conn`` leads to, and return whom it has on its list.

    Raises:
        PeerGone: it is no such point, or answers nonsense.
    """
    name = namespace_of(network)
    plain = [Multiaddr(each.rsplit("/p2p/", 1)[0]) for each in addresses[:MAX_ADDRESSES]]
    with patience("the rendezvous point"):
        pipe, held = await open_stream(conn, RENDEZVOUS_PROTOCOL)
        try:
            if plain:
                await write_message(
                    pipe, create_register_message(name, peer_id_of(own), plain, TTL_S)
                )
                await read_message(pipe, Message, held)  # refused or not: the list is worth it
            await write_message(pipe, create_discover_message(name, MAX_FOUND, b""))
            answer = await read_message(pipe, Message, held, limit=MAX_ANSWER_BYTES)
        finally:
            await pipe.abort()
    found: list[tuple[NodeKey, tuple[str, ...]]] = []
    for each in answer.discoverResponse.registrations[:MAX_FOUND]:
        try:
            peer = node_key_of(ID(each.peer.id))
            named = tuple(str(Multiaddr(raw)) for raw in each.peer.addrs[:MAX_ADDRESSES])
        except (ValueError, MultiaddrError):
            continue
        if peer != own:
            found.append((peer, named))
    return tuple(found)
