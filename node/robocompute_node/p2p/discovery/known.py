"""The nodes this one has heard of: who told it, what was reached, whom to dial next.

Pure: the time is an argument. A liar can fill its own share of this table and no more, and what
nobody reached is told to nobody.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_protocol import limits
from robocompute_protocol.money import Millis

from .places import Place, Scope, place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from random import Random  # noqa: TID251 as a type: the caller hands one in

    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.messages import PeerRecord, Signed

MAX_KNOWN: Final = 2_048
"""Nodes in the table: 2 MB with their records, and far more than a node ever dials."""
MAKE_ROOM: Final = 64
"""Nodes never reached that go at once where the table is full: sorting it costs a millisecond."""
MAX_UNREACHED_OF_ONE: Final = 128
"""Nodes never reached that one teller may keep here: four full answers."""
MAX_AT_ONE_HOST: Final = 8
"""Nodes never reached at one host: a rack behind one address, not a list aimed at a victim."""
MAX_AT_ONE_HOST_OF_ONE: Final = 4
"""Of those, by one teller: nobody alone can crowd out an honest node by naming fakes at its host."""
MAX_BEHIND_ONE_RELAY: Final = 64
"""The same for nodes that a relay at one host answers for: that is what relays are there for."""
MAX_ADDRESSES: Final = 8
"""Addresses of one node."""
HOST_DIALS: Final = 6
"""Dials of nodes never reached at one host a minute: an honest one is not to mistake it for an attack."""
HOST_WINDOW: Final = Millis(60_000)
MAX_HOSTS: Final = 1_024
"""Hosts whose dials are counted; the one not dialled for longest is forgotten."""
TRIES: Final = 3
"""A node never reached is dropped after so many dials."""
RETRY_MIN: Final = Millis(2_000)
"""First wait after a dial that failed; it doubles."""
RETRY_MAX: Final = Millis(600_000)
"""Longest wait: nodes once reached are tried for ever, ten minutes apart."""
VOUCHED_FOR: Final = Millis(3_600_000)
"""A node is named to others for an hour after it was reached."""
UNSIGNED_TTL: Final = Millis(3_600_000)
"""What came without a record, from the local network or a directory, is forgotten after this."""


class Found(StrEnum):
    """How this node learnt of another."""

    BOOTSTRAP = "bootstrap"
    REMEMBERED = "remembered"
    LAN = "lan"
    EXCHANGE = "exchange"
    RENDEZVOUS = "rendezvous"
    INBOUND = "inbound"
    """It connected to this node."""


@dataclass(slots=True)
class Known:
    """One node heard of."""

    peer: NodeKey
    found: Found
    teller: NodeKey | None
    """Whose word it is; None for the node's own settings, disk and wire."""
    addresses: tuple[str, ...]
    places: tuple[Place, ...]
    expires: Millis
    sequence: int = 0
    record: Signed | None = None
    relay: bool = False
    reached: set[str] = field(default_factory=set[str])
    """Addresses, as in ``Place.direct``, at which this node answered with its key."""
    reached_at: Millis | None = None
    failures: int = 0
    due: Millis = Millis(0)

    @property
    def is_hearsay(self) -> bool:
        """Whether somebody else said so: of itself, a node speaks over its own connection."""
        return self.teller not in {None, self.peer}


