"""What one peer, one address and all of them together may ask of this node.

Pure bookkeeping: the time is an argument, and nothing here knows of sockets.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey

MAX_TRACKED_PEERS: Final = 4_096
"""Peers whose rates are remembered; the one not heard of for longest is forgotten first."""


K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBounds:
    """What the node allows. The defaults suit a node with a thousand peers on two cores."""

    streams_at_once: int = 128
    """Streams one peer may have open here: each costs up to a window of memory."""
    streams_in_all: int = 2_048
    """Streams all peers together may have open here: each costs two tasks and their stacks."""
    streams_per_second: float = 100.0
    """Streams one peer may open in the long run: each costs about a millisecond to negotiate."""
    streams_burst: int = 256
    """Streams one peer may open at once after a quiet time."""
    connections_per_peer: int = 3
    """Two sides that dial at the same moment make two; one more while an old one dies."""
    connections_per_address: int = 64
    """Inbound connections, half open ones too, from one IPv4 address or IPv6 /64: a rack behind
    a router has one."""
    connections_per_network: int = 128
    """The same from one IPv4 /24 or IPv6 /48: half of the inbound ones, so one owner of a network
    cannot keep the rest of the world out."""
    connections: int = 320
    """Open connections in all: each costs a socket and about 150 kB."""
    inbound_connections: int = 256
    """Of those, from outside: so strangers cannot keep this node from dialling."""
    half_open_connections: int = 192
    """Inbound handshakes under way: a stranger gets ``handshake_s`` and no more."""
    half_open_per_address: int = 48
    """Of those, from one address: the others must get their turn."""
    arrivals_per_second: float = 40.0
    """Inbound connections let in a second in the long run: a handshake costs 10 ms of CPU."""
    arrivals_burst: int = 320
    """Inbound connections let in at once after a quiet time: as many as may be open."""
    arrivals_per_address_per_second: float = 20.0
    """Of those, from one address: half, so that nobody takes them all."""
    arrivals_per_address_burst: int = 128
    """Of those, from one address at once: a rack that comes back after a power cut."""
    shed_at_lag_s: float = 1.0
    """Seconds that this process runs late from which on newcomers are turned away: those that are
    connected would lose their connections, because their pings go unanswered."""
    grace_s: float = 20.0
    """Seconds in which a connection need not have been of use: it is not pruned before."""
    dials_at_once: int = 32
    """Outbound connections being made: each costs a socket and a handshake's 10 ms."""
    handshake_s: int = 8
    """Seconds for a handshake, and for naming the protocol of a new stream: five round trips on a
    satellite link, or with a node that is short of CPU."""
    linger_s: float = 30.0
    """Seconds a peer may take to end its side of a stream after we ended ours."""
    write_deadline_s: float = 30.0
    """Seconds a peer may leave one frame unread."""
    unread_per_connection: int = 8 * 1024 * 1024
    """Bytes one connection may hold here unread: four full windows. Beyond, it is not read from."""
    unread_in_all: int = 64 * 1024 * 1024
    """Bytes all connections may hold unread. Beyond, those over their share are not read from."""
    unread_s: float = 8.0
    """Seconds a connection may stay over its bound before it is closed. Less than the ten that a
    peer's ping may go unanswered, so that the reason in the log is the right one."""
    gossip_per_second: float = 200.0
    """Gossip messages one peer may forward in the long run: a whole Python node relays 300."""
    gossip_burst: int = 2_048
    """Gossip messages one peer may forward at once: a full queue of an honest peer."""
    topics_per_peer: int = 64
    """Topics one peer may subscribe to: two kinds for a closed list of classes."""
    topic_changes_per_second: float = 2.0
    """Subscriptions one peer may change in the long run: each makes us send recent messages."""
    topic_changes_burst: int = 256
    """Subscriptions one peer may change at once: all of its topics, left and joined twice."""
    control_entries: int = 256
    """Entries looked at in one gossip control message: two for each topic, with room to spare."""
    wanted_per_rpc: int = 64
    """Messages one request may ask of us, each once: 64 of 16 kB are a megabyte."""
    offences_per_second: float = 2.0
    """Refused streams and unreadable messages forgiven in the long run."""
    offences_burst: int = 128
    """The same at once: an honest peer that starts a hundred jobs is refused, not shut out."""
    barred_s: float = 60.0
    """Seconds a peer that offended more stays shut out: its handshakes are not worth their CPU."""


@dataclass(slots=True)
class TokenBucket:
    """Allows ``burst`` at once and ``per_second`` in the long run."""

    per_second: float
    burst: float
    _left: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float) -> bool:
        """Take one token at time ``now`` (seconds, never going back); False when none is left."""
        if self._at is not None:
            self._left = min(self.burst, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Rates(Generic[K]):
    """One bucket a peer (or an address), for as many as are worth remembering."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def take(self, whose: K, now: float) -> bool:
        bucket = self._buckets.get(whose)
        if bucket is None:
            while len(self._buckets) >= MAX_TRACKED_PEERS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[whose] = TokenBucket(self._per_second, self._burst)
        else:
            self._buckets.move_to_end(whose)
        return bucket.take(now)


class StreamGate:
    """Counts the inbound streams, each peer's and all."""

    def __init__(self, bounds: PeerBounds) -> None:
        self._at_once = bounds.streams_at_once
        self._in_all = bounds.streams_in_all
        self._rates: Rates[NodeKey] = Rates(bounds.streams_per_second, bounds.streams_burst)
        self._open: dict[NodeKey, int] = {}
        self.total = 0

    def enter(self, peer: NodeKey, now: float) -> bool:
        """Let one more stream of ``peer`` in. True calls for one ``leave``."""
        count = self._open.get(peer, 0)
        if count >= self._at_once or self.total >= self._in_all:
            return False
        if not self._rates.take(peer, now):
            return False
        self._open[peer] = count + 1
        self.total += 1
        return True

    def leave(self, peer: NodeKey) -> None:
        self.total -= 1
        count = self._open[peer] - 1
        if count:
            self._open[peer] = count
        else:
            del self._open[peer]


class Offences:
    """Counts what no honest peer does often, and who is shut out for it."""

    def __init__(self, bounds: PeerBounds) -> None:
        self._rates: Rates[NodeKey] = Rates(bounds.offences_per_second, bounds.offences_burst)
        self._barred_s = bounds.barred_s
        self._barred: OrderedDict[NodeKey, float] = OrderedDict()

    def note(self, peer: NodeKey, now: float) -> bool:
        """Count one offence; True when it is the one too many, and ``peer`` is shut out from now."""
        if self._rates.take(peer, now) or self.is_barred(peer, now):
            return False
        while len(self._barred) >= MAX_TRACKED_PEERS:
            self._barred.popitem(last=False)
        self._barred[peer] = now + self._barred_s
        return True

    def is_barred(self, peer: NodeKey, now: float) -> bool:
        until = self._barred.get(peer)
        if until is None:
            return False
        if now < until:
            return True
        del self._barred[peer]
        return False
