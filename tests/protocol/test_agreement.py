from typing import Any

import pytest
from msgspec.structs import replace

from robocompute_protocol import steps
from robocompute_protocol.agreement import (
    CLIENT_TRANSITIONS,
    PROVIDER_TRANSITIONS,
    ClientAgreement,
    ClientPhase as C,
    IllegalTransition,
    ProviderAgreement,
    ProviderPhase as P,
    UnexpectedMessage,
    advance,
    order,
)
from robocompute_protocol.causes import Cause
from robocompute_protocol.codec import decode, encode
from robocompute_protocol.identifiers import AgreementId, Digest
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.receipts import receipt_digest
from robocompute_protocol.signing import RECEIPT, SigningKey, sign_message

NAME, TERMS = AgreementId(b"a" * 32), Digest(b"t" * 32)
FIRST, SECOND = Millis(10_000), Millis(65_000)
SIGNED = sign_message(RECEIPT, SigningKey(bytes(32)), b"the only receipt, as long as it must be.")
OTHER = sign_message(RECEIPT, SigningKey(bytes(32)), b"another one, which there must never be..")
AMOUNT = MicroUnits(7)

CLIENT_EVENTS: dict[type[steps.ClientEvent], steps.ClientEvent] = {
    type(event): event
    for event in (
        steps.TickReceived(prepaid_ms=FIRST, elapsed_ms=Millis(0), at_ms=Millis(5_000)),
        steps.RefusalReceived(code="busy"),
        steps.NeverLeasedReceived(),
        steps.ReceiptReceived(receipt=SIGNED, amount=AMOUNT),
        steps.ExtensionFellDue(prepaid_ms=SECOND),
        steps.CancelRequested(),
        steps.HorizonPassed(),
        steps.ResultsStored(),
        steps.Restarted(),
    )
}
PROVIDER_EVENTS: dict[type[steps.ProviderEvent], steps.ProviderEvent] = {
    type(event): event
    for event in (
        steps.OrderReceived(),
        steps.LeaseGranted(at_ms=Millis(5_000), prepaid_ms=FIRST),
        steps.OrderDeclined(reason="busy"),
        steps.VoucherAccepted(prepaid_ms=SECOND),
        steps.CancelReceived(reason="cancelled"),
        steps.ChannelClosing(),
        steps.PrepaidRanOut(),
        steps.StopOrdered(cause=Cause.PROVIDER_STOPPED, detail="maintenance"),
        steps.JobEnded(cause=Cause.EXITED, detail=""),
        steps.ReceiptSigned(receipt=SIGNED, amount=AMOUNT),
        steps.KeptReceived(),
        steps.RetentionPassed(),
        steps.Restarted(),
    )
}


def client(phase: C = C.ORDERED) -> ClientAgreement:
    """Return a client's agreement as it stands in a phase, with what belongs to that phase."""
    state, _ = order(NAME, TERMS, first_tick_ms=FIRST)
    state = replace(state, phase=phase)
    if phase in (C.ACTIVE, C.ENDED, C.KEPT):
        state = replace(state, leased_ms=FIRST, ticks=1, started_ms=5_000)
    if phase in (C.ENDED, C.KEPT):
        state = replace(state, receipt=SIGNED)
    return state


def provider(phase: P = P.ORDERED) -> ProviderAgreement:
    state = ProviderAgreement(agreement=NAME, terms=TERMS, phase=phase)
    if phase not in (P.ORDERED, P.NEVER_LEASED):
        state = replace(state, prepaid_ms=FIRST, ticks=1, started_ms=5_000)
    if phase in (P.STOPPING, P.ENDED, P.KEPT):
        state = replace(state, cause=Cause.CANCELLED)
    if phase in (P.ENDED, P.KEPT):
        state = replace(state, receipt=SIGNED)
    return state


ILLEGAL_FOR_CLIENTS = {
    (C.ORDERED, steps.ExtensionFellDue),
    (C.ORDERED, steps.ResultsStored),
    (C.ACTIVE, steps.NeverLeasedReceived),
    (C.ACTIVE, steps.ResultsStored),
    (C.CANCELLING, steps.ResultsStored),
    (C.ENDED, steps.NeverLeasedReceived),
    (C.KEPT, steps.NeverLeasedReceived),
    (C.NEVER_LEASED, steps.TickReceived),
    (C.NEVER_LEASED, steps.ReceiptReceived),
    (C.NEVER_LEASED, steps.ResultsStored),
    (C.LOST, steps.ResultsStored),
}
ILLEGAL_FOR_PROVIDERS = {
    (P.ORDERED, steps.PrepaidRanOut),
    (P.ORDERED, steps.JobEnded),
    (P.ORDERED, steps.ReceiptSigned),
    (P.ORDERED, steps.KeptReceived),
    (P.ORDERED, steps.RetentionPassed),
    (P.LEASED, steps.ReceiptSigned),
    (P.LEASED, steps.KeptReceived),
    (P.LEASED, steps.RetentionPassed),
    (P.STOPPING, steps.KeptReceived),
    (P.STOPPING, steps.RetentionPassed),
    (P.NEVER_LEASED, steps.LeaseGranted),
    (P.NEVER_LEASED, steps.PrepaidRanOut),
    (P.NEVER_LEASED, steps.JobEnded),
    (P.NEVER_LEASED, steps.ReceiptSigned),
    (P.NEVER_LEASED, steps.KeptReceived),
    (P.NEVER_LEASED, steps.RetentionPassed),
}


