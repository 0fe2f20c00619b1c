"""The client's payment channels: opened when a provider is first paid, kept open, closed when lost.

A channel's record is on disk before the transaction that opens it is sent, and its ledger before
any voucher leaves the node.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.services.funds import require_funds
from robocompute_node.services.rebuilt import REBUILT, SHOWN, keep_shown
from robocompute_node.services.top_ups import TopUps
from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.errors import (
    ChainBusy,
    ChainError,
    ChainRefused,
    ChainUnknown,
    RoboComputeError,
)
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, Digest, NodeKey
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.vouchers import NOTHING_CLOSED, PayerLedger, sign_voucher
from robocompute_settlement.port import ChannelView, Commitment, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_protocol.messages import Signed, SignedVoucher
    from robocompute_protocol.signing import SigningKey

log = logging.getLogger(__name__)

CLOSE_POLL_SECONDS: Final = 2.0
"""Between looks at channels that are to be closed: a look costs one account read a channel."""
CHAIN_LAG_SECONDS: Final = 2
"""The chain counts whole seconds, and is behind our clock: before, it would refuse the last step."""
CONFIRM_SECONDS: Final = 30.0
"""An open transaction that is not confirmed by then is looked up before anything else is done."""


class ChannelAlarm(RoboComputeError):
    """Books and chain differ on a channel in a way that nothing explains: it is not used."""

    code = "channel_alarm"


class ChannelPhase(StrEnum):
    """Where one of our channels is."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class ChannelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A channel this node pays through. ``deposit`` is what we know to be confirmed."""

    channel: ChannelId
    payee: Address
    payee_node: NodeKey
    mint: Address
    nonce: int
    deposit: MicroUnits
    challenge_s: int
    phase: ChannelPhase
    ledger: PayerLedger
    close_at_s: int = 0
    last_seen_ms: Millis = Millis(0)
    """When the payee was last heard of on this channel."""
    final_deposit: MicroUnits = MicroUnits(0)
    """Of the deposit, what was seen finalized: a restart during an outage may count on it."""
    used_ms: Millis = Millis(0)
    """When something was last promised on it; 0 in records older than this field."""
    unsure: bool = False
    """Rebuilt from the chain: the payee must show its highest voucher before more is promised."""

    @property
    def spare(self) -> MicroUnits:
        """What can still be promised here without a top-up."""
        return MicroUnits(self.deposit - self.ledger.cumulative + self.ledger.credit)


CHANNELS: Final = Table("payer-channels/1", ChannelRecord)


