"""Both sides of an agreement, joined by messages that are lost, reordered and repeated."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings, strategies as st

from robocompute_protocol import steps
from robocompute_protocol.agreement import (
    ClientAgreement,
    ClientPhase as C,
    ProviderAgreement,
    ProviderPhase as P,
    advance,
    order,
)
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import AgreementId, Digest
from robocompute_protocol.messages import Signed
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import RECEIPT, SigningKey, sign_message

NAME, TERMS = AgreementId(b"a" * 32), Digest(b"t" * 32)
FIRST, AMOUNT = Millis(10_000), MicroUnits(7)
SIGNED = sign_message(RECEIPT, SigningKey(bytes(32)), b"the only receipt, as long as it must be.")

Sent = tuple[
    Literal["order", "cancel", "extend", "kept", "tick", "refused", "never", "receipt"], int
]


@dataclass
class Pair:
    """Two cores joined by two lists of messages, which may be dropped, reordered and repeated."""

    client: ClientAgreement = field(
        default_factory=lambda: order(NAME, TERMS, first_tick_ms=FIRST)[0]
    )
    provider: ProviderAgreement | None = None
    to_provider: list[Sent] = field(default_factory=lambda: list[Sent]([("order", FIRST)]))
    to_client: list[Sent] = field(default_factory=list[Sent])
    running: bool = False
    written: Signed | None = None

    def tell_client(self, event: steps.ClientEvent) -> None:
        self.client, effects = advance(self.client, event)
        for effect in effects:
            match effect:
                case steps.SendOrder():
                    self.to_provider.append(("order", FIRST))
                case steps.SendExtension():
                    self.to_provider.append(("extend", effect.prepaid_ms))
                case steps.SendCancel():
                    self.to_provider.append(("cancel", 0))
                case steps.SendKept():
                    self.to_provider.append(("kept", 0))
                case _:
                    pass

    def tell_provider(self, event: steps.ProviderEvent) -> None:
        assert self.provider is not None
        self.provider, effects = advance(self.provider, event)
        for effect in effects:
            match effect:
                case steps.StartJob() | steps.WatchJob():
                    self.running = True
                case steps.SignTick() | steps.SendTick():
                    self.to_client.append(("tick", self.provider.prepaid_ms))
                case steps.StopJob():
                    self.running = False
                    self.tell_provider(steps.JobEnded(cause=effect.cause, detail=""))
                case steps.SignReceipt():
                    self.written = SIGNED
                    self.tell_provider(steps.ReceiptSigned(receipt=SIGNED, amount=AMOUNT))
                case steps.SendReceipt():
                    self.to_client.append(("receipt", 0))
                case steps.SendNeverLeased():
                    self.to_client.append(("never", 0))
                case _:
                    pass

    def deliver_to_provider(self, message: Sent) -> None:
        kind, number = message
        if self.provider is None:
            if kind not in ("order", "cancel"):
                return
            self.provider = ProviderAgreement(agreement=NAME, terms=TERMS)
            if kind == "order":
                return
        if kind == "order":
            self.tell_provider(steps.OrderReceived())
        elif kind == "extend":
            self.tell_provider(steps.VoucherAccepted(prepaid_ms=Millis(number)))
        elif kind == "cancel":
            self.tell_provider(steps.CancelReceived(reason="cancelled"))
        else:
            self.tell_provider(steps.KeptReceived())

    def deliver_to_client(self, message: Sent) -> None:
        kind, number = message
        if kind == "tick":
            paid, none = Millis(number), Millis(0)
            self.tell_client(
                steps.TickReceived(prepaid_ms=paid, elapsed_ms=none, at_ms=Millis(5_000))
            )
        elif kind == "never":
            self.tell_client(steps.NeverLeasedReceived())
        elif kind == "refused":
            self.tell_client(steps.RefusalReceived(code="busy"))
        else:
            self.tell_client(steps.ReceiptReceived(receipt=SIGNED, amount=AMOUNT))

    def step(self, action: str, number: int) -> None:
        match action:
            case "to provider" | "to provider twice" if self.to_provider:
                index = number % len(self.to_provider)
                self.deliver_to_provider(self.to_provider[index])
                if action == "to provider":
                    del self.to_provider[index]
            case "to client" | "to client twice" if self.to_client:
                index = number % len(self.to_client)
                self.deliver_to_client(self.to_client[index])
                if action == "to client":
                    del self.to_client[index]
            case "lose to provider" if self.to_provider:
                del self.to_provider[number % len(self.to_provider)]
            case "lose to client" if self.to_client:
                del self.to_client[number % len(self.to_client)]
            case "extend" if self.client.phase is C.ACTIVE:
                total = Millis(self.client.leased_ms + 6_000)
                self.tell_client(steps.ExtensionFellDue(prepaid_ms=total))
            case "cancel":
                self.tell_client(steps.CancelRequested())
            case "horizon":
                self.tell_client(steps.HorizonPassed())
            case "restart client":
                self.tell_client(steps.Restarted())
            case "keep" if self.client.phase is C.ENDED:
                self.tell_client(steps.ResultsStored())
            case _ if self.provider is not None:
                self.step_provider(action)
            case _:
                pass

    def step_provider(self, action: str) -> None:
        assert self.provider is not None
        phase = self.provider.phase
        match action:
            case "grant" if phase is P.ORDERED:
                self.tell_provider(steps.LeaseGranted(at_ms=Millis(5_000), prepaid_ms=FIRST))
            case "refuse" if phase is P.ORDERED:
                self.to_client.append(("refused", 0))
            case "decline" if phase is P.ORDERED:
                self.tell_provider(steps.OrderDeclined(reason="busy"))
            case "job ends" if self.running:
                self.running = False
                self.tell_provider(steps.JobEnded(cause=Cause.EXITED, detail=""))
            case "prepaid runs out" if phase is P.LEASED:
                self.tell_provider(steps.PrepaidRanOut())
            case "channel closes":
                self.tell_provider(steps.ChannelClosing())
            case "restart provider":
                self.tell_provider(steps.Restarted())
            case _:
                pass

    def settle(self) -> None:
        """Let everything arrive, with a client that cancels what has not ended."""
        for _ in range(4):
            self.tell_client(steps.CancelRequested())
            while self.to_provider or self.to_client:
                if self.to_provider:
                    self.deliver_to_provider(self.to_provider.pop(0))
                if self.to_client:
                    self.deliver_to_client(self.to_client.pop(0))


ACTIONS = [
    "to provider",
    "to provider twice",
    "to client",
    "to client twice",
    "lose to provider",
    "lose to client",
    "extend",
    "cancel",
    "horizon",
    "restart client",
    "keep",
    "grant",
    "refuse",
    "decline",
    "job ends",
    "prepaid runs out",
    "channel closes",
    "restart provider",
]


@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 20)), max_size=40))
def test_whatever_happens_on_the_way_both_sides_come_to_the_same_end(
    history: list[tuple[str, int]],
) -> None:
    pair = Pair()
    for action, number in history:
        pair.step(action, number)
    pair.settle()
    assert pair.provider is not None
    if pair.client.phase is C.NEVER_LEASED:
        assert pair.provider.phase is P.NEVER_LEASED
        assert pair.written is None
    else:
        assert pair.client.phase in (C.ENDED, C.KEPT)
        assert pair.provider.phase in (P.ENDED, P.KEPT)
        assert pair.client.receipt == pair.provider.receipt == SIGNED
    assert pair.provider.prepaid_ms <= pair.client.prepaid_ms


@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_cancel_and_a_lease_that_cross_end_the_same_way_on_both_sides(
    cancel_first: bool,
) -> None:
    pair = Pair()
    pair.step("to provider", 0)
    pair.step("cancel", 0)
    for action in ("to provider", "grant") if cancel_first else ("grant", "to provider"):
        pair.step(action, 0)
    while pair.to_client:
        pair.step("to client", 0)
    assert pair.provider is not None
    expected = (C.NEVER_LEASED, P.NEVER_LEASED) if cancel_first else (C.ENDED, P.ENDED)
    assert (pair.client.phase, pair.provider.phase) == expected
