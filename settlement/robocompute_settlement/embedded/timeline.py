"""Slots, blockhashes and the chain's clock, as functions of real time and of forks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

SLOT_MS: Final = 400
"""Milliseconds a slot lasts, as on the public clusters."""
BLOCKHASH_SLOTS: Final = 150
"""A transaction may name a blockhash this many slots old, as on the public clusters."""
FINALITY_SLOTS: Final = 32
"""Slots until a block is final where the genesis file does not say otherwise."""
SLOTS_PER_EPOCH: Final = 432_000
"""Slots in an epoch, as on the public clusters."""

_BLOCKHASH_DOMAIN: Final = b"robocompute/embedded/blockhash/1"


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """A turn in the chain's history: slots after ``slot`` got other blockhashes."""

    slot: int
    expires: bool
    """Whether the blockhashes before it are no longer taken either."""


@dataclass(slots=True)
class Timeline:
    """Which slot a moment belongs to, and which blockhashes are still good in it.

    Genesis is slot 0 and nothing else is in it. Slots follow the wall clock from the moment the
    chain was founded, so a chain that was down for a minute comes back 150 slots later, with its
    old blockhashes expired, as a network would. A wall clock that steps back leaves the slot
    where it was until real time has caught up.
    """

    founded_ms: int
    seed: bytes
    forks: list[Fork] = field(default_factory=list[Fork])
    """Oldest first. Only faults make any."""
    _slot: int = 0
    _recent: OrderedDict[bytes, int] = field(default_factory=OrderedDict[bytes, int])

    def advance(self, now_ms: int) -> int:
        """Move to the slot of ``now_ms`` and return it. Never goes back."""
        self.advance_to((now_ms - self.founded_ms) // SLOT_MS + 1)
        return self._slot

    def advance_to(self, slot: int) -> None:
        """Move to ``slot`` at least."""
        first = 0 if not self._recent else self._slot + 1
        self._slot = max(slot, self._slot)
        self._remember(first)

    def fork(self, slot: int, *, expires: bool = False) -> None:
        """Give every slot after ``slot`` another blockhash, from now on."""
        self.forks.append(Fork(slot, expires))
        self._recent.clear()
        self._remember(0)

    @property
    def slot(self) -> int:
        return self._slot

    def blockhash(self, slot: int) -> bytes:
        """The 32-byte hash of the block in ``slot``."""
        named = self.seed + slot.to_bytes(8, "little")
        turns = sum(fork.slot < slot for fork in self.forks)
        if turns:
            named += turns.to_bytes(4, "little")
        return sha256(_BLOCKHASH_DOMAIN + named).digest()

    def slot_of(self, blockhash: bytes) -> int | None:
        """The slot of a blockhash a transaction may still name; ``None`` for any other."""
        named = self._recent.get(blockhash)
        return named if named is not None and self._slot - named <= BLOCKHASH_SLOTS else None

    def time_s(self, slot: int) -> int:
        """The Unix time the chain gives ``slot``, in seconds."""
        return (self.founded_ms + (slot - 1) * SLOT_MS) // 1000

    def _remember(self, first: int) -> None:
        floor = max((fork.slot + 1 for fork in self.forks if fork.expires), default=0)
        for each in range(max(first, floor, self._slot - BLOCKHASH_SLOTS), self._slot + 1):
            self._recent[self.blockhash(each)] = each
        while len(self._recent) > BLOCKHASH_SLOTS + 1:
            self._recent.popitem(last=False)
