"""How much gossip that costs its sender nothing is looked at: of one forwarder, and in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.p2p.bounds import Rates, TokenBucket

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.money import Millis


class GossipGate:
    """Lets so many messages by. The rest is dropped before its signature is checked."""

    def __init__(self, *, of_one: float, of_one_burst: float, in_all: float, burst: float) -> None:
        """Set what is let by a second, of each forwarder and of all together, and how much at once."""
        self._each: Rates[NodeKey] = Rates(of_one, of_one_burst)
        self._all = TokenBucket(in_all, burst)

    def take(self, forwarder: NodeKey, now: Millis) -> bool:
        """Whether one more from ``forwarder`` is looked at. One that floods spends only its own."""
        return self._each.take(forwarder, now / 1_000) and self._all.take(now / 1_000)
