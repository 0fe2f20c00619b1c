"""The owner's books: channels, earnings and invoices, from receipts and the chain's own events.

Only reads, but for what is asked for by name: settling what is owed, and closing a channel.
Everything is JSON-ready, so that it is the same over REST and, with the node stopped, on its store.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.accounting import ChannelStory
from robocompute_node.accounting_bills import Bill, LineState, Receipted, bills_of
from robocompute_node.api.port import InvalidRequest
from robocompute_node.api.views import iso
from robocompute_node.core.reconciling import Kind
from robocompute_node.services.chain_books import final_total, read_books
from robocompute_node.services.channels import CHANNELS, ChannelPhase, ChannelRecord
from robocompute_node.services.earnings import EARNINGS, EarningRecord
from robocompute_node.services.lettings import LETTINGS
from robocompute_node.services.rebuilt import REBUILT, SHOWN
from robocompute_node.services.reconciler import ACCEPTED, ALARMS, BASE, Alarm, accept, told
from robocompute_node.services.rental_book import RENTALS
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import (
    Address,
    ChannelId,
    NodeKey,
    address_from_base58,
    to_base58,
)
from robocompute_protocol.messages import Receipt, Signed
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_protocol.receipts import receipt_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.services.chain_books import ChainBooks
    from robocompute_node.services.channels import ChannelKeeper
    from robocompute_node.services.earnings import Earnings
    from robocompute_node.services.settler import Settler
    from robocompute_node.store import Store
    from robocompute_settlement.port import ChannelView, Settlement

NOTHING: Final = MicroUnits(0)
MAY_NOT: Final = frozenset({6008, 6009})
"""The program's words for a key that is no delegate, or none any more."""


@dataclass(frozen=True, slots=True)
class Paid:
    """The provider's services, where this node is one."""

    earnings: Earnings
    settler: Settler


