"""The provider's agreements: stored before anything is said, run in sandboxes, ended with receipts.

``apply`` is the only place where an agreement changes: the new state, the channel's ledger and the
tick or receipt that follows are one transaction. What must then be done (start, extend, stop,
collect) is done by tasks of this service, each of which can be repeated after a crash.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.slots import SlotTable, indices_of
from robocompute_node.services.never_leased import NeverLeased
from robocompute_node.services.presence import Presence
from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol import leases, limits, receipts, terms as rules
from robocompute_protocol.agreement import ProviderAgreement, ProviderPhase, advance
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest
from robocompute_protocol.messages import LeaseTick, Signed, Terms
from robocompute_protocol.money import Millis, format_amount
from robocompute_protocol.steps import (
    ChannelClosing,
    CloseAllocation,
    ExtendJob,
    JobEnded,
    KeptReceived,
    LeaseGranted,
    OrderDeclined,
    ProviderEffect,
    ProviderEvent,
    ReceiptSigned,
    RemoveJob,
    Restarted,
    RetentionPassed,
    SignTick,
    StartJob,
    StopJob,
    WatchJob,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.executor.port import Executor
    from robocompute_node.services.blob_access import BlobAccess
    from robocompute_node.services.earnings import EarningRecord, Earnings
    from robocompute_node.services.job_runs import JobRun, JobRuns
    from robocompute_node.services.quiet_time import QuietTime
    from robocompute_protocol.signing import SigningKey

log = logging.getLogger(__name__)

RETENTION: Final = Millis(7 * 86_400_000)
"""Results wait a week for a client that does not come for them."""
GRANT_WITHIN: Final = Millis(60_000)
"""An order that was not granted by then, twice the wait for its channel, gives its slots back."""
TIDY_SECONDS: Final = 1.0
"""Between looks for results that nobody came for and channels that are closing."""


class LettingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One agreement in the store."""

    state: ProviderAgreement
    terms: Terms
    signed_terms: Signed
    task: bytes
    """The encoded TaskSpec."""
    job_id: str
    ordered_ms: Millis
    tick: LeaseTick | None = None
    program_started_ms: Millis = Millis(0)
    """When the job's program started, by this node's clock; 0 before."""
    artifacts: Digest | None = None
    ended_ms: Millis = Millis(0)

    @property
    def over(self) -> bool:
        return self.state.phase in (
            ProviderPhase.ENDED,
            ProviderPhase.KEPT,
            ProviderPhase.NEVER_LEASED,
        )

    @property
    def signed_until_ms(self) -> Millis:
        """The end of its last tick: until then its slots are not let to another payer."""
        return Millis(0 if self.tick is None else self.tick.end_s * 1000)


LETTINGS: Final = Table("lettings/1", LettingRecord)
LIVE: Final = Table("lettings-live/1", bool)
"""Agreements that something is still to be done for, or whose last tick is not over."""
JOBS: Final = Table("lettings-jobs/1", bytes)
"""Job id → agreement: a nonce is used once, whoever draws it."""


