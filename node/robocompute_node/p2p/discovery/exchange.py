"""``/robocompute/peers/1``: nodes introduce each other, with records that each signed of itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.p2p.bounds import Rates
from robocompute_node.p2p.identity import peer_id_of
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, say
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import Digest, digest
from robocompute_protocol.messages import (
    PROTOCOL_PEERS,
    PeerRecord,
    PeersMessage,
    PeersPage,
    PeersRequest,
    Refused,
)
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import PEER, SigningKey, open_signed, sign_message

from .known import Found, KnownNodes
from .places import Scope, place_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random  # noqa: TID251 as a type: the caller hands one in

    from robocompute_node.clocks import Clock
    from robocompute_node.p2p.port import FrameStream, Network
    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Signed

    from .web import Web

log = logging.getLogger(__name__)

NETWORK_DOMAIN: Final = b"RCNETW01"
ANSWER_S: Final = 10.0
"""Seconds for a page of records."""
ASK_SECONDS: Final = 10.0
"""One request of a peer in so long, in the long run: a page costs 32 checks of signatures there."""
ASK_BURST: Final = 6
"""Requests at once: a node that restarts a few times in a row is not shut out."""


def network_of(genesis: Digest, program: Address) -> Digest:
    """Return the name of the network whose jobs are settled by ``program`` on that chain."""
    return digest(NETWORK_DOMAIN, genesis, program)


class PeerExchange:
    """Asks for records, and answers with those of nodes that this one reached itself."""

    def __init__(
        self,
        network: Network,
        web: Web,
        known: KnownNodes,
        key: SigningKey,
        clock: Clock,
        rng: Random,
        *,
        network_id: Callable[[], Digest | None],
        relays: bool,
    ) -> None:
        """Speak of the network that ``network_id`` names; while it names none, of nothing."""
        self._network = network
        self._web = web
        self._known = known
        self._key = key
        self._clock = clock
        self._rng = rng
        self._network_id = network_id
        self._relays = relays
        self._rates: Rates[NodeKey] = Rates(1 / ASK_SECONDS, ASK_BURST)

    def register(self) -> None:
        """Answer peers from now on."""
        self._network.serve(PROTOCOL_PEERS, self._serve)

    def own_record(self) -> Signed | None:
        """This node's record as of now; None while there is no network or no address."""
        network, addresses = self._network_id(), self._network.addresses
        if network is None or not addresses:
            return None
        record = PeerRecord(
            key=self._key.node_key,
            network=network,
            sequence=self._clock.now_ms(),
            ttl_ms=limits.MAX_PEER_TTL,
            relay=self._relays,
            addresses=widest_first(addresses)[:8],
        )
        return sign_message(PEER, self._key, codec.encode(record))

    async def ask(self, peer: NodeKey) -> int:
        """Show ``peer`` this node's record and take in what it answers; return how many were news.

        Raises:
            PeerGone, PeerRefused, RemoteProtocolError: it does not answer as it should.
        """
        network = self._network_id()
        if network is None:
            return 0
        async with self._network.open(peer, PROTOCOL_PEERS) as stream:
            await say(stream, PeersRequest(network=network, record=self.own_record()))
            page = await expect(stream, PeersMessage, PeersPage, timeout_s=ANSWER_S)
        return sum([self._take(signed, peer, Found.EXCHANGE) for signed in page.records])

    async def _serve(self, stream: FrameStream) -> None:
        request = await expect(stream, PeersMessage, PeersRequest, timeout_s=ANSWER_S)
        peer = stream.peer
        if request.network != self._network_id():
            text = "this node is of another chain or program"
            await say(stream, Refused(code="other_network", message=text))
            return
        if not self._rates.take(peer, trio.current_time()):
            await say(stream, Refused(code="busy", message="asked too often; ask again later"))
            return
        if request.record is not None:
            if request.record.key != peer:
                raise RemoteProtocolError("a record of somebody else's", code="wrong_signer")
            self._take(request.record, None, Found.INBOUND, over=self.scope_of(peer))
        records = self._known.vouched(
            self._clock.now_ms(), self.scope_of(peer), self._rng, leave_out={peer}
        )
        await say(stream, PeersPage(records=records))

    def _take(
        self, signed: Signed, teller: NodeKey | None, found: Found, *, over: Scope | None = None
    ) -> bool:
        """Believe a record as far as it is signed; what it says is still to be seen."""
        now = self._clock.now_ms()
        known = self._known.of(signed.key)
        if known is not None and known.record == signed:
            return False  # the very same: spares a check of the signature
        record = open_signed(PEER, signed, PeerRecord)
        if (
            record.key != signed.key
            or record.network != self._network_id()
            or record.sequence > now + limits.MAX_CLOCK_AHEAD
            or Millis(record.sequence + record.ttl_ms) <= now
        ):
            return False
        reach = over if over is not None else self.scope_of(teller)
        return self._known.hear(
            record.key,
            record.addresses,
            now,
            found=found,
            over=reach,
            teller=teller if teller is not None else record.key,
            signed=(record, signed),
        )

    def scope_of(self, peer: NodeKey | None) -> Scope:
        """How near ``peer`` is: of several connections the nearest counts, through a relay none."""
        ips = [link.ip for link in self._web.all() if link.peer == peer]
        return min((scope_of(ip) for ip in ips if ip is not None), default=Scope.PUBLIC)


async def ask_quietly(exchange: PeerExchange, peer: NodeKey) -> bool:
    """Ask, and say whether there was an answer."""
    try:
        news = await exchange.ask(peer)
    except (PeerGone, PeerRefused, RemoteProtocolError) as exc:
        log.debug("%s introduces nobody: %s", peer_id_of(peer), exc)
        return False
    log.debug("%s introduced %d nodes", peer_id_of(peer), news)
    return True


def widest_first(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses that reach furthest first: a record holds eight."""

    def reach(address: str) -> int:
        try:
            return -place_of(address).scope
        except ValueError:
            return -Scope.PUBLIC  # a name, from the node's own settings

    return tuple(sorted(addresses, key=reach))
