"""The owner's money as double entries, from what the program said on chain: no price, no oracle.

Each event of a transaction that concerns the owner becomes an entry whose postings add up to zero,
with the transaction as its evidence. What the postings of a place add up to is what the chain
holds there, to the unit, as long as the history is whole; ``differences`` says where it is not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from robocompute_protocol.money import MicroUnits
from robocompute_settlement.events import (
    ChannelClosed,
    ChannelOpened,
    CloseRequested,
    Deposited,
    FeesSwept,
    Registered,
    Settled,
    Slashed,
    Staked,
    ToppedUp,
    UnbondedClaimed,
    Unstaked,
    Withdrawn,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_protocol.identifiers import Address, ChannelId, Digest
    from robocompute_settlement.events import ChainEvent
    from robocompute_settlement.port import BalanceView, ChainRecord, ChannelView, StakeView


ChannelEvent = ChannelOpened | ToppedUp | Settled | ChannelClosed | CloseRequested


class Place(StrEnum):
    """Where money is, or where it came from and went to."""

    OUTSIDE = "outside"
    """Token accounts: the wallet's own and others'."""
    AVAILABLE = "available"
    CHANNEL = "channel"
    """In a channel the owner pays through, not settled."""
    SPENT = "spent"
    """Settled to a payee, fees included."""
    EARNED = "earned"
    """Settled by payers, before fees; negative, as income is."""
    FEES = "fees"
    """Taken from what was earned: still owed by the Balance, or swept."""
    TREASURY = "treasury"
    """Swept to the owner as the treasury; negative."""
    BONDED = "bonded"
    UNBONDING = "unbonding"
    SLASHED = "slashed"
    """Lost to a slash."""
    REWARDED = "rewarded"
    """Shares of others' slashes; negative."""


