"""Both sides of one agreement with ledgers, disks, clocks and a job, on a link that keeps no promise.

What a side knows is what it committed; a crash may come before or after any commit and between any two
things it does. A crashed side starts again with another clock. The job is a process of its own: it runs
on, for as long as it was prepaid. Time is in milliseconds, and a millisecond costs a micro-unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from robocompute_protocol import receipts, steps, terms as rules, vectors
from robocompute_protocol.agreement import (
    ClientAgreement,
    ClientPhase as C,
    ProviderAgreement,
    ProviderPhase as P,
    advance,
    order,
)
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.vouchers import PayeeLedger, PayerLedger, sign_voucher

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_protocol.messages import Receipt, Signed, SignedVoucher

PAYER, PAYEE = SigningKey(vectors.PAYER_SEED), SigningKey(vectors.PROVIDER_SEED)
TERMS: Final = replace(vectors.example_terms(), price_per_hour=MicroUnits(3_600_000))
NAME: Final = rules.agreement_id(TERMS)
FIRST: Final = TERMS.first_tick_ms
HORIZON: Final = TERMS.horizon_ms
DEPOSIT: Final = MicroUnits(10**12)
JUMPS: Final = (0, 0, 5_000, -5_000, 86_400_000, -86_400_000)
"""By how much a machine's clock may be off when its node starts."""
DRIFTS: Final = (0, 1, -1)
"""In thousandths: far beyond any quartz."""

Kind = Literal[
    "order", "cancel", "extend", "attach", "kept", "tick", "refused", "never", "receipt", "waiting"
]  # fmt: skip


@dataclass(frozen=True)
class Packet:
    """One message on its way."""

    to_provider: bool
    kind: Kind
    number: int = 0
    """Prepaid time in all."""
    elapsed: int = 0
    voucher: SignedVoucher | None = None
    signed: Signed | None = None


class Crash(Exception):
    """A side's process ends here."""