@pytest.mark.parametrize("event", CLIENT_EVENTS.values(), ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("phase", C)
def test_every_event_in_every_phase_of_the_client(phase: C, event: steps.ClientEvent) -> None:
    state, pair = client(phase), (phase, type(event))
    if pair in ILLEGAL_FOR_CLIENTS:
        error = UnexpectedMessage if isinstance(event, steps.FROM_PEER) else IllegalTransition
        assert pair not in CLIENT_TRANSITIONS
        with pytest.raises(error):
            advance(state, event)
        return
    new, effects = advance(state, event)
    assert new.phase is CLIENT_TRANSITIONS[pair]
    assert (new.agreement, new.terms) == (NAME, TERMS)
    assert decode(ClientAgreement, encode(new)) == new
    assert tuple(decode(steps.ClientEffect, encode(effect)) for effect in effects) == effects
    assert decode(steps.ClientEvent, encode(event)) == event


@pytest.mark.parametrize("event", PROVIDER_EVENTS.values(), ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("phase", P)
def test_every_event_in_every_phase_of_the_provider(phase: P, event: steps.ProviderEvent) -> None:
    state, pair = provider(phase), (phase, type(event))
    if pair in ILLEGAL_FOR_PROVIDERS:
        error = UnexpectedMessage if isinstance(event, steps.FROM_PEER) else IllegalTransition
        assert pair not in PROVIDER_TRANSITIONS
        with pytest.raises(error):
            advance(state, event)
        return
    new, effects = advance(state, event)
    assert new.phase is PROVIDER_TRANSITIONS[pair]
    assert (new.agreement, new.terms) == (NAME, TERMS)
    assert decode(ProviderAgreement, encode(new)) == new
    assert tuple(decode(steps.ProviderEffect, encode(effect)) for effect in effects) == effects
    assert decode(steps.ProviderEvent, encode(event)) == event


def test_the_tables_and_the_illegal_pairs_are_all_there_is() -> None:
    clients = {(phase, event) for phase in C for event in CLIENT_EVENTS}
    providers = {(phase, event) for phase in P for event in PROVIDER_EVENTS}
    assert CLIENT_TRANSITIONS.keys() | ILLEGAL_FOR_CLIENTS == clients
    assert PROVIDER_TRANSITIONS.keys() | ILLEGAL_FOR_PROVIDERS == providers


def test_an_event_of_the_other_side_is_illegal() -> None:
    state: Any = client()
    event: Any = steps.JobEnded(cause=Cause.EXITED, detail="")
    with pytest.raises(IllegalTransition):
        advance(state, event)


# --- the client ---------------------------------------------------------------------------------


def told(state: ClientAgreement, *events: steps.ClientEvent) -> Any:
    effects: tuple[steps.ClientEffect, ...] = ()
    for event in events:
        state, effects = advance(state, event)
    return state, effects


def tick(prepaid_ms: int, elapsed_ms: int = 0, at_ms: int = 5_000) -> steps.TickReceived:
    return steps.TickReceived(
        prepaid_ms=Millis(prepaid_ms), elapsed_ms=Millis(elapsed_ms), at_ms=Millis(at_ms)
    )


RECEIVED = steps.ReceiptReceived(receipt=SIGNED, amount=AMOUNT)
DUE = steps.ExtensionFellDue(prepaid_ms=SECOND)
CLOSING = steps.CloseAllocation(receipt=receipt_digest(SIGNED), amount=AMOUNT)


def test_an_order_that_is_leased_extended_ended_and_kept() -> None:
    state, effects = order(NAME, TERMS, first_tick_ms=FIRST)
    assert effects == (steps.SendOrder(),)
    state, effects = told(state, tick(FIRST, elapsed_ms=200))
    assert effects == (steps.AttachJob(),)
    assert (state.started_ms, state.ticks, state.leased_ms) == (4_800, 1, FIRST)
    state, effects = told(state, DUE)
    assert effects == (steps.SendExtension(prepaid_ms=SECOND),)
    state, effects = told(state, tick(SECOND, elapsed_ms=5_000, at_ms=10_000))
    assert effects == ()
    assert (state.started_ms, state.ticks, state.leased_ms) == (4_800, 2, SECOND)
    state, effects = told(state, RECEIVED)
    assert effects == (CLOSING, steps.FetchResults())
    state, effects = told(state, steps.ResultsStored())
    assert effects == (steps.SendKept(),)
    assert state.phase is C.KEPT


def test_nothing_more_is_promised_before_the_last_promise_was_answered() -> None:
    state, _ = told(client(C.ACTIVE), DUE)
    state, effects = told(state, steps.ExtensionFellDue(prepaid_ms=Millis(71_000)))
    assert effects == (steps.SendExtension(prepaid_ms=SECOND),)
    assert state.prepaid_ms == SECOND


def test_an_old_tick_that_comes_late_changes_nothing() -> None:
    state, _ = told(client(C.ACTIVE), DUE, tick(SECOND))
    assert told(state, tick(FIRST, elapsed_ms=9_000)) == (state, ())


def test_a_tick_for_more_than_was_paid_is_the_providers_fault() -> None:
    with pytest.raises(UnexpectedMessage):
        told(client(), tick(FIRST + 1))


def test_a_refused_order_is_cancelled_until_the_provider_says_never() -> None:
    state, effects = told(client(), steps.RefusalReceived(code="busy"))
    assert effects == (steps.SendCancel(reason="busy"),)
    state, effects = told(state, steps.NeverLeasedReceived())
    assert effects == (steps.ReleaseAllocation(),)
    assert told(state, steps.NeverLeasedReceived()) == (state, ())


@pytest.mark.parametrize("phase", [C.CANCELLING, C.LOST])
def test_a_provider_that_signed_a_tick_cannot_say_never(phase: C) -> None:
    state, _ = told(client(phase), tick(FIRST))
    with pytest.raises(UnexpectedMessage):
        advance(state, steps.NeverLeasedReceived())


def test_the_first_receipt_is_the_only_one() -> None:
    state = client(C.ENDED)
    assert told(state, RECEIVED) == (state, ())
    with pytest.raises(UnexpectedMessage):
        advance(state, steps.ReceiptReceived(receipt=OTHER, amount=AMOUNT))


def test_a_lost_provider_is_written_off_and_a_late_receipt_still_counts() -> None:
    state, effects = told(client(C.ACTIVE), steps.HorizonPassed())
    assert effects == (steps.WriteOff(),)
    assert told(state, steps.HorizonPassed()) == (state, ())
    _, effects = told(state, tick(FIRST))
    assert effects == (steps.SendCancel(reason="provider_lost"),)
    state, effects = told(state, RECEIVED)
    assert effects == (CLOSING, steps.FetchResults())
    assert state.phase is C.ENDED


@pytest.mark.parametrize(
    ("phase", "effects"),
    [
        (C.ORDERED, (steps.SendOrder(),)),
        (C.ACTIVE, (steps.AttachJob(), steps.SendExtension(prepaid_ms=FIRST))),
        (C.CANCELLING, (steps.SendCancel(reason=""),)),
        (C.ENDED, (steps.FetchResults(),)),
        (C.KEPT, (steps.SendKept(),)),
        (C.NEVER_LEASED, ()),
        (C.LOST, ()),
    ],
)
def test_a_restarted_client_goes_on_where_it_was(
    phase: C, effects: tuple[steps.ClientEffect, ...]
) -> None:
    resumed = replace(client(phase), resumed=phase is C.ACTIVE)
    assert told(client(phase), steps.Restarted()) == (resumed, effects)


def test_a_restarted_client_sends_again_the_promise_that_nobody_answered() -> None:
    _, effects = told(client(C.ACTIVE), DUE, steps.Restarted())
    assert effects == (steps.AttachJob(), steps.SendExtension(prepaid_ms=SECOND))


# --- the provider -------------------------------------------------------------------------------


def served(state: ProviderAgreement, *events: steps.ProviderEvent) -> Any:
    effects: tuple[steps.ProviderEffect, ...] = ()
    for event in events:
        state, effects = advance(state, event)
    return state, effects


GRANTED = steps.LeaseGranted(at_ms=Millis(5_000), prepaid_ms=FIRST)
PAID = steps.VoucherAccepted(prepaid_ms=SECOND)
ENDED = steps.JobEnded(cause=Cause.EXITED, detail="")
WRITTEN = steps.ReceiptSigned(receipt=SIGNED, amount=AMOUNT)


def test_a_lease_that_is_granted_extended_ended_and_kept() -> None:
    state, effects = served(provider(), GRANTED)
    assert effects == (
        steps.SignTick(tick=0, prepaid_ms=FIRST),
        steps.StartJob(prepaid_ms=FIRST),
    )
    state, effects = served(state, PAID)
    assert effects == (
        steps.ExtendJob(tick=1, prepaid_ms=SECOND),
        steps.SignTick(tick=1, prepaid_ms=SECOND),
    )
    assert (state.prepaid_ms, state.ticks, state.started_ms) == (SECOND, 2, 5_000)
    assert served(state, PAID) == (state, (steps.SendTick(),))
    state, effects = served(state, ENDED)
    assert effects == (steps.SignReceipt(cause=Cause.EXITED, detail=""),)
    state, effects = served(state, WRITTEN)
    assert effects == (CLOSING, steps.SendReceipt(), steps.ReleaseSlots())
    state, effects = served(state, steps.KeptReceived())
    assert effects == (steps.RemoveJob(),)
    assert served(state, steps.KeptReceived()) == (state, ())


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (steps.CancelReceived(reason="cancelled"), Cause.CANCELLED),
        (steps.ChannelClosing(), Cause.CHANNEL_CLOSED),
        (steps.PrepaidRanOut(), Cause.CLIENT_LOST),
        (steps.StopOrdered(cause=Cause.GPU_FAULT, detail="Xid 79"), Cause.GPU_FAULT),
    ],
)
def test_a_job_that_is_stopped_says_why(event: steps.ProviderEvent, cause: Cause) -> None:
    state, effects = served(provider(P.LEASED), event)
    assert state.cause is cause
    assert [type(effect) for effect in effects] == [steps.StopJob]
    assert served(state, event) == (state, ())


