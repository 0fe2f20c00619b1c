"""The agreement machine, both sides of it: which event may follow which, and what to do then.

``advance`` is pure. The shell stores the new state (and whatever an effect says about a channel's
ledger) in one transaction and then acts on the effects; each is safe to repeat. ``Restarted`` is
fed to every stored agreement when a node starts, and renews the effects that may have been lost.

Every event is legal or not in a phase by one table a side. What is illegal is a bug here
(``IllegalTransition``) or, for an event that a peer caused, that peer's fault
(``UnexpectedMessage``); the state stays as it was.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never, overload

import msgspec
from msgspec.structs import replace

from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, Digest
from robocompute_protocol.messages import Signed
from robocompute_protocol.money import Millis
from robocompute_protocol.receipts import receipt_digest
from robocompute_protocol.steps import (
    FROM_PEER,
    AttachJob,
    CancelReceived,
    CancelRequested,
    ChannelClosing,
    ClientEffect,
    ClientEvent,
    CloseAllocation,
    ExtendJob,
    ExtensionFellDue,
    FetchResults,
    HorizonPassed,
    JobEnded,
    KeptReceived,
    LeaseGranted,
    NeverLeasedReceived,
    OrderDeclined,
    OrderReceived,
    PrepaidRanOut,
    ProviderEffect,
    ProviderEvent,
    ReceiptReceived,
    ReceiptSigned,
    RefusalReceived,
    ReleaseAllocation,
    ReleaseSlots,
    RemoveJob,
    Restarted,
    ResultsStored,
    RetentionPassed,
    SendCancel,
    SendExtension,
    SendKept,
    SendNeverLeased,
    SendOrder,
    SendReceipt,
    SendTick,
    SendWaiting,
    SignReceipt,
    SignTick,
    StartJob,
    Step,
    StopJob,
    StopOrdered,
    TickReceived,
    VoucherAccepted,
    WatchJob,
    WriteOff,
)


class IllegalTransition(LocalProtocolError):
    """An event of this node's own making that its agreement's phase does not allow."""

    code = "illegal_transition"


class UnexpectedMessage(RemoteProtocolError):
    """A peer said what contradicts the agreement as far as it has come."""

    code = "unexpected_message"


class ClientPhase(StrEnum):
    """Where the payer's side of an agreement is."""

    ORDERED = "ordered"
    ACTIVE = "active"
    CANCELLING = "cancelling"
    ENDED = "ended"
    """A receipt is here; results may still have to be fetched."""
    KEPT = "kept"
    NEVER_LEASED = "never_leased"
    LOST = "lost"
    """The provider was gone for longer than the horizon. A late receipt still ends it properly."""


class ProviderPhase(StrEnum):
    """Where the payee's side of an agreement is."""

    ORDERED = "ordered"
    """The order is good; the channel is not confirmed, or the slot not free yet."""
    LEASED = "leased"
    STOPPING = "stopping"
    """The job is being stopped, or ended and its results are being collected."""
    ENDED = "ended"
    KEPT = "kept"
    NEVER_LEASED = "never_leased"


class ClientAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payer's side."""

    agreement: AgreementId
    terms: Digest
    phase: ClientPhase = ClientPhase.ORDERED
    prepaid_ms: Millis
    """Promised in vouchers."""
    leased_ms: Millis = Millis(0)
    """Answered with ticks."""
    ticks: int = 0
    started_ms: Millis = Millis(0)
    """Lease start by this node's clock; 0 before the first tick."""
    resumed: bool = False
    """Restarted since the last tick, perhaps with another clock: nothing more is promised until then."""
    reason: str = ""
    """Why it was cancelled or refused."""
    receipt: Signed | None = None


class ProviderAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payee's side."""

    agreement: AgreementId
    terms: Digest
    phase: ProviderPhase = ProviderPhase.ORDERED
    prepaid_ms: Millis = Millis(0)
    """Covered by ticks."""
    ticks: int = 0
    started_ms: Millis = Millis(0)
    """Lease start by this node's clock; 0 before it."""
    cause: Cause | None = None
    detail: str = ""
    receipt: Signed | None = None


