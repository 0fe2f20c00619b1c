"""What a provider said it will never lease: kept for as long as the order could come again.

An order is signed over its channel, and nothing is leased on a channel that is not on chain. So a
statement may be forgotten once its channel is finally gone, or did not appear for as long as the
longest challenge. It may be forgotten, too, once its client has taken back what it promised: the
order's voucher is overtaken then, and no order of that agreement can be carried by it any more.
Until then the order is answered with the same statement, whoever restarted.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.errors import ChainError
from robocompute_protocol.identifiers import AgreementId, ChannelId, NodeKey
from robocompute_protocol.money import Millis
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_node.clocks import Clock
    from robocompute_node.services.earnings import Earnings
    from robocompute_settlement.port import Settlement

log = logging.getLogger(__name__)

MAX_NEVER: Final = 65_536
"""Statements kept: about ten megabytes."""
MAX_NEVER_UNSEEN: Final = MAX_NEVER // 2
"""Of these, at most so many when one about a channel that was never seen on chain is added."""
MAX_NEVER_A_PEER: Final = 256
"""Statements kept for one client's key: four times the open agreements a channel carries."""
KEPT_MS: Final = Millis(30 * 86_400_000)
"""The longest challenge the program allows."""
LATE_MS: Final = Millis(3_600_000)
"""An order or a voucher that was sent before a statement arrives within this: streams live minutes."""
FORGET_SECONDS: Final = 3_600.0
"""Between looks for statements to forget."""
LOOKS_AT_ONCE: Final = 64
"""Channels looked up in one go: an account read each."""


class NeverLeasing(msgspec.Struct, frozen=True, kw_only=True):
    """An agreement that was not and will not be leased."""

    channel: ChannelId
    payer_node: NodeKey
    reason: str
    since_ms: Millis


NEVER: Final = Table("never-leased/1", NeverLeasing)


class NeverLeased:
    """All statements of this provider that can still be asked for."""

    def __init__(self, store: Store, clock: Clock, earnings: Earnings) -> None:
        self._store = store
        self._clock = clock
        self._earnings = earnings
        self._sequences: dict[AgreementId, int] = {}
        """The voucher held when a statement was ``LATE_MS`` old: newer ones were signed after it."""
        self._looked = ChannelId(b"")
        """The channel looked up last: the next look goes on after it."""
        store.declare(NEVER)
        self._records = {AgreementId(key): record for key, record in store.all(NEVER)}
        self._of_peer: dict[NodeKey, int] = {}
        for record in self._records.values():
            self._count(record.payer_node, 1)

    def get(self, agreement: AgreementId) -> NeverLeasing | None:
        return self._records.get(agreement)

    def has_room(self, peer: NodeKey, channel: ChannelId) -> bool:
        """Whether one more can be promised to ``peer``.

        Keys cost nothing, channels do: those who never opened one share half of the room.
        """
        known = self._earnings.get(channel) is not None
        most = MAX_NEVER if known else MAX_NEVER_UNSEEN
        return len(self._records) < most and self._of_peer.get(peer, 0) < MAX_NEVER_A_PEER

    def keep(
        self, txn: Transaction, agreement: AgreementId, channel: ChannelId, peer: NodeKey, why: str
    ) -> None:
        """Decide for ever, in the caller's transaction. Repeatable: the first decision stays."""
        if agreement in self._records:
            return
        record = NeverLeasing(
            channel=channel, payer_node=peer, reason=why, since_ms=self._clock.now_ms()
        )
        if len(self._records) >= MAX_NEVER:
            self._make_room(txn)
        txn.put(NEVER, agreement, record)
        txn.after(lambda: self._kept(agreement, record))

    def _make_room(self, txn: Transaction) -> None:
        """Forget the oldest whose channel was never seen: an order on it was never one to lease.

        Only its own client could send that order again.
        """
        for agreement, record in self._records.items():
            if self._earnings.get(record.channel) is None:
                txn.delete(NEVER, agreement)
                txn.after(partial(self._dropped, agreement))
                return

    def _kept(self, agreement: AgreementId, record: NeverLeasing) -> None:
        self._records[agreement] = record
        self._count(record.payer_node, 1)

    def _count(self, peer: NodeKey, change: int) -> None:
        left = self._of_peer.get(peer, 0) + change
        if left > 0:
            self._of_peer[peer] = left
        else:
            self._of_peer.pop(peer, None)

    async def run(
        self,
        chain: Settlement,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Forget what can not be asked for any more, until cancelled."""
        task_status.started()
        while True:
            try:
                await self.forget(chain)
            except ChainError as exc:
                log.info("old refusals are kept for now: %s", exc)
            await trio.sleep(FORGET_SECONDS)

    async def forget(self, chain: Settlement) -> None:
        """Forget what was taken back, and old statements whose channel is finally gone.

        Raises: ChainError.
        """
        now = self._clock.now_ms()
        self._drop([name for name, record in self._records.items() if self._is_over(name, record)])
        old: dict[ChannelId, list[AgreementId]] = {}
        for agreement, record in self._records.items():
            if now - record.since_ms > KEPT_MS:
                old.setdefault(record.channel, []).append(agreement)
        names = sorted(old)
        first = bisect_right(names, self._looked)
        for name in (*names[first:], *names[:first])[:LOOKS_AT_ONCE]:
            self._looked = name
            if await chain.channel(name, at=Commitment.FINALIZED) is None:
                self._drop(old[name])

    def _is_over(self, agreement: AgreementId, record: NeverLeasing) -> bool:
        """Whether the client's vouchers, signed since it was told, promise nothing for it."""
        earning = self._earnings.get(record.channel)
        if earning is None or self._clock.now_ms() - record.since_ms <= LATE_MS:
            return False
        ledger = earning.ledger
        then = self._sequences.setdefault(agreement, ledger.sequence)
        return ledger.sequence > then and agreement not in dict(ledger.open)

    def _drop(self, agreements: Iterable[AgreementId]) -> None:
        with self._store.transaction() as txn:
            for agreement in agreements:
                txn.delete(NEVER, agreement)
                txn.after(partial(self._dropped, agreement))

    def _dropped(self, agreement: AgreementId) -> None:
        self._sequences.pop(agreement, None)
        if (record := self._records.pop(agreement, None)) is not None:
            self._count(record.payer_node, -1)
