"""Keeps a node in the middle of its network: meets peers, tries new ones, and stays findable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.p2p.addresses import CIRCUIT
from robocompute_node.p2p.identity import peer_id_of
from robocompute_node.p2p.port import PeerGone

from .dial_back import DialBackDesk, may_testify
from .exchange import PeerExchange, ask_quietly
from .known import Found, KnownNodes
from .places import host_of
from .rendezvous import REFRESH_S
from .witnesses import Reach, Witnesses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from random import Random  # noqa: TID251 as a type: the caller hands one in

    from robocompute_node.clocks import Clock
    from robocompute_node.p2p.host import Libp2pNetwork
    from robocompute_node.p2p.links import Link
    from robocompute_protocol.identifiers import Digest, NodeKey
    from robocompute_protocol.signing import SigningKey

    from .known import Known
    from .places import Place

log = logging.getLogger(__name__)

WANTED: Final = 8
"""Peers to be connected to: gossip wants six, and two may be gone at any moment."""
LOOK_S: Final = 1.0
"""How often what is missing is looked for."""
MEET_S: Final = 0.25
"""How soon a new connection is asked whom it knows."""
SOON_S: Final = 3.0
"""A new peer is asked again after this: two that came to it together are tried out by then."""
HUNGRY_S: Final = 15.0
"""While peers are missing, those that are there are asked again this often."""
DIALS_AT_ONCE: Final = 4
"""Dials of candidates under way: each handshake costs 10 ms of CPU."""
WANDER_S: Final = 60.0
"""A node with peers enough still asks one of them, and dials one stranger, so often. That is what
joins two islands that came to know of each other, and what an eclipse cannot wait out."""
MEETINGS_AT_ONCE: Final = 8
"""Peers asked at once."""
RELAYS_USED: Final = 2
"""Relays that a node behind a router is reached through: one may go away."""
RELAY_RETRY_S: Final = 10.0
"""A relay that refused is asked again after this."""
PROBES_AT_ONCE: Final = 2
"""Records of those who connected here that are tried out at once."""
ASK_AGAIN_S: Final = 60.0
"""A peer that did not dial back is asked again after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an owner sets of finding others."""

    wanted: int = WANTED
    """Peers to stay connected to, where there are so many."""
    relays: bool = False
    """Whether this node relays for those that cannot be dialled."""
    rendezvous: bool = False
    """Whether it registers with bootstrap nodes by libp2p's rendezvous protocol."""


