"""What clients ask of a provider: quotes, orders and cancels on ``/agreement/1``.

An answer is read off the stored agreement, so asking again gives the same answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.core.channel_policy import (
    Objection,
    objection_to_channel,
)
from robocompute_node.core.matching import misfit, slots_needed
from robocompute_node.core.slots import bits_of, indices_of
from robocompute_node.file_sets import chunks_of, part_names, read_files
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.answers import answer, own_record, refusal, statement
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_node.services.lettings import LettingRecord, Lettings
from robocompute_protocol import codec, limits, terms as rules
from robocompute_protocol.agreement import ProviderAgreement, ProviderPhase
from robocompute_protocol.errors import ChainError, RemoteProtocolError
from robocompute_protocol.identifiers import Address, AgreementId, NodeKey, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    CancelRequest,
    Message,
    Offer,
    Order,
    Quote,
    QuoteRequest,
    Refused,
    ReleaseQuote,
    Signed,
    TaskSpec,
    Terms,
    Waiting,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import (
    CancelReceived,
    OrderDeclined,
    OrderReceived,
)

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.executor.port import BlobStore
    from robocompute_node.p2p.port import FrameStream, Network
    from robocompute_node.services.blob_access import BlobAccess
    from robocompute_node.services.earnings import Earnings
    from robocompute_node.services.offering import Offering
    from robocompute_settlement.port import Settlement

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 15.0
"""A client that opened a stream must say what it wants by then."""
CHANNEL_SECONDS: Final = 30.0
"""How long an order waits for its channel to be confirmed."""
SEEN_BEFORE_SECONDS: Final = 5.0
"""The same for a channel that was seen before: it is gone, or the endpoint asked is a little behind."""
QUOTA_MS: Final = Millis(3_600_000)
"""A quote lets its client upload for an hour, up to the disk it asked for."""
MIN_START_DEADLINE: Final = Millis(10_000)
"""A job that does not start in time costs nothing: a deadline nobody can keep is no fair demand."""
MAX_QUOTED_PEERS: Final = 4_096
"""Clients whose uploads are expected at once; the oldest quote makes room."""
BUSY: Final = Objection("busy", "all slots are taken; ask again in a while")
NOT_FOR_A_DESK: Final = Refused(
    code="protocol_remote", message="a client asks for quotes, orders or cancels"
)


class Holds:
    """What the quotes given on one stream hold."""

    def __init__(self, lettings: Lettings, clock: Clock, peer: NodeKey) -> None:
        self._lettings = lettings
        self._clock = clock
        self._peer = peer
        self._held = 0

    def note(self, quote: Quote | Refused) -> None:
        """A quote was given."""
        if isinstance(quote, Quote) and quote.hold_ms:
            self._held |= quote.slots

    def release(self) -> None:
        """They are not wanted: others may have the slots at once."""
        now = self._clock.now_ms()
        held, self._held = indices_of(self._held), 0
        self._lettings.slots = self._lettings.slots.unhold(held, self._peer, now)


@dataclass(slots=True)
class Quota:
    """What a quoted client may still upload."""

    until: Millis
    budget: int
    left: int


class FrontDesk:
    """Answers clients. Holds no money and no agreement itself: ``Earnings`` and ``Lettings`` do."""

    def __init__(
        self,
        network: Network,
        chain: Settlement,
        clock: Clock,
        blobs: BlobStore,
        access: BlobAccess,
        lettings: Lettings,
        earnings: Earnings,
        offering: Offering,
    ) -> None:
        self._network = network
        self._chain = chain
        self._clock = clock
        self._blobs = blobs
        self._access = access
        self._lettings = lettings
        self._earnings = earnings
        self._offering = offering
        self._quotas: dict[NodeKey, Quota] = {}

    def register(self) -> None:
        """Answer ``/agreement/1``."""
        self._network.serve(PROTOCOL_AGREEMENT, self.serve_agreement)

    def may_store(self, peer: NodeKey, size: int) -> bool:
        """Whether ``peer`` may upload ``size`` more bytes: only after a quote."""
        quota = self._quotas.get(peer)
        if quota is None or quota.until < self._clock.now_ms() or quota.left < size:
            return False
        quota.left -= size
        return True

    def _expect_upload(self, peer: NodeKey, budget: int, now: Millis) -> None:
        """Let ``peer`` upload up to ``budget``; of what it used in this hour, quotes give none back."""
        old = self._quotas.get(peer)
        if old is None or old.until < now:
            self._quotas[peer] = Quota(Millis(now + QUOTA_MS), budget, budget)
        elif budget > old.budget:
            old.left += budget - old.budget
            old.budget = budget

    # --- /robocompute/agreement/1 ---------------------------------------------------------------

    async def serve_agreement(self, stream: FrameStream) -> None:
        """Answer one client on one stream until it ends it. Reset, its quotes hold nothing more."""
        holds = Holds(self._lettings, self._clock, stream.peer)
        try:
            while True:
                request = await hear_or_end(stream, AgreementMessage, timeout_s=ASK_SECONDS)
                if request is None or not await self._answer(stream, request, holds):
                    return
        except PeerGone:
            holds.release()
            raise

    async def _answer(self, stream: FrameStream, request: Message, holds: Holds) -> bool:
        """Answer one request; False where the stream ends with that."""
        try:
            match request:
                case QuoteRequest():
                    quote = self.quote(stream.peer, request)
                    holds.note(quote)
                    await say(stream, quote)
                case ReleaseQuote():
                    holds.release()
                case Order():
                    await self._take_order(stream, request)
                case CancelRequest():
                    await self._cancel(stream, request)
                case _:
                    await say(stream, NOT_FOR_A_DESK)
                    return False
        except RemoteProtocolError as exc:
            await say(stream, Refused(code=exc.code, message=str(exc)))
            return False
        return True

    def quote(self, peer: NodeKey, request: QuoteRequest) -> Quote | Refused:
        """Answer what this would cost, and hold the slots for a moment."""
        offer = self._offering.offer()
        if offer is None:
            return refusal(self._offering.objection() or BUSY)
        unmet = misfit(offer, request.requirements, None)
        if unmet is not None:
            return Refused(
                code="does_not_fit",
                message=f"{unmet.requirement}: {unmet.wanted} wanted, {unmet.offered} here",
            )
        if request.mint != offer.mint:
            return Refused(code="other_mint", message="this provider is paid in another mint")
        now = self._clock.now_ms()
        wanted = slots_needed(request.requirements)
        free = self._free(offer, request.payer, peer, now)[:wanted]
        if len(free) < wanted:
            return refusal(BUSY)
        self._lettings.slots, hold = self._lettings.slots.hold(free, peer, now, limits.QUOTE_HOLD)
        while len(self._quotas) >= MAX_QUOTED_PEERS:
            del self._quotas[next(iter(self._quotas))]
        self._expect_upload(peer, (request.requirements.disk_mib + 1) << 20, now)
        return Quote(
            price_per_hour=MicroUnits(offer.price_per_hour * wanted),
            slots=bits_of(free),
            hold_ms=hold,
            payee=offer.payee,
            stake=offer.stake,
            mint=offer.mint,
            min_challenge_s=self._offering.demand().min_challenge_s,
        )

    def _free(self, offer: Offer, payer: Address, peer: NodeKey, now: Millis) -> tuple[int, ...]:
        """Slots that ``payer`` could have now, that the stake carries and that are well."""
        free = self._lettings.slots.free(payer, peer, now)
        withheld = self._offering.withheld()
        return tuple(index for index in free if index < offer.slots and index not in withheld)

    async def _take_order(self, stream: FrameStream, order: Order) -> None:
        terms = rules.open_terms(order.terms)
        agreement = rules.agreement_id(terms)
        if terms.payer_node != stream.peer:
            raise RemoteProtocolError("an order for somebody else", code="wrong_signer")
        if (never := self._lettings.never.get(agreement)) is not None:
            await say(stream, statement(self._lettings, agreement, never.channel))
            return
        record = self._lettings.get(agreement)
        if record is None:
            objection = self._objection_to_order(terms, order)
            if objection is not None:
                seen = self._earnings.get(terms.channel) is not None
                if seen and self._lettings.never.has_room(stream.peer, terms.channel):
                    self._lettings.decline(agreement, terms, objection.code)
                await say(stream, refusal(objection))
                return
            record = LettingRecord(
                state=ProviderAgreement(agreement=agreement, terms=rules.terms_digest(terms)),
                terms=terms,
                signed_terms=order.terms,
                task=order.task,
                job_id=terms.nonce.hex(),
                ordered_ms=self._clock.now_ms(),
            )
            self._lettings.take_order(record)
            self._hold(terms)
        else:
            record = self._lettings.apply(agreement, OrderReceived())
        if record.state.phase is ProviderPhase.ORDERED:
            record = await self._grant(stream, record, order)
        await say(stream, answer(self._lettings, record))

    def _hold(self, terms: Terms) -> None:
        """Keep an order's slots as softly as a quote does: it may never be paid for."""
        self._lettings.slots, _ = self._lettings.slots.hold(
            indices_of(terms.slots), terms.payer_node, self._clock.now_ms(), limits.QUOTE_HOLD
        )

    def _is_taken(self, terms: Terms) -> bool:
        """Whether a slot went to somebody else while the channel was waited for."""
        free = self._lettings.slots.free(terms.payer, terms.payer_node, self._clock.now_ms())
        return not set(indices_of(terms.slots)) <= set(free)

    def _objection_to_order(self, terms: Terms, order: Order) -> Objection | None:
        """Return why this order is not taken at all. Pure but for looking at what is here."""
        offer = self._offering.offer()
        if offer is None:
            return self._offering.objection() or BUSY
        if terms.payee_node != offer.provider or terms.payee != offer.payee:
            return Objection("wrong_provider", "the terms name another provider")
        if terms.stake != offer.stake or terms.mint != offer.mint:
            return Objection("wrong_stake", "the terms name another stake or mint")
        if digest(order.task) != terms.task:
            return Objection("wrong_task", "the task is not the one that the terms name")
        spec = codec.decode(TaskSpec, order.task, limit=limits.MAX_FRAME_BYTES)
        unmet = misfit(offer, spec.requirements, None)
        if unmet is not None:
            return Objection("does_not_fit", f"{unmet.requirement}: {unmet.wanted} wanted")
        indices = indices_of(terms.slots)
        if len(indices) != slots_needed(spec.requirements):
            return Objection("wrong_slots", "the terms are for another number of slots")
        if terms.price_per_hour < offer.price_per_hour * len(indices):
            return Objection("price_changed", "the price is higher now; ask for a quote")
        if terms.start_deadline_ms < MIN_START_DEADLINE:
            return Objection(
                "start_deadline_short", f"a job needs {MIN_START_DEADLINE // 1000} s to start"
            )
        if not set(indices) <= set(
            self._free(offer, terms.payer, terms.payer_node, self._clock.now_ms())
        ):
            return Objection("busy", "a slot is taken; ask for a quote")
        if self._lettings.has_job(terms.nonce.hex()):
            return Objection("nonce_used", "the terms' nonce was used before; draw another")
        if self._access.missing(terms.payer_node, (spec.upload,)):
            return Objection("upload_missing", "the upload's manifest is not here")
        if self._access.missing(terms.payer_node, part_names(self._blobs, spec.upload)):
            return Objection("upload_missing", "parts of the upload's manifest are not here")
        manifest = read_files(self._blobs, spec.upload)
        if self._access.missing(terms.payer_node, chunks_of(manifest)):
            return Objection("upload_missing", "chunks of the upload are not here")
        return None

    async def _grant(
        self, stream: FrameStream, record: LettingRecord, order: Order
    ) -> LettingRecord:
        """Wait for the channel, check it, accept the voucher, begin the lease; or decline."""
        terms, agreement, failure = record.terms, record.state.agreement, ""
        try:
            view = await self._chain.channel(terms.channel)
            if view is None:
                await say(stream, Waiting(reason="channel_confirmation"))
                new = self._earnings.get(terms.channel) is None
                view = await self._chain.wait_for_channel(
                    terms.channel, timeout_s=CHANNEL_SECONDS if new else SEEN_BEFORE_SECONDS
                )
        except ChainError as exc:
            view, failure = None, f"{exc.code}: {exc}"
        if (current := self._lettings.get(agreement)) is None or (
            current.state.phase is not ProviderPhase.ORDERED
        ):
            return current or record  # the client took it back meanwhile, or asked twice
        if view is None or self._is_taken(terms):
            return self._lettings.apply(agreement, OrderDeclined(reason=failure))
        known = self._earnings.get(terms.channel)
        earning, kept = self._earnings.learn(view), None
        objection = self._offering.objection() or objection_to_channel(
            view,
            terms,
            self._offering.demand(),
            in_use=known is not None and known.ledger.cumulative > 0,
        )
        if objection is None:
            try:
                ledger = earning.ledger.accept(
                    order.voucher, voucher_key=view.voucher_key, deposit=view.deposit
                )
            except RemoteProtocolError as exc:
                self._lettings.apply(agreement, OrderDeclined(reason=f"{exc.code}: {exc}"))
                raise
            if ledger.paid(agreement) < rules.prepaid_amount(terms, rules.first_tick(terms)):
                objection = Objection("underpaid", "the voucher does not cover the first tick")
            else:
                earning = msgspec.structs.replace(earning, ledger=ledger)
                objection = self._earnings.objection_to_use(earning)
                kept = objection and earning  # a newer voucher may be all that ends an alarm
        if objection is not None:
            reason = f"{objection.code}: {objection.message}"
            self._lettings.apply(agreement, OrderDeclined(reason=reason), earning=kept)
            raise RemoteProtocolError(objection.message, code=objection.code)
        if (quota := self._quotas.get(terms.payer_node)) is not None:
            quota.left = quota.budget  # a job that is paid for: the next one may bring its own
        return self._lettings.grant(agreement, earning)

    async def _cancel(self, stream: FrameStream, request: CancelRequest) -> None:
        agreement = request.agreement
        if self._lettings.get(agreement) is None and request.terms is not None:
            self._never_lease(stream.peer, agreement, request.terms)
        if self._lettings.never.get(agreement) is None:
            record = own_record(self._lettings, agreement, stream.peer)
            record = self._lettings.apply(agreement, CancelReceived(reason=request.reason))
            while not record.over:
                await say(stream, Waiting(reason="stopping"))
                with trio.move_on_after(ASK_SECONDS / 3):
                    await self._lettings.ended(agreement)
                record = self._lettings.get(agreement) or record
            await say(stream, answer(self._lettings, record))
            return
        never = self._lettings.never.get(agreement)
        if never is None or never.payer_node != stream.peer:
            raise RemoteProtocolError("no such agreement with you", code="unknown_agreement")
        await say(stream, statement(self._lettings, agreement, never.channel))

    def _never_lease(self, peer: NodeKey, agreement: AgreementId, signed: Signed) -> None:
        """Remember that an order which did not arrive will not be leased, should it still come."""
        terms = rules.open_terms(signed)
        if terms.payer_node != peer:
            raise RemoteProtocolError("terms of somebody else", code="wrong_signer")
        if rules.agreement_id(terms) != agreement or terms.payee_node != self._network.key:
            raise RemoteProtocolError("terms of another agreement", code="wrong_agreement")
        if self._lettings.never.get(agreement) is None:
            if not self._lettings.never.has_room(peer, terms.channel):
                raise RemoteProtocolError(
                    "too many orders of yours were declined", code="too_many_declined"
                )
            self._lettings.decline(agreement, terms, "cancelled before it arrived")
