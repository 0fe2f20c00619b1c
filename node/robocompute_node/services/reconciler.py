"""Holds the books against the chain, at the start and from time to time, and raises alarms.

What the chain knows better is repaired at once. An alarm stands until its reason is gone; on a
channel that one stands on nothing is leased or promised.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.reconciling import (
    Baseline,
    Book,
    Chain,
    Difference,
    Earning,
    Kind,
    Paying,
    deposits,
    differences,
    foreign,
    unexplained,
)
from robocompute_node.services.channels import ChannelPhase
from robocompute_node.store import Store, Table
from robocompute_protocol.errors import ChainError, ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId, to_base58
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_settlement.events import Staked, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.services.channels import ChannelKeeper, ChannelRecord
    from robocompute_node.services.earnings import EarningRecord, Earnings
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_settlement.port import BalanceView, ChannelView, Settlement

log = logging.getLogger(__name__)

RECONCILE_SECONDS: Final = 300.0
"""Between comparisons: one listing of the wallet's channels and two account reads."""
AGAIN_SECONDS: Final = 10.0
"""After a chain that did not answer."""
LOOKS: Final = 3
"""At balance and channels, until the balance stood still meanwhile: a look takes milliseconds."""
MAX_STRANGERS: Final = 1_024
"""Channels to us without an order that are watched: opening one costs its payer rent."""