class Lettings:
    """All agreements this provider made."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        key: SigningKey,
        executor: Executor,
        runs: JobRuns,
        earnings: Earnings,
        access: BlobAccess,
        quiet: QuietTime,
        *,
        slots: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._executor = executor
        self._runs = runs
        self._earnings = earnings
        self._access = access
        self._quiet = quiet
        self.never = NeverLeased(store, clock, earnings)
        self._nursery: trio.Nursery | None = None
        self._found: frozenset[AgreementId] = frozenset()
        """Agreements leased before this process began."""
        store.declare(LETTINGS, LIVE, JOBS)
        self._presence = Presence(store, clock)
        with store.view() as txn:
            live = [txn.get(LETTINGS, key) for key, _ in txn.scan(LIVE)]
        records = [record for record in live if record is not None]
        self._records = {record.state.agreement: record for record in records}
        self.slots = SlotTable.of(slots)
        for record in sorted(records, key=lambda record: record.signed_until_ms):
            self._take_slots(record)
            if record.over:
                self.slots = self.slots.release(record.state.agreement)
        self._changed: dict[AgreementId, trio.Event] = {}

    # --- looking --------------------------------------------------------------------------------

    def get(self, agreement: AgreementId) -> LettingRecord | None:
        return self._records.get(agreement) or self._store.get(LETTINGS, agreement)

    def has_job(self, job_id: str) -> bool:
        return self._store.get(JOBS, job_id.encode()) is not None

    def running(self) -> tuple[LettingRecord, ...]:
        return tuple(record for record in self._records.values() if not record.over)

    def holding(self) -> tuple[LettingRecord, ...]:
        """Agreements whose upload or results may still be asked for."""
        done = (ProviderPhase.KEPT, ProviderPhase.NEVER_LEASED)
        return tuple(r for r in self._records.values() if r.state.phase not in done)

    def elapsed(self, record: LettingRecord) -> Millis:
        """Time since the lease began."""
        return Millis(max(0, self._clock.now_ms() - record.state.started_ms))

    def changed(self, agreement: AgreementId) -> trio.Event:
        """Set at the agreement's next change."""
        return self._changed.setdefault(agreement, trio.Event())

    async def ended(self, agreement: AgreementId) -> LettingRecord | None:
        """Return the agreement once it has a receipt; None once it will never be leased."""
        while True:
            record = self.get(agreement)
            if record is None or record.over:
                return record
            await self.changed(agreement).wait()

    def never_leased(self, agreement: AgreementId, channel: ChannelId) -> Signed:
        """The statement that this agreement was not and will not be leased: the same each time."""
        return receipts.sign_never_leased(self._key, agreement=agreement, channel=channel)

    def summary(self) -> Mapping[str, object]:
        """JSON-ready: slots and jobs as they are."""
        taken = sum(1 for slot in self.slots.slots.values() if slot.agreement is not None)
        return {
            "slots": len(self.slots.slots),
            "slots_taken": taken,
            "jobs": [
                {
                    "job": record.job_id,
                    "phase": record.state.phase.value,
                    "stage": self._runs.stage_of(record.state.agreement).stage,
                    "prepaid_ms": record.state.prepaid_ms,
                    "elapsed_ms": self.elapsed(record) if record.state.started_ms else 0,
                }
                for record in self.running()
            ],
        }

    # --- changing -------------------------------------------------------------------------------

    def take_order(self, record: LettingRecord) -> None:
        """Store an order that is taken, before anything is answered."""
        with self._store.transaction() as txn:
            self._write(txn, record)

    def decline(self, agreement: AgreementId, terms: Terms, why: str) -> None:
        """Store that this agreement will never be leased, before anything is answered."""
        with self._store.transaction() as txn:
            self.never.keep(txn, agreement, terms.channel, terms.payer_node, why)

    def grant(self, agreement: AgreementId, earning: EarningRecord) -> LettingRecord:
        """Begin the lease: ledger, slots and first tick are one step."""
        record = self._the(agreement)
        earning = msgspec.structs.replace(earning, ledger=earning.ledger.lease(agreement))
        event = LeaseGranted(at_ms=self._clock.now_ms(), prepaid_ms=rules.first_tick(record.terms))
        return self.apply(agreement, event, earning=earning)

    def apply(
        self,
        agreement: AgreementId,
        event: ProviderEvent,
        *,
        earning: EarningRecord | None = None,
        **changes: object,
    ) -> LettingRecord:
        """Advance one agreement, durably, and begin what follows.

        Raises: IllegalTransition, UnexpectedMessage; then nothing changed.
        """
        with self._store.transaction() as txn:
            record = self.apply_in(txn, agreement, event, earning=earning, **changes)
        self.before_speaking()
        return record

    def apply_in(
        self,
        txn: Transaction,
        agreement: AgreementId,
        event: ProviderEvent,
        *,
        earning: EarningRecord | None = None,
        **changes: object,
    ) -> LettingRecord:
        """Do what ``apply`` does, in a transaction that has nothing else of this channel.

        What follows begins once it is durable; ``before_speaking`` comes before any word of it.
        """
        record = self._the(agreement)
        state, effects = advance(record.state, event)
        record = msgspec.structs.replace(record, state=state, **changes)
        earning_changed, signed = earning is not None, False
        earning = earning or self._earnings.get(record.terms.channel)
        for effect in effects:
            match effect:
                case SignTick():
                    record, signed = self._with_tick(record, effect), True
                case CloseAllocation():
                    assert earning is not None
                    ledger = earning.ledger.close(agreement, effect.receipt, effect.amount)
                    earning = msgspec.structs.replace(earning, ledger=ledger)
                    earning_changed = True
                case _:
                    pass
        self._write(txn, record, signed=signed)
        if earning is not None and earning_changed:
            self._earnings.keep(txn, earning)
        txn.after(lambda: self._follow(record, effects))
        return record

    def before_speaking(self) -> None:
        """Let the mark beside the node's key say what is stored. Raises: StoreError."""
        self._quiet.mark()

    def _follow(self, record: LettingRecord, effects: tuple[ProviderEffect, ...]) -> None:
        for effect in effects:
            self._act(record, effect)
        self._changed.pop(record.state.agreement, trio.Event()).set()

    def _with_tick(self, record: LettingRecord, effect: SignTick) -> LettingRecord:
        terms, now = record.terms, self._clock.now_ms()
        # However much is prepaid: what a restored node must wait out is bounded by this.
        left = Millis(min(record.state.started_ms + effect.prepaid_ms - now, limits.MAX_TICK))
        window = leases.window(now_ms=now, left_ms=left, free_from_s=self._free_from_s(record))
        tick = leases.sign_tick(
            self._key,
            stake=terms.stake,
            agreement=record.state.agreement,
            payer=terms.payer,
            slots=terms.slots,
            start_s=window.start_s,
            end_s=window.end_s,
        )
        return msgspec.structs.replace(record, tick=tick)

    def _free_from_s(self, record: LettingRecord) -> int:
        ends = [
            slot.signed_until
            for index in indices_of(record.terms.slots)
            if (slot := self.slots.slots[index]).payer != record.terms.payer
        ]
        return -(-max(ends, default=Millis(0)) // 1000)

    def _write(self, txn: Transaction, record: LettingRecord, *, signed: bool = False) -> None:
        self._quiet.note(txn, signed=signed)
        agreement, terms = record.state.agreement, record.terms
        done = self._is_done_with(record)
        if record.state.phase is ProviderPhase.NEVER_LEASED:
            self.never.keep(txn, agreement, terms.channel, terms.payer_node, record.state.detail)
            txn.delete(LETTINGS, agreement)
            txn.delete(JOBS, record.job_id.encode())
        else:
            txn.put(LETTINGS, agreement, record)
            txn.put(JOBS, record.job_id.encode(), agreement)
        if done:
            txn.delete(LIVE, agreement)
        else:
            txn.put(LIVE, agreement, True)
        txn.after(lambda: self._written(record, done=done))

    def _written(self, record: LettingRecord, *, done: bool) -> None:
        agreement = record.state.agreement
        if done:
            self._records.pop(agreement, None)
        else:
            self._records[agreement] = record
        if record.over:
            self.slots = self.slots.release(agreement)
        else:
            self._take_slots(record)

    def _is_done_with(self, record: LettingRecord) -> bool:
        if record.state.phase is ProviderPhase.NEVER_LEASED:
            return True
        kept = record.state.phase is ProviderPhase.KEPT
        return kept and record.signed_until_ms < self._clock.now_ms()

    def _the(self, agreement: AgreementId) -> LettingRecord:
        record = self.get(agreement)
        assert record is not None
        return record

    def _take_slots(self, record: LettingRecord) -> None:
        if record.state.phase is ProviderPhase.ORDERED:
            return  # an order alone keeps nothing: its channel may never come
        indices = tuple(i for i in indices_of(record.terms.slots) if i in self.slots.slots)
        self.slots = self.slots.let(
            indices, record.state.agreement, record.terms.payer, record.signed_until_ms
        )

    def _act(self, record: LettingRecord, effect: ProviderEffect) -> None:
        agreement = record.state.agreement
        match effect:
            case StartJob() | WatchJob():
                self._spawn_run(record)
            case ExtendJob():
                self._runs.extend(agreement)
            case StopJob():
                self._spawn_run(record)  # first: after a restart there is no run to stop yet
                self._runs.stop(agreement, effect.cause, effect.detail)
            case RemoveJob():
                assert self._nursery is not None
                self._nursery.start_soon(self._executor.remove, record.job_id)
                self._runs.forget(agreement)
            case _:
                pass  # replies and slots follow the stored state; a run signs its own receipt

    def _left(self, record: LettingRecord) -> Millis:
        return Millis(max(0, record.state.prepaid_ms - self.elapsed(record)))

    # --- running --------------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Adopt the jobs found at start, then run what is leased until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._found = frozenset(
                agreement for agreement, record in self._records.items() if record.state.started_ms
            )
            known = {record.job_id for record in self._records.values() if not record.over}
            unkept = {
                record.job_id
                for record in self._records.values()
                if record.state.phase is ProviderPhase.ENDED
            }
            for job_id in self._executor.jobs():
                if job_id not in known | unkept:
                    nursery.start_soon(self._executor.remove, job_id)
            for agreement in list(self._records):
                self.apply(agreement, Restarted())
            task_status.started()
            while True:
                await trio.sleep(TIDY_SECONDS)
                self._note_awake()
                self._tidy()
        raise AssertionError("unreachable")

    def _tidy(self) -> None:
        now = self._clock.now_ms()
        for agreement, record in list(self._records.items()):
            if self._is_done_with(record):
                with self._store.transaction() as txn:
                    self._write(txn, record)
                continue
            if record.state.phase is ProviderPhase.ENDED and now - record.ended_ms > RETENTION:
                self.apply(agreement, RetentionPassed())
            if (
                record.state.phase is ProviderPhase.ORDERED
                and now - record.ordered_ms > GRANT_WITHIN
            ):
                self.apply(agreement, OrderDeclined(reason="the order was not followed up"))
                continue
            earning = self._earnings.get(record.terms.channel)
            if earning is not None and earning.closing and not record.over:
                self.apply(agreement, ChannelClosing())

    def _note_awake(self) -> None:
        """While somebody owes us a next payment, remember that it could have been made."""
        if any(record.state.phase is ProviderPhase.LEASED for record in self.running()):
            self._presence.note()

    def _could_pay(self, record: LettingRecord) -> bool:
        started_ms, prepaid_ms = record.state.started_ms, record.state.prepaid_ms
        return self._presence.could_pay(record.terms, started_ms=started_ms, prepaid_ms=prepaid_ms)

    def _spawn_run(self, record: LettingRecord) -> None:
        """Make sure exactly one task looks after this agreement's job."""
        assert self._nursery is not None
        run = self._runs.claim(record.state.agreement, record.job_id)
        if run is not None:
            self._nursery.start_soon(self._run_job, record.state.agreement, run)

    async def _run_job(self, agreement: AgreementId, run: JobRun) -> None:
        record = self._the(agreement)
        end = await run.to_its_end(
            record.task,
            indices_of(record.terms.slots),
            prepaid=lambda: self._left(self._the(agreement)),
            reserve=lambda: rules.reserve(
                record.terms, max(0, self._the(agreement).state.ticks - 1)
            ),
            start_deadline=Millis(max(0, record.terms.start_deadline_ms - self.elapsed(record))),
            found=agreement in self._found,
            could_pay=self._could_pay(record),
            started=lambda adopted: self._program_started(agreement, adopted=adopted),
        )
        record = self._the(agreement)
        metered = self.elapsed(record)
        if record.program_started_ms and end.ran_ms is not None:
            before = record.program_started_ms - record.state.started_ms
            metered = Millis(before + end.ran_ms + end.frozen_ms)
        record = self.apply(agreement, JobEnded(cause=end.cause, detail=end.detail))
        cause = record.state.cause or Cause.UNKNOWN
        receipt = receipts.build_receipt(
            record.terms,
            started_ms=record.state.started_ms,
            metered_ms=Millis(max(0, metered)),
            frozen_ms=Millis(min(end.frozen_ms, max(0, metered))),
            exit_code=end.exit_code,
            cause=cause,
            detail=record.state.detail,
            output=end.output,
            output_records=end.records,
            artifacts=end.artifacts,
            prepaid_ms=record.state.prepaid_ms,
        )
        self._access.grant(record.terms.payer_node, end.chunks)
        signed = receipts.sign_receipt(self._key, receipt)
        self.apply(
            agreement,
            ReceiptSigned(receipt=signed, amount=receipt.amount),
            artifacts=end.artifacts,
            ended_ms=self._clock.now_ms(),
        )
        self._runs.finished(agreement)
        log.info(
            "job %s ended: %s, %s owed", record.job_id, cause.value, format_amount(receipt.amount)
        )

    def _program_started(self, agreement: AgreementId, *, adopted: bool) -> None:
        record = self._the(agreement)
        if record.program_started_ms:
            return
        # Adopted and not noted: this node was killed as it started the program. When that was is not
        # known, so the preparations are not billed.
        at_ms = record.state.started_ms if adopted else self._clock.now_ms()
        record = msgspec.structs.replace(record, program_started_ms=at_ms)
        with self._store.transaction() as txn:
            self._write(txn, record)

    def kept(self, agreement: AgreementId) -> None:
        """The client has everything."""
        self.apply(agreement, KeptReceived())
