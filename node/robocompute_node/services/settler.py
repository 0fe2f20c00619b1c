"""Turns what is owed into balance on chain, and watches for payers that close their channels.

When and in which order is ``core.settling``'s; settling is safe to repeat, since the chain pays a
total and not a difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.settling import (
    CLOSE_AGAIN,
    Owed,
    Policy,
    Refusal,
    batches,
    is_abandoned,
    look_every,
    put_off,
)
from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Address, ChannelId, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_settlement.events import ChannelClosed
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
END_AGAIN_MS: Final = Millis(600_000)
"""Before the end of a channel is asked for again of a chain that did not tell it: an endpoint may
keep no history, and the next one may."""
SETTLE_LAMPORTS: Final = 10_000
"""What a settlement costs: a signature, and one voucher that is verified."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """A settlement that was refused, for now."""

    refusal: Refusal
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
            close_after_ms=Millis(int(provider.close_idle_after_s * 1000)),
        )
        self._put_off: dict[ChannelId, PutOff] = {}
        self._asked: set[ChannelId] = set()
        self._ends: dict[ChannelId, Millis] = {}
        """When to ask next how much a channel that is gone had settled."""
        self._closes: dict[ChannelId, Millis] = {}
        """When to try next to close a channel that nobody uses any more."""
        self._sending = trio.Lock()
        """Who wants to settle meanwhile waits, and sees what is left: nothing is sent twice."""

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
        """Settle these channels soon, or all where none is named, whatever they are worth.

        Refusals before do not count: who asks may have mended what they were for.
        """
        asked = set(channels) or {due.channel for due in self._earnings.due()}
        self._asked |= asked
        for channel in asked:
            self._put_off.pop(channel, None)

    def why_waits(self, channel: ChannelId) -> str:
        """Return why a settlement that is due was not made, as far as anybody said; or ""."""
        if self._record(channel).closed:
            return "the channel was closed before it was settled: that is lost"
        waits = self._put_off.get(channel)
        return "" if waits is None else waits.why

    async def settle_everything(self) -> None:
        """Settle all that is owed, now: a provider that is stopping leaves nothing behind.

        Raises: ChainBusy, ChainUnknown when the chain does not take it; it stays in the outbox.
        """
        self.ask()
        await self._settle_what_is_due()

    async def settle_now(self) -> Mapping[str, object]:
        """Do as ``settle_everything``, and say what became of it. JSON-ready.

        Raises: ChainBusy, ChainUnknown.
        """
        earnings = self._earnings
        before, unsettled = {due.channel for due in earnings.due()}, self._unsettled()
        await self.settle_everything()
        left = {due.channel: due for due in earnings.due()}
        done = [self._record(channel) for channel in before if channel not in left]
        return {
            "unsettled_before": format_amount(unsettled),
            "unsettled_after": format_amount(self._unsettled()),
            "settled_channels": [to_base58(record.channel) for record in done],
            "transactions": sorted({record.settlement for record in done}),
            "waiting": [
                {
                    "channel": to_base58(channel),
                    "amount": format_amount(self._record(channel).unsettled),
                    "why": self.why_waits(channel) or due.refused or "the chain did not take it",
                }
                for channel, due in left.items()
            ],
        }

    def _unsettled(self) -> int:
        return sum(self._record(due.channel).unsettled for due in self._earnings.due())

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
            refusal=None if waits is None else waits.refusal,
        )

    def _record(self, channel: ChannelId) -> EarningRecord:
        record = self._earnings.get(channel)
        assert record is not None
        return record

    async def _settle_what_is_due(self) -> None:
        async with self._sending:
            book = tuple(
                self._owed(due)
                for due in self._earnings.due()
                if not self._record(due.channel).closed
            )
            for batch in batches(book, self._policy, self._clock.now_ms()):
                await self._settle(batch)

    async def _settle(self, batch: tuple[ChannelId, ...]) -> None:
        claims = tuple(self._claim(self._record(channel)) for channel in batch)
        try:
            sent = await self._chain.settle(claims)
        except ChainRefused as exc:
            if len(batch) == 1:
                await self._refused(batch[0], exc)
                return
            for channel in batch:  # one of them may be at fault: the others go on without it
                await self._settle((channel,))
            return
        for claim in claims:
            self._earnings.settled(claim.channel, claim.claim, sent.signature)
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
        by_program = exc.number is not None
        why = str(exc) if by_program else await self._fee_missing() or str(exc)
        self._asked.discard(channel)
        due = next((due for due in self._earnings.due() if due.channel == channel), None)
        if due is None:  # meanwhile somebody else settled it, a watchtower
            self._put_off.pop(channel, None)
            return
        waits = self._put_off.get(channel)
        refusal = Refusal(
            at_ms=self._clock.now_ms(),
            tries=1 if waits is None else waits.refusal.tries + 1,
            by_program=by_program,
        )
        self._put_off[channel] = PutOff(refusal, why)
        if by_program:
            self._earnings.refused(channel, why)
        pause = put_off(self._owed(due), refusal)
        log.error("settlement refused, again in %d s: %s", pause // 1000, why)

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
                    await self._ask_end_again(record)
                    continue
                pause = min(pause, look_every(record.challenge_s))
                await self._look_at(record.channel)
                if self._policy.close_after_ms:
                    await self._close_if_abandoned(record.channel)
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
                await self._gone(channel)
        except ChainError as exc:
            log.warning("channel not looked at, will retry: %s", exc)

    async def _close_if_abandoned(self, channel: ChannelId) -> None:
        """Settle and close a channel that was not used for as long as the owner's settings say."""
        self._earnings.first_used(channel)
        record, now = self._record(channel), self._clock.now_ms()
        if (
            record.running
            or record.closed
            or self._earnings.objection_to_more(record) is not None
            or not is_abandoned(self._policy, used_ms=record.used_ms, now=now)
            or now < self._closes.get(channel, 0)
        ):
            return
        self._closes[channel] = Millis(now + CLOSE_AGAIN)
        name = to_base58(channel)
        self._earnings.retire(channel)  # no job begins on it from here on
        self.ask(channel)
        try:
            await self._settle_what_is_due()
            view = await self._chain.channel(channel)
            if view is None or view.closing or self._record(channel).unsettled > 0:
                return  # its payer is there after all, or there is still something to claim
            sent = await self._chain.close_by_payee(view)
        except ChainRefused as exc:
            log.warning(
                "idle channel %s not closed: %s; `robocompute-node wallet delegate set` lets this "
                "node close it, `robocompute-node channels close` does it with the wallet's key",
                name, exc,
            )  # fmt: skip
        except (ChainBusy, ChainUnknown) as exc:
            log.warning("idle channel %s not closed, will retry: %s", name, exc)
        else:
            log.info("idle channel %s closed: %s", name, sent.signature)

    async def _ask_end_again(self, record: EarningRecord) -> None:
        """Ask once more how a channel ended that seems to have taken money with it."""
        now = self._clock.now_ms()
        if record.unsettled == 0 or now < self._ends.get(record.channel, 0):
            return
        try:
            await self._gone(record.channel)
        except ChainError as exc:
            log.info("the end of a channel is not told yet: %s", exc)

    async def _gone(self, channel: ChannelId) -> None:
        """Note that a channel is gone for good, and what was settled in the end.

        Raises: ChainBusy when the chain cannot be asked now.
        """
        before = self._record(channel)
        told: MicroUnits | None = before.settled
        if before.unsettled > 0:
            self._ends[channel] = Millis(self._clock.now_ms() + END_AGAIN_MS)
            told = await self._settled_in_the_end(before)
        self._earnings.gone(channel, before.settled if told is None else told)
        lost = self._record(channel).unsettled
        if lost > 0 and not before.closed:
            log.error(
                "channel %s closed with %s not settled%s",
                to_base58(channel),
                format_amount(lost),
                ", as far as is known here: the chain's history does not tell its end"
                if told is None
                else "",
            )

    async def _settled_in_the_end(self, record: EarningRecord) -> MicroUnits | None:
        """Return a closed channel's final total; None where this chain's history has not got it."""
        until = record.settlement
        try:
            while True:
                page = await self._chain.history(
                    Address(record.channel), until=until, at=Commitment.FINALIZED
                )
                for event in (event for each in page for event in each.events):
                    if isinstance(event, ChannelClosed) and event.channel == record.channel:
                        return event.settled
                if not page:
                    return None
                until = page[-1].signature
        except ChainRefused:
            return None

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
