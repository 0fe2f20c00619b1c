"""A provider that sells its slot to whoever comes: the real node, but for what it forgets.

Started in the place of Python itself, with ``-m robocompute_node`` and what follows as arguments.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from robocompute_node.cli.main import run_command
from robocompute_node.core.slots import SlotTable
from robocompute_node.services import lettings

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, AgreementId, NodeKey
    from robocompute_protocol.money import Millis


class Forgetful(SlotTable):
    """Whatever is let or held, every slot is free."""

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


if __name__ == "__main__":
    lettings.SlotTable = Forgetful
    raise SystemExit(run_command(sys.argv[3:]))
