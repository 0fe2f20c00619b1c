"""What a simulated market is made of: its settings, its nodes and what is counted of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.core.reputation import (
    Standing,
)
from robocompute_protocol.identifiers import Address, NodeKey
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_node.core.offer_book import OfferBook
    from robocompute_node.core.slots import SlotTable
    from robocompute_protocol.messages import Offer, Signed


START: Final = Millis(1_800_000_000_000)
REGIONS_MS: Final = (
    (8, 45, 75, 110, 90, 140),
    (45, 8, 70, 125, 60, 120),
    (75, 70, 8, 85, 55, 75),
    (110, 125, 85, 8, 120, 60),
    (90, 60, 55, 120, 8, 95),
    (140, 120, 75, 60, 95, 8),
)
"""One way between six parts of the world."""
JITTER_MS: Final = 6.0
LOSS: Final = 0.01
"""Share of direct messages that are sent again, ``RESENT_MS`` later."""
RESENT_MS: Final = 250
HOP_LOSS: Final = 0.02
"""Share of gossip hops that go the second-best way."""
MISSED: Final = 0.003
"""Share of gossip that a node never hears: it was busy, or its mesh was being mended."""
LINKS: Final = 4
"""Each node dials so many others: eight neighbours on average, as gossip's mesh of six wants."""
RETRY_MS: Final = 2_000
"""Between searches of a task that found nobody."""
PATIENCE_MS: Final = 120_000
"""A task that found nobody for so long is given up."""
FIRST_TICK: Final = Millis(10_000)
STARTS_MS: Final = 1_500
"""From the lease to the program's start, or to the word that it cannot."""


class Honesty(StrEnum):
    """What a provider is like. All but the first lie, in equal shares."""

    HONEST = "honest"
    STALE = "stale offers"
    """Offers slots that it never has."""
    FAKE = "fake capacity"
    """Offers, cheaply, what it has not; takes the job and cannot start it."""
    SILENT = "never answers"
    REFUSER = "refuses after the quote"


LIARS: Final = (Honesty.STALE, Honesty.FAKE, Honesty.SILENT, Honesty.REFUSER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated. Times are of the simulated clock."""

    nodes: int = 10_000
    sampled: int = 32
    """Clients with a full book of their own."""
    minutes: float = 10.0
    liars: float = 0.2
    busy: float = 0.6
    """Share of honest slots that others' jobs hold."""
    job_minutes: float = 4.0
    tasks_per_client: int = 30
    leaves_per_hour: float = 0.5
    """How often a provider goes away; it is back after some minutes. Half say so."""
    staked: float = 0.7
    shun_s: float = 0.0
    """How long a search leaves out who said it was full; 0: not at all. What that would bring."""
    seed: int = 5


@dataclass(slots=True, eq=False)
class Provider:
    """One provider: what it lets, what it is like, and its slots."""

    number: int
    region: int
    offer: Offer
    honesty: Honesty
    slots: SlotTable
    online: bool = True
    announced: int = 0
    heard: int = 0


@dataclass(slots=True, eq=False)
class Client:
    """A sampled node: its own book, and what it learnt of providers."""

    number: int
    region: int
    payer: Address
    book: OfferBook
    reach: list[tuple[int, int]]
    """Milliseconds and hops that gossip takes from each provider."""
    coming: list[tuple[Millis, int, Offer, Signed]] = field(
        default_factory=list["tuple[Millis, int, Offer, Signed]"]
    )
    standings: dict[NodeKey, Standing] = field(default_factory=dict[NodeKey, Standing])
    latency: dict[NodeKey, Millis] = field(default_factory=dict[NodeKey, Millis])
    away: dict[NodeKey, Millis] = field(default_factory=dict[NodeKey, Millis])
    sent: int = 0


@dataclass(slots=True)
class Tally:
    """What came of it."""

    waits_ms: list[int] = field(default_factory=list[int])
    asked: Counter[str] = field(default_factory=Counter[str])
    """Quote requests by what came of them."""
    ordered: Counter[str] = field(default_factory=Counter[str])
    tasks: int = 0
    unmatched: int = 0
    announcements: int = 0
    taken: int = 0
    """Offers that came to a sampled book."""
    trace: Any = field(default_factory=hashlib.sha256)

    def note(self, *what: object) -> None:
        """Mix one outcome into the digest of the whole run."""
        self.trace.update(repr(what).encode())


def node_of(payer: Address) -> NodeKey:
    """Return the key of a client's node: here each payer has one."""
    return NodeKey(bytes(payer))