class KnownNodes:
    """A bounded table of ``Known``."""

    def __init__(self, own: NodeKey) -> None:
        self._own = own
        self._nodes: dict[NodeKey, Known] = {}
        self._of_teller: Counter[NodeKey] = Counter()
        self._at_host: Counter[str] = Counter()
        self._told_of_host: Counter[tuple[NodeKey | None, str]] = Counter()
        self._dials: OrderedDict[str, list[Millis]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def of(self, peer: NodeKey) -> Known | None:
        return self._nodes.get(peer)

    def hear(
        self,
        peer: NodeKey,
        addresses: Iterable[str],
        now: Millis,
        *,
        found: Found,
        over: Scope = Scope.LOOPBACK,
        teller: NodeKey | None = None,
        signed: tuple[PeerRecord, Signed] | None = None,
    ) -> bool:
        """Take note of where ``peer`` says, or somebody says, that it is; tell whether it was news.

        ``over`` is the reach of the connection it was heard over: narrower addresses are left out.
        """
        if peer == self._own:
            return False
        named, places = _believable(addresses, over)
        known = self._nodes.get(peer)
        if not named or (known is not None and not _newer(known, signed)):
            return False
        fresh = Known(
            peer=peer,
            found=found if known is None else known.found,
            teller=teller if known is None else known.teller,
            addresses=named,
            places=places,
            expires=Millis(now + UNSIGNED_TTL),
        )
        if signed is not None:
            record, envelope = signed
            fresh.sequence, fresh.record, fresh.relay = record.sequence, envelope, record.relay
            fresh.expires = Millis(record.sequence + record.ttl_ms)
        if known is not None:
            fresh.reached = {place.direct for place in places} & known.reached
            fresh.reached_at = known.reached_at if fresh.reached else None
            fresh.failures, fresh.due = known.failures, known.due
        elif not self._admits(fresh, now):
            return False
        self._drop(peer)
        self._nodes[peer] = fresh
        self._count(fresh, 1)
        return True

    def _admits(self, fresh: Known, now: Millis) -> bool:
        if fresh.teller is not None:
            if self._of_teller[fresh.teller] >= MAX_UNREACHED_OF_ONE:
                return False
            if fresh.is_hearsay and not all(self._has_room(fresh, each) for each in fresh.places):
                return False
        if len(self._nodes) >= MAX_KNOWN:
            self.forget_stale(now)
        if len(self._nodes) >= MAX_KNOWN:
            unreached = [each for each in self._nodes.values() if each.reached_at is None]
            unreached.sort(key=lambda each: (-each.failures, each.expires))
            for worst in unreached[:MAKE_ROOM]:
                self._drop(worst.peer)
        return len(self._nodes) < MAX_KNOWN

    def _has_room(self, fresh: Known, place: Place) -> bool:
        told = self._told_of_host[fresh.teller, place.host]
        if place.relay is not None:
            return self._at_host[place.host] < MAX_BEHIND_ONE_RELAY
        return self._at_host[place.host] < MAX_AT_ONE_HOST and told < MAX_AT_ONE_HOST_OF_ONE

    def _drop(self, peer: NodeKey) -> None:
        known = self._nodes.pop(peer, None)
        if known is not None:
            self._count(known, -1)

    def _count(self, known: Known, change: int) -> None:
        """Keep the books of what was never reached."""
        if known.reached_at is not None:
            return
        if known.teller is not None:
            self._of_teller[known.teller] += change
            if not self._of_teller[known.teller]:
                del self._of_teller[known.teller]
        if not known.is_hearsay:
            return
        for host in {place.host for place in known.places}:
            self._at_host[host] += change
            self._told_of_host[known.teller, host] += change
            if not self._at_host[host]:
                del self._at_host[host]
            if not self._told_of_host[known.teller, host]:
                del self._told_of_host[known.teller, host]

    def forget_stale(self, now: Millis) -> None:
        """Drop what was never reached and is over. What was reached stays to be tried again."""
        for known in list(self._nodes.values()):
            if known.reached_at is None and known.expires <= now:
                self._drop(known.peer)

    def reached(self, peer: NodeKey, direct: str, now: Millis) -> None:
        """``peer`` answered with its key at ``direct``, an address as in ``Place.direct``."""
        known = self._nodes.get(peer)
        if known is None:
            return
        known.failures, known.due = 0, now
        if any(place.direct == direct for place in known.places):
            self._count(known, -1)
            known.reached.add(direct)
            known.reached_at = now

    def failed(self, peer: NodeKey, now: Millis) -> None:
        """A dial of ``peer`` did not come through."""
        known = self._nodes.get(peer)
        if known is None:
            return
        known.failures += 1
        if known.reached_at is None and known.teller is not None and known.failures >= TRIES:
            self._drop(peer)
            return
        wait = min(RETRY_MAX, RETRY_MIN * 2 ** min(known.failures - 1, 16))
        known.due = Millis(now + wait)

    def to_dial(
        self, now: Millis, connected: Collection[NodeKey], count: int, rng: Random
    ) -> tuple[Known, ...]:
        """Choose up to ``count`` nodes to dial now, and count them against their hosts.

        Half are ones once reached, the rest is taken from the tellers in turn: so neither a long
        list of one liar nor a table of old acquaintances shuts the others out.
        """
        waiting = [
            each for each in self._nodes.values() if each.due <= now and each.peer not in connected
        ]
        rng.shuffle(waiting)
        old = [each for each in waiting if each.reached_at is not None or each.teller is None]
        new = list(_in_turn([each for each in waiting if each not in old]))
        chosen: list[Known] = []
        while len(chosen) < count and (old or new):
            pool = new if new and (not old or len(chosen) % 2) else old
            each = pool.pop(0)
            if each.reached_at is not None or self._may_dial(each, now):
                each.due = Millis(now + RETRY_MIN)
                chosen.append(each)
        return tuple(chosen)

    def _may_dial(self, known: Known, now: Millis) -> bool:
        hosts = {place.host for place in known.places}
        for host in hosts:
            recent = [at for at in self._dials.get(host, ()) if at > now - HOST_WINDOW]
            if len(recent) >= HOST_DIALS:
                return False
        for host in hosts:
            times = [at for at in self._dials.pop(host, []) if at > now - HOST_WINDOW]
            self._dials[host] = [*times, now]
        while len(self._dials) > MAX_HOSTS:
            self._dials.popitem(last=False)
        return True

    def vouched(
        self, now: Millis, over: Scope, rng: Random, *, leave_out: Collection[NodeKey]
    ) -> tuple[Signed, ...]:
        """Return records of nodes reached of late, at random, that somebody ``over`` away may use."""
        good = [
            each.record
            for each in self._nodes.values()
            if each.record is not None
            and each.expires > now
            and each.reached_at is not None
            and each.reached_at > now - VOUCHED_FOR
            and each.peer not in leave_out
            and any(place.scope >= over for place in each.places)
        ]
        return tuple(rng.sample(good, min(len(good), limits.MAX_PEER_RECORDS)))

    def relays(self, now: Millis) -> tuple[Known, ...]:
        """Nodes that say they relay."""
        return tuple(each for each in self._nodes.values() if each.relay and each.expires > now)


def _believable(
    addresses: Iterable[str], over: Scope
) -> tuple[tuple[str, ...], tuple[Place, ...]]:
    named: list[str] = []
    places: list[Place] = []
    for text in addresses:
        try:
            place = place_of(text)
        except ValueError:
            continue
        if place.scope >= over and text not in named and len(named) < MAX_ADDRESSES:
            named.append(text)
            places.append(place)
    return tuple(named), tuple(places)


def _newer(known: Known, signed: tuple[PeerRecord, Signed] | None) -> bool:
    """A signed record beats everything older; hearsay changes nothing that was signed."""
    if signed is None:
        return known.record is None
    return signed[0].sequence > known.sequence


def _in_turn(nodes: list[Known]) -> Iterator[Known]:
    """One of each teller, then a second of each, and so on."""
    by_teller: dict[NodeKey | None, list[Known]] = {}
    for each in nodes:
        by_teller.setdefault(each.teller, []).append(each)
    while by_teller:
        for teller in list(by_teller):
            yield by_teller[teller].pop(0)
            if not by_teller[teller]:
                del by_teller[teller]