class Accounts:
    """Implements ``api.port.MoneyApi``."""

    def __init__(
        self,
        store: Store,
        chain: Settlement,
        clock: Clock,
        wallet: Address,
        config: NodeConfig,
        channels: ChannelKeeper,
        paid: Paid | None,
        accepts: Callable[[ChannelId | str], tuple[Alarm, ...]] | None = None,
    ) -> None:
        """``accepts`` is the reconciler's, where one runs; else the store alone is changed."""
        self._store = store
        self._chain = chain
        self._clock = clock
        self._wallet = wallet
        self._mint = config.chain.mint
        self._currency = "USDC"
        self._channels = channels
        self._paid_side = paid
        self._is_provider = config.is_provider
        self._final: dict[ChannelId, MicroUnits] = {}
        """Of closed channels, read from the chain's history once: they do not change any more."""
        store.declare(CHANNELS, RENTALS, EARNINGS, LETTINGS, REBUILT, SHOWN)
        store.declare(ALARMS, ACCEPTED, BASE)
        self._accepts = accepts or partial(accept, store)

    # --- channels -------------------------------------------------------------------------------

    async def channels(self) -> Mapping[str, object]:
        views = {view.channel: view for view in await self._chain.channels_of(self._wallet)}
        paying = {ChannelId(key): record for key, record in self._store.all(CHANNELS)}
        paid = {ChannelId(key): record for key, record in self._store.all(EARNINGS)}
        raised = {alarm.channel: alarm.text for _, alarm in self._store.all(ALARMS)}
        await self._learn_final(views.keys(), paying.values())
        rows = [
            self._paying(views.get(name), paying.get(name))
            for name in sorted({*views, *paying})
            if name in paying or views[name].payer == self._wallet
        ]
        rows += [
            self._paid(views.get(name), paid.get(name))
            for name in sorted({*views, *paid})
            if name in paid or views[name].payee == self._wallet
        ]
        for row in rows:
            name = ChannelId(bytes(address_from_base58(str(row["channel"]))))
            row["alarm"] = raised.get(name) or row["alarm"]
        alarms = told(alarm for _, alarm in self._store.all(ALARMS))
        return {"wallet_address": to_base58(self._wallet), "channels": rows, "alarms": alarms}

    async def accept_alarms(self, name: str) -> Mapping[str, object]:
        accepted = self._accepts(name if name in set(Kind) else _channel(name))
        if not accepted:
            raise InvalidRequest(
                f"no alarm stands on {name}: `robocompute-node channels` has them"
            )
        return {"accepted": told(accepted)}

    async def _learn_final(
        self, there: Collection[ChannelId], paying: Iterable[ChannelRecord]
    ) -> None:
        for record in paying:
            name = record.channel
            if name in there or record.phase is ChannelPhase.OPENING:
                self._final.pop(name, None)  # a close may be undone while it is only confirmed
            elif name not in self._final:
                settled = await final_total(self._chain, name)
                if settled is not None:
                    self._final[name] = settled

    def _paying(self, view: ChannelView | None, known: ChannelRecord | None) -> dict[str, object]:
        state = _state(view, None if known is None else known.phase.value)
        promised = NOTHING if known is None else known.ledger.cumulative
        settled: MicroUnits | None = NOTHING
        if view is not None:
            settled = view.settled
        elif state == ChannelPhase.CLOSED and known is not None:
            settled = self._final.get(known.channel)
        alarm = ""
        if known is None:
            alarm = "not in this node's store: close it, or `robocompute-node chain recover`"
        elif view is not None and view.settled > promised:
            alarm = (
                "more is settled than this store has signed: it is an older copy, or two nodes "
                "sign with this key"
            )
        return {
            **_common("payer", view, known, state, alarm),
            "peer": to_base58(view.payee if view is not None else known.payee if known else b""),
            "peer_node": None if known is None else to_base58(known.payee_node),
            "voucher": format_amount(promised),
            "sequence": 0 if known is None else known.ledger.sequence,
            "settled": None if settled is None else format_amount(settled),
            "unsettled": format_amount(max(0, promised - view.settled) if view is not None else 0),
            "credit": _credit(known, state),
        }

    def _paid(self, view: ChannelView | None, known: EarningRecord | None) -> dict[str, object]:
        state = _state(view, "closed" if known is not None and known.closed else "open")
        owed = NOTHING if known is None else known.ledger.claimable
        stored = NOTHING if known is None else known.settled
        settled = stored if view is None else view.settled
        unsettled = max(0, owed - settled)
        alarm = ""
        if known is None:
            alarm = "not in this node's store: `robocompute-node chain recover`"
        elif view is None and unsettled:
            alarm = f"closed with {format_amount(unsettled)} not settled: that is lost"
        elif view is not None and view.closing and unsettled:
            alarm = f"closing: {format_amount(unsettled)} must be settled before it is over"
        return {
            **_common("payee", view, known, state, alarm),
            "peer": to_base58(view.payer if view is not None else known.payer if known else b""),
            "peer_node": to_base58(
                view.voucher_key if view is not None else known.voucher_key if known else b""
            ),
            "voucher": format_amount(0 if known is None else known.ledger.cumulative),
            "sequence": 0 if known is None else known.ledger.sequence,
            "settled": format_amount(settled),
            "unsettled": format_amount(unsettled),
            "credit": _credit(known, state),
        }

    async def close_channel(self, channel: str) -> Mapping[str, object]:
        name = _channel(channel)
        view = await self._chain.channel(name)
        if view is None:
            raise ChainRefused(
                f"there is no channel {channel} on the chain: it was closed, or never opened"
            )
        if view.payer == self._wallet:
            found = await self._ask_to_close(view)
            closing = found if found is not None else view
            return {
                "role": "payer",
                "channel": channel,
                "close_at": iso(closing.close_at_s * 1000),
                "unsettled": None,
            }
        if view.payee != self._wallet:
            raise InvalidRequest(f"the channel {channel} is between others than this wallet")
        return {
            "role": "payee",
            "channel": channel,
            "close_at": None,
            "unsettled": format_amount(await self._make_ready(name)),
        }

    async def _ask_to_close(self, view: ChannelView) -> ChannelView | None:
        try:
            if any(record.channel == view.channel for record in self._channels.all()):
                return await self._channels.request_close(view.channel)
            if not view.closing:
                await self._chain.request_close(view)
        except ChainRefused as exc:
            if exc.number not in MAY_NOT:
                raise
            raise InvalidRequest(
                "this node's key may not act for the wallet (any more): add --with-wallet, or "
                "allow it again with `robocompute-node wallet delegate set`"
            ) from exc
        return await self._chain.channel(view.channel)

    async def _make_ready(self, channel: ChannelId) -> MicroUnits:
        """Take nothing more on a channel, and settle it; return what could not be settled."""
        if self._paid_side is None or (known := self._paid_side.earnings.get(channel)) is None:
            return NOTHING
        earnings = self._paid_side.earnings
        if known.running:
            raise InvalidRequest(
                f"{len(known.running)} jobs are being paid over this channel: close it when they ended"
            )
        earnings.retire(channel)
        await self._paid_side.settler.settle_everything()
        known = earnings.get(channel)
        return NOTHING if known is None else known.unsettled

    async def settle(self) -> Mapping[str, object]:
        """Raises: ChainError when the chain does not take it; it stays in the outbox."""
        if self._paid_side is None or not self._is_provider:
            raise InvalidRequest(
                "this node earns nothing: add the role provider to [node] roles in its config.toml"
            )
        before = await self._available()
        told = await self._paid_side.settler.settle_now()
        after = await self._available()
        return {**told, "available_before": before, "available_after": after}

    async def _available(self) -> str:
        balance = await self._chain.balance(self._wallet, self._mint)
        return format_amount(0 if balance is None else balance.available)

    # --- books ----------------------------------------------------------------------------------

    async def earnings(self) -> Mapping[str, object]:
        records = {ChannelId(key): record for key, record in self._store.all(EARNINGS)}
        receipts = [
            _receipted(record.state.receipt, record.job_id, record.terms.payer_node)
            for _, record in self._store.all(LETTINGS)
            if record.state.receipt is not None
        ]
        books = await read_books(self._chain, self._wallet, self._mint)
        stories = {
            name: story
            for name, story in books.journal.channels.items()
            if story.payee == self._wallet
        }
        for name, record in records.items():
            stories.setdefault(name, _unseen(record.channel, record.payer, record))
        bills = self._bills(stories, books, receipts)
        lines = [
            {**_line(line), **_of(bill), "payer": to_base58(stories[bill.channel].payer)}
            for bill in bills
            for line in bill.lines
        ]
        settled = sum(bill.amount(*_PAID) for bill in bills)
        fees = sum(bill.fee(*_PAID) for bill in bills)
        unsettled = sum(bill.amount(LineState.UNSETTLED) for bill in bills)
        return {
            **self._head(books),
            "totals": {
                "earned": format_amount(settled + unsettled),
                "settled": format_amount(settled),
                "fees": format_amount(fees),
                "net": format_amount(settled - fees),
                "unsettled": format_amount(unsettled),
                "credit": _usable(books, records),
            },
            "lines": lines,
        }

    async def invoices(self) -> Mapping[str, object]:
        records = {ChannelId(key): record for key, record in self._store.all(CHANNELS)}
        rentals = {
            record.state.agreement: record
            for _, record in self._store.all(RENTALS)
            if record.state.receipt is not None
        }
        receipts = [
            _receipted(record.state.receipt, record.task_id, record.terms.payee_node)
            for record in rentals.values()
            if record.state.receipt is not None
        ]
        receipts += [_receipted(signed, "", signed.key) for _, signed in self._store.all(SHOWN)]
        books = await read_books(self._chain, self._wallet, self._mint, known=records)
        stories = {
            name: story
            for name, story in books.journal.channels.items()
            if story.payer == self._wallet
        }
        for name, record in records.items():
            stories.setdefault(name, _unseen(record.channel, record.payee, record))
        invoices: list[dict[str, object]] = []
        for bill in self._bills(stories, books, receipts):
            known = None if bill.receipted is None else rentals.get(bill.receipted.agreement)
            invoices.append(
                {
                    **_of(bill),
                    "provider": to_base58(stories[bill.channel].payee),
                    "price_per_hour": (
                        None if known is None else format_amount(known.terms.price_per_hour)
                    ),
                    "amount": format_amount(bill.amount()),
                    "settled": format_amount(bill.amount(*_PAID)),
                    "unsettled": format_amount(bill.amount(LineState.UNSETTLED)),
                    "lines": [_line(line) for line in bill.lines],
                }
            )
        total = sum(bill.amount() for bill in self._bills(stories, books, receipts))
        return {
            **self._head(books),
            "totals": {
                "invoiced": format_amount(total),
                "credit": _usable(books, records),
            },
            "invoices": invoices,
        }

    def _bills(
        self,
        stories: dict[ChannelId, ChannelStory],
        books: ChainBooks,
        receipts: list[Receipted],
    ) -> list[Bill]:
        bills: list[Bill] = []
        for name, story in stories.items():
            view = books.channels.get(name)
            base = self._store.get(REBUILT, name)
            bills += bills_of(
                story,
                [one for one in receipts if one.channel == name],
                settled=NOTHING if view is None else view.settled,
                known_from=NOTHING if base is None else base.settled,
            )
        return bills

    def _head(self, books: ChainBooks) -> dict[str, object]:
        return {
            "wallet_address": to_base58(self._wallet),
            "currency": self._currency,
            "mint": to_base58(self._mint),
            "history_whole": books.journal.whole and not books.differences,
            "differences": [
                {
                    "where": each.where,
                    "journal": format_amount(each.journal),
                    "chain": format_amount(each.chain),
                }
                for each in books.differences
            ],
        }


