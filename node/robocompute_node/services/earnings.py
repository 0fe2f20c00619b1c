"""The provider's side of payment channels: what it was promised, what it is owed, turning it into money.

A ledger and what follows from it (a settlement that is due: the outbox) are written in one
transaction. Settling is safe to repeat: the chain pays a total, not a difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Address, ChannelId, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_protocol.vouchers import PayeeLedger
from robocompute_settlement.port import ChannelView, Commitment, SettleClaim, Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig

log = logging.getLogger(__name__)

SETTLES_A_TRANSACTION: Final = 3
"""Vouchers that fit one transaction of 1,232 bytes."""
SETTLE_POLL_SECONDS: Final = 0.5
"""Between looks at the outbox."""
PUT_OFF: Final = Millis(60_000)
"""Before a settlement is tried again that was refused, but not by the program."""
BUSY_SECONDS: Final = 2.0
"""Before a transaction that was not taken is tried again."""
WATCH_SHARE: Final = 8
"""Channels are looked at this often within their challenge time, to see one closing."""
WATCH_MAX_SECONDS: Final = 60.0
WATCH_MIN_SECONDS: Final = 1.0
"""Bounds of the time between looks: not slower than a minute, not faster than a second."""


class EarningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A channel this node is paid through."""

    channel: ChannelId
    payer: Address
    payee: Address
    mint: Address
    voucher_key: NodeKey
    challenge_s: int
    ledger: PayeeLedger
    deposit: MicroUnits
    """Confirmed."""
    final_deposit: MicroUnits = MicroUnits(0)
    """Of it, finalized."""
    settled: MicroUnits = MicroUnits(0)
    settlement: str = ""
    """Signature of the newest settlement that was confirmed."""
    closing: bool = False
    closed: bool = False


class SettleDue(msgspec.Struct, frozen=True, kw_only=True):
    """In the outbox, one a channel: ``claim`` is to be settled. ``refused`` sets it aside."""

    channel: ChannelId
    claim: MicroUnits
    since_ms: Millis
    refused: str = ""


EARNINGS: Final = Table("payee-channels/1", EarningRecord)
OUTBOX: Final = Table("settle-outbox/1", SettleDue)


@dataclass(frozen=True, slots=True)
class PutOff:
    """A settlement that was refused for a reason which may pass, such as no SOL for the fee."""

    until_ms: Millis
    why: str


