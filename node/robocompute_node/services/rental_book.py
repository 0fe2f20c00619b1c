"""The client's agreements: each change is stored with the ledger entry that belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.core.lease_windows import objection_to_date, objection_to_length
from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol import leases, receipts, terms as rules
from robocompute_protocol.agreement import ClientAgreement, ClientPhase, advance, order
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, NodeKey
from robocompute_protocol.messages import (
    Leased,
    LeaseTick,
    Order,
    Receipt,
    Signed,
    SignedVoucher,
    Terms,
)
from robocompute_protocol.money import MicroUnits, Millis, charge
from robocompute_protocol.steps import (
    ClientEffect,
    ClientEvent,
    CloseAllocation,
    NeverLeasedReceived,
    ReceiptReceived,
    ReleaseAllocation,
    Restarted,
    TickReceived,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from robocompute_node.clocks import Clock
    from robocompute_node.services.channels import ChannelKeeper
    from robocompute_protocol.signing import SigningKey


class RentalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One agreement in the store."""

    state: ClientAgreement
    task_id: str
    terms: Terms
    signed_terms: Signed
    voucher: SignedVoucher
    """The first one, which goes with the order."""
    ordered_ms: Millis
    """When it was stored, by this node's clock: no lease began before."""

    @property
    def provider(self) -> NodeKey:
        return self.terms.payee_node

    @property
    def settled(self) -> bool:
        """Nothing is open between the two sides any more."""
        return self.state.phase in (
            ClientPhase.ENDED,
            ClientPhase.KEPT,
            ClientPhase.NEVER_LEASED,
        )

    @property
    def promised(self) -> MicroUnits:
        return rules.prepaid_amount(self.terms, self.state.prepaid_ms)


RENTALS: Final = Table("rentals/1", RentalRecord)
CLOCK_SLACK: Final = Millis(1_000)
"""Two machines' clocks count alike to within this, over the time an order takes."""
ANSWER_LATE: Final = Millis(15_000)
"""The answer that told when the lease began may have been so long on its way."""


