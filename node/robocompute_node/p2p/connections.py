"""Who may connect, and who has to go: the connection table.

Pure bookkeeping over addresses, peers and times. The swarm asks it at every arrival, and closes
what it names.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .bounds import MAX_TRACKED_PEERS, PeerBounds, Rates, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Collection

    from robocompute_protocol.identifiers import NodeKey

NEVER: Final = float("-inf")


class Refusal(StrEnum):
    """Why somebody is not let in."""

    HALF_OPEN = "half_open"
    HALF_OPEN_OF_ADDRESS = "half_open_of_address"
    TOO_FAST = "too_fast"
    ADDRESS_TOO_FAST = "address_too_fast"
    ADDRESS_FULL = "address_full"
    NETWORK_FULL = "network_full"
    FULL = "full"
    OVERLOADED = "overloaded"
    BARRED = "barred"
    NO_NODE_KEY = "no_node_key"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from, as far as whoever sits there can choose it freely."""

    address: str
    """An IPv4 address, or an IPv6 /64: within one, a host takes as many as it likes."""
    network: str
    """The /24 or /48 around it: what one tenant usually gets."""


NOWHERE: Final = Origin("", "")
"""The origin of a connection that has no address of its own, such as one through a relay."""


def origin_of(host: str) -> Origin:
    """Return the origin of a peer at ``host``; ``NOWHERE`` where that is no IP address."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return NOWHERE
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    near, wide = (32, 24) if ip.version == 4 else (64, 48)
    return Origin(
        str(ipaddress.ip_network((ip, near), strict=False)),
        str(ipaddress.ip_network((ip, wide), strict=False)),
    )


@dataclass(slots=True, eq=False)
class Knock:
    """An inbound handshake under way."""

    origin: Origin


@dataclass(slots=True, eq=False)
class Visit:
    """One open connection."""

    peer: NodeKey
    inbound: bool
    since: float
    origin: Origin = NOWHERE


class ConnectionTable:
    """Every connection of this node, half open or open, and of what use it was."""

    def __init__(self, bounds: PeerBounds) -> None:
        self._bounds = bounds
        self._knocks: set[Knock] = set()
        self._visits: set[Visit] = set()
        self._half_open: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._networks: Counter[str] = Counter()
        self._arrivals = TokenBucket(bounds.arrivals_per_second, bounds.arrivals_burst)
        self._of_address: Rates[str] = Rates(
            bounds.arrivals_per_address_per_second, bounds.arrivals_per_address_burst
        )
        self.lag_s = 0.0
        """How late this process runs just now, as the shell measures it."""
        self._useful: OrderedDict[NodeKey, float] = OrderedDict()

    @property
    def half_open(self) -> int:
        return len(self._knocks)

    @property
    def total(self) -> int:
        return len(self._visits)

    @property
    def inbound(self) -> int:
        return sum(visit.inbound for visit in self._visits)

    def knock(self, host: str, now: float, protected: Collection[NodeKey]) -> Knock | Refusal:
        """Somebody at ``host`` asks for a handshake. A ``Knock`` calls for one ``answered``."""
        bounds, origin = self._bounds, origin_of(host)
        if self.lag_s > bounds.shed_at_lag_s:
            return Refusal.OVERLOADED
        if len(self._knocks) >= bounds.half_open_connections:
            return Refusal.HALF_OPEN
        if self._half_open[origin.address] >= bounds.half_open_per_address:
            return Refusal.HALF_OPEN_OF_ADDRESS
        if self._addresses[origin.address] >= bounds.connections_per_address:
            return Refusal.ADDRESS_FULL
        if self._networks[origin.network] >= bounds.connections_per_network:
            return Refusal.NETWORK_FULL
        if self.is_full and self.least_useful(now, protected) is None:
            return Refusal.FULL
        if not self._of_address.take(origin.address, now):
            return Refusal.ADDRESS_TOO_FAST
        if not self._arrivals.take(now):
            return Refusal.TOO_FAST
        knock = Knock(origin)
        self._knocks.add(knock)
        self._half_open[origin.address] += 1
        self._count(origin, 1)
        return knock

    def answered(self, knock: Knock, visit: Visit | None) -> None:
        """The handshake is over: it became ``visit``, or nothing."""
        self._knocks.remove(knock)
        _subtract(self._half_open, knock.origin.address)
        if visit is not None and visit in self._visits:
            visit.origin = knock.origin  # counted already
        else:
            self._count(knock.origin, -1)

    def arrive(self, peer: NodeKey, *, inbound: bool, now: float) -> Visit:
        """A connection is open. Calls for one ``leave``."""
        visit = Visit(peer, inbound, now)
        self._visits.add(visit)
        return visit

    def leave(self, visit: Visit) -> None:
        """A connection is over. Repeatable."""
        if visit in self._visits:
            self._visits.remove(visit)
            self._count(visit.origin, -1)

    def note_useful(self, peer: NodeKey, now: float) -> None:
        """``peer`` just did something this node wants: a request served, an offer brought."""
        self._useful[peer] = now
        self._useful.move_to_end(peer)
        while len(self._useful) > MAX_TRACKED_PEERS:
            self._useful.popitem(last=False)

    @property
    def is_full(self) -> bool:
        """Whether one more from outside calls for one to go."""
        return (
            self.inbound >= self._bounds.inbound_connections
            or len(self._visits) >= self._bounds.connections
        )

    @property
    def is_over(self) -> bool:
        """Whether there is one too many."""
        return (
            self.inbound > self._bounds.inbound_connections
            or len(self._visits) > self._bounds.connections
        )

    def least_useful(self, now: float, protected: Collection[NodeKey]) -> Visit | None:
        """The inbound connection that would be missed least, if one may go at all.

        The longest without use goes first; among those of no use yet, one from the network that
        holds the most, so that a crowd from one place displaces itself. Connections of
        ``protected`` peers, those this node dialled and those still in their grace stay.
        """
        candidates = [
            visit
            for visit in self._visits
            if visit.inbound
            and visit.peer not in protected
            and now - visit.since >= self._bounds.grace_s
        ]
        return min(candidates, key=self._rank, default=None)

    def _rank(self, visit: Visit) -> tuple[float, int, float]:
        useful_at = self._useful.get(visit.peer, NEVER)
        return useful_at, -self._networks[visit.origin.network], visit.since

    def _count(self, origin: Origin, by: int) -> None:
        if origin is NOWHERE:
            return
        for counter, name in (
            (self._addresses, origin.address),
            (self._networks, origin.network),
        ):
            counter[name] += by
            if not counter[name]:
                del counter[name]


def _subtract(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