STAND_UNTIL_ACCEPTED: Final = frozenset({Kind.BALANCE_LOW, Kind.SLASHED})
"""What is lost stays lost when other money comes in: only the owner ends these."""
NEVER_ACCEPTED: Final = -1


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something that this node cannot have caused."""

    kind: str
    channel: ChannelId | None
    text: str
    since_ms: Millis
    amount: int = 0


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """When books and chain last agreed."""

    available: MicroUnits
    slashed: MicroUnits
    deposits: dict[ChannelId, MicroUnits]
    signature: str
    """The newest transaction of the balance by then."""
    foreign: tuple[ChannelId, ...] | None = None
    """Channels of the wallet by other keys that are no alarm; None: never looked at."""


ALARMS: Final = Table("alarms/1", Alarm)
BASE: Final = Table("chain-baseline/1", Base)
BASE_KEY: Final = b"base"
ACCEPTED: Final = Table("alarms-accepted/1", int)
"""Alarm → how much of it its owner took as it is. More than that is a new alarm."""


class Reconciler:
    """This node's alarms, and what raises them."""

    def __init__(
        self,
        store: Store,
        chain: Settlement,
        clock: Clock,
        config: NodeConfig,
        wallet: Address,
        node_key: NodeKey,
        channels: ChannelKeeper,
        earnings: Earnings | None,
    ) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._config = config
        self._wallet = wallet
        self._node_key = node_key
        self._channels = channels
        self._earnings = earnings
        self._listed = True
        self._remembers = True
        store.declare(ALARMS, BASE, ACCEPTED)
        self._alarms = dict(store.all(ALARMS))

    def alarms(self) -> tuple[Alarm, ...]:
        """What stands now, the oldest first."""
        return tuple(sorted(self._alarms.values(), key=lambda alarm: alarm.since_ms))

    def stands_on(self, channel: ChannelId) -> str | None:
        """Return why nothing may be leased or promised on a channel, or None."""
        for alarm in self._alarms.values():
            if alarm.channel == channel and alarm.kind != Kind.CLOSED_UNSETTLED:
                return alarm.text
        return None

    def summary(self) -> list[Mapping[str, object]]:
        """JSON-ready."""
        return told(self.alarms())

    def accept(self, what: ChannelId | str) -> tuple[Alarm, ...]:
        """End the alarms on a channel, or of a kind that concerns the wallet, as ``accept`` does."""
        done = accept(self._store, what)
        for alarm in done:
            self._alarms.pop(_key(Kind(alarm.kind), alarm.channel), None)
        return done

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Compare until cancelled."""
        task_status.started()
        while True:
            try:
                await self.compare()
            except ChainError as exc:
                log.info("books not compared with the chain yet: %s", exc)
                await trio.sleep(AGAIN_SECONDS)
            else:
                await trio.sleep(RECONCILE_SECONDS)

    async def compare(self) -> tuple[Difference, ...]:
        """Compare once, repair what the chain knows better, and raise or end alarms.

        Raises: ChainError.
        """
        mint = self._config.chain.mint
        address = self._chain.balance_address(self._wallet, mint)
        stake = await self._chain.stake_of(self._wallet, mint)
        base = self._store.get(BASE, BASE_KEY)
        used = self._nonce_used()
        balance, newest, views = await self._look(address, "" if base is None else base.signature)
        at_once = await self._chain.balance(self._wallet, mint) == balance
        for _ in range(LOOKS - 1):
            if at_once:
                break
            balance, newest, views = await self._look(address, newest)
            at_once = await self._chain.balance(self._wallet, mint) == balance
        chain = Chain(balance=balance, stake=stake, channels=views, at_once=at_once)
        book = self._book(base, used)  # after the chain was read: what it shows, we knew before
        settled = at_once
        if base is not None and unexplained(book, chain) > 0:
            try:
                taken = await self._taken(address, base.signature)
            except ChainError as exc:
                self._forgetful(exc)
                taken, settled = None, isinstance(exc, ChainRefused)
            chain = replace(chain, taken=taken)
            book = self._book(base, used)
        found = differences(book, chain)
        views_by_name = {view.channel: view for view in views}
        for difference in found:
            if difference.channel is not None and difference.channel in views_by_name:
                self._repair(difference, views_by_name[difference.channel])
        self._raise(found)
        if settled and _key(Kind.BALANCE_LOW, None) not in self._alarms:
            self._agree(
                Base(
                    available=MicroUnits(0) if balance is None else balance.available,
                    slashed=MicroUnits(0) if stake is None else stake.slashed,
                    deposits=deposits(book, chain),
                    signature=newest,
                    foreign=self._foreign(base, book, chain, found),
                )
            )
        return found

    async def _look(
        self, address: Address, newest: str
    ) -> tuple[BalanceView | None, str, tuple[ChannelView, ...]]:
        """Read the balance, its newest transaction (or ``newest``, where nobody knows), all channels."""
        mint = self._config.chain.mint
        balance = await self._chain.balance(self._wallet, mint)
        try:
            for signature in await self._chain.signatures(address, limit=1):
                newest = signature
        except ChainError as exc:
            self._forgetful(exc)
        return balance, newest, await self._views(mint)

    def _forgetful(self, exc: ChainError) -> None:
        """Say once that this endpoint does not tell what happened: the rest is judged without it."""
        if self._remembers:
            log.warning(
                "the chain's history is not told here, so money that leaves the balance may go "
                "unnoticed: %s",
                exc,
            )
        self._remembers = False

    def _nonce_used(self) -> int | None:
        opened = [r.nonce for r in self._channels.all() if r.phase is not ChannelPhase.OPENING]
        return max(opened, default=None)

    def _foreign(
        self, base: Base | None, book: Book, chain: Chain, found: tuple[Difference, ...]
    ) -> tuple[ChannelId, ...] | None:
        known = None if base is None else base.foreign
        if not self._listed:
            return known
        alarmed = {each.channel for each in found if each.kind is Kind.FOREIGN_CHANNEL}
        return tuple(sorted({*(known or ()), *foreign(book, chain)} - alarmed))

    def _book(self, base: Base | None, nonce_used: int | None) -> Book:
        earnings = () if self._earnings is None else self._earnings.all()
        return Book(
            wallet=self._wallet,
            node_key=self._node_key,
            pays=self._config.is_client,
            earns=self._earnings is not None,
            paying={record.channel: _paying(record) for record in self._channels.all()},
            earning={
                record.channel: Earning(
                    sequence=record.ledger.sequence,
                    cumulative=_promised(record),
                    settled=record.settled,
                    unsettled=record.unsettled,
                    closing=record.closing,
                    closed=record.closed,
                )
                for record in earnings
            },
            baseline=None
            if base is None
            else Baseline(
                available=base.available,
                slashed=base.slashed,
                deposits=base.deposits,
                foreign=None if base.foreign is None else frozenset(base.foreign),
            ),
            nonce_used=nonce_used,
        )

    async def _views(self, mint: Address) -> tuple[ChannelView, ...]:
        """All channels of the wallet; where the endpoint lists none, those we know."""
        if self._listed:
            try:
                return await self._chain.channels_of(self._wallet, mint=mint)
            except ChainRefused as exc:
                self._listed = False
                log.warning("the chain lists no channels here, unknown ones are not seen: %s", exc)
        names = [r.channel for r in self._channels.all() if r.phase is not ChannelPhase.CLOSED]
        names += [] if self._earnings is None else self._earnings.open_channels()
        views = [await self._chain.channel(name) for name in names]
        return tuple(view for view in views if view is not None)

    async def _taken(self, address: Address, since: str) -> MicroUnits:
        """What the wallet's own key took out of the balance after the transaction ``since``."""
        mint = self._config.chain.mint
        stake = self._chain.stake_address(self._wallet, mint)
        records = await self._chain.history(address, until=since)
        taken = 0
        for event in (event for record in records for event in record.events):
            match event:
                case Withdrawn() if (event.owner, event.mint) == (self._wallet, mint):
                    taken += event.amount
                case Staked() if event.stake == stake:
                    taken += event.amount
                case _:
                    pass
        return MicroUnits(taken)

    # --- consequences ---------------------------------------------------------------------------

    def _repair(self, difference: Difference, view: ChannelView) -> None:
        match difference.kind:
            case Kind.DEPOSIT | Kind.CLOSING:
                self._channels.learn(view)
            case Kind.SETTLED | Kind.UNKNOWN_EARNING if self._earnings is not None:
                known = self._earnings.get(view.channel) is not None
                if known or len(self._earnings.all()) < MAX_STRANGERS:
                    self._earnings.save(self._earnings.learn(view))
            case _:
                return
        log.info("channel %s: %s", to_base58(view.channel), difference.text)

    def _raise(self, found: tuple[Difference, ...]) -> None:
        now, accepted = self._clock.now_ms(), dict(self._store.all(ACCEPTED))
        standing = {
            key: each
            for each in found
            if each.alarm
            and each.amount > accepted.get(key := _key(each.kind, each.channel), NEVER_ACCEPTED)
        }
        with self._store.transaction() as txn:
            for key, difference in standing.items():
                known = self._alarms.get(key)
                alarm = Alarm(
                    kind=difference.kind.value,
                    channel=difference.channel,
                    text=difference.text,
                    since_ms=now if known is None else known.since_ms,
                    amount=difference.amount,
                )
                if alarm != known:
                    txn.put(ALARMS, key, alarm)
                    txn.after(_told(self._alarms, key, alarm))
            for key, alarm in self._alarms.items():
                if key not in standing and alarm.kind not in STAND_UNTIL_ACCEPTED:
                    txn.delete(ALARMS, key)
                    txn.after(_ended(self._alarms, key))

    def _agree(self, base: Base) -> None:
        if base != self._store.get(BASE, BASE_KEY):
            with self._store.transaction() as txn:
                txn.put(BASE, BASE_KEY, base)


