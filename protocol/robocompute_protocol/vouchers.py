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
from msgspec.structs import replace

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, NodeKey, digest
from robocompute_protocol.messages import Receipt, Signed, SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.receipts import receipt_digest
from robocompute_protocol.signing import RECEIPT, VOUCHER, SigningKey, open_signed, verify

CLOSED_DOMAIN: Final = b"RCALLC01"
ALLOCATION_DOMAIN: Final = b"RCALLO01"
NOTHING_CLOSED: Final = Digest(bytes(32))
"""Where a channel's chain of closed agreements begins."""
FORGOTTEN_CLOSED: Final = digest(CLOSED_DOMAIN, b"forgotten")
"""Stands for a chain of closed agreements that a payer lost: it is that of none."""
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


class UnsignedVoucher(msgspec.Struct, frozen=True, kw_only=True):
    """All of a voucher but its signature."""

    channel: ChannelId
    cumulative: MicroUnits
    sequence: int
    closed: Digest
    open: tuple[Allocation, ...]
    closes: tuple[AgreementId, ...]


def sign_voucher(key: SigningKey, voucher: UnsignedVoucher) -> SignedVoucher:
    """Sign a voucher. The ledger that made it is on disk already; repeating gives the same bytes."""
    root = allocation_root(voucher.sequence, voucher.closed, voucher.open)
    return SignedVoucher(
        channel=voucher.channel,
        cumulative=voucher.cumulative,
        sequence=voucher.sequence,
        closed=voucher.closed,
        open=voucher.open,
        closes=voucher.closes,
        signature=key.sign(signing_bytes(voucher.channel, voucher.cumulative, root)),
    )


def voucher_bytes(voucher: SignedVoucher) -> bytes:
    """Return the 80 bytes that ``voucher`` claims to be signed over."""
    root = allocation_root(voucher.sequence, voucher.closed, voucher.open)
    return signing_bytes(voucher.channel, voucher.cumulative, root)


def verify_voucher(voucher: SignedVoucher, voucher_key: NodeKey) -> None:
    """Check form and signature, not whether a channel covers it.

    Raises:
        RemoteProtocolError: its agreements are unsorted or repeated, it promises less in total
            than for its open agreements, or ``voucher_key`` did not sign it.
    """
    names = [agreement for agreement, _ in voucher.open]
    if names != sorted(set(names)):
        raise RemoteProtocolError("a voucher's agreements are not sorted", code="bad_voucher")
    if _total(voucher.open) > voucher.cumulative:
        raise RemoteProtocolError("a voucher promises more than its total", code="bad_voucher")
    if not verify(voucher_key, voucher_bytes(voucher), voucher.signature):
        raise RemoteProtocolError("a voucher's signature is not valid", code="bad_signature")


def _total(allocations: tuple[Allocation, ...]) -> MicroUnits:
    return MicroUnits(sum(paid for _, paid in allocations))


class PayerLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What the payer of one channel has promised. Store each new one before signing from it."""

    channel: ChannelId
    cumulative: MicroUnits = NOTHING
    sequence: int = 0
    """Of the last voucher made; 0 before the first."""
    closed: Digest = NOTHING_CLOSED
    closed_total: MicroUnits = NOTHING
    open: tuple[Allocation, ...] = ()
    closes: tuple[AgreementId, ...] = ()
    """The last closed agreements, oldest first; at most ``MAX_OPEN_AGREEMENTS``."""

    @classmethod
    def rebuild(cls, channel: ChannelId, settled: MicroUnits) -> PayerLedger:
        """Return the ledger of a channel of which only the chain tells: ``settled`` is spent.

        What was promised beyond it the payee must show, for ``adopt``, before more is promised.
        """
        closed = FORGOTTEN_CLOSED if settled else NOTHING_CLOSED
        return cls(channel=channel, cumulative=settled, closed_total=settled, closed=closed)

    @property
    def credit(self) -> MicroUnits:
        """Promised, but for nothing any more: the next agreement uses it first."""
        return MicroUnits(self.cumulative - self.closed_total - _total(self.open))

    def paid(self, agreement: AgreementId) -> MicroUnits:
        """What an open agreement was promised; 0 for any other."""
        return dict(self.open).get(agreement, NOTHING)

    def cumulative_with(self, agreement: AgreementId, paid_total: MicroUnits) -> MicroUnits:
        """Return the total that ``allocate`` would promise: what the deposit must cover."""
        more = paid_total - self.paid(agreement)
        return MicroUnits(self.cumulative + max(0, more - self.credit))

    def allocate(
        self, agreement: AgreementId, paid_total: MicroUnits
    ) -> tuple[PayerLedger, UnsignedVoucher]:
        """Promise ``paid_total`` in all for ``agreement``; credit first, then a higher total.

        Raises:
            LocalProtocolError: less than promised before, too many open agreements, or an
                agreement that is closed.
        """
        if paid_total < self.paid(agreement):
            raise LocalProtocolError("a promise is never lowered")
        if agreement in self.closes:
            raise LocalProtocolError("the agreement is closed")
        entries = dict(self.open) | {agreement: paid_total}
        if len(entries) > limits.MAX_OPEN_AGREEMENTS:
            raise LocalProtocolError(
                f"a channel carries {limits.MAX_OPEN_AGREEMENTS} open agreements"
            )
        ledger = replace(
            self,
            cumulative=self.cumulative_with(agreement, paid_total),
            open=tuple(sorted(entries.items())),
        )
        return ledger.reissue()

    def reissue(self) -> tuple[PayerLedger, UnsignedVoucher]:
        """Make the next voucher of what is promised already, so that the payee learns of closes."""
        ledger = replace(self, sequence=self.sequence + 1)
        voucher = UnsignedVoucher(
            channel=ledger.channel,
            cumulative=ledger.cumulative,
            sequence=ledger.sequence,
            closed=ledger.closed,
            open=ledger.open,
            closes=ledger.closes,
        )
        return ledger, voucher

    def close(self, agreement: AgreementId, receipt: Digest, amount: MicroUnits) -> PayerLedger:
        """Close an agreement at its receipt's amount; the rest of what it was paid is credit.

        Raises:
            LocalProtocolError: it is not open, or the amount is more than it was paid.
        """
        if agreement not in dict(self.open):
            raise LocalProtocolError("the agreement is not open")
        if amount > self.paid(agreement):
            raise LocalProtocolError("an agreement is not closed at more than it was paid")
        recent = (*self.closes, agreement)[-limits.MAX_OPEN_AGREEMENTS :]
        return replace(
            self,
            closed=closed_digest(self.closed, agreement, amount, receipt),
            closed_total=MicroUnits(self.closed_total + amount),
            open=_without(self.open, agreement),
            closes=recent,
        )

    def release(self, agreement: AgreementId) -> PayerLedger:
        """Take back what was promised for an agreement that the payee says was never leased.

        It becomes credit. Nothing happens if the agreement is not open.
        """
        return replace(self, open=_without(self.open, agreement))

    def close_shown(self, signed: Signed, payee_node: NodeKey) -> PayerLedger:
        """Close an open agreement by a receipt of it that the payee shows, its terms forgotten.

        One that is not open changes nothing. Without the terms the amount cannot be checked
        against them; it is at most what was promised.

        Raises:
            RemoteProtocolError: not the payee's, of another channel, or for more than was paid.
        """
        receipt = open_signed(RECEIPT, signed, Receipt, by=payee_node)
        if receipt.channel != self.channel:
            raise RemoteProtocolError("a receipt of another channel", code="wrong_channel")
        if receipt.agreement not in dict(self.open):
            return self
        if receipt.amount > self.paid(receipt.agreement):
            raise RemoteProtocolError("a receipt for more than was paid", code="bad_receipt")
        return self.close(receipt.agreement, receipt_digest(signed), receipt.amount)

    def adopt(self, voucher: SignedVoucher, voucher_key: NodeKey) -> PayerLedger:
        """Learn from a voucher of our own that a payee shows us, after our store was restored.

        One that we knew changes nothing. Credit that we no longer know how to count is given up
        here; it comes back when the channel closes, since the payee claims only what is owed.

        Raises:
            RemoteProtocolError: it is of another channel, or we never signed it.
            LocalProtocolError: it is another voucher than ours of that number: two nodes are
                signing with one key.
        """
        if voucher.channel != self.channel:
            raise RemoteProtocolError("a voucher of another channel", code="wrong_channel")
        verify_voucher(voucher, voucher_key)
        if voucher.sequence < self.sequence:
            return self
        if voucher.sequence == self.sequence:
            if voucher.cumulative != self.cumulative:
                raise LocalProtocolError("two nodes sign vouchers with this key")
            return self
        if voucher.cumulative < self.cumulative:
            raise LocalProtocolError("two nodes sign vouchers with this key")
        known = voucher.closed == self.closed
        closed_total = (
            self.closed_total if known else MicroUnits(voucher.cumulative - _total(voucher.open))
        )
        return replace(
            self,
            cumulative=voucher.cumulative,
            sequence=voucher.sequence,
            closed=voucher.closed,
            closed_total=closed_total,
            open=voucher.open,
            closes=voucher.closes,
        )


class EndedAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """An agreement whose receipt is signed, but that no voucher shows as closed yet."""

    agreement: AgreementId
    amount: MicroUnits
    receipt: Digest


class PayeeLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What the payee of one channel was promised, and what of it is owed."""

    channel: ChannelId
    cumulative: MicroUnits = NOTHING
    sequence: int = 0
    closed: Digest = NOTHING_CLOSED
    closed_total: MicroUnits = NOTHING
    """Sum of the amounts in ``closed``."""
    open: tuple[Allocation, ...] = ()
    leased: tuple[AgreementId, ...] = ()
    """Open agreements that a tick was signed for: a voucher may never forget one."""
    ended: tuple[EndedAgreement, ...] = ()
    voucher: SignedVoucher | None = None
    """The highest one, which a claim is made with."""
    rebuilt: bool = False
    """Made from the chain after the store was lost, and no voucher was accepted since: its totals
    are what was settled, and ``closed`` is not known."""

    @classmethod
    def rebuild(cls, channel: ChannelId, settled: MicroUnits) -> PayeeLedger:
        """Return the ledger of a channel of which only the chain tells.

        What was earned beyond ``settled`` is not known any more, and is not claimed.
        """
        return cls(channel=channel, cumulative=settled, closed_total=settled, rebuilt=True)

    def settled_at(self, settled: MicroUnits) -> PayeeLedger:
        """Return the ledger once the chain shows ``settled``: only a rebuilt one learns from it.

        Somebody who kept our vouchers, a watchtower, may settle what we forgot that we earned.
        """
        if not self.rebuilt or settled <= self.closed_total:
            return self
        return PayeeLedger.rebuild(self.channel, settled)

    @property
    def owed(self) -> MicroUnits:
        """The amounts of all receipts so far: what to claim on chain."""
        return MicroUnits(self.closed_total + sum(end.amount for end in self.ended))

    @property
    def claimable(self) -> MicroUnits:
        """The total that may be claimed with ``voucher`` now."""
        return min(self.owed, self.cumulative)

    @property
    def credit(self) -> MicroUnits:
        """What the payer may allocate again before its total rises."""
        return MicroUnits(self.cumulative - self.closed_total - _total(self.open))

    def paid(self, agreement: AgreementId) -> MicroUnits:
        """What an open agreement was promised; 0 for any other."""
        return dict(self.open).get(agreement, NOTHING)

    def accept(
        self, voucher: SignedVoucher, *, voucher_key: NodeKey, deposit: MicroUnits
    ) -> PayeeLedger:
        """Return the ledger with a newer voucher. Store it before acting on it.

        A voucher seen before, or overtaken by a newer one that promises as much, changes nothing.
        The first one of a rebuilt ledger tells what was closed before; it must cover what is open
        beyond what was settled, so that nothing new is leased for a promise that was paid already.
        After this, ``paid`` says whether the agreement at hand is covered.

        Raises:
            RemoteProtocolError: with the code of the rule it breaks. The ledger is as it was.
        """
        if voucher.channel != self.channel:
            raise RemoteProtocolError("a voucher of another channel", code="wrong_channel")
        verify_voucher(voucher, voucher_key)
        if voucher.sequence <= self.sequence:
            self._check_overtaken(voucher)
            return self
        if voucher.cumulative < self.cumulative:
            raise RemoteProtocolError("a voucher's total fell", code="voucher_lowered")
        if voucher.cumulative > deposit:
            raise RemoteProtocolError(
                "a voucher promises more than the channel holds", code="exceeds_deposit"
            )
        folded = () if self.rebuilt else self._followed(voucher)
        self._check_allocations(voucher, folded)
        names = {end.agreement for end in folded}
        closed_total = MicroUnits(self.closed_total + sum(end.amount for end in folded))
        if closed_total + _total(voucher.open) > voucher.cumulative:
            raise RemoteProtocolError("a voucher promises more than its total", code="bad_voucher")
        return replace(
            self,
            cumulative=voucher.cumulative,
            sequence=voucher.sequence,
            closed=voucher.closed,
            closed_total=closed_total,
            open=voucher.open,
            leased=tuple(name for name in self.leased if name not in names),
            ended=tuple(end for end in self.ended if end.agreement not in names),
            voucher=voucher,
            rebuilt=False,
        )

    def lease(self, agreement: AgreementId) -> PayeeLedger:
        """Mark an agreement as leased, in the step that stores its first tick. Repeatable.

        Raises:
            LocalProtocolError: nothing was promised for it, or it ended.
        """
        if agreement in self.leased:
            return self
        if self.paid(agreement) == 0:
            raise LocalProtocolError("nothing was promised for this agreement")
        return replace(self, leased=(*self.leased, agreement))

    def close(self, agreement: AgreementId, receipt: Digest, amount: MicroUnits) -> PayeeLedger:
        """Owe ``amount`` for an agreement, in the step that stores its receipt. Repeatable.

        Raises:
            LocalProtocolError: it was not leased, its receipt was another, or the amount is more
                than it was paid.
        """
        end = EndedAgreement(agreement=agreement, amount=amount, receipt=receipt)
        if end in self.ended:
            return self
        if agreement not in self.leased or agreement in {end.agreement for end in self.ended}:
            raise LocalProtocolError("the agreement is not one to close")
        if amount > self.paid(agreement):
            raise LocalProtocolError("an agreement is not closed at more than it was paid")
        return replace(self, ended=(*self.ended, end))

    def _check_overtaken(self, voucher: SignedVoucher) -> None:
        """Let a late voucher pass only if all that it promises is promised already."""
        if self.voucher is None or (
            voucher.sequence == self.sequence
            and voucher_bytes(voucher) != voucher_bytes(self.voucher)
        ):
            raise RemoteProtocolError("two vouchers of one number", code="voucher_conflict")
        if voucher.cumulative > self.cumulative:
            raise RemoteProtocolError(
                "an older voucher with a higher total", code="voucher_conflict"
            )

    def _followed(self, voucher: SignedVoucher) -> tuple[EndedAgreement, ...]:
        """Return the ended agreements that ``voucher`` closes, in its order."""
        ended = {end.agreement: end for end in self.ended}
        closed, folded = self.closed, list[EndedAgreement]()
        for agreement in voucher.closes:
            if closed == voucher.closed:
                break
            end = ended.pop(agreement, None)
            if end is not None:
                closed = closed_digest(closed, end.agreement, end.amount, end.receipt)
                folded.append(end)
        if closed != voucher.closed:
            raise RemoteProtocolError(
                "a voucher closes agreements that have no such receipts", code="closed_unknown"
            )
        return tuple(folded)

    def _check_allocations(
        self, voucher: SignedVoucher, folded: tuple[EndedAgreement, ...]
    ) -> None:
        """Refuse a voucher that takes back what was promised for an agreement."""
        names = {end.agreement for end in folded}
        promised = dict(voucher.open)
        if names & promised.keys():
            raise RemoteProtocolError("an agreement both open and closed", code="bad_voucher")
        for agreement, paid in self.open:
            if agreement in names:
                continue
            if agreement not in promised:
                if agreement in self.leased:
                    raise RemoteProtocolError(
                        "a voucher forgets a leased agreement", code="allocation_missing"
                    )
            elif promised[agreement] < paid:
                raise RemoteProtocolError(
                    "a voucher lowers what an agreement was paid", code="allocation_lowered"
                )


def _without(open_: tuple[Allocation, ...], agreement: AgreementId) -> tuple[Allocation, ...]:
    return tuple(entry for entry in open_ if entry[0] != agreement)
