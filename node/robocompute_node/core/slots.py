"""Which slots a provider may let to whom: a slot is never let to two payers for one moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_protocol.identifiers import Address, AgreementId


@dataclass(frozen=True, slots=True)
class Slot:
    """One device. ``signed_until`` is the end of the last tick signed for ``payer``."""

    agreement: AgreementId | None = None
    payer: Address | None = None
    signed_until: Millis = Millis(0)
    held_for: Address | None = None
    held_until: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class SlotTable:
    """All slots of this provider, by index."""

    slots: Mapping[int, Slot] = field(default_factory=dict[int, Slot])

    @classmethod
    def of(cls, count: int) -> SlotTable:
        return cls({index: Slot() for index in range(count)})

    def free(self, payer: Address, now: Millis) -> tuple[int, ...]:
        """Slots ``payer`` could have now, those it had before first (their ticks may overlap).

        Those that an earlier quote of its own holds come last: that is for another job of its.
        """
        candidates = [
            (slot.held_until > now, slot.payer != payer, index)
            for index, slot in self.slots.items()
            if slot.agreement is None
            and (slot.held_until <= now or slot.held_for == payer)
            and (slot.payer in (None, payer) or slot.signed_until <= now)
        ]
        return tuple(index for *_, index in sorted(candidates))

    def hold(self, indices: tuple[int, ...], payer: Address, until: Millis) -> SlotTable:
        """Keep slots for ``payer``, softly: a quote's hold, which ends by itself."""
        held = {i: replace(self.slots[i], held_for=payer, held_until=until) for i in indices}
        return SlotTable({**self.slots, **held})

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
