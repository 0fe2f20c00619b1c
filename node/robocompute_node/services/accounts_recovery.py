"""A lost store, rebuilt from the chain alone: channels as far as they were settled, and the books.

What the chain cannot tell is told as not known, and nothing is claimed or promised on a guess: a
payee accepts only vouchers above what was settled, a payer first asks its provider what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.accounting_bills import bills_of
from robocompute_node.api.views import iso
from robocompute_node.services.chain_books import read_books
from robocompute_node.services.channels import CHANNELS, ChannelPhase, ChannelRecord
from robocompute_node.services.earnings import EARNINGS, EarningRecord
from robocompute_node.services.lettings import LETTINGS
from robocompute_node.services.rebuilt import REBUILT, SHOWN, Rebuilt
from robocompute_node.services.rental_book import RENTALS
from robocompute_node.services.task_book import TASKS
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_protocol.vouchers import PayeeLedger, PayerLedger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.services.chain_books import ChainBooks
    from robocompute_node.store import Store
    from robocompute_settlement.port import ChannelView, Settlement

NOTHING: Final = MicroUnits(0)
NOBODY: Final = NodeKey(bytes(32))
NOT_KNOWN: Final = (
    "which task or job each settlement paid for: the chain has only a digest of that (alloc_root); "
    "receipts that providers still hold come back when their channels are used again",
    "what was earned and not settled before the store was lost: it is not claimed any more",
    "credit with providers beyond what their own newest vouchers show: it comes back at the close",
    "tasks, their output and results, and agreements that were running",
)
"""What no chain can tell, in words for the owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the chain tells of one wallet, as records of a new store."""

    books: ChainBooks
    paying: tuple[ChannelRecord, ...]
    paid: tuple[EarningRecord, ...]
    rebuilt: tuple[Rebuilt, ...]


async def recover(
    chain: Settlement, wallet: Address, node_key: NodeKey, mint: Address, *, now: Millis
) -> Recovered:
    """Read all that the chain knows of ``wallet``'s channels of one mint.

    What is confirmed counts: a settlement that is not final yet was earned all the same, and a
    payer that counts it as spent promises less, never more.

    Raises:
        ChainError: the chain does not answer.
    """
    books = await read_books(chain, wallet, mint)
    views = [books.channels[name] for name in sorted(books.channels)]
    paying = [await _paying(chain, view, node_key, now) for view in views if view.payer == wallet]
    paid = [_paid(view) for view in views if view.payee == wallet]
    return Recovered(
        books=books,
        paying=tuple(paying),
        paid=tuple(paid),
        rebuilt=tuple(
            Rebuilt(channel=view.channel, settled=view.settled, at_ms=now) for view in views
        ),
    )


async def _paying(
    chain: Settlement, view: ChannelView, node_key: NodeKey, now: Millis
) -> ChannelRecord:
    """A channel we pay through, from where it was settled on.

    One whose vouchers another key signs, or whose provider has no stake that would say where to
    ask, cannot be used any more: it is closed, and its rest comes back.
    """
    stake = await chain.stake_of(view.payee, view.mint)
    usable = stake is not None and view.voucher_key == node_key and not view.closing
    return ChannelRecord(
        channel=view.channel,
        payee=view.payee,
        payee_node=NOBODY if stake is None else stake.node_key,
        mint=view.mint,
        nonce=view.nonce,
        deposit=view.deposit,
        challenge_s=view.challenge_s,
        phase=ChannelPhase.OPEN if usable else ChannelPhase.CLOSING,
        ledger=PayerLedger.rebuild(view.channel, view.settled),
        close_at_s=view.close_at_s,
        last_seen_ms=now,
        unsure=True,
    )


def _paid(view: ChannelView) -> EarningRecord:
    return EarningRecord(
        channel=view.channel,
        payer=view.payer,
        payee=view.payee,
        mint=view.mint,
        voucher_key=view.voucher_key,
        challenge_s=view.challenge_s,
        ledger=PayeeLedger.rebuild(view.channel, view.settled),
        deposit=view.deposit,
        settled=view.settled,
        closing=view.closing,
        close_at_s=view.close_at_s,
    )


def require_fresh(store: Store) -> None:
    """Refuse a store that remembers anything: it knows more than the chain does.

    Raises:
        ConfigError: it has records; the text says how to go on.
    """
    store.declare(CHANNELS, EARNINGS, RENTALS, LETTINGS, TASKS)
    if (
        store.all(CHANNELS)
        or store.all(EARNINGS)
        or store.all(RENTALS)
        or store.all(LETTINGS)
        or store.all(TASKS)
    ):
        raise ConfigError(
            "this node's store is not lost: it knows more than the chain. To rebuild it all the "
            "same, `robocompute-node chain recover --force` puts it aside first"
        )


def write(store: Store, recovered: Recovered) -> None:
    """Write the records into a fresh store, all or none."""
    store.declare(CHANNELS, EARNINGS, REBUILT, SHOWN)
    with store.transaction() as txn:
        for paying in recovered.paying:
            txn.put(CHANNELS, paying.channel, paying)
        for paid in recovered.paid:
            txn.put(EARNINGS, paid.channel, paid)
        for base in recovered.rebuilt:
            txn.put(REBUILT, base.channel, base)


def report(recovered: Recovered, wallet: Address) -> Mapping[str, object]:
    """JSON-ready: what was found, and what nobody can know any more."""
    books = recovered.books
    balance, stake = books.balance, books.stake
    return {
        "wallet_address": to_base58(wallet),
        "available": format_amount(0 if balance is None else balance.available),
        "fees_owed": format_amount(0 if balance is None else balance.fees_owed),
        "bonded": format_amount(0 if stake is None else stake.bonded),
        "unbonding": format_amount(0 if stake is None else stake.unbonding),
        "channels": [
            *(
                {
                    "channel": to_base58(record.channel),
                    "role": "payer",
                    "peer": to_base58(record.payee),
                    "deposit": format_amount(record.deposit),
                    "settled": format_amount(record.ledger.cumulative),
                    "state": record.phase.value,
                }
                for record in recovered.paying
            ),
            *(
                {
                    "channel": to_base58(record.channel),
                    "role": "payee",
                    "peer": to_base58(record.payer),
                    "deposit": format_amount(record.deposit),
                    "settled": format_amount(record.settled),
                    "state": "closing" if record.closing else "open",
                }
                for record in recovered.paid
            ),
        ],
        "settlements": _settlements(books, wallet),
        "history_whole": books.journal.whole and not books.differences,
        "not_known": list(NOT_KNOWN),
    }


def _settlements(books: ChainBooks, wallet: Address) -> list[dict[str, object]]:
    """Each settlement of each channel there ever was: the invoices and earnings that are left."""
    return [
        {
            "channel": to_base58(story.channel),
            "role": "payer" if story.payer == wallet else "payee",
            "peer": to_base58(story.payee if story.payer == wallet else story.payer),
            "amount": format_amount(line.amount),
            "fee": format_amount(line.fee),
            "voucher_cumulative": format_amount(line.end),
            "transaction": None if line.evidence is None else line.evidence.signature,
            "settled_at": (
                iso(line.evidence.time_s * 1000)
                if line.evidence is not None and line.evidence.time_s
                else None
            ),
        }
        for _, story in sorted(books.journal.channels.items())
        for bill in bills_of(story, ())
        for line in bill.lines
    ]
