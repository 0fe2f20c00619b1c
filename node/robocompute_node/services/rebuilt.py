"""What was rebuilt from the chain after the store was lost: where those books begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_node.store import Table
from robocompute_protocol import codec, limits
from robocompute_protocol.identifiers import ChannelId
from robocompute_protocol.messages import Receipt, Signed
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from robocompute_node.store import Transaction


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """One channel. Of its total up to ``settled`` no receipt is left here."""

    channel: ChannelId
    settled: MicroUnits
    at_ms: Millis


REBUILT: Final = Table("rebuilt-channels/1", Rebuilt)
SHOWN: Final = Table("shown-receipts/1", Signed)
"""Receipts that a payee showed again, by agreement: this node's own copies were lost."""


def keep_shown(txn: Transaction, signed: Signed) -> None:
    """Keep a receipt that was lost here, of what was settled before the books begin."""
    receipt = codec.decode(Receipt, signed.body, limit=limits.MAX_FRAME_BYTES)
    txn.put(SHOWN, receipt.agreement, signed)
    base = txn.get(REBUILT, receipt.channel)
    if base is not None:
        left = MicroUnits(max(0, base.settled - receipt.amount))
        txn.put(REBUILT, receipt.channel, msgspec.structs.replace(base, settled=left))