_PAID = (LineState.SETTLED, LineState.SETTLED_UNSEEN)


def _channel(text: str) -> ChannelId:
    try:
        return ChannelId(bytes(address_from_base58(text)))
    except ValueError as exc:
        raise InvalidRequest(f"channel: {exc}") from None


def _state(view: ChannelView | None, stored: str | None) -> str:
    """The chain's word where it holds the channel, the store's where it does not."""
    if view is not None:
        return "closing" if view.closing else "open"
    return stored if stored == ChannelPhase.OPENING else "closed"


def _credit(known: ChannelRecord | EarningRecord | None, state: str) -> str:
    """Prepaid and not used; what a closed channel had went back to its payer."""
    return format_amount(NOTHING if known is None or state == "closed" else known.ledger.credit)


def _usable(books: ChainBooks, records: Mapping[ChannelId, ChannelRecord | EarningRecord]) -> str:
    """The credit that jobs still can use: that of the channels which are there and stay."""
    open_ = [name for name, view in books.channels.items() if not view.closing]
    return format_amount(sum(records[name].ledger.credit for name in open_ if name in records))


def _common(
    role: str,
    view: ChannelView | None,
    known: ChannelRecord | EarningRecord | None,
    state: str,
    alarm: str,
) -> dict[str, object]:
    source: Any = view or known
    return {
        "channel": to_base58(source.channel),
        "role": role,
        "state": state,
        "mint": to_base58(source.mint),
        "deposit": format_amount(source.deposit),
        "challenge_s": source.challenge_s,
        "fee_bps": None if view is None else view.fee_bps,
        "close_at": iso(view.close_at_s * 1000) if view is not None and view.closing else None,
        "alarm": alarm or None,
    }