class Earnings:
    """All channels this provider is paid through."""

    def __init__(self, store: Store, chain: Settlement, clock: Clock, config: NodeConfig) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._config = config
        store.declare(EARNINGS, OUTBOX)
        self._records = {ChannelId(key): record for key, record in store.all(EARNINGS)}
        self._looked: dict[ChannelId, Millis] = {}
        self._due = {ChannelId(key): due for key, due in store.all(OUTBOX)}
        self._put_off: dict[ChannelId, PutOff] = {}

    def get(self, channel: ChannelId) -> EarningRecord | None:
        return self._records.get(channel)

    def learn(self, confirmed: ChannelView, *, final: ChannelView | None = None) -> EarningRecord:
        """Record what the chain says of a channel. Not written yet: ``keep`` does that.

        Awaiting anything between this and ``keep`` could undo what others kept meanwhile.
        """
        self._looked[confirmed.channel] = self._clock.now_ms()
        record = self._records.get(confirmed.channel) or EarningRecord(
            channel=confirmed.channel,
            payer=confirmed.payer,
            payee=confirmed.payee,
            mint=confirmed.mint,
            voucher_key=confirmed.voucher_key,
            challenge_s=confirmed.challenge_s,
            ledger=PayeeLedger(channel=confirmed.channel),
            deposit=confirmed.deposit,
        )
        return msgspec.structs.replace(
            record,
            deposit=MicroUnits(max(record.deposit, confirmed.deposit)),
            final_deposit=record.final_deposit if final is None else final.deposit,
            closing=confirmed.closing,
            closed=False,
        )

    def is_blind(self, record: EarningRecord) -> bool:
        """Whether the chain was not seen for half the channel's challenge time, or not since start.

        The payer may then be closing the channel, and could finish before anybody notices: nothing
        more is earned on it until it was looked at.
        """
        seen = self._looked.get(record.channel)
        return seen is None or self._clock.now_ms() - seen > record.challenge_s * 1000 // 2

    def keep(self, txn: Transaction, record: EarningRecord) -> None:
        """Write a channel's record, and the settlement it calls for, in the caller's transaction."""
        txn.put(EARNINGS, record.channel, record)
        claim = record.ledger.claimable
        if claim > record.settled:
            known = self._due.get(record.channel)
            due = SettleDue(
                channel=record.channel,
                claim=claim,
                since_ms=known.since_ms if known else self._clock.now_ms(),
            )
            txn.put(OUTBOX, record.channel, due)
            self._due[record.channel] = due
        self._records[record.channel] = record

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Settle what is due, and watch for channels that their payers close."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            task_status.started()
            while True:
                await self._settle_what_is_due()
                await trio.sleep(SETTLE_POLL_SECONDS)
        raise AssertionError("unreachable")

    async def settle_everything(self) -> None:
        """Settle all that is owed, now: a provider that is stopping leaves nothing behind.

        Raises: ChainBusy when the chain does not take it; it stays in the outbox.
        """
        await self._settle_in_batches([due for due in self._due.values() if not due.refused])

    def _is_due(self, due: SettleDue) -> bool:
        record = self._records[due.channel]
        age_ms = self._clock.now_ms() - due.since_ms
        settings = self._config.provider
        put_off = self._put_off.get(due.channel)
        if put_off is not None and self._clock.now_ms() < put_off.until_ms:
            return False
        return not due.refused and (
            record.closing
            or due.claim - record.settled >= settings.settle_above
            or age_ms >= settings.settle_after_s * 1000
            or age_ms >= record.challenge_s * 1000 // 4
        )

    async def _settle_what_is_due(self) -> None:
        due = [due for due in self._due.values() if self._is_due(due)]
        try:
            await self._settle_in_batches(due)
        except (ChainBusy, ChainUnknown) as exc:
            log.warning("settlement not taken, will retry: %s", exc)
            await trio.sleep(BUSY_SECONDS)

    async def _settle_in_batches(self, due: list[SettleDue]) -> None:
        for start in range(0, len(due), SETTLES_A_TRANSACTION):
            await self._settle(due[start : start + SETTLES_A_TRANSACTION])

    async def _settle(self, due: list[SettleDue]) -> None:
        claims = tuple(self._claim(one) for one in due)
        try:
            sent = await self._chain.settle(claims)
        except ChainRefused as exc:
            if len(due) > 1:
                for one in due:
                    await self._settle([one])
                return
            if exc.number is None:
                log.error("settlement refused, will retry: %s", exc)
                until = Millis(self._clock.now_ms() + PUT_OFF)
                self._put_off[due[0].channel] = PutOff(until, str(exc))
                return
            self._put_off.pop(due[0].channel, None)
            log.error("settlement refused, set aside: %s", exc)
            self._set_aside(due[0], str(exc))
            return
        for one in due:
            self._put_off.pop(one.channel, None)
            self._settled(one, sent.signature)
            log.info("settled %s on chain: %s", format_amount(one.claim), sent.signature)

    def _claim(self, due: SettleDue) -> SettleClaim:
        record = self._records[due.channel]
        assert record.ledger.voucher is not None
        return SettleClaim(
            channel=record.channel,
            payee=record.payee,
            mint=record.mint,
            voucher_key=record.voucher_key,
            voucher=record.ledger.voucher,
            claim=due.claim,
        )

    def _settled(self, due: SettleDue, signature: str) -> None:
        record = msgspec.structs.replace(
            self._records[due.channel], settled=due.claim, settlement=signature
        )
        with self._store.transaction() as txn:
            txn.delete(OUTBOX, due.channel)
            del self._due[due.channel]
            self.keep(txn, record)

    def _set_aside(self, due: SettleDue, why: str) -> None:
        refused = msgspec.structs.replace(due, refused=why)
        with self._store.transaction() as txn:
            txn.put(OUTBOX, due.channel, refused)
        self._due[due.channel] = refused

    async def _watch(self) -> None:
        while True:
            pause = WATCH_MAX_SECONDS
            for record in list(self._records.values()):
                if record.closed:
                    continue
                pause = min(pause, record.challenge_s / WATCH_SHARE)
                try:
                    await self._look_at(record.channel)
                except ChainError as exc:
                    log.warning("channel not looked at, will retry: %s", exc)
            await trio.sleep(max(WATCH_MIN_SECONDS, pause))

    async def _look_at(self, channel: ChannelId) -> None:
        view = await self._chain.channel(channel)
        if (
            view is None
            and await self._chain.channel(channel, at=Commitment.FINALIZED) is not None
        ):
            return  # a view that is behind, or a closing that can still be undone
        record = self._records[channel]
        changed = (
            msgspec.structs.replace(record, closed=True) if view is None else self.learn(view)
        )
        if changed != record:
            with self._store.transaction() as txn:
                self.keep(txn, changed)

    def summary(self) -> Mapping[str, object]:
        """JSON-ready: what was earned, what of it is on chain, what waits."""
        owed = sum(record.ledger.owed for record in self._records.values())
        settled = sum(record.settled for record in self._records.values())
        return {
            "earned": format_amount(owed),
            "settled": format_amount(settled),
            "unsettled": format_amount(owed - settled),
            "channels": len(self._records),
            "settlements": {
                to_base58(record.channel): record.settlement
                for record in self._records.values()
                if record.settlement
            },
            "refused": [
                *(due.refused for due in self._due.values() if due.refused),
                *(put_off.why for put_off in self._put_off.values()),
            ],
        }