C = ClientPhase
P = ProviderPhase

CLIENT_TRANSITIONS: Final[dict[tuple[ClientPhase, type[ClientEvent]], ClientPhase]] = {
    (C.ORDERED, TickReceived): C.ACTIVE,
    (C.ORDERED, RefusalReceived): C.CANCELLING,
    (C.ORDERED, NeverLeasedReceived): C.NEVER_LEASED,
    (C.ORDERED, ReceiptReceived): C.ENDED,
    (C.ORDERED, CancelRequested): C.CANCELLING,
    (C.ORDERED, HorizonPassed): C.LOST,
    (C.ORDERED, Restarted): C.ORDERED,
    (C.ACTIVE, TickReceived): C.ACTIVE,
    (C.ACTIVE, RefusalReceived): C.ACTIVE,
    (C.ACTIVE, ReceiptReceived): C.ENDED,
    (C.ACTIVE, ExtensionFellDue): C.ACTIVE,
    (C.ACTIVE, CancelRequested): C.CANCELLING,
    (C.ACTIVE, HorizonPassed): C.LOST,
    (C.ACTIVE, Restarted): C.ACTIVE,
    (C.CANCELLING, TickReceived): C.CANCELLING,
    (C.CANCELLING, RefusalReceived): C.CANCELLING,
    (C.CANCELLING, NeverLeasedReceived): C.NEVER_LEASED,
    (C.CANCELLING, ReceiptReceived): C.ENDED,
    (C.CANCELLING, ExtensionFellDue): C.CANCELLING,
    (C.CANCELLING, CancelRequested): C.CANCELLING,
    (C.CANCELLING, HorizonPassed): C.LOST,
    (C.CANCELLING, Restarted): C.CANCELLING,
    (C.ENDED, TickReceived): C.ENDED,
    (C.ENDED, RefusalReceived): C.ENDED,
    (C.ENDED, ReceiptReceived): C.ENDED,
    (C.ENDED, ExtensionFellDue): C.ENDED,
    (C.ENDED, CancelRequested): C.ENDED,
    (C.ENDED, HorizonPassed): C.ENDED,
    (C.ENDED, ResultsStored): C.KEPT,
    (C.ENDED, Restarted): C.ENDED,
    (C.KEPT, TickReceived): C.KEPT,
    (C.KEPT, RefusalReceived): C.KEPT,
    (C.KEPT, ReceiptReceived): C.KEPT,
    (C.KEPT, ExtensionFellDue): C.KEPT,
    (C.KEPT, CancelRequested): C.KEPT,
    (C.KEPT, HorizonPassed): C.KEPT,
    (C.KEPT, ResultsStored): C.KEPT,
    (C.KEPT, Restarted): C.KEPT,
    (C.NEVER_LEASED, RefusalReceived): C.NEVER_LEASED,
    (C.NEVER_LEASED, NeverLeasedReceived): C.NEVER_LEASED,
    (C.NEVER_LEASED, ExtensionFellDue): C.NEVER_LEASED,
    (C.NEVER_LEASED, CancelRequested): C.NEVER_LEASED,
    (C.NEVER_LEASED, HorizonPassed): C.NEVER_LEASED,
    (C.NEVER_LEASED, Restarted): C.NEVER_LEASED,
    (C.LOST, TickReceived): C.LOST,
    (C.LOST, RefusalReceived): C.LOST,
    (C.LOST, NeverLeasedReceived): C.NEVER_LEASED,
    (C.LOST, ReceiptReceived): C.ENDED,
    (C.LOST, ExtensionFellDue): C.LOST,
    (C.LOST, CancelRequested): C.LOST,
    (C.LOST, HorizonPassed): C.LOST,
    (C.LOST, Restarted): C.LOST,
}
"""All that is legal on the payer's side."""