class ChannelKeeper:
    """Opens, tops up and closes channels, and signs what is promised on them."""

    def __init__(
        self,
        store: Store,
        chain: Settlement,
        clock: Clock,
        key: SigningKey,
        wallet: Address,
        config: NodeConfig,
    ) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._key = key
        self._wallet = wallet
        self._config = config
        self._mint = config.chain.mint
        store.declare(CHANNELS, REBUILT, SHOWN)
        now = clock.now_ms()
        self._top_ups = TopUps(store, chain)
        self._records = {
            ChannelId(key): msgspec.structs.replace(record, last_seen_ms=now)
            for key, record in store.all(CHANNELS)
        }
        self._funding = trio.Lock()
        self._closing = trio.Lock()
        self.alarm_on: Callable[[ChannelId], str | None] = lambda _channel: None
        """Why nothing may be promised on a channel: the reconciler says so."""

    # --- what is there --------------------------------------------------------------------------

    def get(self, channel: ChannelId) -> ChannelRecord:
        return self._records[channel]

    def all(self) -> tuple[ChannelRecord, ...]:
        return tuple(self._records.values())

    def open_with(
        self, payee: Address, payee_node: NodeKey, *, min_challenge_s: int
    ) -> ChannelRecord | None:
        """The channel jobs with this provider are paid through, if there is one it accepts."""
        for record in self._records.values():
            if (
                (record.payee, record.payee_node) == (payee, payee_node)
                and record.phase is ChannelPhase.OPEN
                and record.challenge_s >= min_challenge_s
                and self.alarm_on(record.channel) is None
            ):
                return record
        return None

    # --- money in -------------------------------------------------------------------------------

    async def check_funds(self, needed: MicroUnits) -> None:
        """Raise InsufficientFunds when neither an open channel nor the balance covers ``needed``."""
        if any(r.phase is ChannelPhase.OPEN and r.spare >= needed for r in self._records.values()):
            return
        require_funds(needed, await self._available())

    async def _available(self) -> MicroUnits:
        balance = await self._chain.balance(self._wallet, self._mint)
        if balance is None:
            return MicroUnits(0)
        if balance.delegate != self._key.node_key:
            raise ChainRefused(
                "this node may not spend from the wallet's balance; "
                "allow it with `robocompute-node wallet delegate set`"
            )
        return MicroUnits(min(balance.available, balance.allowance))

    async def ensure(
        self, payee: Address, payee_node: NodeKey, *, needed: MicroUnits, min_challenge_s: int
    ) -> ChannelRecord:
        """Return an open channel on which ``needed`` more can be promised.

        Raises:
            InsufficientFunds: the balance does not cover it; nothing was sent.
            ChainError: the chain did not take it; calling again is safe.
        """
        async with self._funding:
            await self.recover()
            record = self.open_with(payee, payee_node, min_challenge_s=min_challenge_s)
            if record is None:
                return await self._open(payee, payee_node, needed, min_challenge_s)
            if record.spare < needed:
                if (await self.look(record.channel)).phase is not ChannelPhase.OPEN:
                    return await self._open(payee, payee_node, needed, min_challenge_s)
                await self._top_up(record.channel, needed)
            return self.get(record.channel)

    async def cover(self, channel: ChannelId, more: MicroUnits) -> None:
        """Top the channel up where ``more`` cannot be promised on it as it is.

        Raises: InsufficientFunds, ChainError.
        """
        if self.get(channel).spare >= more:
            return  # not behind somebody else's transaction: a running job needs its voucher
        async with self._funding:
            if self.get(channel).spare < more:
                await self._top_up(channel, more)

    async def is_final(self, channel: ChannelId, total: MicroUnits) -> bool:
        """Whether the channel's finalized deposit carries ``total``. A yes is remembered on disk.

        Raises: ChainError.
        """
        if total > self.get(channel).final_deposit:
            view = await self._chain.channel(channel, at=Commitment.FINALIZED)
            if view is not None:
                self._change(channel, final_deposit=view.deposit)
        return total <= self.get(channel).final_deposit

    async def _top_up(self, channel: ChannelId, needed: MicroUnits) -> None:
        if not await self._top_ups.is_over(channel):
            raise ChainBusy("an earlier top-up of the payment channel may still arrive")
        view = await self._read_deposit(channel)
        if view is None:
            raise ChainBusy("the payment channel is not on the chain that the node sees")
        spare = self.get(channel).spare
        if spare >= needed:  # an earlier top-up whose outcome was not known arrived
            return
        missing = MicroUnits(needed - spare)
        available = await self._available()
        require_funds(missing, available)
        amount = MicroUnits(min(available, max(missing, self._config.client.channel_deposit)))
        await self._top_ups.make(view, amount)
        with self._store.transaction() as txn:
            deposit = MicroUnits(view.deposit + amount)
            self._write(txn, msgspec.structs.replace(self.get(channel), deposit=deposit))
            self._top_ups.done(txn, channel)

    async def _read_deposit(self, channel: ChannelId) -> ChannelView | None:
        view = await self._chain.channel(channel)
        if view is not None:
            self._change(channel, deposit=view.deposit)
        return view

    async def _open(
        self, payee: Address, payee_node: NodeKey, needed: MicroUnits, min_challenge_s: int
    ) -> ChannelRecord:
        balance = await self._chain.balance(self._wallet, self._mint)
        available = await self._available()
        require_funds(needed, available)
        assert balance is not None
        deposit = MicroUnits(min(available, max(needed, self._config.client.channel_deposit)))
        nonce = balance.next_nonce
        channel = self._chain.channel_address(self._wallet, payee, self._mint, nonce)
        record = self._save(
            ChannelRecord(
                channel=channel,
                payee=payee,
                payee_node=payee_node,
                mint=self._mint,
                nonce=nonce,
                deposit=deposit,
                challenge_s=max(self._config.client.challenge_s, min_challenge_s),
                phase=ChannelPhase.OPENING,
                ledger=PayerLedger(channel=channel),
                last_seen_ms=self._clock.now_ms(),
                used_ms=self._clock.now_ms(),
            )
        )
        try:
            await self._chain.open_channel(
                payer=self._wallet,
                payee=payee,
                mint=self._mint,
                voucher_key=self._key.node_key,
                nonce=nonce,
                deposit=deposit,
                challenge_s=record.challenge_s,
            )
        except ChainUnknown:
            await self._chain.wait_for_channel(channel, timeout_s=CONFIRM_SECONDS)
        except ChainRefused:
            # Refused may be a second try whose first one arrived after all: then it is open.
            view = await self._chain.channel(channel)
            if view is None or view.voucher_key != self._key.node_key:
                self._forget(record)
                raise
            return self._change(channel, phase=ChannelPhase.OPEN, deposit=view.deposit)
        return self._change(channel, phase=ChannelPhase.OPEN)

    async def recover(self) -> None:
        """Find out what became of what was being sent, after a crash or a busy chain.

        Of top-ups, which may have arrived; and of channels that were being opened:
        One that is not there is forgotten only when its nonce was used by another: until then its
        transaction may still arrive, and its deposit must be known to this node.

        Raises: ChainBusy when the chain cannot be asked.
        """
        for channel in self._top_ups.open():
            if await self._top_ups.is_over(channel):
                await self._read_deposit(channel)
        for record in self.all():
            if record.phase is not ChannelPhase.OPENING:
                continue
            balance = await self._chain.balance(self._wallet, self._mint)
            view = await self._chain.channel(record.channel)
            if view is not None:
                self._change(record.channel, phase=ChannelPhase.OPEN, deposit=view.deposit)
            elif balance is not None and balance.next_nonce > record.nonce:
                self._forget(record)

    # --- promises -------------------------------------------------------------------------------

    def promise(
        self,
        channel: ChannelId,
        agreement: AgreementId,
        paid: MicroUnits,
        also: Callable[[Transaction], None] = lambda _txn: None,
    ) -> SignedVoucher:
        """Raise what ``agreement`` was paid to ``paid`` in all; return the voucher that says so.

        The ledger, and whatever ``also`` writes with it, are on disk when this returns; repeating
        it never raises the total twice.

        Raises: ChannelAlarm.
        """
        if (alarm := self.alarm_on(channel)) is not None:
            raise ChannelAlarm(f"nothing is promised on the payment channel: {alarm}")
        record = self.get(channel)
        ledger, voucher = record.ledger.allocate(agreement, paid)
        used = msgspec.structs.replace(record, ledger=ledger, used_ms=self._clock.now_ms())
        with self._store.transaction() as txn:
            self._write(txn, used)
            also(txn)
        return sign_voucher(self._key, voucher)

    def settle_agreement(
        self,
        txn: Transaction,
        channel: ChannelId,
        agreement: AgreementId,
        receipt: Digest,
        amount: MicroUnits,
    ) -> None:
        """Close ``agreement`` at its receipt's amount; the rest of what it was paid is credit."""
        record = self.get(channel)
        ledger = record.ledger.close(agreement, receipt, amount)
        self._write(txn, self._heard(record, ledger))

    def release(self, txn: Transaction, channel: ChannelId, agreement: AgreementId) -> None:
        """Take back what was promised for an agreement that was never leased."""
        record = self.get(channel)
        self._write(txn, self._heard(record, record.ledger.release(agreement)))

    def adopt(self, channel: ChannelId, voucher: SignedVoucher) -> PayerLedger:
        """Learn from a voucher of our own that a provider shows: our store may be an older copy.

        Raises: RemoteProtocolError, LocalProtocolError.
        """
        record = self.get(channel)
        ledger = record.ledger.adopt(voucher, self._key.node_key)
        if ledger != record.ledger:
            log.warning("this node's store is older than its provider's: vouchers were adopted")
            self._change(channel, ledger=ledger)
        return ledger

    def learn_receipts(self, channel: ChannelId, receipts: tuple[Signed, ...]) -> PayerLedger:
        """Close agreements that this node forgot, by their receipts. Repeatable.

        Raises: RemoteProtocolError; then nothing changed.
        """
        record = self.get(channel)
        ledger = record.ledger
        with self._store.transaction() as txn:
            for signed in receipts:
                closed = ledger.close_shown(signed, record.payee_node)
                if closed != ledger:
                    keep_shown(txn, signed)
                ledger = closed
            self._write(txn, msgspec.structs.replace(record, ledger=ledger))
        return ledger

    def make_sure(self, channel: ChannelId) -> None:
        """The payee showed what it holds of ours: the channel may be used."""
        if self.get(channel).unsure:
            self._change(channel, unsure=False)

    def _heard(self, record: ChannelRecord, ledger: PayerLedger) -> ChannelRecord:
        return msgspec.structs.replace(record, ledger=ledger, last_seen_ms=self._clock.now_ms())

    def seen(self, channel: ChannelId) -> None:
        """The provider was heard of: its channel is not a lost one."""
        record = self.get(channel)
        self._records[channel] = msgspec.structs.replace(record, last_seen_ms=self._clock.now_ms())

    # --- money back -----------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Close channels whose provider is lost, and take the rest back when their time is over."""
        task_status.started()
        while True:
            try:
                async with self._funding:
                    await self.recover()
            except ChainError as exc:
                log.info("channels that were being opened are looked up later: %s", exc)
            for record in self.all():
                try:
                    async with self._closing:
                        await self._look_after(record)
                except ChainBusy as exc:
                    log.warning("channel not closed yet, will retry: %s", exc)
                except ChainError as exc:
                    log.error("channel cannot be closed: %s", exc)
            await trio.sleep(CLOSE_POLL_SECONDS)

    async def _look_after(self, record: ChannelRecord) -> None:
        if record.phase is ChannelPhase.OPEN:
            if self._is_done_with(record):
                self._change(record.channel, phase=ChannelPhase.CLOSING)
        elif record.phase is ChannelPhase.CLOSING:
            view = await self._chain.channel(record.channel)
            if view is None:
                if await self._chain.channel(record.channel, at=Commitment.FINALIZED) is None:
                    self._change(record.channel, phase=ChannelPhase.CLOSED)
            elif not view.closing:
                await self._chain.request_close(view)
            elif record.close_at_s != view.close_at_s:
                self._change(record.channel, close_at_s=view.close_at_s)
            elif self._clock.now_ms() >= (record.close_at_s + CHAIN_LAG_SECONDS) * 1000:
                await self._chain.finalize_close(view)
                self._change(record.channel, phase=ChannelPhase.CLOSED)
                log.info("channel closed, its rest is in the balance again")

    def _is_done_with(self, record: ChannelRecord) -> bool:
        """Whether its provider is lost, or nothing was wanted of it for long and nothing is open."""
        now, settings = self._clock.now_ms(), self._config.client
        if now - record.last_seen_ms > settings.close_lost_after_s * 1000:
            return True
        idle = now - (record.used_ms or record.last_seen_ms)
        return not record.ledger.open and idle > settings.close_idle_after_s * 1000

    def learn(self, view: ChannelView) -> None:
        """Take over what the chain shows of one of our channels: its deposit, and that it closes."""
        record = self.get(view.channel)
        phase = record.phase
        if phase is ChannelPhase.CLOSED or (view.closing and phase is ChannelPhase.OPEN):
            phase = ChannelPhase.CLOSING
        self._change(view.channel, deposit=view.deposit, phase=phase)

    async def look(self, channel: ChannelId) -> ChannelRecord:
        """Take over at once what the chain shows of a channel: the wallet may close it elsewhere.

        Raises: ChainError.
        """
        balance = await self._chain.balance(self._wallet, self._mint, at=Commitment.FINALIZED)
        view, record = await self._chain.channel(channel), self.get(channel)
        if view is not None:
            self.learn(view)
        elif record.phase is ChannelPhase.OPEN and balance and balance.next_nonce > record.nonce:
            self._change(channel, phase=ChannelPhase.CLOSING)  # its opening is final: it is gone
        return self.get(channel)

    async def request_close(self, channel: ChannelId) -> ChannelView | None:
        """Ask the chain to close; from now on nothing more is promised on this channel."""
        self._change(channel, phase=ChannelPhase.CLOSING)
        async with self._closing:
            view = await self._chain.channel(channel)
            if view is not None and not view.closing:
                await self._chain.request_close(view)
                view = await self._chain.channel(channel)
            if view is not None:
                self._change(channel, close_at_s=view.close_at_s)
            return view

    def give_up_used(self, channel: ChannelId) -> bool:
        """Close a channel that agreements were settled on; False, and nothing done, for a new one.

        For a provider that no longer follows its ledger: a new one it can.
        """
        if self.get(channel).ledger.closed == NOTHING_CLOSED:
            return False
        self._change(channel, phase=ChannelPhase.CLOSING)
        return True

    def _change(self, channel: ChannelId, **changes: object) -> ChannelRecord:
        """Replace fields of the record as it is now: others may have changed it since it was read."""
        return self._save(msgspec.structs.replace(self.get(channel), **changes))

    def _save(self, record: ChannelRecord) -> ChannelRecord:
        with self._store.transaction() as txn:
            self._write(txn, record)
        return record

    def _write(self, txn: Transaction, record: ChannelRecord) -> None:
        txn.put(CHANNELS, record.channel, record)
        txn.after(lambda: self._records.__setitem__(record.channel, record))

    def _forget(self, record: ChannelRecord) -> None:
        with self._store.transaction() as txn:
            txn.delete(CHANNELS, record.channel)
        del self._records[record.channel]
