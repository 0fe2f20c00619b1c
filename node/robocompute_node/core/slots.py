"""Which slots a provider may let to whom: a slot is never let to two payers for one moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from robocompute_protocol import limits
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_protocol.identifiers import Address, AgreementId, NodeKey


HELD_IN_A_ROW: Final = Millis(3 * limits.QUOTE_HOLD)
"""Quotes may keep one slot from others for this long on end, whoever asks for them…"""
HELD_PAUSE: Final = Millis(3 * limits.QUOTE_HOLD)
"""…and then for this long no quote does: whoever orders first has it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One device. ``signed_until`` is the end of the last tick signed for ``payer``."""

    agreement: AgreementId | None = None
    payer: Address | None = None
    signed_until: Millis = Millis(0)
    held_for: NodeKey | None = None
    """Who asked for the quote: the peer itself, not a payer that anybody may name."""
    held_until: Millis = Millis(0)
    held_since: Millis | None = None
    """When quotes began to keep it, one after the other."""

    def may_be_held(self, now: Millis) -> bool:
        """Whether another quote may keep it: not for ever, with no order in between."""
        if self.held_since is None:
            return True
        held = now - self.held_since
        return held < HELD_IN_A_ROW or held >= HELD_IN_A_ROW + HELD_PAUSE


@dataclass(frozen=True, slots=True)
class SlotTable:
    """All slots of this provider, by index."""

    slots: Mapping[int, Slot] = field(default_factory=dict[int, Slot])

    @classmethod
    def of(cls, count: int) -> SlotTable:
        return cls({index: Slot() for index in range(count)})

    def free(self, payer: Address, peer: NodeKey, now: Millis) -> tuple[int, ...]:
        """Slots ``payer`` could have now, those it had before first (their ticks may overlap).

        Those that an earlier quote holds for ``peer``, its node, come last: that is for another job.
        """
        candidates = [
            (slot.held_until > now, slot.payer != payer, index)
            for index, slot in self.slots.items()
            if slot.agreement is None
            and (slot.held_until <= now or slot.held_for == peer)
            and (slot.payer in (None, payer) or slot.signed_until <= now)
        ]
        return tuple(index for *_, index in sorted(candidates))

    def open(self, now: Millis) -> int:
        """How many slots some payer could have now."""
        return sum(
            slot.agreement is None and slot.held_until <= now and slot.signed_until <= now
            for slot in self.slots.values()
        )

    def hold(
        self, indices: tuple[int, ...], peer: NodeKey, now: Millis, hold: Millis
    ) -> tuple[SlotTable, Millis]:
        """Keep slots for ``peer``, softly: a quote's hold, which ends by itself.

        Return how long they are kept: 0 where quotes kept one of them for long enough.
        """
        if not all(self.slots[i].may_be_held(now) for i in indices):
            return self, Millis(0)
        held = {
            i: replace(
                self.slots[i],
                held_for=peer,
                held_until=Millis(now + hold),
                held_since=self._held_since(self.slots[i], now),
            )
            for i in indices
        }
        return SlotTable({**self.slots, **held}), hold

    def unhold(self, indices: tuple[int, ...], peer: NodeKey, now: Millis) -> SlotTable:
        """Give up what quotes hold for ``peer``, who took another's. Others may have it at once.

        How long it was held in a row is not forgotten: who releases and asks again gains nothing.
        """
        freed = {
            i: replace(slot, held_for=None, held_until=now)
            for i in indices
            if (slot := self.slots[i]).held_for == peer and slot.held_until > now
        }
        return SlotTable({**self.slots, **freed})

    @staticmethod
    def _held_since(slot: Slot, now: Millis) -> Millis:
        """A hold soon after another, or a renewed one, goes on with it."""
        since = slot.held_since
        return now if since is None or now - since >= HELD_IN_A_ROW else since

    def let(
        self, indices: tuple[int, ...], agreement: AgreementId, payer: Address, until: Millis
    ) -> SlotTable:
        """Record that a tick until ``until`` was signed on these slots."""
        taken = {
            i: Slot(agreement, payer, Millis(max(until, self._until(i, payer)))) for i in indices
        }
        return SlotTable({**self.slots, **taken})

    def release(self, agreement: AgreementId) -> SlotTable:
        """The job is over. Another payer still waits for the end of the last tick."""
        freed = {
            i: replace(slot, agreement=None)
            for i, slot in self.slots.items()
            if slot.agreement == agreement
        }
        return SlotTable({**self.slots, **freed})

    def _until(self, index: int, payer: Address) -> Millis:
        slot = self.slots[index]
        return slot.signed_until if slot.payer == payer else Millis(0)


def bits_of(indices: tuple[int, ...]) -> int:
    """Slot indices as the bit set that leases and quotes carry."""
    bits = 0
    for index in indices:
        bits |= 1 << index
    return bits


def indices_of(bits: int) -> tuple[int, ...]:
    """The slot indices of a bit set, lowest first."""
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)
