"""Where clients pay: vouchers for more time, and what was signed so far, on ``/pay/1``.

Vouchers that come at the same moment share a commit. A voucher that is good in itself is kept,
whatever is said to what it asks for: money that was offered is never lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_node.core.channel_policy import objection_to_total
from robocompute_node.services.answers import answer, own_record, refusal
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_protocol import limits, terms as rules
from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.errors import ChainError, RemoteProtocolError
from robocompute_protocol.messages import (
    PROTOCOL_PAY,
    Extend,
    Message,
    PayMessage,
    Refused,
    Signed,
    SignedVoucher,
    Sync,
)
from robocompute_protocol.steps import VoucherAccepted
from robocompute_settlement.port import Commitment, Settlement

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream, Network
    from robocompute_node.services.earnings import EarningRecord, Earnings
    from robocompute_node.services.lettings import LettingRecord, Lettings
    from robocompute_node.services.offering import Offering
    from robocompute_node.store import Store, Transaction
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_settlement.port import ChannelView

IDLE_PAY_SECONDS: Final = 600.0
"""Longer than any tick: a pay stream that says nothing for this long is over."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the chain showed of a channel just now; nothing where it had not to be asked."""

    confirmed: ChannelView | None = None
    final: ChannelView | None = None
    failure: Refused | None = None
    """Why nothing is extended, as far as is known before the voucher is looked at."""


class PayDesk:
    """Takes vouchers. Holds no money itself: ``Earnings`` and ``Lettings`` do."""

    def __init__(
        self,
        network: Network,
        chain: Settlement,
        store: Store,
        lettings: Lettings,
        earnings: Earnings,
        offering: Offering,
    ) -> None:
        self._network = network
        self._chain = chain
        self._store = store
        self._lettings = lettings
        self._earnings = earnings
        self._offering = offering

    def register(self) -> None:
        """Answer ``/pay/1``."""
        self._network.serve(PROTOCOL_PAY, self.serve)

    async def serve(self, stream: FrameStream) -> None:
        """Answer one client on one stream until it ends it."""
        while True:
            request = await hear_or_end(stream, PayMessage, timeout_s=IDLE_PAY_SECONDS)
            match request:
                case None:
                    return
                case Extend():
                    try:
                        said = await self._extend(stream.peer, request)
                    except RemoteProtocolError as exc:
                        said = Refused(code=exc.code, message=str(exc))
                    await say(stream, said)
                case Sync():
                    await say(stream, self._shown(stream.peer, request))
                case _:
                    raise RemoteProtocolError("a pay stream carries Extend and Sync")

    def _shown(self, peer: NodeKey, request: Sync) -> Sync:
        """Show the highest voucher of a channel to the node that signed it."""
        earning = self._earnings.get(request.channel)
        mine = earning is not None and earning.voucher_key == peer
        voucher = earning.ledger.voucher if earning is not None and mine else None
        receipts = () if voucher is None else self._receipts(voucher)
        return Sync(channel=request.channel, voucher=voucher, receipts=receipts)

    def _receipts(self, voucher: SignedVoucher) -> tuple[Signed, ...]:
        """Receipts of what ``voucher`` has open and that ended: its signer may have lost them."""
        records = [self._lettings.get(agreement) for agreement, _ in voucher.open]
        found = [record.state.receipt for record in records if record is not None]
        shown = [receipt for receipt in found if receipt is not None]
        return tuple(shown[: limits.MAX_SHOWN_RECEIPTS])

    async def _extend(self, peer: NodeKey, request: Extend) -> Message:
        record = own_record(self._lettings, request.agreement, peer)
        if record.state.phase is not ProviderPhase.LEASED:
            return answer(self._lettings, record)
        seen = await self._look(record, request)
        take = partial(self._take, peer, request, seen)
        said = await self._store.together(record.terms.channel, take)
        self._lettings.before_speaking()
        return said

    def _take(self, peer: NodeKey, request: Extend, seen: Seen, txn: Transaction) -> Message:
        """Keep the voucher, and extend the lease unless something stands against it.

        Raises: RemoteProtocolError where the voucher itself is not good.
        """
        record = own_record(self._lettings, request.agreement, peer)
        if record.state.phase is not ProviderPhase.LEASED:
            return answer(self._lettings, record)
        earning = self._known(record)
        if seen.confirmed is not None:
            earning = self._earnings.learn(seen.confirmed, final=seen.final)
        try:
            ledger = earning.ledger.accept(
                request.voucher, voucher_key=earning.voucher_key, deposit=earning.deposit
            )
        except RemoteProtocolError:
            if seen.failure is None:
                raise
            return seen.failure  # what is known is old: it may be good in itself
        earning = msgspec.structs.replace(earning, ledger=ledger)
        said = seen.failure or self._refusal(record, request, earning)
        if said is not None:
            if earning != self._earnings.get(earning.channel):
                self._earnings.keep(txn, earning)
            return said
        event = VoucherAccepted(prepaid_ms=request.prepaid_ms)
        record = self._lettings.apply_in(txn, request.agreement, event, earning=earning)
        return answer(self._lettings, record)

    def _untimely(self, record: LettingRecord, request: Extend) -> Refused | None:
        """Return why not so much time is sold now, whatever is paid; or None."""
        objection = self._offering.objection_to_ticks()
        if objection is not None:
            return refusal(objection)
        try:
            rules.check_extension(
                record.terms,
                elapsed_ms=self._lettings.elapsed(record),
                prepaid_ms=record.state.prepaid_ms,
                new_prepaid_ms=request.prepaid_ms,
            )
        except RemoteProtocolError as exc:
            return Refused(code=exc.code, message=str(exc))
        return None

    def _refusal(
        self, record: LettingRecord, request: Extend, earning: EarningRecord
    ) -> Refused | None:
        """Return why a voucher that is good in itself extends nothing, or None."""
        untimely = self._untimely(record, request)
        if untimely is not None:
            return untimely
        objection = self._earnings.objection_to_more(earning)
        if objection is not None:
            return refusal(objection)
        ledger, until = earning.ledger, request.prepaid_ms
        if ledger.paid(request.agreement) < rules.prepaid_amount(record.terms, until):
            return Refused(code="underpaid", message="the voucher does not cover that much time")
        objection = objection_to_total(
            ledger.cumulative, until, confirmed=earning.deposit, finalized=earning.final_deposit
        )
        return None if objection is None else refusal(objection)

    def _known(self, record: LettingRecord) -> EarningRecord:
        earning = self._earnings.get(record.terms.channel)
        assert earning is not None  # kept in the step that leased on it
        return earning

    async def _look(self, record: LettingRecord, request: Extend) -> Seen:
        """Look at the chain where what is known is old, or does not carry the total."""
        channel, earning = record.terms.channel, self._known(record)
        total, final = request.voucher.cumulative, None
        long = request.prepaid_ms > limits.CONFIRMED_CARRIES and total > earning.final_deposit
        blind = self._earnings.is_blind(earning)
        if not (long or total > earning.deposit or blind):
            return Seen()
        untimely = self._untimely(record, request)
        if untimely is not None:  # whatever the chain tells
            return Seen(failure=untimely)
        try:
            if long:
                final = await self._chain.channel(channel, at=Commitment.FINALIZED)
            if final is None and total <= earning.deposit and not blind:
                return Seen()
            confirmed = await self._chain.channel(channel)
        except ChainError as exc:
            return Seen(failure=Refused(code=exc.code, message=str(exc)))
        if confirmed is None and blind:
            why = "the channel is not seen on chain"
            return Seen(failure=Refused(code="chain_stale", message=why))
        return Seen(confirmed, final)