@dataclass
class Machine:
    """A process with a clock that runs a little fast or slow, and is set anew at each start."""

    world: World
    drift: int = 0
    epoch: int = 10**12
    booted: int = 0
    fuse: int = -1
    """Steps until it crashes; negative: it does not."""

    def now(self) -> Millis:
        ran = self.world.now - self.booted
        return Millis(self.epoch + ran + ran * self.drift // 1_000)

    def step(self) -> None:
        """A moment at which the process may end."""
        if self.fuse == 0:
            raise Crash
        self.fuse -= self.fuse > 0

    def boot(self, jump: int) -> None:
        self.fuse = -1
        self.booted = self.world.now
        self.epoch = 10**12 + self.world.now + jump


@dataclass
class Client(Machine):
    """The payer's node."""

    state: ClientAgreement = field(
        default_factory=lambda: order(NAME, rules.terms_digest(TERMS), first_tick_ms=FIRST)[0]
    )
    ledger: PayerLedger = field(default_factory=lambda: PayerLedger(channel=TERMS.channel))
    first: SignedVoucher | None = None
    heard: int = 0

    def place(self) -> None:
        self.ledger, voucher = self.ledger.allocate(NAME, rules.prepaid_amount(TERMS, FIRST))
        self.first = sign_voucher(PAYER, voucher)
        self.heard = self.now()
        self.send("order", voucher=self.first)

    def send(self, kind: Kind, number: int = 0, *, voucher: SignedVoucher | None = None) -> None:
        self.step()
        self.world.link.append(Packet(True, kind, number, voucher=voucher))

    def elapsed(self) -> Millis:
        return Millis(max(0, self.now() - self.state.started_ms) if self.state.started_ms else 0)

    def tell(self, event: steps.ClientEvent) -> None:
        state, effects = advance(self.state, event)
        ledger = self.ledger
        for effect in effects:
            match effect:
                case steps.CloseAllocation():
                    ledger = ledger.close(NAME, effect.receipt, effect.amount)
                case steps.ReleaseAllocation():
                    ledger = ledger.release(NAME)
                case _:
                    pass
        self.step()
        self.state, self.ledger = state, ledger
        for effect in effects:
            self.step()
            self.act(effect)

    def act(self, effect: steps.ClientEffect) -> None:
        match effect:
            case steps.SendOrder():
                self.send("order", voucher=self.first)
            case steps.SendExtension():
                amount = rules.prepaid_amount(TERMS, effect.prepaid_ms)
                self.ledger, voucher = self.ledger.allocate(NAME, amount)
                self.step()
                self.send("extend", effect.prepaid_ms, voucher=sign_voucher(PAYER, voucher))
            case steps.SendCancel():
                self.send("cancel")
            case steps.AttachJob() | steps.FetchResults():
                self.send("attach")
            case steps.SendKept():
                self.send("kept")
            case _:
                pass

    def poll(self) -> None:
        """What its services do from time to time."""
        phase = self.state.phase
        if phase in (C.ORDERED, C.ACTIVE, C.CANCELLING) and self.now() - self.heard > HORIZON:
            self.tell(steps.HorizonPassed())
        elif phase is C.ORDERED:
            self.send("order", voucher=self.first)
        elif phase is C.ACTIVE:
            due, total = rules.next_extension(
                TERMS, elapsed_ms=self.elapsed(), prepaid_ms=self.state.leased_ms
            )
            if self.elapsed() >= due:
                self.tell(steps.ExtensionFellDue(prepaid_ms=total))
            self.send("attach")
        elif phase in (C.CANCELLING, C.LOST):
            self.send("cancel")
        elif phase is C.ENDED:
            self.tell(steps.ResultsStored())

    def hear(self, packet: Packet) -> None:
        self.heard = self.now()
        match packet.kind:
            case "tick":
                self.tell(
                    steps.TickReceived(
                        prepaid_ms=Millis(packet.number),
                        elapsed_ms=Millis(packet.elapsed),
                        at_ms=self.now(),
                    )
                )
            case "refused":
                self.tell(steps.RefusalReceived(code="busy"))
            case "never":
                assert packet.signed is not None
                receipts.verify_never_leased(packet.signed, TERMS)
                self.tell(steps.NeverLeasedReceived())
            case "receipt":
                assert packet.signed is not None
                known = self.state.receipt is not None
                paid = DEPOSIT if known else self.ledger.paid(NAME)
                receipt = receipts.verify_receipt(packet.signed, TERMS, paid=paid)
                self.tell(steps.ReceiptReceived(receipt=packet.signed, amount=receipt.amount))
            case _:
                pass

    def restart(self, jump: int) -> None:
        self.boot(jump)
        self.heard = self.now()
        self.tell(steps.Restarted())


@dataclass
class Job:
    """The process that was let, with the lease in its own hands and a clock that does not jump."""

    began: int
    prepaid: int
    ended: int | None = None
    cause: Cause | None = None

    def run_until(self, now: int) -> None:
        if self.ended is None and now - self.began >= self.prepaid:
            self.ended, self.cause = self.began + self.prepaid, Cause.CLIENT_LOST

    def end(self, now: int, cause: Cause) -> None:
        self.run_until(now)
        if self.ended is None:
            self.ended, self.cause = now, cause

    def ran(self, now: int) -> int:
        return (now if self.ended is None else self.ended) - self.began


@dataclass
class Provider(Machine):
    """The payee's node."""

    state: ProviderAgreement | None = None
    ledger: PayeeLedger = field(default_factory=lambda: PayeeLedger(channel=TERMS.channel))
    first: SignedVoucher | None = None
    never: bool = False
    """It said, for ever, that there was no lease."""
    ticks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Number and prepaid time of each tick it signed."""
    written: set[Digest] = field(default_factory=set[Digest])

    def send(self, kind: Kind, signed: Signed | None = None) -> None:
        self.step()
        prepaid = 0 if self.state is None else self.state.prepaid_ms
        self.world.link.append(Packet(False, kind, prepaid, elapsed=self.elapsed(), signed=signed))

    def elapsed(self) -> int:
        started = 0 if self.state is None else self.state.started_ms
        return max(0, self.now() - started) if started else 0

    def tell(self, event: steps.ProviderEvent, ledger: PayeeLedger | None = None) -> None:
        assert self.state is not None
        state, effects = advance(self.state, event)
        ledger = self.ledger if ledger is None else ledger
        for effect in effects:
            if isinstance(effect, steps.CloseAllocation):
                ledger = ledger.close(NAME, effect.receipt, effect.amount)
        self.step()
        self.state, self.ledger = state, ledger
        for effect in effects:
            self.step()
            self.act(effect)

    def act(self, effect: steps.ProviderEffect) -> None:
        assert self.state is not None
        world = self.world
        match effect:
            case steps.SignTick():
                assert not self.never, "a lease after it was said that there is none"
                self.ticks.append((effect.tick, effect.prepaid_ms))
                self.send("tick")
            case steps.SendTick():
                self.send("tick")
            case steps.StartJob() | steps.WatchJob() if world.job is None:
                assert not self.never
                world.job = Job(world.now, self.state.prepaid_ms)
            case steps.WatchJob():
                assert world.job is not None
                world.job.prepaid = max(world.job.prepaid, self.state.prepaid_ms)
            case steps.ExtendJob():
                if world.job is not None and world.job.ended is None:
                    world.job.prepaid = max(world.job.prepaid, effect.prepaid_ms)
            case steps.StopJob():
                self.over(effect.cause)
            case steps.SignReceipt():
                self.write_receipt(effect)
            case steps.SendReceipt():
                self.send("receipt", self.state.receipt)
            case steps.SendNeverLeased():
                self.say_never()
            case steps.SendWaiting():
                self.send("waiting")
            case _:
                pass

    def over(self, cause: Cause) -> None:
        """The job's end, as its own process recorded it."""
        job = self.world.job
        if job is not None:
            job.end(self.world.now, cause)
            cause = job.cause or cause
        self.tell(steps.JobEnded(cause=cause, detail=""))

    def write_receipt(self, effect: steps.SignReceipt) -> None:
        assert self.state is not None
        job = self.world.job
        receipt: Receipt = receipts.build_receipt(
            TERMS, started_ms=self.state.started_ms,
            metered_ms=Millis(0 if job is None else job.ran(self.world.now)), frozen_ms=Millis(0),
            exit_code=None, cause=effect.cause, detail=effect.detail, output=receipts.NO_OUTPUT,
            output_records=0, artifacts=Digest(bytes(32)), prepaid_ms=self.state.prepaid_ms,
        )  # fmt: skip
        signed = receipts.sign_receipt(PAYEE, receipt)
        self.written.add(receipts.receipt_digest(signed))
        self.tell(steps.ReceiptSigned(receipt=signed, amount=receipt.amount))

    def say_never(self) -> None:
        assert not self.ticks, "never leased, after a tick was signed"
        self.step()
        self.never = True
        signed = receipts.sign_never_leased(PAYEE, agreement=NAME, channel=TERMS.channel)
        self.send("never", signed)

    def hear(self, packet: Packet) -> None:
        if self.state is None:
            if packet.kind not in ("order", "cancel"):
                return
            self.step()
            self.state = ProviderAgreement(agreement=NAME, terms=rules.terms_digest(TERMS))
            self.first = packet.voucher
        match packet.kind:
            case "order":
                self.first = self.first or packet.voucher
                self.tell(steps.OrderReceived())
            case "cancel":
                self.tell(steps.CancelReceived(reason="cancelled"))
            case "extend":
                self.extend(packet)
            case "attach" if self.state.phase in (P.ENDED, P.KEPT):
                self.send("receipt", self.state.receipt)
            case "kept":
                self.tell(steps.KeptReceived())
            case _:
                pass

    def extend(self, packet: Packet) -> None:
        assert self.state is not None
        assert packet.voucher is not None
        if self.state.phase is P.LEASED:
            rules.check_extension(
                TERMS, elapsed_ms=Millis(self.elapsed()), prepaid_ms=self.state.prepaid_ms,
                new_prepaid_ms=Millis(packet.number),
            )  # fmt: skip
            ledger = self.ledger.accept(
                packet.voucher, voucher_key=PAYER.node_key, deposit=DEPOSIT
            )
            if ledger.paid(NAME) < rules.prepaid_amount(TERMS, Millis(packet.number)):
                raise RemoteProtocolError("underpaid", code="underpaid")
            self.tell(steps.VoucherAccepted(prepaid_ms=Millis(packet.number)), ledger)
        else:
            self.tell(steps.OrderReceived())  # it is answered as it stands

    def grant(self) -> None:
        if self.state is None or self.state.phase is not P.ORDERED or self.first is None:
            return
        ledger = self.ledger.accept(self.first, voucher_key=PAYER.node_key, deposit=DEPOSIT)
        if ledger.paid(NAME) < rules.prepaid_amount(TERMS, FIRST):
            self.tell(steps.OrderDeclined(reason="underpaid"))
            return
        self.tell(steps.LeaseGranted(at_ms=self.now(), prepaid_ms=FIRST), ledger.lease(NAME))

    def poll(self) -> None:
        """Notice what became of the job."""
        job = self.world.job
        if self.state is None or self.state.phase is not P.LEASED or job is None:
            return
        job.run_until(self.world.now)
        if job.ended is not None:
            self.over(Cause.UNKNOWN)

    def restart(self, jump: int) -> None:
        self.boot(jump)
        if self.state is not None:
            self.tell(steps.Restarted())


class World:
    """Two machines, what is between them, and the job."""

    def __init__(self, drifts: tuple[int, int] = (0, 0)) -> None:
        self.now = 0
        self.link: list[Packet] = []
        self.job: Job | None = None
        self.client = Client(self, drift=drifts[0])
        self.provider = Provider(self, drift=drifts[1])
        self.jumps = 0
        self.client.place()

    def attempt(self, machine: Client | Provider, what: Callable[[], None]) -> None:
        """Let a side do something; it may crash in the middle of it, and start again at once."""
        try:
            what()
        except Crash:
            self.jumps += 1
            machine.restart(JUMPS[self.jumps % len(JUMPS)])
        except RemoteProtocolError:
            pass  # the stream ends, and nothing changed

    def deliver(self, number: int, *, keep: bool = False) -> None:
        if not self.link:
            return
        index = number % len(self.link)
        packet = self.link[index] if keep else self.link.pop(index)
        machine = self.provider if packet.to_provider else self.client
        self.attempt(machine, lambda: machine.hear(packet))

    def act(self, action: str, number: int) -> None:
        client, provider = self.client, self.provider
        match action:
            case "deliver":
                self.deliver(number)
            case "duplicate":
                self.deliver(number, keep=True)
            case "lose" if self.link:
                self.link.pop(number % len(self.link))
            case "wait":
                self.now += 250 * (number + 1)
                if self.job is not None:
                    self.job.run_until(self.now)
            case "wait long":
                self.now += 4_000 * (number + 1)
                if self.job is not None:
                    self.job.run_until(self.now)
            case "client looks":
                self.attempt(client, client.poll)
            case "provider looks":
                self.attempt(provider, provider.poll)
            case "cancel":
                self.attempt(client, lambda: client.tell(steps.CancelRequested()))
            case "grant":
                self.attempt(provider, provider.grant)
            case "refuse" if provider.state is not None and provider.state.phase is P.ORDERED:
                self.link.append(Packet(False, "refused"))
            case "decline" if provider.state is not None and provider.state.phase is P.ORDERED:
                self.attempt(provider, lambda: provider.tell(steps.OrderDeclined(reason="busy")))
            case "job exits" if self.job is not None:
                self.job.end(self.now, Cause.EXITED)
            case "operator stops" if provider.state is not None:
                event = steps.StopOrdered(cause=Cause.PROVIDER_STOPPED, detail="")
                self.attempt(provider, lambda: provider.tell(event))
            case "channel closes" if provider.state is not None:
                self.attempt(provider, lambda: provider.tell(steps.ChannelClosing()))
            case "client will crash":
                client.fuse = number
            case "provider will crash":
                provider.fuse = number
            case _:
                pass

    def settle(self) -> None:
        """Let everything arrive, with a client that cancels what has not ended by then."""
        for _ in range(6):
            self.act("cancel", 0)
            for _ in range(200):
                if not self.link:
                    break
                self.deliver(0)
            for action in ("provider looks", "client looks"):
                self.act(action, 0)
            self.now += 500