class RentalBook:
    """All agreements this node made as a client."""

    def __init__(
        self, store: Store, clock: Clock, key: SigningKey, channels: ChannelKeeper
    ) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._channels = channels
        store.declare(RENTALS)
        self._records = {AgreementId(k): record for k, record in store.all(RENTALS)}
        self._changed: dict[AgreementId, trio.Event] = {}
        self.heed: Callable[[LeaseTick, int], None] = lambda _tick, _number: None
        """Called with each tick that was taken, and which it is of its agreement, from 1."""
        self.ahead_ms: Callable[[], int | None] = lambda: None
        """How far this node's clock is ahead of the chain's, which dates leases; None: not known."""
        for agreement, record in list(self._records.items()):
            if record.state.phase is ClientPhase.ACTIVE:  # time passed that nobody counted
                self.apply(agreement, Restarted())

    def get(self, agreement: AgreementId) -> RentalRecord:
        return self._records[agreement]

    def knows(self, agreement: AgreementId) -> bool:
        return agreement in self._records

    def lost(self) -> tuple[RentalRecord, ...]:
        """Agreements whose provider vanished and may come back."""
        return tuple(
            record for record in self._records.values() if record.state.phase is ClientPhase.LOST
        )

    def unfetched(self) -> tuple[RentalRecord, ...]:
        """Agreements with a receipt whose results are not all here."""
        return tuple(
            record for record in self._records.values() if record.state.phase is ClientPhase.ENDED
        )

    def never_leased_records(self) -> tuple[RentalRecord, ...]:
        """Orders that came to nothing: nobody owes anybody anything for them."""
        over = ClientPhase.NEVER_LEASED
        return tuple(record for record in self._records.values() if record.state.phase is over)

    def forget(self, records: Sequence[RentalRecord]) -> None:
        """Forget orders that came to nothing, once nobody asks for them any more."""
        if not records:
            return
        with self._store.transaction() as txn:
            for record in records:
                txn.delete(RENTALS, record.state.agreement)
        for record in records:
            self._records.pop(record.state.agreement, None)
            self._changed.pop(record.state.agreement, None)

    def changed(self, agreement: AgreementId) -> trio.Event:
        """Set at the agreement's next change."""
        return self._changed.setdefault(agreement, trio.Event())

    def elapsed(self, record: RentalRecord) -> Millis:
        """Time since the lease began, by this node's clock; 0 before."""
        started = record.state.started_ms
        return Millis(max(0, self._clock.now_ms() - started) if started else 0)

    def cost_so_far(self, record: RentalRecord) -> MicroUnits:
        """What the time until now comes to, capped by what was promised."""
        if not record.state.started_ms:
            return MicroUnits(0)
        return MicroUnits(
            min(record.promised, charge(record.terms.price_per_hour, self.elapsed(record)))
        )

    def place(
        self, task_id: str, terms: Terms, also: Callable[[Transaction, RentalRecord], None]
    ) -> RentalRecord:
        """Store a new order with its first voucher: ledger, agreement and task in one step."""
        agreement = rules.agreement_id(terms)
        first = rules.first_tick(terms)
        state, _ = order(agreement, rules.terms_digest(terms), first_tick_ms=first)
        voucher = self._channels.promise(
            terms.channel, agreement, rules.prepaid_amount(terms, first)
        )
        record = RentalRecord(
            state=state,
            task_id=task_id,
            terms=terms,
            signed_terms=rules.sign_terms(self._key, terms),
            voucher=voucher,
            ordered_ms=self._clock.now_ms(),
        )
        with self._store.transaction() as txn:
            txn.put(RENTALS, agreement, record)
            also(txn, record)
        self._records[agreement] = record
        return record

    def forget_unplaced(self) -> None:
        """After a crash between voucher and order: what was promised for nothing is credit again."""
        for channel in self._channels.all():
            for agreement, _paid in channel.ledger.open:
                if agreement not in self._records:
                    with self._store.transaction() as txn:
                        self._channels.release(txn, channel.channel, agreement)

    def order_of(self, record: RentalRecord, task: bytes) -> Order:
        return Order(terms=record.signed_terms, task=task, voucher=record.voucher)

    def apply(
        self, agreement: AgreementId, event: ClientEvent
    ) -> tuple[RentalRecord, tuple[ClientEffect, ...]]:
        """Advance one agreement, durably.

        Raises: IllegalTransition, UnexpectedMessage; then nothing changed.
        """
        record = self._records[agreement]
        state, effects = advance(record.state, event)
        record = msgspec.structs.replace(record, state=state)
        channel = record.terms.channel
        with self._store.transaction() as txn:
            for effect in effects:
                match effect:
                    case CloseAllocation():
                        self._channels.settle_agreement(
                            txn, channel, agreement, effect.receipt, effect.amount
                        )
                    case ReleaseAllocation():
                        self._channels.release(txn, channel, agreement)
                    case _:
                        pass
            txn.put(RENTALS, agreement, record)
        self._records[agreement] = record
        self._changed.pop(agreement, trio.Event()).set()
        return record, effects

    # --- what a provider says, checked ----------------------------------------------------------

    def leased(self, agreement: AgreementId, leased: Leased) -> RentalRecord:
        """Take a tick. Raises: RemoteProtocolError."""
        record = self._records[agreement]
        tick, terms = leased.tick, record.terms
        leases.verify_tick(tick, terms.payee_node)
        if (tick.agreement, tick.stake, tick.payer, tick.slots) != (
            agreement,
            terms.stake,
            terms.payer,
            terms.slots,
        ):
            raise RemoteProtocolError("a tick for something else than agreed", code="bad_lease")
        now = self._clock.now_ms()
        possible = min(leased.prepaid_ms, now - record.ordered_ms) + CLOCK_SLACK
        if not record.state.started_ms and leased.elapsed_ms > possible:
            raise RemoteProtocolError("a lease older than it can be", code="bad_lease")
        objection = self._objection_to_tick(record, leased, now)
        if objection is not None:
            raise RemoteProtocolError(objection, code="bad_lease")
        event = TickReceived(prepaid_ms=leased.prepaid_ms, elapsed_ms=leased.elapsed_ms, at_ms=now)
        record = self.apply(agreement, event)[0]
        self.heed(tick, record.state.ticks)
        return record

    def _objection_to_tick(self, record: RentalRecord, leased: Leased, now: Millis) -> str | None:
        """Return why a tick would prove nothing of what is paid with it, or None.

        One that was seen before is not looked at, nor the first after a start: when it was signed
        is not known then.
        """
        state = record.state
        if leased.prepaid_ms <= state.leased_ms or state.resumed:
            return None
        started = state.started_ms or Millis(now - leased.elapsed_ms)
        elapsed = min(leased.elapsed_ms, now - started + ANSWER_LATE)
        left = Millis(leased.prepaid_ms - elapsed)
        objection, ahead = objection_to_length(leased.tick, left_ms=left), self.ahead_ms()
        if objection is not None or ahead is None:
            return objection
        return objection_to_date(
            leased.tick,
            record.terms,
            started_ms=Millis(started - ahead),
            had_ms=state.leased_ms,
            now_ms=Millis(now - ahead),
        )

    def ended(self, agreement: AgreementId, signed: Signed) -> Receipt:
        """Take a receipt. Raises: RemoteProtocolError."""
        record = self._records[agreement]
        if record.state.receipt is None:  # what was wanted but never promised buys nothing
            paid = self._channels.get(record.terms.channel).ledger.paid(agreement)
        else:
            paid = record.promised
        receipt = receipts.verify_receipt(signed, record.terms, paid=paid)
        self.apply(agreement, ReceiptReceived(receipt=signed, amount=receipt.amount))
        return receipt

    def never_leased(self, agreement: AgreementId, statement: Signed) -> None:
        """Take a never-leased statement. Raises: RemoteProtocolError."""
        receipts.verify_never_leased(statement, self._records[agreement].terms)
        self.apply(agreement, NeverLeasedReceived())
