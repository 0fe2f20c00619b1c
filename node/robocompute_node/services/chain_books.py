"""One owner's money as the chain alone tells it: its accounts now, and every event that led there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.accounting import Difference, Journal, differences, journal_of
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_settlement.events import ChannelClosed, ChannelOpened, Settled
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import (
        BalanceView,
        ChainRecord,
        ChannelView,
        Settlement,
        StakeView,
    )

PAGE: Final = 1_000
"""Transactions asked for at once."""
LOOKS: Final = 3
"""The chain goes on while it is read: books that do not add up are read again before that is said."""
LOOK_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBooks:
    """What the chain says, and where its history and its accounts disagree."""

    journal: Journal
    balance: BalanceView | None
    stake: StakeView | None
    channels: dict[ChannelId, ChannelView]
    """Those that are there now, on either side."""
    differences: tuple[Difference, ...]


async def read_books(
    chain: Settlement,
    owner: Address,
    mint: Address,
    *,
    known: Iterable[ChannelId] = (),
    at: Commitment = Commitment.CONFIRMED,
) -> ChainBooks:
    """Read everything about ``owner``'s money of one mint.

    ``known`` are channels to look for besides: closed ones that only this node's store remembers.

    Raises:
        ChainError: the chain does not answer.
    """
    named = tuple(known)
    books = await _read_once(chain, owner, mint, named, at)
    for _ in range(LOOKS - 1):
        if not books.differences:
            break
        await trio.sleep(LOOK_AGAIN_S)
        books = await _read_once(chain, owner, mint, named, at)
    return books


async def final_total(chain: Settlement, channel: ChannelId) -> MicroUnits | None:
    """Return what a closed channel had settled in the end; None where the history lacks its close.

    Raises:
        ChainError: the chain does not answer.
    """
    for record in reversed(await _history(chain, Address(channel), Commitment.CONFIRMED)):
        for event in record.events:
            if isinstance(event, ChannelClosed) and event.channel == channel:
                return event.settled
    return None


async def _read_once(
    chain: Settlement,
    owner: Address,
    mint: Address,
    known: tuple[ChannelId, ...],
    at: Commitment,
) -> ChainBooks:
    stake_address = chain.stake_address(owner, mint)
    balance = await chain.balance(owner, mint, at=at)
    stake = await chain.stake_of(owner, mint, at=at)
    views = {view.channel: view for view in await chain.channels_of(owner, mint=mint, at=at)}
    records = await _history(chain, chain.balance_address(owner, mint), at)
    if stake is not None:
        records += await _history(chain, stake_address, at)
    for channel in _to_be_read(owner, records, set(known), views):
        records += await _history(chain, Address(channel), at)
    journal = journal_of(
        owner, mint, stake=stake_address, records=records, channels=views.values()
    )
    return ChainBooks(
        journal=journal,
        balance=balance,
        stake=stake,
        channels=views,
        differences=differences(journal, balance=balance, channels=views.values(), stake=stake),
    )


def _to_be_read(
    owner: Address,
    records: list[ChainRecord],
    named: set[ChannelId],
    views: dict[ChannelId, ChannelView],
) -> list[ChannelId]:
    """Return the channels whose own history tells more than the owner's Balance does.

    A payer's Balance is not touched by settlements. A payee's is; but who paid, and at which fee,
    only the opening says of a channel that is gone.
    """
    found = named | {name for name, view in views.items() if view.payer == owner}
    for record in records:
        for event in record.events:
            match event:
                case ChannelOpened() if event.payer == owner:
                    found.add(event.channel)
                case Settled() if event.payee == owner and event.channel not in views:
                    found.add(event.channel)
                case _:
                    pass
    return sorted(found)


async def _history(chain: Settlement, address: Address, at: Commitment) -> list[ChainRecord]:
    """Read an address's whole history, page by page."""
    records: list[ChainRecord] = []
    while True:
        until = records[-1].signature if records else ""
        page = await chain.history(address, until=until, limit=PAGE, at=at)
        records += page
        if len(page) < PAGE:
            return records
