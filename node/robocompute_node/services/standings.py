"""What this node knows of providers: kept on disk what jobs came to, in memory what is measured."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.core.reputation import (
    Evidence,
    Standing,
    after_end,
    after_failure,
    evidence_of,
)
from robocompute_node.store import Store, Table
from robocompute_protocol.errors import ChainError
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from robocompute_node.clocks import Clock
    from robocompute_node.services.stake_mirror import StakeMirror
    from robocompute_protocol.causes import Cause
    from robocompute_protocol.identifiers import Address, Digest, NodeKey
    from robocompute_protocol.messages import Offer
    from robocompute_settlement.port import Settlement

log = logging.getLogger(__name__)

STANDINGS: Final = Table("standings/1", Standing)
MAX_STANDINGS: Final = 10_000
"""Providers remembered for what jobs came to with them: two megabytes. The oldest make room."""
MAX_MEASURED: Final = 10_000
"""Providers whose latency and fees are remembered."""
MAX_FILES_OF: Final = 64
"""Providers of which it is remembered what files they have: those used last."""
MAX_CHUNKS: Final = 4_096
"""Chunks remembered of each: 300 kB, for uploads of up to four gigabytes."""
FEES_MS: Final = Millis(600_000)
"""Fees on chain are looked up again after ten minutes: they grow slowly."""
FEES_SECONDS: Final = 0.5
"""The choice of a provider waits no longer for what is only a part of it."""
FEES_AT_ONCE: Final = 8
"""The best few whose fees are looked up before one is chosen."""


class Standings:
    """Remembers how each provider did, how far away it is, and which files it has."""

    def __init__(
        self, store: Store, clock: Clock, chain: Settlement, stakes: StakeMirror, mint: Address
    ) -> None:
        self._store = store
        self._clock = clock
        self._chain = chain
        self._stakes = stakes
        self._mint = mint
        store.declare(STANDINGS)
        self._standings: OrderedDict[bytes, Standing] = OrderedDict(
            sorted(store.all(STANDINGS), key=lambda each: each[1].at_ms)
        )
        self._latency: OrderedDict[NodeKey, Millis] = OrderedDict()
        self._fees: OrderedDict[NodeKey, tuple[MicroUnits, Millis]] = OrderedDict()
        self._chunks: OrderedDict[NodeKey, OrderedDict[Digest, None]] = OrderedDict()

    # --- what is learnt -------------------------------------------------------------------------

    def ended(self, provider: NodeKey, cause: Cause) -> None:
        """A job with it came to an end, or it was lost. Durable."""
        self._change(provider, lambda old, now: after_end(old, cause, now))

    def failed(self, provider: NodeKey) -> None:
        """It refused, or an upload or a start with it failed. Durable."""
        self._change(provider, after_failure)

    def _change(self, provider: NodeKey, step: Callable[[Standing, Millis], Standing]) -> None:
        standing = step(self._standings.get(provider, Standing()), self._clock.now_ms())
        with self._store.transaction() as txn:
            txn.put(STANDINGS, provider, standing)
            for old in list(self._standings)[: max(0, len(self._standings) - MAX_STANDINGS)]:
                txn.delete(STANDINGS, old)
        self._standings[provider] = standing
        self._standings.move_to_end(provider)
        while len(self._standings) > MAX_STANDINGS:
            self._standings.popitem(last=False)

    def answered(self, provider: NodeKey, took: Millis) -> None:
        """It took so long to answer a question: half of that counts, and half of what did so far."""
        known = self._latency.get(provider, took)
        self._latency[provider] = Millis((known + took) // 2)
        self._latency.move_to_end(provider)
        while len(self._latency) > MAX_MEASURED:
            self._latency.popitem(last=False)

    def has(self, provider: NodeKey, chunks: Iterable[Digest]) -> None:
        """It has these chunks now: it said so, or they were sent."""
        held = self._chunks.setdefault(provider, OrderedDict())
        self._chunks.move_to_end(provider)
        while len(self._chunks) > MAX_FILES_OF:
            self._chunks.popitem(last=False)
        for chunk in chunks:
            held[chunk] = None
            held.move_to_end(chunk)
        while len(held) > MAX_CHUNKS:
            held.popitem(last=False)

    async def look_up_fees(self, offers: Iterable[Offer]) -> None:
        """Ask the chain what the best few have paid in fees, where that is not known. Never long."""
        now = self._clock.now_ms()
        unknown = [
            offer
            for offer in offers
            if (known := self._fees.get(offer.provider)) is None or now - known[1] > FEES_MS
        ]
        with trio.move_on_after(FEES_SECONDS):
            async with trio.open_nursery() as nursery:
                for offer in unknown[:FEES_AT_ONCE]:
                    nursery.start_soon(self._look_up, offer, now)

    async def _look_up(self, offer: Offer, now: Millis) -> None:
        stake = self._stakes.get(offer.stake)
        fees = MicroUnits(0)
        # Else anybody could name a payee of good standing.
        if stake is not None and (stake.node_key, stake.owner) == (offer.provider, offer.payee):
            try:
                balance = await self._chain.balance(offer.payee, self._mint)
            except ChainError as exc:
                log.debug("fees cannot be looked up: %s", exc)
                return
            if balance is not None:
                fees = MicroUnits(balance.fees_paid + balance.fees_owed)
        self._fees[offer.provider] = (fees, now)
        self._fees.move_to_end(offer.provider)
        while len(self._fees) > MAX_MEASURED:
            self._fees.popitem(last=False)

    # --- what is known --------------------------------------------------------------------------

    @property
    def knows_files(self) -> bool:
        """Whether anything is known of what files providers have."""
        return bool(self._chunks)

    def evidence(self, provider: NodeKey, files: frozenset[Digest]) -> Evidence:
        """Return what counts for or against it, for a task with these chunks."""
        held = self._chunks.get(provider)
        has = sum(1 for chunk in files if chunk in held) if held and files else 0
        fees, _ = self._fees.get(provider, (MicroUnits(0), Millis(0)))
        return evidence_of(
            self._standings.get(provider, Standing()),
            self._clock.now_ms(),
            fees_paid=fees,
            latency_ms=self._latency.get(provider),
            has_bps=has * 10_000 // len(files) if files else 0,
        )