PROVIDER_TRANSITIONS: Final[dict[tuple[ProviderPhase, type[ProviderEvent]], ProviderPhase]] = {
    (P.ORDERED, OrderReceived): P.ORDERED,
    (P.ORDERED, LeaseGranted): P.LEASED,
    (P.ORDERED, OrderDeclined): P.NEVER_LEASED,
    (P.ORDERED, VoucherAccepted): P.ORDERED,
    (P.ORDERED, CancelReceived): P.NEVER_LEASED,
    (P.ORDERED, ChannelClosing): P.NEVER_LEASED,
    (P.ORDERED, StopOrdered): P.NEVER_LEASED,
    (P.ORDERED, Restarted): P.ORDERED,
    (P.LEASED, OrderReceived): P.LEASED,
    (P.LEASED, LeaseGranted): P.LEASED,
    (P.LEASED, OrderDeclined): P.LEASED,
    (P.LEASED, VoucherAccepted): P.LEASED,
    (P.LEASED, CancelReceived): P.STOPPING,
    (P.LEASED, ChannelClosing): P.STOPPING,
    (P.LEASED, PrepaidRanOut): P.STOPPING,
    (P.LEASED, StopOrdered): P.STOPPING,
    (P.LEASED, JobEnded): P.STOPPING,
    (P.LEASED, Restarted): P.LEASED,
    (P.STOPPING, OrderReceived): P.STOPPING,
    (P.STOPPING, LeaseGranted): P.STOPPING,
    (P.STOPPING, OrderDeclined): P.STOPPING,
    (P.STOPPING, VoucherAccepted): P.STOPPING,
    (P.STOPPING, CancelReceived): P.STOPPING,
    (P.STOPPING, ChannelClosing): P.STOPPING,
    (P.STOPPING, PrepaidRanOut): P.STOPPING,
    (P.STOPPING, StopOrdered): P.STOPPING,
    (P.STOPPING, JobEnded): P.STOPPING,
    (P.STOPPING, ReceiptSigned): P.ENDED,
    (P.STOPPING, Restarted): P.STOPPING,
    **{
        (phase, event): phase
        for phase in (P.ENDED, P.KEPT)
        for event in (
            OrderReceived,
            LeaseGranted,
            OrderDeclined,
            VoucherAccepted,
            CancelReceived,
            ChannelClosing,
            PrepaidRanOut,
            StopOrdered,
            JobEnded,
            ReceiptSigned,
            Restarted,
        )
    },
    (P.ENDED, KeptReceived): P.KEPT,
    (P.ENDED, RetentionPassed): P.KEPT,
    (P.KEPT, KeptReceived): P.KEPT,
    (P.KEPT, RetentionPassed): P.KEPT,
    (P.NEVER_LEASED, OrderReceived): P.NEVER_LEASED,
    (P.NEVER_LEASED, OrderDeclined): P.NEVER_LEASED,
    (P.NEVER_LEASED, VoucherAccepted): P.NEVER_LEASED,
    (P.NEVER_LEASED, CancelReceived): P.NEVER_LEASED,
    (P.NEVER_LEASED, ChannelClosing): P.NEVER_LEASED,
    (P.NEVER_LEASED, StopOrdered): P.NEVER_LEASED,
    (P.NEVER_LEASED, Restarted): P.NEVER_LEASED,
}
"""All that is legal on the payee's side."""


def order(
    agreement: AgreementId, terms: Digest, *, first_tick_ms: Millis
) -> tuple[ClientAgreement, tuple[ClientEffect, ...]]:
    """Return a new agreement of the payer's, whose first voucher is allocated in the ledger."""
    state = ClientAgreement(agreement=agreement, terms=terms, prepaid_ms=first_tick_ms)
    return state, (SendOrder(),)


@overload
def advance(
    state: ClientAgreement, event: ClientEvent
) -> tuple[ClientAgreement, tuple[ClientEffect, ...]]: ...
@overload
def advance(
    state: ProviderAgreement, event: ProviderEvent
) -> tuple[ProviderAgreement, tuple[ProviderEffect, ...]]: ...
def advance(
    state: ClientAgreement | ProviderAgreement, event: ClientEvent | ProviderEvent
) -> tuple[
    ClientAgreement | ProviderAgreement, tuple[ClientEffect, ...] | tuple[ProviderEffect, ...]
]:
    """Return the agreement after ``event``, and what the shell must do about it.

    Raises:
        IllegalTransition: this node's own event does not fit.
        UnexpectedMessage: a peer's does not.
    """
    if isinstance(state, ClientAgreement) and isinstance(event, ClientEvent):
        return _advance_client(state, event)
    if isinstance(state, ProviderAgreement) and isinstance(event, ProviderEvent):
        return _advance_provider(state, event)
    raise IllegalTransition(f"{type(event).__name__} is no event of this side")


