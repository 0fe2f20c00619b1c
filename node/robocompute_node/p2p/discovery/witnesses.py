"""Whether this node can be dialled from outside, by what its peers say. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_protocol.money import Millis

from .places import Scope, ip_address_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from robocompute_protocol.identifiers import NodeKey

MAX_WITNESSES: Final = 8
"""Peers whose word counts, the latest: one liar among them changes nothing."""
ENOUGH: Final = 5
"""Peers asked in a while: each costs the network a few dials."""
GOOD_FOR: Final = Millis(1_800_000)
"""A router is set up anew now and then: older words do not count."""
CONFIRMATIONS: Final = 2
"""Peers that must have dialled an address before it is announced: one alone could aim others at a
victim's."""


class Reach(StrEnum):
    """Whether a node can be dialled."""

    UNKNOWN = "unknown"
    DIRECT = "direct"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class _Word:
    ip: str
    scope: Scope
    ports: tuple[int, ...]
    at: Millis


class Witnesses:
    """What peers said that they could dial."""

    def __init__(self, trusted: Collection[NodeKey] = ()) -> None:
        """Take the word of ``trusted`` alone, too: the owner's own bootstrap nodes."""
        self._trusted = trusted
        self._words: OrderedDict[NodeKey, _Word] = OrderedDict()

    def note(self, peer: NodeKey, ip: str, ports: tuple[int, ...], now: Millis) -> bool:
        """Take the word of ``peer`` in; False if it names no address."""
        try:
            scope = scope_of(ip)
        except ValueError:
            return False
        self._words.pop(peer, None)
        self._words[peer] = _Word(ip, scope, ports, now)
        while len(self._words) > MAX_WITNESSES:
            self._words.popitem(last=False)
        return True

    def wants(self, peer: NodeKey, now: Millis) -> bool:
        """Whether a word of ``peer`` would help."""
        fresh = {each for each, word in self._words.items() if word.at > now - GOOD_FOR}
        return peer not in fresh and len(fresh) < ENOUGH

    def reach(self, now: Millis) -> Reach:
        """Most voices of those furthest away: what a neighbour can dial says nothing of the world."""
        words = self._widest(now)
        reached = sum(bool(word.ports) for word in words.values())
        if reached * 2 == len(words):
            return Reach.UNKNOWN
        return Reach.DIRECT if reached * 2 > len(words) else Reach.NOT

    def confirmed(self, now: Millis) -> tuple[str, ...]:
        """Addresses that enough peers dialled."""
        counts: dict[str, int] = {}
        for peer, word in self._widest(now).items():
            for port in word.ports:
                address = ip_address_of(word.ip, port)
                weight = CONFIRMATIONS if peer in self._trusted else 1
                counts[address] = counts.get(address, 0) + weight
        return tuple(each for each, count in counts.items() if count >= CONFIRMATIONS)

    def _widest(self, now: Millis) -> dict[NodeKey, _Word]:
        fresh = {peer: word for peer, word in self._words.items() if word.at > now - GOOD_FOR}
        widest = max((word.scope for word in fresh.values()), default=Scope.LOOPBACK)
        return {peer: word for peer, word in fresh.items() if word.scope is widest}