def _receipted(signed: Signed, job: str, other: NodeKey) -> Receipted:
    receipt = codec.decode(Receipt, signed.body, limit=limits.MAX_FRAME_BYTES)
    return Receipted(
        agreement=receipt.agreement,
        channel=receipt.channel,
        amount=receipt.amount,
        receipt=receipt_digest(signed),
        job=job,
        other=other,
        ended_ms=Millis(receipt.started_ms + receipt.metered_ms),
        metered_ms=receipt.metered_ms,
        cause=receipt.cause.value,
    )


def _unseen(
    channel: ChannelId, other: Address, record: ChannelRecord | EarningRecord
) -> ChannelStory:
    """A channel of the store whose events the chain's history does not show yet, or no more."""
    return ChannelStory(
        channel=channel, payer=other, payee=other, mint=record.mint, fee_bps=0,
        deposit=record.deposit,
    )  # fmt: skip


def _of(bill: Bill) -> dict[str, object]:
    """What a bill is for."""
    known = bill.receipted
    return {
        "channel": to_base58(bill.channel),
        "agreement": None if known is None else known.agreement.hex(),
        "job": None if known is None else known.job or None,
        "peer_node": None if known is None else to_base58(known.other),
        "receipt": None if known is None else known.receipt.hex(),
        "cause": None if known is None else known.cause,
        "ended_at": None if known is None else iso(known.ended_ms),
        "metered_ms": None if known is None else known.metered_ms,
    }


def _line(line: Any) -> dict[str, object]:
    """One line, with its evidence."""
    evidence = line.evidence
    return {
        "state": line.state.value,
        "amount": format_amount(line.amount),
        "fee": format_amount(line.fee),
        "net": format_amount(line.amount - line.fee),
        "voucher_cumulative": format_amount(line.end),
        "transaction": None if evidence is None else evidence.signature,
        "slot": None if evidence is None else evidence.slot,
        "settled_at": iso(evidence.time_s * 1000) if evidence and evidence.time_s else None,
    }