def _illegal(state: ClientAgreement | ProviderAgreement, event: Step) -> ProtocolError:
    text = f"{type(event).__name__} while the agreement is {state.phase}"
    return UnexpectedMessage(text) if isinstance(event, FROM_PEER) else IllegalTransition(text)


def _advance_client(
    old: ClientAgreement, event: ClientEvent
) -> tuple[ClientAgreement, tuple[ClientEffect, ...]]:
    phase = CLIENT_TRANSITIONS.get((old.phase, type(event)))
    if phase is None:
        raise _illegal(old, event)
    new = replace(old, phase=phase)
    entered = phase is not old.phase
    match event:
        case TickReceived():
            if event.prepaid_ms > old.prepaid_ms:
                raise UnexpectedMessage("a tick for more than was paid")
            if phase in (C.ENDED, C.KEPT):
                return new, ()
            new = replace(
                new,
                leased_ms=max(old.leased_ms, event.prepaid_ms),
                ticks=old.ticks + (event.prepaid_ms > old.leased_ms),
                started_ms=_started(old, Millis(event.at_ms - event.elapsed_ms)),
                resumed=False,
            )
            if phase is C.LOST:
                return new, (SendCancel(reason="provider_lost"),)
            return new, (AttachJob(),) if entered else ()
        case RefusalReceived():
            if entered:
                return replace(new, reason=event.code), (SendCancel(reason=event.code),)
            return new, ()
        case NeverLeasedReceived():
            if old.ticks:
                raise UnexpectedMessage("never leased, says a provider that signed a tick")
            return new, (ReleaseAllocation(),) if entered else ()
        case ReceiptReceived():
            if old.receipt is not None:
                if old.receipt != event.receipt:
                    raise UnexpectedMessage("two receipts of one agreement")
                return new, ()
            closing = CloseAllocation(receipt=receipt_digest(event.receipt), amount=event.amount)
            return replace(new, receipt=event.receipt), (closing, FetchResults())
        case ExtensionFellDue():
            if phase is not C.ACTIVE:
                return new, ()
            if old.prepaid_ms == old.leased_ms and not old.resumed:
                new = replace(new, prepaid_ms=max(old.prepaid_ms, event.prepaid_ms))
            return new, (SendExtension(prepaid_ms=new.prepaid_ms),)
        case CancelRequested():
            if entered:
                return replace(new, reason=event.reason), (SendCancel(reason=event.reason),)
            if phase in (C.CANCELLING, C.LOST):
                return new, (SendCancel(reason=event.reason),)
            return new, ()
        case HorizonPassed():
            return new, (WriteOff(),) if entered else ()
        case ResultsStored():
            return new, (SendKept(),)
        case Restarted():
            return replace(new, resumed=phase is C.ACTIVE), _renewed_by_client(new)
    assert_never(event)


def _started(old: ClientAgreement, told: Millis) -> Millis:
    """Return when the lease began: after a restart the later of what is known and told.

    By a clock that was set forward it would be earlier, and more be paid ahead than the horizon.
    """
    return max(old.started_ms, told) if old.resumed else old.started_ms or told


def _renewed_by_client(state: ClientAgreement) -> tuple[ClientEffect, ...]:
    match state.phase:
        case C.ORDERED:
            return (SendOrder(),)
        case C.ACTIVE:
            return (AttachJob(), SendExtension(prepaid_ms=state.prepaid_ms))
        case C.CANCELLING:
            return (SendCancel(reason=state.reason),)
        case C.ENDED:
            return (FetchResults(),)
        case C.KEPT:
            return (SendKept(),)
        case C.NEVER_LEASED | C.LOST:
            return ()
    assert_never(state.phase)


