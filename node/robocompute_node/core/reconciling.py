"""What the books say and what the chain says: where they differ, and what may not be explained. Pure.

A chain that knows better (a settlement that was not noted, a channel that somebody closed) repairs
the books. What cannot come about while this node alone holds its key and its store is an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import MicroUnits, format_amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_protocol.identifiers import Address, ChannelId, NodeKey
    from robocompute_settlement.port import BalanceView, ChannelView, StakeView


class Kind(StrEnum):
    """What differs. The first group is repaired, the second is an alarm."""

    DEPOSIT = "deposit"
    CLOSING = "closing"
    SETTLED = "settled"
    UNKNOWN_EARNING = "unknown_earning"
    """Somebody opened a channel to us that no order came on yet."""

    UNKNOWN_CHANNEL = "unknown_channel"
    """A channel that our key pays through, and that our books do not know."""
    FOREIGN_CHANNEL = "foreign_channel"
    """A channel that our wallet pays through by a key that is neither ours nor its delegate's."""
    SETTLED_MORE = "settled_more"
    """More was claimed than the highest voucher we know of says."""
    CLOSED_UNSETTLED = "closed_unsettled"
    """A channel is gone, and what it owed us with it."""
    NONCE_BACK = "nonce_back"
    """The chain would give a nonce that we used: it is another chain, or an older one."""
    BALANCE_LOW = "balance_low"
    """Money left the balance that neither this node nor the wallet's own key took."""
    SLASHED = "slashed"
    """The stake was slashed since it was last looked at."""


ALARMS = frozenset(list(Kind)[4:])


END_DELEGATION = "end its delegation with `robocompute-node wallet delegate revoke`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs. ``channel`` is None where it concerns the wallet."""

    kind: Kind
    text: str
    channel: ChannelId | None = None
    amount: int = 0
    """How much it is, of whatever it is: an owner who accepts it accepts no more than that."""

    @property
    def alarm(self) -> bool:
        return self.kind in ALARMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Paying:
    """A channel we pay through, as our books have it."""

    nonce: int
    deposit: MicroUnits
    cumulative: MicroUnits
    closing: bool
    opening: bool
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Earning:
    """A channel we are paid through, as our books have it."""

    sequence: int
    """Of the newest voucher that we hold; 0 for none."""
    cumulative: MicroUnits
    settled: MicroUnits
    unsettled: MicroUnits
    closing: bool
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was right when books and chain last agreed."""

    available: MicroUnits
    slashed: MicroUnits
    deposits: Mapping[ChannelId, MicroUnits]
    """Of the channels that we paid through then."""
    foreign: frozenset[ChannelId] | None
    """Channels by other keys that the wallet had when they were first looked at; None before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What this node knows."""

    wallet: Address
    node_key: NodeKey
    pays: bool
    earns: bool
    paying: Mapping[ChannelId, Paying]
    earning: Mapping[ChannelId, Earning]
    baseline: Baseline | None
    nonce_used: int | None
    """The highest that was opened before the chain was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the chain shows of our wallet: all of one moment, with ``at_once``."""

    balance: BalanceView | None
    stake: StakeView | None
    channels: tuple[ChannelView, ...]
    at_once: bool = True
    """The balance was the same before and after the channels were read."""
    taken: MicroUnits | None = MicroUnits(0)
    """What the wallet's own key took out of the balance since the baseline; None: nobody can say."""


def differences(book: Book, chain: Chain) -> tuple[Difference, ...]:
    """Return all that differs, in a fixed order."""
    found: list[Difference] = []
    for view in sorted(chain.channels, key=lambda view: view.channel):
        if book.pays and view.payer == book.wallet:
            found += _of_paying(book, chain, view)
        if book.earns and view.payee == book.wallet:
            found += _of_earning(book, view)
    found += [
        Difference(
            kind=Kind.CLOSED_UNSETTLED,
            channel=channel,
            text=f"it closed while {format_amount(earning.unsettled)} were not settled",
            amount=earning.unsettled,
        )
        for channel, earning in sorted(book.earning.items())
        if earning.closed and earning.unsettled
    ]
    return (*found, *_of_wallet(book, chain))


def _of_paying(book: Book, chain: Chain, view: ChannelView) -> list[Difference]:
    known = book.paying.get(view.channel)
    if known is None:
        if view.voucher_key != book.node_key:
            return _of_foreign(book, chain, view)
        return [
            _on(
                view,
                Kind.UNKNOWN_CHANNEL,
                f"it pays {to_base58(view.payee)} by this node's key, and this node did not open "
                "it: its store is an older copy, or somebody else has its key",
            )
        ]
    found: list[Difference] = []
    if view.settled > known.cumulative:
        found.append(
            _on(
                view,
                Kind.SETTLED_MORE,
                f"{format_amount(view.settled)} were claimed and this node knows of vouchers for "
                f"{format_amount(known.cumulative)}: its store is an older copy, or somebody else "
                "has its key",
            )
        )
    if known.closed:
        found.append(_on(view, Kind.CLOSING, "it is not closed yet"))
        return found
    if view.deposit != known.deposit:
        text = f"it holds {format_amount(view.deposit)}, not {format_amount(known.deposit)}"
        found.append(_on(view, Kind.DEPOSIT, text))
    if view.closing and not known.closing:
        found.append(_on(view, Kind.CLOSING, "its close was asked for"))
    return found