@dataclass(frozen=True, slots=True)
class Posting:
    """``amount`` moved into a place, or out of it where negative."""

    place: Place
    amount: int
    channel: ChannelId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Which transaction said so."""

    signature: str
    slot: int
    time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event, as postings that add up to zero."""

    evidence: Evidence
    what: str
    postings: tuple[Posting, ...]
    channel: ChannelId | None = None
    peer: Address | None = None
    """The other side: a payee, a payer, a token account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledRange:
    """One settlement of a channel: it raised the settled total from ``start`` to ``end``."""

    evidence: Evidence
    start: MicroUnits
    end: MicroUnits
    fee: MicroUnits
    alloc_root: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStory:
    """A channel's life, as far as the chain tells it."""

    channel: ChannelId
    payer: Address
    payee: Address
    mint: Address
    fee_bps: int
    deposit: MicroUnits = MicroUnits(0)
    settlements: tuple[SettledRange, ...] = ()
    refunded: MicroUnits | None = None
    """What went back when it closed; None while it is there."""
    opened: Evidence | None = None
    closed: Evidence | None = None

    @property
    def settled(self) -> MicroUnits:
        return self.settlements[-1].end if self.settlements else MicroUnits(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """All that the chain tells of one owner's money of one mint, oldest first."""

    owner: Address
    mint: Address
    entries: tuple[Entry, ...]
    channels: dict[ChannelId, ChannelStory]
    whole: bool
    """False when a log was cut short, or an event is of a channel whose opening is not known."""

    def total(self, place: Place, channel: ChannelId | None = None) -> int:
        """What the postings of a place add up to; of one channel only, where one is named."""
        return sum(
            posting.amount
            for entry in self.entries
            for posting in entry.postings
            if posting.place is place and channel in {None, posting.channel}
        )


@dataclass(slots=True)
class _Reading:
    """A journal being written."""

    owner: Address
    mint: Address
    stake: Address
    channels: dict[ChannelId, ChannelStory]
    entries: list[Entry] = field(default_factory=list[Entry])
    whole: bool = True

    def note(
        self, evidence: Evidence, event: ChainEvent, *postings: Posting,
        channel: ChannelId | None = None, peer: Address | None = None,
    ) -> None:  # fmt: skip
        assert sum(posting.amount for posting in postings) == 0
        self.entries.append(
            Entry(
                evidence=evidence,
                what=type(event).__name__,
                postings=postings,
                channel=channel,
                peer=peer,
            )
        )

    def story(self, event: ChannelEvent) -> ChannelStory | None:
        """The event's channel, where it is the owner's and of this mint.

        An event of the owner's money in a channel whose opening is not known makes a gap.
        """
        found = self.channels.get(event.channel)
        if found is None:
            self.whole = self.whole and not self._concerns(event)
            return None
        ours = found.mint == self.mint and self.owner in (found.payer, found.payee)
        return found if ours else None

    def _concerns(self, event: ChannelEvent) -> bool:
        """Whether an event of a channel never heard of moved the owner's money, or may have."""
        match event:
            case Settled():
                return event.payee == self.owner
            case ChannelClosed():
                return event.payer == self.owner
            case ChannelOpened() | ToppedUp():
                return True
            case CloseRequested():
                return False


def journal_of(
    owner: Address,
    mint: Address,
    *,
    stake: Address,
    records: Iterable[ChainRecord],
    channels: Iterable[ChannelView] = (),
) -> Journal:
    """Write the journal of ``owner`` for one mint.

    ``records`` are the histories of its Balance, its Stake and its channels, in any order; the
    same transaction may be in several. ``channels`` are those that are there now: they help where
    the history no longer reaches back to an opening.
    """
    known = {
        view.channel: ChannelStory(
            channel=view.channel,
            payer=view.payer,
            payee=view.payee,
            mint=view.mint,
            fee_bps=view.fee_bps,
        )
        for view in channels
    }
    found = {record.signature: record for record in records}
    ordered = sorted(found.values(), key=lambda record: (record.slot, record.signature))
    for record in ordered:
        for event in record.events:
            if isinstance(event, ChannelOpened):
                known[event.channel] = ChannelStory(
                    channel=event.channel,
                    payer=event.payer,
                    payee=event.payee,
                    mint=event.mint,
                    fee_bps=event.fee_bps,
                )
    reading = _Reading(owner, mint, stake, known)
    reading.whole = all(record.complete for record in ordered)
    for record in _in_order(ordered):
        evidence = Evidence(signature=record.signature, slot=record.slot, time_s=record.time_s)
        for event in record.events:
            _read(reading, evidence, event)
    return Journal(
        owner=owner,
        mint=mint,
        entries=tuple(reading.entries),
        channels={
            name: story
            for name, story in reading.channels.items()
            if owner in (story.payer, story.payee) and story.mint == mint
        },
        whole=reading.whole,
    )


def _in_order(records: list[ChainRecord]) -> list[ChainRecord]:
    """Order what one slot holds by what a channel says of itself: its totals only grow."""

    def key(record: ChainRecord) -> tuple[int, int]:
        totals = [event.settled for event in record.events if isinstance(event, Settled)]
        opened = any(isinstance(event, ChannelOpened) for event in record.events)
        closed = any(isinstance(event, ChannelClosed) for event in record.events)
        return record.slot, -1 if opened else 2**64 if closed else max(totals, default=0)

    return sorted(records, key=key)


def _read(reading: _Reading, evidence: Evidence, event: ChainEvent) -> None:
    """Take one event, if it is the owner's."""
    match event:
        case Deposited() | Withdrawn():
            _read_wallet(reading, evidence, event)
        case ChannelOpened() | ToppedUp() | Settled() | ChannelClosed() | CloseRequested():
            story = reading.story(event)
            if story is not None:
                _read_channel(reading, evidence, event, story)
        case Registered() | Staked() | Unstaked() | UnbondedClaimed():
            _read_stake(reading, evidence, event)
        case Slashed() if event.mint == reading.mint:
            _read_slash(reading, evidence, event)
        case FeesSwept() if (event.treasury, event.mint) == (reading.owner, reading.mint):
            reading.note(
                evidence,
                event,
                Posting(Place.AVAILABLE, event.amount),
                Posting(Place.TREASURY, -event.amount),
            )
        case _:
            pass


def _read_wallet(reading: _Reading, evidence: Evidence, event: Deposited | Withdrawn) -> None:
    if (event.owner, event.mint) != (reading.owner, reading.mint):
        return
    inward = event.amount if isinstance(event, Deposited) else -event.amount
    peer = None if isinstance(event, Deposited) else event.destination
    reading.note(
        evidence,
        event,
        Posting(Place.AVAILABLE, inward),
        Posting(Place.OUTSIDE, -inward),
        peer=peer,
    )


def _read_channel(
    reading: _Reading,
    evidence: Evidence,
    event: ChannelEvent,
    story: ChannelStory,
) -> None:
    channel = story.channel
    pays, paid = reading.owner == story.payer, reading.owner == story.payee
    peer = story.payee if pays else story.payer
    postings: list[Posting] = []

    def move(place: Place, amount: int) -> None:
        postings.append(Posting(place, amount, channel))

    match event:
        case ChannelOpened() | ToppedUp():
            amount = event.deposit if isinstance(event, ChannelOpened) else event.amount
            first = evidence if isinstance(event, ChannelOpened) else story.opened
            # Two top-ups of one slot may be read in either order: deposits only grow.
            held = max(story.deposit, event.deposit)
            _tell(reading, story, deposit=held, opened=first)
            if pays:
                move(Place.AVAILABLE, -amount)
                move(Place.CHANNEL, amount)
        case Settled():
            gross = event.paid + event.fee
            settlement = SettledRange(
                evidence=evidence,
                start=MicroUnits(event.settled - gross),
                end=event.settled,
                fee=event.fee,
                alloc_root=event.alloc_root,
            )
            _tell(reading, story, settlements=(*story.settlements, settlement))
            if pays:
                move(Place.CHANNEL, -gross)
                move(Place.SPENT, gross)
            if paid:
                move(Place.EARNED, -gross)
                move(Place.AVAILABLE, event.paid)
                move(Place.FEES, event.fee)
        case ChannelClosed():
            _tell(reading, story, refunded=event.refunded, closed=evidence)
            if pays:
                move(Place.CHANNEL, -event.refunded)
                move(Place.AVAILABLE, event.refunded)
        case CloseRequested():
            pass
    reading.note(evidence, event, *postings, channel=channel, peer=peer)


def _tell(reading: _Reading, story: ChannelStory, **changes: object) -> None:
    reading.channels[story.channel] = replace(story, **changes)


def _read_stake(
    reading: _Reading, evidence: Evidence, event: Registered | Staked | Unstaked | UnbondedClaimed
) -> None:
    if event.stake != reading.stake:
        return
    match event:
        case Registered():
            postings: tuple[Posting, ...] = ()
        case Staked():
            postings = _moved(Place.AVAILABLE, Place.BONDED, event.amount)
        case Unstaked():
            postings = _moved(Place.BONDED, Place.UNBONDING, event.amount)
        case UnbondedClaimed():
            postings = _moved(Place.UNBONDING, Place.AVAILABLE, event.amount)
    reading.note(evidence, event, *postings)


def _moved(source: Place, target: Place, amount: int) -> tuple[Posting, ...]:
    return Posting(source, -amount), Posting(target, amount)


def _read_slash(reading: _Reading, evidence: Evidence, event: Slashed) -> None:
    """The owner may be more than one of those it concerns."""
    postings: list[Posting] = []
    if event.stake == reading.stake:
        postings += _moved(Place.BONDED, Place.SLASHED, event.from_bonded)
        postings += _moved(Place.UNBONDING, Place.SLASHED, event.from_unbonding)
    for owner, amount in (
        (event.reporter, event.to_reporter),
        (event.first_payer, event.to_first),
        (event.second_payer, event.to_second),
        (event.treasury, event.to_treasury),
    ):
        if owner == reading.owner:
            postings += _moved(Place.REWARDED, Place.AVAILABLE, amount)
    if postings:
        reading.note(evidence, event, *postings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the journal and the chain do not say the same."""

    where: str
    journal: int
    chain: int


def differences(
    journal: Journal,
    *,
    balance: BalanceView | None,
    channels: Iterable[ChannelView],
    stake: StakeView | None,
) -> tuple[Difference, ...]:
    """Return where the journal does not add up to what the chain holds; nothing where it is right."""
    held: dict[str, tuple[int, int]] = {
        "available": (journal.total(Place.AVAILABLE), balance.available if balance else 0),
        "fees": (
            journal.total(Place.FEES),
            balance.fees_owed + balance.fees_paid if balance else 0,
        ),
        "bonded": (journal.total(Place.BONDED), stake.bonded if stake else 0),
        "unbonding": (journal.total(Place.UNBONDING), stake.unbonding if stake else 0),
    }
    there: dict[ChannelId, int] = defaultdict(int)
    for view in channels:
        if (view.payer, view.mint) == (journal.owner, journal.mint):
            there[view.channel] = view.deposit - view.settled
    for name, story in journal.channels.items():
        if story.payer == journal.owner:
            held[f"channel {name.hex()}"] = (journal.total(Place.CHANNEL, name), there[name])
    return tuple(
        Difference(where=where, journal=told, chain=found)
        for where, (told, found) in held.items()
        if told != found
    )