def _advance_provider(
    old: ProviderAgreement, event: ProviderEvent
) -> tuple[ProviderAgreement, tuple[ProviderEffect, ...]]:
    phase = PROVIDER_TRANSITIONS.get((old.phase, type(event)))
    if phase is None:
        raise _illegal(old, event)
    new = replace(old, phase=phase)
    entered = phase is not old.phase
    match event:
        case OrderReceived():
            return new, _repeated_by_provider(new)
        case LeaseGranted():
            if not entered:
                return new, ()
            new = replace(new, prepaid_ms=event.prepaid_ms, ticks=1, started_ms=event.at_ms)
            return new, (
                SignTick(tick=0, prepaid_ms=event.prepaid_ms),
                StartJob(prepaid_ms=event.prepaid_ms),
            )
        case OrderDeclined():
            if entered:
                return replace(new, detail=event.reason), (SendNeverLeased(),)
            return new, ()
        case VoucherAccepted():
            if phase is not P.LEASED or event.prepaid_ms <= old.prepaid_ms:
                return new, _repeated_by_provider(new)
            new = replace(new, prepaid_ms=event.prepaid_ms, ticks=old.ticks + 1)
            return new, (
                ExtendJob(tick=old.ticks, prepaid_ms=event.prepaid_ms),
                SignTick(tick=old.ticks, prepaid_ms=event.prepaid_ms),
            )
        case CancelReceived():
            if entered:
                return _stopping(new, Cause.CANCELLED, event.reason)
            return new, _repeated_by_provider(new)
        case ChannelClosing():
            return _stopping(new, Cause.CHANNEL_CLOSED, "") if entered else (new, ())
        case PrepaidRanOut():
            return _stopping(new, Cause.CLIENT_LOST, "") if entered else (new, ())
        case StopOrdered():
            return _stopping(new, event.cause, event.detail) if entered else (new, ())
        case JobEnded():
            if phase is not P.STOPPING:
                return new, ()
            new = replace(new, cause=event.cause, detail=event.detail)
            return new, (SignReceipt(cause=event.cause, detail=event.detail),)
        case ReceiptSigned():
            if old.receipt is not None:
                if old.receipt != event.receipt:
                    raise IllegalTransition("a second receipt of one agreement")
                return new, ()
            closing = CloseAllocation(receipt=receipt_digest(event.receipt), amount=event.amount)
            return replace(new, receipt=event.receipt), (closing, SendReceipt(), ReleaseSlots())
        case KeptReceived() | RetentionPassed():
            return new, (RemoveJob(),) if entered else ()
        case Restarted():
            return new, _renewed_by_provider(new)
    assert_never(event)


def _stopping(
    state: ProviderAgreement, cause: Cause, detail: str
) -> tuple[ProviderAgreement, tuple[ProviderEffect, ...]]:
    """Stop a leased job; an agreement that was not leased never will be."""
    state = replace(state, cause=cause, detail=detail)
    if state.phase is P.NEVER_LEASED:
        return state, (SendNeverLeased(),)
    return state, (StopJob(cause=cause, detail=detail),)


def _repeated_by_provider(state: ProviderAgreement) -> tuple[ProviderEffect, ...]:
    """Return the answer to a client that asks again."""
    match state.phase:
        case P.ORDERED:
            return (SendWaiting(),)
        case P.LEASED:
            return (SendTick(),)
        case P.STOPPING:
            return ()
        case P.ENDED | P.KEPT:
            return (SendReceipt(),)
        case P.NEVER_LEASED:
            return (SendNeverLeased(),)
    assert_never(state.phase)


def _renewed_by_provider(state: ProviderAgreement) -> tuple[ProviderEffect, ...]:
    match state.phase:
        case P.ORDERED:
            return (SendWaiting(),)
        case P.LEASED:
            return (WatchJob(),)
        case P.STOPPING:
            cause = Cause.UNKNOWN if state.cause is None else state.cause
            return (StopJob(cause=cause, detail=state.detail),)
        case P.ENDED:
            return (ReleaseSlots(),)
        case P.KEPT:
            return (RemoveJob(),)
        case P.NEVER_LEASED:
            return ()
    assert_never(state.phase)
