"""Raising the deposits of channels, each time once: a top-up that is repeated pays twice.

What may have been sent is on disk before it is. After a crash, or where no answer came, the chain
is asked what became of it before that channel is topped up again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.identifiers import ChannelId
from robocompute_settlement.port import Attempt, ChannelView, Outcome, Settlement

if TYPE_CHECKING:
    from robocompute_protocol.money import MicroUnits

log = logging.getLogger(__name__)


class OpenTopUp(msgspec.Struct, frozen=True, kw_only=True):
    """The last signed transaction of a top-up whose end is not known to the books."""

    signature: str
    last_valid_height: int


TOP_UPS: Final = Table("open-top-ups/1", OpenTopUp)
"""By channel. None of one channel is sent while another of it may still land."""


class TopUps:
    """Top-ups that were begun. One at a time: the caller sees to that."""

    def __init__(self, store: Store, chain: Settlement) -> None:
        self._store = store
        self._chain = chain
        store.declare(TOP_UPS)

    def open(self) -> tuple[ChannelId, ...]:
        """The channels whose last top-up may have landed without the books knowing."""
        return tuple(ChannelId(channel) for channel, _ in self._store.all(TOP_UPS))

    async def is_over(self, channel: ChannelId) -> bool:
        """Whether the chain takes no earlier top-up of this channel any more.

        After a yes, what is read of the channel shows the deposit with it.

        Raises: ChainError when nobody can tell.
        """
        held = self._store.get(TOP_UPS, channel)
        if held is None:
            return True
        found = await self._chain.outcome(Attempt(held.signature, held.last_valid_height))
        if found is Outcome.PENDING:
            return False
        log.warning("a top-up that was left open: %s (%s)", found, held.signature)
        with self._store.transaction() as txn:
            self.done(txn, channel)
        return True

    async def make(self, view: ChannelView, amount: MicroUnits) -> None:
        """Raise the deposit, now that no earlier one is open. Calls for ``done`` afterwards.

        Raises:
            StoreError: the attempt could not be stored, and was not sent.
            ChainError: not taken, or not known to be: ``is_over`` finds out.
        """

        def keep(attempt: Attempt) -> None:
            with self._store.transaction() as txn:
                txn.put(
                    TOP_UPS,
                    view.channel,
                    OpenTopUp(
                        signature=attempt.signature, last_valid_height=attempt.last_valid_height
                    ),
                )

        await self._chain.top_up(channel=view, amount=amount, journal=keep)

    def done(self, txn: Transaction, channel: ChannelId) -> None:
        """Forget the channel's last top-up: the books have what became of it."""
        txn.delete(TOP_UPS, channel)
