"""Turns what is owed into balance on chain, and watches for payers that close their channels.

When and in which order is ``core.settling``'s; settling is safe to repeat, since the chain pays a
total and not a difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.settling import Owed, Policy, batches, look_every, put_off
from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Address, ChannelId, NodeKey, to_base58
from robocompute_protocol.money import Millis, format_amount
from robocompute_settlement.port import Commitment, SettleClaim, Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.services.earnings import EarningRecord, Earnings, SettleDue

log = logging.getLogger(__name__)

SETTLE_POLL_SECONDS: Final = 0.5
"""Between looks at the outbox."""
BUSY_SECONDS: Final = 2.0
"""Before a transaction that was not taken is tried again."""
REFUSED_MS: Final = Millis(3_600_000)
"""Before a settlement is tried again that the program itself refused: each try costs a fee."""
SETTLE_LAMPORTS: Final = 10_000
"""What a settlement costs: a signature, and one voucher that is verified."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """A settlement that was refused, for now."""

    until_ms: Millis
    tries: int
    why: str


class Settler:
    """Performs the outbox of ``Earnings``."""

    def __init__(
        self,
        earnings: Earnings,
        chain: Settlement,
        clock: Clock,
        config: NodeConfig,
        node_key: NodeKey,
    ) -> None:
        self._earnings = earnings
        self._chain = chain
        self._clock = clock
        self._payer_of_fees = Address(node_key)
        provider = config.provider
        self._policy = Policy(
            above=provider.settle_above,
            after_ms=Millis(int(provider.settle_after_s * 1000)),
            least=provider.settle_min,
        )
        self._put_off: dict[ChannelId, PutOff] = {}
        self._asked: set[ChannelId] = set()
        self.lock = trio.Lock()
        """Held while a settlement is on its way: who compares books with the chain takes it."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Settle what is due, and watch the channels, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_around)
            nursery.start_soon(self._listen)
            task_status.started()
            while True:
                try:
                    await self._settle_what_is_due()
                except (ChainBusy, ChainUnknown) as exc:
                    log.warning("settlement not taken, will retry: %s", exc)
                    await trio.sleep(BUSY_SECONDS)
                await trio.sleep(SETTLE_POLL_SECONDS)
        raise AssertionError("unreachable")

    def ask(self, *channels: ChannelId) -> None:
        """Settle these channels soon, or all where none is named, whatever they are worth."""
        self._asked |= set(channels) or {due.channel for due in self._earnings.due()}

    async def settle_everything(self) -> None:
        """Settle all that is owed, now: a provider that is stopping leaves nothing behind.

        Raises: ChainBusy, ChainUnknown when the chain does not take it; it stays in the outbox.
        """
        self.ask()
        await self._settle_what_is_due()

    # --- settling -------------------------------------------------------------------------------

    def _owed(self, due: SettleDue) -> Owed:
        record = self._record(due.channel)
        waits = self._put_off.get(due.channel)
        return Owed(
            channel=due.channel,
            unsettled=record.unsettled,
            since_ms=due.since_ms,
            challenge_s=record.challenge_s,
            closing=record.closing,
            close_at_s=record.close_at_s,
            asked=due.channel in self._asked,
            put_off_until_ms=Millis(0) if waits is None else waits.until_ms,
        )

    def _record(self, channel: ChannelId) -> EarningRecord:
        record = self._earnings.get(channel)
        assert record is not None
        return record

    async def _settle_what_is_due(self) -> None:
        book = tuple(
            self._owed(due) for due in self._earnings.due() if not self._record(due.channel).closed
        )
        for batch in batches(book, self._policy, self._clock.now_ms()):
            await self._settle(batch)

    async def _settle(self, batch: tuple[ChannelId, ...]) -> None:
        claims = tuple(self._claim(self._record(channel)) for channel in batch)
        try:
            async with self.lock:
                sent = await self._chain.settle(claims)
                for claim in claims:
                    self._earnings.settled(claim.channel, claim.claim, sent.signature)
        except ChainRefused as exc:
            if len(batch) == 1:
                await self._refused(batch[0], exc)
                return
            for channel in batch:  # one of them may be at fault: the others go on without it
                await self._settle((channel,))
            return
        for claim in claims:
            self._put_off.pop(claim.channel, None)
            self._asked.discard(claim.channel)
            log.info("settled %s on chain: %s", format_amount(claim.claim), sent.signature)

    def _claim(self, record: EarningRecord) -> SettleClaim:
        assert record.ledger.voucher is not None
        return SettleClaim(
            channel=record.channel,
            payee=record.payee,
            mint=record.mint,
            voucher_key=record.voucher_key,
            voucher=record.ledger.voucher,
            claim=record.ledger.claimable,
        )

    async def _refused(self, channel: ChannelId, exc: ChainRefused) -> None:
        """Put one settlement off, and say what it waits for."""
        waits = self._put_off.get(channel)
        tries = 1 if waits is None else waits.tries + 1
        now = self._clock.now_ms()
        self._asked.discard(channel)
        if exc.number is not None:
            log.error("settlement refused, set aside: %s", exc)
            self._earnings.refused(channel, str(exc))
            self._put_off[channel] = PutOff(Millis(now + REFUSED_MS), tries, str(exc))
            return
        why = await self._fee_missing() or str(exc)
        (due,) = [due for due in self._earnings.due() if due.channel == channel]
        pause = put_off(tries, self._owed(due), now)
        log.error("settlement refused, again in %d s: %s", pause // 1000, why)
        self._put_off[channel] = PutOff(Millis(now + pause), tries, why)

    async def _fee_missing(self) -> str | None:
        """Return what to do where the node's key has not the SOL for a settlement."""
        try:
            lamports = await self._chain.lamports(self._payer_of_fees)
        except ChainError:
            return None
        if lamports >= SETTLE_LAMPORTS:
            return None
        return (
            f"the node's key has no SOL for the fee: send some to {to_base58(self._payer_of_fees)}"
        )

    # --- watching -------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Look at every channel from time to time: what is not heard of is seen."""
        while True:
            pause = look_every(10**6)
            for record in self._earnings.all():
                if record.closed:
                    continue
                pause = min(pause, look_every(record.challenge_s))
                await self._look_at(record.channel)
            await trio.sleep(pause / 1000)

    async def _listen(self) -> None:
        """Hear at once of a channel that its payer begins to close."""
        while True:
            others = self._earnings.others()
            names = tuple(Address(channel) for channel in self._earnings.open_channels())
            async with self._chain.watch(names) as changes, trio.open_nursery() as nursery:

                async def until_others(event: trio.Event, scope: trio.CancelScope) -> None:
                    await event.wait()
                    scope.cancel()

                nursery.start_soon(until_others, others, nursery.cancel_scope)
                async for changed in changes:
                    await self._look_at(ChannelId(changed.address))

    async def _look_at(self, channel: ChannelId) -> None:
        try:
            view = await self._chain.channel(channel)
            if view is not None:
                self._earnings.save(self._earnings.learn(view))
            elif await self._chain.channel(channel, at=Commitment.FINALIZED) is None:
                self._gone(channel)
        except ChainError as exc:
            log.warning("channel not looked at, will retry: %s", exc)

    def _gone(self, channel: ChannelId) -> None:
        record = self._record(channel)
        if not record.closed and record.unsettled > 0:
            log.error(
                "channel %s closed with %s not settled",
                to_base58(channel),
                format_amount(record.unsettled),
            )
        self._earnings.gone(channel)

    def summary(self) -> Mapping[str, object]:
        """JSON-ready: what the chain would not take, in words."""
        return {
            "refused": [
                *(due.refused for due in self._earnings.due() if due.refused),
                *(
                    waits.why
                    for channel, waits in self._put_off.items()
                    if not any(
                        due.channel == channel and due.refused for due in self._earnings.due()
                    )
                ),
            ]
        }
