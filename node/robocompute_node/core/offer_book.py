"""The live offers a node knows, newest per provider and class; every bound a peer could push on.

No message takes time that grows with the book: what is over is found by the second in which it ends,
and what fits a task in shelves of one class, one shape and rising prices.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from robocompute_node.core.matching import fits, slots_needed
from robocompute_protocol import limits
from robocompute_protocol.messages import CLASSES, Offer, Signed
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Requirements
    from robocompute_protocol.money import MicroUnits

MAX_OFFERS: Final = 50_000
"""Offers in the book: with all that finds them about 140 MB, and 300 MB of the largest ones."""
MAX_OFFER_BYTES: Final = 2_048
"""One signed offer: eight addresses and long names fit, and a full book stays bounded in bytes."""
OFFER_SPACING: Final = Millis(1_000)
"""An offer is this much newer than the one it replaces: more often nobody needs to hear of one."""
SWEPT_AT_ONCE: Final = 64
"""Offers that are over, forgotten with each one that comes: more than come in, so none pile up."""
Name = tuple["NodeKey", str]
"""A provider has at most one offer of a class."""


class Verdict(StrEnum):
    """What became of an offer that arrived."""

    NEW = "new"
    KNOWN = "known"
    """Not newer than what is here: not relayed again."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class BookEntry:
    """An offer, and the very bytes its provider signed, for passing on."""

    offer: Offer
    signed: Signed
    expires_ms: Millis
    backed: bool
    """A stake on chain stands behind all its slots, as far as this node knows."""


class _Wheel:
    """Names by the second in which they end: there are at most as many as the longest life has."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[Name, None]] = {}
        self._order: list[int] = []
        """A heap of them; one that emptied stays until it is met."""

    def add(self, name: Name, at: Millis) -> None:
        second = at // 1_000
        names = self._seconds.get(second)
        if names is None:
            names = self._seconds[second] = {}
            heapq.heappush(self._order, second)
        names[name] = None

    def remove(self, name: Name, at: Millis) -> None:
        del self._seconds[at // 1_000][name]

    def _first_second(self) -> int | None:
        while self._order and not self._seconds[self._order[0]]:
            del self._seconds[heapq.heappop(self._order)]
        return self._order[0] if self._order else None

    def first(self) -> Name | None:
        """One of those that end first."""
        second = self._first_second()
        return None if second is None else next(iter(self._seconds[second]))

    def over(self, now: Millis, *, at_most: int) -> tuple[Name, ...]:
        """Return names of one second that has passed."""
        second = self._first_second()
        if second is None or second >= now // 1_000:
            return ()
        return tuple(islice(self._seconds[second], at_most))


class _Shape(NamedTuple):
    """Lengths in bits: where one is shorter than a task's, no offer of this shape fits the task."""

    slots: int
    gpu_memory: int
    cpu_cores: int
    memory: int
    disk: int


_Row = tuple[int, int, int, "NodeKey"]
"""Price, then what breaks ties: cores, memory, provider."""


class _Shelf:
    """Offers of one class and mint, cheapest first within each shape."""

    def __init__(self) -> None:
        self._rows: dict[_Shape, list[_Row]] = {}

    def put(self, offer: Offer) -> None:
        insort(self._rows.setdefault(_shape(offer), []), _row(offer))

    def remove(self, offer: Offer) -> None:
        shape, row = _shape(offer), _row(offer)
        rows = self._rows[shape]
        del rows[bisect_left(rows, row)]
        if not rows:
            del self._rows[shape]

    def cheapest(self, wanted: Requirements) -> Iterator[_Row]:
        """Rows of all shapes that could fit, by price."""
        least = _least_shape(wanted)
        found = [
            rows
            for shape, rows in self._rows.items()
            if all(have >= need for have, need in zip(shape, least, strict=True))
        ]
        return heapq.merge(*found)


def _shape(offer: Offer) -> _Shape:
    return _Shape(
        offer.slots.bit_length(),
        offer.gpu_memory_mib.bit_length(),
        offer.cpu_cores.bit_length(),
        offer.memory_mib.bit_length(),
        offer.disk_mib.bit_length(),
    )


