"""The provider's side of payment channels: what it was promised, what it is owed, what is settled.

A ledger and what follows from it (a settlement that is due: the outbox) are written in one
transaction. ``Settler`` turns what is owed into balance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.core.channel_policy import Objection
from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.identifiers import (
    Address,
    AgreementId,
    ChannelId,
    NodeKey,
    to_base58,
)
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_protocol.vouchers import PayeeLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from robocompute_node.clocks import Clock
    from robocompute_settlement.port import ChannelView

SEEN_SHARE: Final = 16
"""A look at a channel is written down this often within its challenge time: it must survive a
restart, and costs a write to disk."""

RETIRED_MS: Final = Millis(300_000)
"""A close is signed and sent within this, or never: a transaction is good for a minute and a half.
Afterwards the channel is used as before, whatever became of the command that wanted it closed."""

CLOSING: Final = Objection("channel_closing", "the channel is closing; open a new one")


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
    close_at_s: int = 0
    closed: bool = False
    retired_until_ms: Millis = Millis(0)
    """This node is closing it: no job is taken on it before then."""
    seen_ms: Millis = Millis(0)
    """When the chain was last seen to hold the channel, within ``SEEN_SHARE`` of its challenge."""
    used_ms: Millis = Millis(0)
    """When its newest voucher came, or the channel was first seen; 0 where that is not known."""

    @property
    def unsettled(self) -> MicroUnits:
        """What can be claimed on chain and is not."""
        return MicroUnits(max(0, self.ledger.claimable - self.settled))

    @property
    def running(self) -> tuple[AgreementId, ...]:
        """Agreements that are being paid over this channel."""
        ended = {end.agreement for end in self.ledger.ended}
        return tuple(name for name in self.ledger.leased if name not in ended)


class SettleDue(msgspec.Struct, frozen=True, kw_only=True):
    """In the outbox, one a channel: ``claim`` is to be settled."""

    channel: ChannelId
    claim: MicroUnits
    since_ms: Millis
    refused: str = ""
    """Why the program would not take it. It is tried again, rarely, while the channel is there."""


EARNINGS: Final = Table("payee-channels/1", EarningRecord)
OUTBOX: Final = Table("settle-outbox/1", SettleDue)


class Earnings:
    """All channels this provider is paid through."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        store.declare(EARNINGS, OUTBOX)
        self._records = {ChannelId(key): record for key, record in store.all(EARNINGS)}
        self._looked = {channel: record.seen_ms for channel, record in self._records.items()}
        self._due = {ChannelId(key): due for key, due in store.all(OUTBOX)}
        self._others = trio.Event()
        self.alarm_on: Callable[[ChannelId], str | None] = lambda _channel: None
        """Why a channel is not to be used: the reconciler says so."""

    # --- looking --------------------------------------------------------------------------------

    def get(self, channel: ChannelId) -> EarningRecord | None:
        return self._records.get(channel)

    def all(self) -> tuple[EarningRecord, ...]:
        return tuple(self._records.values())

    def due(self) -> tuple[SettleDue, ...]:
        """The outbox: what is owed and not settled."""
        return tuple(self._due.values())

    def open_channels(self) -> tuple[ChannelId, ...]:
        """Channels that the chain still holds, as far as is known."""
        return tuple(channel for channel, record in self._records.items() if not record.closed)

    def others(self) -> trio.Event:
        """Set once ``open_channels`` are others than now."""
        return self._others

    def is_blind(self, record: EarningRecord) -> bool:
        """Whether the chain was not seen for half the channel's challenge time.

        The payer may then be closing the channel, and could finish before anybody notices: nothing
        more is earned on it until it was looked at.
        """
        seen = self._looked.get(record.channel, 0)
        return self._clock.now_ms() - seen > record.challenge_s * 1000 // 2

    def objection_to_use(self, record: EarningRecord) -> Objection | None:
        """Return why no lease begins that is paid through this channel, or None."""
        if record.retired_until_ms > self._clock.now_ms():
            return CLOSING
        return self.objection_to_more(record)

    def objection_to_more(self, record: EarningRecord) -> Objection | None:
        """Return why not even a lease that runs goes on by this channel, or None."""
        if record.closing:
            return CLOSING
        alarm = self.alarm_on(record.channel)
        return None if alarm is None else Objection("channel_alarm", f"the channel: {alarm}")

    # --- changing -------------------------------------------------------------------------------

    def learn(self, confirmed: ChannelView, *, final: ChannelView | None = None) -> EarningRecord:
        """Record what the chain says of a channel. Not written yet: ``keep`` does that.

        Awaiting anything between this and ``keep`` could undo what others kept meanwhile.
        """
        now = self._clock.now_ms()
        self._looked[confirmed.channel] = now
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
        noted = now - record.seen_ms > record.challenge_s * 1000 // SEEN_SHARE
        return msgspec.structs.replace(
            record,
            deposit=MicroUnits(max(record.deposit, confirmed.deposit)),
            final_deposit=record.final_deposit if final is None else final.deposit,
            settled=MicroUnits(max(record.settled, confirmed.settled)),
            ledger=record.ledger.settled_at(confirmed.settled),
            closing=confirmed.closing,
            close_at_s=confirmed.close_at_s,
            closed=False,
            seen_ms=now if noted else record.seen_ms,
        )

    def retire(self, channel: ChannelId) -> None:
        """Take no more jobs on this channel for a while: it is about to be closed. Repeatable."""
        until = Millis(self._clock.now_ms() + RETIRED_MS)
        self.save(msgspec.structs.replace(self._records[channel], retired_until_ms=until))

    def first_used(self, channel: ChannelId) -> None:
        """Count a channel's idle time from now where it is not known since when it is idle."""
        record = self._records[channel]
        if record.used_ms == 0:
            self.save(msgspec.structs.replace(record, used_ms=self._clock.now_ms()))

    def gone(self, channel: ChannelId, settled: MicroUnits) -> None:
        """The chain holds the channel no more, finally: what is above ``settled`` is lost.

        Somebody else may have settled, a watchtower: ``settled`` is what the chain told last.
        """
        record = self._records[channel]
        self.save(
            msgspec.structs.replace(
                record,
                settled=MicroUnits(max(record.settled, settled)),
                ledger=record.ledger.settled_at(settled),
                closed=True,
            )
        )

    def save(self, record: EarningRecord) -> None:
        """Write a channel's record in a transaction of its own, if it changed."""
        if record != self._records.get(record.channel):
            with self._store.transaction() as txn:
                self.keep(txn, record)

    def keep(self, txn: Transaction, record: EarningRecord) -> None:
        """Write a channel's record, and the settlement it calls for, in the caller's transaction."""
        before = self._records.get(record.channel)
        if before is None or before.ledger.sequence != record.ledger.sequence:
            record = msgspec.structs.replace(record, used_ms=self._clock.now_ms())
        txn.put(EARNINGS, record.channel, record)
        known = self._due.get(record.channel)
        due: SettleDue | None = None
        if record.unsettled > 0:
            due = SettleDue(
                channel=record.channel,
                claim=record.ledger.claimable,
                since_ms=known.since_ms if known else self._clock.now_ms(),
                refused=known.refused if known else "",
            )
            txn.put(OUTBOX, record.channel, due)
        elif known is not None:
            txn.delete(OUTBOX, record.channel)
        txn.after(lambda: self._kept(record, due))

    def _kept(self, record: EarningRecord, due: SettleDue | None) -> None:
        known = self._records.get(record.channel)
        self._records[record.channel] = record
        if known is None or known.closed != record.closed:
            self._others.set()
            self._others = trio.Event()
        if due is None:
            self._due.pop(record.channel, None)
        else:
            self._due[record.channel] = due

    def settled(self, channel: ChannelId, claim: MicroUnits, signature: str) -> None:
        """A settlement of ``claim`` was confirmed. What was earned meanwhile is due from now on."""
        record = self._records[channel]
        record = msgspec.structs.replace(
            record, settled=MicroUnits(max(record.settled, claim)), settlement=signature
        )
        with self._store.transaction() as txn:
            txn.put(EARNINGS, channel, record)
            due: SettleDue | None = None
            if record.unsettled > 0:
                due = SettleDue(
                    channel=channel,
                    claim=record.ledger.claimable,
                    since_ms=self._clock.now_ms(),
                )
                txn.put(OUTBOX, channel, due)
            else:
                txn.delete(OUTBOX, channel)
            txn.after(lambda: self._kept(record, due))

    def refused(self, channel: ChannelId, why: str) -> None:
        """The program would not take a settlement: remembered, for the owner to see.

        Nothing where it is due no more: somebody else settled it meanwhile.
        """
        known = self._due.get(channel)
        if known is None:
            return
        due = msgspec.structs.replace(known, refused=why)
        with self._store.transaction() as txn:
            txn.put(OUTBOX, channel, due)
            txn.after(lambda: self._due.__setitem__(channel, due))

    def summary(self) -> Mapping[str, object]:
        """JSON-ready: what was earned, and what of it is on chain."""
        owed = sum(record.ledger.owed for record in self._records.values())
        settled = sum(record.settled for record in self._records.values())
        return {
            "earned": format_amount(owed),
            "settled": format_amount(settled),
            "unsettled": format_amount(max(0, owed - settled)),
            "channels": len(self._records),
            "settlements": {
                to_base58(record.channel): record.settlement
                for record in self._records.values()
                if record.settlement
            },
        }
