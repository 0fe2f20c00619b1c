"""The live offers a node knows, newest per provider and class; every bound a peer could push on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_protocol import limits
from robocompute_protocol.messages import CLASSES, Offer, Signed
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from robocompute_protocol.identifiers import NodeKey

MAX_OFFERS: Final = 50_000
"""Offers in the book: about 60 MB; beyond that the ones that expire first make room."""


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


class OfferBook:
    """Newest offer per (provider, class). Withdrawn ones are remembered until none can return."""

    def __init__(self, *, capacity: int = MAX_OFFERS) -> None:
        self._capacity = capacity
        self._entries: dict[tuple[NodeKey, str], BookEntry] = {}

    def judge(self, offer: Offer, now: Millis) -> Verdict:
        """Whether ``offer`` would be taken; changes nothing, so a gossip validator may ask."""
        if offer.resource_class not in CLASSES or offer.sequence > now + limits.MAX_CLOCK_AHEAD:
            return Verdict.REFUSED
        if self._expiry(offer) <= now:
            return Verdict.REFUSED
        known = self._entries.get((offer.provider, offer.resource_class))
        if known is not None and known.offer.sequence >= offer.sequence:
            return Verdict.KNOWN
        return Verdict.NEW

    def take(self, offer: Offer, signed: Signed, now: Millis) -> Verdict:
        """Put ``offer`` in if it is new. ``signed`` must have been verified."""
        verdict = self.judge(offer, now)
        if verdict is Verdict.NEW:
            self.expire(now)
            name = (offer.provider, offer.resource_class)
            if len(self._entries) >= self._capacity and name not in self._entries:
                first = min(self._entries, key=lambda key: self._entries[key].expires_ms)
                del self._entries[first]
            entry = BookEntry(offer, signed, self._expiry(offer))
            self._entries[name] = entry
        return verdict

    @staticmethod
    def _expiry(offer: Offer) -> Millis:
        if offer.ttl_ms == 0:
            return Millis(offer.sequence + limits.MAX_OFFER_TTL + limits.TOMBSTONE_EXTRA)
        return Millis(offer.sequence + offer.ttl_ms)

    def expire(self, now: Millis) -> None:
        """Forget what is over."""
        gone = [key for key, entry in self._entries.items() if entry.expires_ms <= now]
        for key in gone:
            del self._entries[key]

    def live(self, now: Millis) -> Iterator[BookEntry]:
        """Offers that stand: no tombstones, nothing expired."""
        for entry in self._entries.values():
            if entry.offer.ttl_ms > 0 and entry.expires_ms > now:
                yield entry

    def everything(self) -> tuple[BookEntry, ...]:
        """For a late joiner: tombstones too, so that a withdrawn offer never comes back."""
        return tuple(self._entries.values())