class Discovery:
    """Finds peers of one network for a host that runs."""

    def __init__(
        self,
        network: Libp2pNetwork,
        key: SigningKey,
        clock: Clock,
        rng: Random,
        *,
        network_id: Callable[[], Digest | None],
        finding: Finding,
        bootstrap: Collection[NodeKey] = (),
        remembered: Collection[tuple[NodeKey, tuple[str, ...]]] = (),
        remember: Callable[[NodeKey, str], None] | None = None,
    ) -> None:
        """Work on ``network``, which dials ``bootstrap`` by itself and for ever.

        ``remembered`` are peers that this node reached before it was stopped, and where;
        ``remember`` is told of those that connected here and were then reached where they say.
        """
        self._network = network
        self._web = network.links
        self._clock = clock
        self._rng = rng
        self._finding = finding
        self._network_id = network_id
        self._bootstrap = frozenset(bootstrap)
        self._remember = remember
        self.known = KnownNodes(key.node_key)
        self._witnesses = Witnesses(self._bootstrap)
        self._exchange = PeerExchange(
            network,
            self._web,
            self.known,
            key,
            clock,
            rng,
            network_id=network_id,
            relays=finding.relays,
        )
        self._desk = DialBackDesk(network, self._web, clock)
        for peer, addresses in remembered:
            self.found(peer, addresses, Found.REMEMBERED)

    def found(self, peer: NodeKey, addresses: tuple[str, ...], how: Found) -> None:
        """Take in a node that another way of finding found. It is dialled when one is missing."""
        self.known.hear(peer, addresses, self._clock.now_ms(), found=how)

    @property
    def reach(self) -> Reach:
        """Whether this node can be dialled, as far as its peers say."""
        return self._witnesses.reach(self._clock.now_ms())

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Find, meet and stay findable until cancelled."""
        self._exchange.register()
        self._desk.register()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_enough)
            nursery.start_soon(self._meet)
            nursery.start_soon(self._wander)
            nursery.start_soon(self._try_records)
            nursery.start_soon(self._learn_reach)
            nursery.start_soon(self._keep_relays)
            if self._finding.rendezvous:
                nursery.start_soon(self._use_points)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def _keep_enough(self) -> None:
        slots = trio.CapacityLimiter(DIALS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                connected = self._connected()
                missing = self._finding.wanted - len(connected)
                count = min(missing, int(slots.available_tokens))
                for known in self._choose(connected, count):
                    nursery.start_soon(self._dial, known, slots)
                await trio.sleep(LOOK_S * (0.5 + self._rng.random()))

    def _connected(self) -> set[NodeKey]:
        return {link.peer for link in self._web.all()}

    def _choose(self, connected: set[NodeKey], count: int) -> tuple[Known, ...]:
        if count <= 0:
            return ()
        now = self._clock.now_ms()
        self.known.forget_stale(now)
        return self.known.to_dial(now, connected, count, self._rng)

    async def _dial(self, known: Known, slots: trio.CapacityLimiter) -> None:
        async with slots:
            try:
                await self._web.dial(known.peer, known.addresses)
            except PeerGone as exc:
                log.debug("not met: %s", exc)
                self.known.failed(known.peer, self._clock.now_ms())
            else:
                self._note_links()

    def _note_links(self) -> None:
        """Write down which addresses led to their owners."""
        now = self._clock.now_ms()
        for link in self._web.all():
            known = self.known.of(link.peer)
            if known is None or not link.outbound:
                continue
            for place in known.places:
                at = place.direct
                if place.relay is not None:
                    at = f"/p2p/{peer_id_of(place.relay)}{CIRCUIT}"
                if at == link.address:
                    self.known.reached(link.peer, place.direct, now)

    async def _meet(self) -> None:
        """Ask every new peer whom it knows; and while peers are missing, all of them again."""
        slots = trio.CapacityLimiter(MEETINGS_AT_ONCE)
        due: dict[NodeKey, float] = {}
        told = self._network.addresses

        async def meet(peer: NodeKey, again_s: float) -> None:
            async with slots:
                if not await ask_quietly(self._exchange, peer):
                    again_s = ASK_AGAIN_S
            due[peer] = trio.current_time() + again_s

        async with trio.open_nursery() as nursery:
            while True:
                self._note_links()
                connected = self._connected()
                hungry = len(connected) < self._finding.wanted
                if told != self._network.addresses:  # everybody is to know the new ones
                    told = self._network.addresses
                    due.clear()
                for gone in set(due) - connected:
                    del due[gone]
                for peer in connected:
                    is_new = peer not in due
                    if is_new or (hungry and due[peer] <= trio.current_time()):
                        due[peer] = float("inf")
                        nursery.start_soon(meet, peer, SOON_S if is_new else HUNGRY_S)
                await trio.sleep(MEET_S)

    async def _wander(self) -> None:
        slots = trio.CapacityLimiter(1)
        while True:
            await trio.sleep(WANDER_S * (0.5 + self._rng.random()))
            connected = self._connected()
            if connected:
                await ask_quietly(self._exchange, self._rng.choice(sorted(connected)))
            for known in self._choose(connected, 1):
                await self._dial(known, slots)

    async def _use_points(self) -> None:
        """Register with every bootstrap node that is a rendezvous point, and see who else did."""
        due: dict[NodeKey, float] = {}
        while True:
            now = trio.current_time()
            for point in self._bootstrap & self._connected():
                network = self._network_id()
                if network is None or due.get(point, 0.0) > now:
                    continue
                due[point] = now + REFRESH_S
                try:
                    listed = await self._web.meet_at(point, network, self._network.addresses)
                except PeerGone as exc:
                    log.debug("%s is no rendezvous point: %s", peer_id_of(point), exc)
                    continue
                for peer, addresses in listed:
                    self.known.hear(
                        peer,
                        addresses,
                        self._clock.now_ms(),
                        found=Found.RENDEZVOUS,
                        over=self._exchange.scope_of(point),
                        teller=point,
                    )
            await trio.sleep(LOOK_S)

    async def _try_records(self) -> None:
        """See whether those who connected here can be reached where they say.

        Only then are they named to others; and this node finds them again, should it be the one
        that moves.
        """
        tried: set[tuple[NodeKey, str]] = set()
        while True:
            await trio.sleep(LOOK_S)
            doors = self._doors()
            tried &= set(doors)
            for peer, address in [each for each in doors if each not in tried][:PROBES_AT_ONCE]:
                tried.add((peer, address))
                if await self._web.probe(peer, address):
                    self.known.reached(peer, address, self._clock.now_ms())
                    if self._remember is not None:
                        self._remember(peer, address)

    def _doors(self) -> list[tuple[NodeKey, str]]:
        """Addresses to try: at the host that a peer connected from, and at no other.

        A peer behind a relay that this node reached itself needs no trying: nobody but that relay
        is dialled because of it.
        """
        found: list[tuple[NodeKey, str]] = []
        for link in self._web.all():
            known = self.known.of(link.peer)
            if known is None or known.reached_at is not None or link.outbound:
                continue
            for place in known.places:
                if place.relay is not None:
                    if self._vouches(place):
                        self.known.reached(link.peer, place.direct, self._clock.now_ms())
                elif link.ip is not None and place.host == host_of(link.ip):
                    found.append((link.peer, place.direct))
        return found

    def _vouches(self, place: Place) -> bool:
        """Whether the relay in ``place`` is this node, or one that it reached there."""
        if place.relay is None or place.relay == self._network.key:
            return place.direct in {_direct(each) for each in self._network.addresses}
        relay = self.known.of(place.relay)
        return relay is not None and place.direct in relay.reached

    async def _learn_reach(self) -> None:
        """Ask peers to dial back, one at a time, until enough have."""
        asked: dict[NodeKey, float] = {}
        while True:
            await trio.sleep(LOOK_S)
            now = trio.current_time()
            asked = {peer: again for peer, again in asked.items() if again > now}
            for link in self._web.all():
                if link.peer in asked or not may_testify(link.ip):
                    continue
                if not self._witnesses.wants(link.peer, self._clock.now_ms()):
                    continue
                asked[link.peer] = now + ASK_AGAIN_S
                await self._desk.ask(link.peer, self._ports(), self._witnesses)
                self._web.observed = self._witnesses.confirmed(self._clock.now_ms())
                break

    def _ports(self) -> tuple[int, ...]:
        """TCP ports that this node listens on, or says it does."""
        own = [each.split("/") for each in self._network.addresses if CIRCUIT not in each]
        return tuple(dict.fromkeys(int(parts[4]) for parts in own))[:4]

    async def _keep_relays(self) -> None:
        """While this node cannot be dialled: be reached through relays."""
        due: dict[NodeKey, float] = {}
        while True:
            await trio.sleep(LOOK_S)
            near = {link.peer for link in self._web.all() if not link.relayed}
            for lost in set(self._web.client.relays()) - near:
                self._web.client.forget(lost)
                due.pop(lost, None)
            if self.reach is not Reach.NOT:
                continue
            now = trio.current_time()
            for relay in self._relays_to_use(near, due):
                if due.get(relay, 0.0) > now:
                    continue
                try:
                    due[relay] = now + await self._web.reserve(relay)
                except PeerGone as exc:
                    log.info("not reached through %s: %s", peer_id_of(relay), exc)
                    due[relay] = now + RELAY_RETRY_S
            due = {peer: at for peer, at in due.items() if peer in near or at > now}

    def _relays_to_use(
        self, near: Collection[NodeKey], due: Mapping[NodeKey, float]
    ) -> list[NodeKey]:
        """Those in use, and as many more as are missing."""
        used = list(self._web.client.relays())
        now = trio.current_time()
        others = [
            known.peer
            for known in self.known.relays(self._clock.now_ms())
            if known.peer in near and known.peer not in used and due.get(known.peer, 0.0) <= now
        ]
        self._rng.shuffle(others)
        return used + others[: max(0, RELAYS_USED - len(used))]

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Return all peers connected, and how each was found and is reached."""
        found: dict[NodeKey, Neighbour] = {}
        for link in self._web.all():
            known = self.known.of(link.peer)
            how = Found.INBOUND if known is None else known.found
            if link.peer in self._bootstrap:
                how = Found.BOOTSTRAP
            old = found.get(link.peer)
            if old is None or old.link.relayed:
                found[link.peer] = Neighbour(link, how)
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A connected peer."""

    link: Link
    found: Found


def _direct(address: str) -> str:
    return address.split("/p2p/", 1)[0]