def _least_shape(wanted: Requirements) -> _Shape:
    slots = slots_needed(wanted)

    def a_slot(total: int) -> int:
        return (-(-total // slots)).bit_length()

    return _Shape(
        slots.bit_length(),
        wanted.gpu_memory_mib.bit_length(),
        a_slot(wanted.cpu_cores),
        a_slot(wanted.memory_mib),
        a_slot(wanted.disk_mib),
    )


def _row(offer: Offer) -> _Row:
    return (offer.price_per_hour, offer.cpu_cores, offer.memory_mib, offer.provider)


def _nobody(_offer: Offer) -> bool:
    return False


class OfferBook:
    """Newest offer per (provider, class). Withdrawn ones are remembered until none can return.

    Offers with stake behind them come first: in a full book others make room for them, and are not
    taken themselves. Anybody can invent a key; a stake costs.
    """

    def __init__(
        self, *, capacity: int = MAX_OFFERS, backed: Callable[[Offer], bool] = _nobody
    ) -> None:
        """Begin with nothing. ``backed`` tells, without asking anybody, whether stake is behind one."""
        self._capacity = capacity
        self._backed = backed
        self._entries: dict[Name, BookEntry] = {}
        self._wheels = {True: _Wheel(), False: _Wheel()}
        self._shelves: dict[tuple[str, Address, bool], _Shelf] = {}

    def __len__(self) -> int:
        """Everything held, withdrawn offers included."""
        return len(self._entries)

    def is_backed(self, offer: Offer) -> bool:
        """Whether there is stake behind all slots of ``offer``, as far as is known."""
        return self._backed(offer)

    def judge(self, offer: Offer, now: Millis) -> Verdict:
        """Whether ``offer`` would be taken; changes nothing, and needs no signature checked yet."""
        if offer.resource_class not in CLASSES or offer.sequence > now + limits.MAX_CLOCK_AHEAD:
            return Verdict.REFUSED
        if _expiry(offer) <= now:
            return Verdict.REFUSED
        known = self._entries.get((offer.provider, offer.resource_class))
        if known is None:
            room = len(self._entries) < self._capacity or self._backed(offer)
            return Verdict.NEW if room else Verdict.REFUSED
        if known.offer.sequence >= offer.sequence:
            return Verdict.KNOWN
        if offer.ttl_ms > 0 and offer.sequence < known.offer.sequence + OFFER_SPACING:
            return Verdict.REFUSED
        return Verdict.NEW

    def take(self, offer: Offer, signed: Signed, now: Millis) -> Verdict:
        """Put ``offer`` in if it is new. ``signed`` must have been verified."""
        self.sweep(now)
        verdict = self.judge(offer, now)
        if verdict is Verdict.NEW:
            name = (offer.provider, offer.resource_class)
            if name in self._entries:
                self._drop(name)
            elif len(self._entries) >= self._capacity:
                first = self._wheels[False].first() or self._wheels[True].first()
                assert first is not None
                self._drop(first)
            self._put(name, BookEntry(offer, signed, _expiry(offer), self._backed(offer)))
        return verdict

    def _put(self, name: Name, entry: BookEntry) -> None:
        self._entries[name] = entry
        self._wheels[entry.backed].add(name, entry.expires_ms)
        if entry.offer.ttl_ms > 0:
            self._shelf(entry).put(entry.offer)

    def _drop(self, name: Name) -> None:
        entry = self._entries.pop(name)
        self._wheels[entry.backed].remove(name, entry.expires_ms)
        if entry.offer.ttl_ms > 0:
            self._shelf(entry).remove(entry.offer)

    def _shelf(self, entry: BookEntry) -> _Shelf:
        place = (entry.offer.resource_class, entry.offer.mint, entry.backed)
        return self._shelves.setdefault(place, _Shelf())

    def sweep(self, now: Millis) -> None:
        """Forget some of what is over: a bounded number, so that no message waits for the rest."""
        for wheel in self._wheels.values():
            for name in wheel.over(now, at_most=SWEPT_AT_ONCE):
                self._drop(name)

    def reassess(self, provider: NodeKey) -> None:
        """Look again at what is behind a provider's offers: its stake is not what it was."""
        for resource_class in CLASSES:
            name = (provider, resource_class)
            entry = self._entries.get(name)
            if entry is not None and (backed := self._backed(entry.offer)) != entry.backed:
                self._drop(name)
                self._put(name, BookEntry(entry.offer, entry.signed, entry.expires_ms, backed))

    def get(self, provider: NodeKey, resource_class: str, now: Millis) -> BookEntry | None:
        """A provider's live offer of a class."""
        entry = self._entries.get((provider, resource_class))
        return entry if entry is not None and _is_live(entry, now) else None

    def live(self, now: Millis) -> Iterator[BookEntry]:
        """Offers that stand: no tombstones, nothing expired."""
        return (entry for entry in self._entries.values() if _is_live(entry, now))

    def fitting(
        self,
        wanted: Requirements,
        *,
        mint: Address,
        max_price: MicroUnits | None,
        now: Millis,
        without: frozenset[NodeKey] = frozenset(),
        at_most: int,
    ) -> tuple[BookEntry, ...]:
        """Live offers that fit, those with stake first, each kind by price; the cheapest ``at_most``.

        Takes time that depends on what is asked for and not on how many offers there are, but for a
        task that hardly anything fits: then at worst each offer of the class is looked at.
        """
        found: list[BookEntry] = []
        for backed in (True, False):
            shelf = self._shelves.get((wanted.resource_class, mint, backed))
            rows = () if shelf is None else shelf.cheapest(wanted)
            for price, _, _, provider in rows:
                if len(found) >= at_most or (
                    max_price is not None and price * slots_needed(wanted) > max_price
                ):
                    break
                if provider in without:
                    continue
                entry = self._entries[provider, wanted.resource_class]
                if _is_live(entry, now) and fits(entry.offer, wanted, max_price):
                    found.append(entry)
        return tuple(found)

    def everything(self, now: Millis) -> tuple[BookEntry, ...]:
        """For a late joiner: tombstones too, so that a withdrawn offer never comes back."""
        return tuple(entry for entry in self._entries.values() if entry.expires_ms > now)


def _is_live(entry: BookEntry, now: Millis) -> bool:
    return entry.offer.ttl_ms > 0 and entry.expires_ms > now


def _expiry(offer: Offer) -> Millis:
    if offer.ttl_ms == 0:
        return Millis(offer.sequence + limits.MAX_OFFER_TTL + limits.TOMBSTONE_EXTRA)
    return Millis(offer.sequence + offer.ttl_ms)