def test_what_the_executor_recorded_is_the_cause_in_the_end() -> None:
    state, effects = served(provider(P.LEASED), steps.CancelReceived(reason=""), ENDED)
    assert state.cause is Cause.EXITED
    assert effects == (steps.SignReceipt(cause=Cause.EXITED, detail=""),)


@pytest.mark.parametrize(
    "event",
    [
        steps.CancelReceived(reason="cancelled"),
        steps.OrderDeclined(reason="busy"),
        steps.ChannelClosing(),
        steps.StopOrdered(cause=Cause.PROVIDER_STOPPED, detail=""),
    ],
)
def test_before_a_lease_every_end_is_never_and_stays_never(event: steps.ProviderEvent) -> None:
    state, effects = served(provider(), event)
    assert effects == (steps.SendNeverLeased(),)
    assert served(state, steps.OrderReceived()) == (state, (steps.SendNeverLeased(),))
    assert served(state, PAID) == (state, (steps.SendNeverLeased(),))
    with pytest.raises(IllegalTransition):
        advance(state, GRANTED)


@pytest.mark.parametrize(
    ("phase", "effects"),
    [
        (P.ORDERED, (steps.SendWaiting(),)),
        (P.LEASED, (steps.SendTick(),)),
        (P.STOPPING, ()),
        (P.ENDED, (steps.SendReceipt(),)),
        (P.KEPT, (steps.SendReceipt(),)),
        (P.NEVER_LEASED, (steps.SendNeverLeased(),)),
    ],
)
def test_an_order_that_comes_again_is_answered_with_what_became_of_it(
    phase: P, effects: tuple[steps.ProviderEffect, ...]
) -> None:
    assert served(provider(phase), steps.OrderReceived()) == (provider(phase), effects)


@pytest.mark.parametrize(
    ("phase", "effects"),
    [
        (P.ORDERED, (steps.SendWaiting(),)),
        (P.LEASED, (steps.WatchJob(),)),
        (P.STOPPING, (steps.StopJob(cause=Cause.CANCELLED, detail=""),)),
        (P.ENDED, (steps.ReleaseSlots(),)),
        (P.KEPT, (steps.RemoveJob(),)),
        (P.NEVER_LEASED, ()),
    ],
)
def test_a_restarted_provider_goes_on_where_it_was(
    phase: P, effects: tuple[steps.ProviderEffect, ...]
) -> None:
    assert served(provider(phase), steps.Restarted()) == (provider(phase), effects)


def test_a_second_receipt_is_never_made() -> None:
    assert served(provider(P.ENDED), WRITTEN) == (provider(P.ENDED), ())
    with pytest.raises(IllegalTransition):
        advance(provider(P.ENDED), steps.ReceiptSigned(receipt=OTHER, amount=AMOUNT))