def told(alarms: Iterable[Alarm]) -> list[Mapping[str, object]]:
    """JSON-ready."""
    return [
        {
            "kind": alarm.kind,
            "channel": None if alarm.channel is None else to_base58(alarm.channel),
            "text": alarm.text,
            "since_ms": alarm.since_ms,
        }
        for alarm in alarms
    ]


def accept(store: Store, what: ChannelId | str) -> tuple[Alarm, ...]:
    """Take what the chain shows as it is; return the alarms that are over with that.

    ``what`` is a channel, or the kind of an alarm that concerns the wallet. Only more than what was
    accepted is an alarm again. For a node that runs, ``Reconciler.accept`` does this.
    """
    found = {
        key: alarm
        for key, alarm in store.all(ALARMS)
        if what == (alarm.kind if alarm.channel is None else alarm.channel)
    }
    base = store.get(BASE, BASE_KEY)
    with store.transaction() as txn:
        for key, alarm in found.items():
            txn.delete(ALARMS, key)
            if alarm.kind != Kind.BALANCE_LOW:
                txn.put(ACCEPTED, key, alarm.amount)
            elif base is not None:  # nothing is missing of nothing: the next look begins anew
                rebased = msgspec.structs.replace(base, available=MicroUnits(0))
                txn.put(BASE, BASE_KEY, rebased)
    return tuple(found.values())


def _told(alarms: dict[bytes, Alarm], key: bytes, alarm: Alarm) -> Callable[[], None]:
    def tell() -> None:
        alarms[key] = alarm
        where = "" if alarm.channel is None else f" on channel {to_base58(alarm.channel)}"
        log.error("ALARM %s%s: %s", alarm.kind, where, alarm.text)

    return tell


def _ended(alarms: dict[bytes, Alarm], key: bytes) -> Callable[[], None]:
    def tell() -> None:
        alarm = alarms.pop(key)
        log.info("alarm %s is over: %s", alarm.kind, alarm.text)

    return tell


def _paying(record: ChannelRecord) -> Paying:
    return Paying(
        nonce=record.nonce,
        deposit=record.deposit,
        # Of a channel that was rebuilt from the chain, what was signed is not known yet.
        cumulative=record.deposit if record.unsure else record.ledger.cumulative,
        closing=record.phase in (ChannelPhase.CLOSING, ChannelPhase.CLOSED),
        opening=record.phase is ChannelPhase.OPENING,
        closed=record.phase is ChannelPhase.CLOSED,
    )


def _promised(record: EarningRecord) -> MicroUnits:
    """What vouchers may have promised: anything, where they were lost with the store."""
    return record.deposit if record.ledger.rebuilt else record.ledger.cumulative


def _key(kind: Kind, channel: ChannelId | None) -> bytes:
    return kind.encode() + (b"" if channel is None else b"/" + channel)
