"""Task bids that were heard: each once, and no more of them than are worth remembering."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from robocompute_protocol import limits
from robocompute_protocol.messages import CLASSES
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.messages import Bid

MAX_BID_BYTES: Final = 1_024
"""One signed bid: requirements and eight addresses, and nothing of the task."""
MAX_BID_TTL: Final = Millis(60_000)
"""A bid is answered in a second or never: an older one is noise."""
BID_SPACING: Final = Millis(1_000)
"""A client's bids of one class are this far apart."""
MAX_BIDS: Final = 4_096
"""Bids remembered, so that none is relayed twice: a minute of them at the rate that is looked at."""


class BidBook:
    """The newest bid of each client and class. The ones heard first make room."""

    def __init__(self, *, capacity: int = MAX_BIDS) -> None:
        self._capacity = capacity
        self._newest: OrderedDict[tuple[NodeKey, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def is_news(self, bid: Bid, now: Millis) -> bool:
        """Whether ``bid`` is alive and was not heard before; changes nothing."""
        if bid.requirements.resource_class not in CLASSES or not 0 < bid.ttl_ms <= MAX_BID_TTL:
            return False
        if not now - bid.ttl_ms < bid.sequence <= now + limits.MAX_CLOCK_AHEAD:
            return False
        last = self._newest.get((bid.client, bid.requirements.resource_class))
        return last is None or bid.sequence >= last + BID_SPACING

    def take(self, bid: Bid, now: Millis) -> bool:
        """Remember ``bid``, whose signature was checked; False where it is no news."""
        if not self.is_news(bid, now):
            return False
        name = (bid.client, bid.requirements.resource_class)
        self._newest[name] = bid.sequence
        self._newest.move_to_end(name)
        while len(self._newest) > self._capacity:
            self._newest.popitem(last=False)
        return True
