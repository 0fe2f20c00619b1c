"""Vouchers: cumulative promises to pay, and the ledgers that both sides of a channel keep.

On each side of a channel holds, always::

    cumulative == closed_total + sum(paid of open agreements) + credit,  credit >= 0

A closed agreement keeps its receipt's amount; what it was paid beyond that is credit, and the next
agreement uses credit before the total rises. Totals only grow, so a later voucher replaces an
earlier one and a lost one does no harm.
"""

from __future__ import annotations

from struct import Struct as Packer
from typing import Final

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, NodeKey, digest
from robocompute_protocol.messages import SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import VOUCHER, SigningKey, verify

CLOSED_DOMAIN: Final = b"RCALLC01"
ALLOCATION_DOMAIN: Final = b"RCALLO01"
NOTHING_CLOSED: Final = Digest(bytes(32))
"""Where a channel's chain of closed agreements begins."""
NOTHING: Final = MicroUnits(0)
_U64: Final = Packer("<Q")
_U16: Final = Packer("<H")

Allocation = tuple[AgreementId, MicroUnits]
"""An agreement and what is promised for it."""


def closed_digest(
    previous: Digest, agreement: AgreementId, amount: MicroUnits, receipt: Digest
) -> Digest:
    """Return the chain of closed agreements after one more, at ``amount`` by ``receipt``."""
    return digest(CLOSED_DOMAIN, previous, agreement, _U64.pack(amount), receipt)


def allocation_root(sequence: int, closed: Digest, open_: tuple[Allocation, ...]) -> Digest:
    """Return what a total is for: ``open_`` is sorted by agreement."""
    parts = [part for agreement, paid in open_ for part in (agreement, _U64.pack(paid))]
    return digest(ALLOCATION_DOMAIN, _U64.pack(sequence), closed, _U16.pack(len(open_)), *parts)


def signing_bytes(channel: ChannelId, cumulative: MicroUnits, root: Digest) -> bytes:
    """Return the 80 bytes the payer signs. The on-chain program rebuilds exactly these."""
    return VOUCHER + channel + _U64.pack(cumulative) + root