def foreign(book: Book, chain: Chain) -> frozenset[ChannelId]:
    """Return the channels that our wallet pays through by another key than this node's."""
    return frozenset(
        view.channel
        for view in chain.channels
        if view.payer == book.wallet
        and view.voucher_key != book.node_key
        and view.channel not in book.paying
    )


def _of_foreign(book: Book, chain: Chain, view: ChannelView) -> list[Difference]:
    """Judge one of them: an alarm if it is new, and not of the node that is the delegate now.

    Whoever has this node's key can open a channel to themselves by a key of their own, and the
    balance need not fall below what it was, where the wallet earns as well.
    """
    base, balance = book.baseline, chain.balance
    if base is None or base.foreign is None or view.channel in base.foreign:
        return []
    if balance is not None and balance.delegate == view.voucher_key:
        return []
    text = (
        f"it pays {to_base58(view.payee)} out of the wallet by a key that is not this node's: if "
        f"the wallet did not open it, somebody else has this node's key: {END_DELEGATION}"
    )
    return [_on(view, Kind.FOREIGN_CHANNEL, text)]


def _of_earning(book: Book, view: ChannelView) -> list[Difference]:
    known = book.earning.get(view.channel)
    if known is None:
        return [_on(view, Kind.UNKNOWN_EARNING, "no order came on it yet")]
    # Where we never held a voucher, anybody may open a channel to us and settle what they like.
    if known.sequence > 0 and view.settled > known.cumulative:
        text = (
            f"{format_amount(view.settled)} were settled and this node holds a voucher for "
            f"{format_amount(known.cumulative)}: its store is an older copy; nothing is leased "
            "on the channel until its payer shows a newer voucher"
        )
        return [_on(view, Kind.SETTLED_MORE, text)]
    if view.settled > known.settled or view.closing != known.closing:
        return [_on(view, Kind.SETTLED, f"{format_amount(view.settled)} are settled")]
    return []


def _of_wallet(book: Book, chain: Chain) -> list[Difference]:
    found: list[Difference] = []
    base, balance, stake = book.baseline, chain.balance, chain.stake
    next_nonce = 0 if balance is None else balance.next_nonce
    if book.pays and book.nonce_used is not None and next_nonce <= book.nonce_used:
        text = (
            f"the chain's next channel is {next_nonce}, and {book.nonce_used} was opened already"
        )
        found.append(Difference(kind=Kind.NONCE_BACK, text=text, amount=book.nonce_used))
    missing = unexplained(book, chain)
    if missing > 0:
        text = (
            f"{format_amount(missing)} left the balance without this node or the wallet's key: "
            f"if this node's key may be in other hands, {END_DELEGATION}"
        )
        found.append(Difference(kind=Kind.BALANCE_LOW, text=text, amount=missing))
    if base is not None and stake is not None and stake.slashed > base.slashed:
        text = f"{format_amount(stake.slashed - base.slashed)} of the stake were slashed"
        found.append(Difference(kind=Kind.SLASHED, text=text, amount=stake.slashed))
    return found


def deposits(book: Book, chain: Chain) -> dict[ChannelId, MicroUnits]:
    """Return what had gone from the balance into each channel of ours when the chain was read."""
    on_chain = {view.channel: view.deposit for view in chain.channels}
    next_nonce = 0 if chain.balance is None else chain.balance.next_nonce
    found: dict[ChannelId, MicroUnits] = {}
    for name, paying in book.paying.items():
        if name in on_chain:
            found[name] = on_chain[name]
        elif paying.nonce < next_nonce and not paying.opening:
            found[name] = paying.deposit  # it was opened, and is closed again
    return found


def unexplained(book: Book, chain: Chain) -> MicroUnits:
    """Return by how much the balance is lower than what was opened, topped up and taken explains.

    Nothing where that cannot be told. Settlements and closings only raise the balance, so they
    cannot make a false alarm.
    """
    base, balance = book.baseline, chain.balance
    if base is None or chain.taken is None or not chain.at_once:
        return MicroUnits(0)
    locked = sum(
        max(0, deposit - base.deposits.get(name, 0))
        for name, deposit in deposits(book, chain).items()
    )
    available = 0 if balance is None else balance.available
    return MicroUnits(max(0, base.available - locked - chain.taken - available))


def _on(view: ChannelView, kind: Kind, text: str) -> Difference:
    amount = view.settled if kind is Kind.SETTLED_MORE else view.settled + view.deposit
    return Difference(kind=kind, channel=view.channel, text=text, amount=amount)
