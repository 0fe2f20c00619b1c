"""A cheat's slots: sold to whoever comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.core.slots import SlotTable

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, AgreementId, NodeKey
    from robocompute_protocol.money import Millis


class Forgetful(SlotTable):
    """A cheat's: whatever is let or held, every slot is free."""

    def let(
        self, indices: tuple[int, ...], agreement: AgreementId, payer: Address, until: Millis
    ) -> SlotTable:
        return self

    def hold(
        self, indices: tuple[int, ...], peer: NodeKey, now: Millis, hold: Millis
    ) -> tuple[SlotTable, Millis]:
        return self, hold

    def release(self, agreement: AgreementId) -> SlotTable:
        return self
