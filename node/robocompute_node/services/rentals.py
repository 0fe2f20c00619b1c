"""A task's way from its owner to a provider and home again.

One task of this service drives one task of the owner, through every restart: what was stored says
where to go on. Money is promised by ``RentalBook``, the talking is done by ``RentalLink``.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import trio

from robocompute_node.api.port import InsufficientFunds, NoProvider, TaskStatus, TaskView
from robocompute_node.core.matching import PASSING
from robocompute_node.file_sets import all_chunks
from robocompute_node.p2p.port import Network, PeerGone
from robocompute_node.services.conversation import PeerRefused
from robocompute_node.services.matchmaking import Matchmaking, NotMatched, Quoted
from robocompute_node.services.reclaiming import Reclaiming
from robocompute_node.services.rental_ends import RentalEnds
from robocompute_node.services.rental_link import RentalLink
from robocompute_node.services.task_sink import TaskSink
from robocompute_node.services.voucher_sync import VoucherSync
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.agreement import ClientPhase
from robocompute_protocol.errors import (
    ChainError,
    ChainRefused,
    RemoteProtocolError,
    RoboComputeError,
)
from robocompute_protocol.identifiers import Address, Digest, NodeKey, to_base58
from robocompute_protocol.messages import Terms
from robocompute_protocol.money import MicroUnits, Millis, charge, format_amount
from robocompute_protocol.steps import HorizonPassed

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.core.tasks import TaskRecord
    from robocompute_node.executor.port import BlobStore
    from robocompute_node.services.blob_exchange import BlobExchange
    from robocompute_node.services.channels import ChannelKeeper, ChannelRecord
    from robocompute_node.services.market import Market
    from robocompute_node.services.metrics_inbox import MetricsInbox
    from robocompute_node.services.rental_book import RentalBook, RentalRecord
    from robocompute_node.services.task_book import TaskBook
    from robocompute_node.store import Transaction

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS: Final = 1.0
"""A waiting task looks at the market at least this often."""
HORIZON_POLL_SECONDS: Final = 0.5
"""How soon a passed horizon is noticed."""
TELL_UPLOAD_SECONDS: Final = 0.25
"""Between words about an upload's progress: each is an event in the task's log."""
MARKET_MET_MS: Final = Millis(10_000)
"""A node that started, perhaps again with its tasks, meets its peers within a second; a busy
machine takes a few."""
RACES: Final = frozenset({6017, 6018, 6020})
"""The program is paused, another channel took the nonce, or the channel is closing: it may be
otherwise at the next try, which looks anew. No other refusal goes away by itself."""


class Rentals:
    """Drives this node's tasks."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        config: NodeConfig,
        wallet: Address,
        tasks: TaskBook,
        book: RentalBook,
        channels: ChannelKeeper,
        blobs: BlobStore,
        exchange: BlobExchange,
        market: Market,
        matchmaking: Matchmaking,
        inbox: MetricsInbox,
    ) -> None:
        self._network = network
        self._clock = clock
        self._config = config
        self._wallet = wallet
        self._tasks = tasks
        self._book = book
        self._channels = channels
        self._blobs = blobs
        self._exchange = exchange
        self._market = market
        self._matchmaking = matchmaking
        self._inbox = inbox
        self._ends = RentalEnds(tasks, book, channels, matchmaking, clock)
        self._nursery: trio.Nursery | None = None
        self._started_ms = clock.now_ms()
        self._sync = VoucherSync(network, channels, book)
        self._reclaiming = Reclaiming(clock, tasks, book, self._link)

    def begin(self, task_id: str) -> None:
        """Drive a task that was just stored."""
        assert self._nursery is not None
        self._nursery.start_soon(self._drive, task_id)

    def view(self, task: TaskRecord) -> TaskView:
        """The task as REST shows it: while it runs, with what it came to so far."""
        if task.agreement is None or task.ended:
            return task.view()
        rental = self._book.get(task.agreement)
        return task.view(cost_so_far=self._book.cost_so_far(rental), promised=rental.promised)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Go on with every unfinished task, and drive new ones, until cancelled."""
        self._book.forget_unplaced()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for task in self._tasks.unfinished():
                nursery.start_soon(self._drive, task.task_id)
            nursery.start_soon(self._reclaiming.run)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    # --- one task -------------------------------------------------------------------------------

    async def _drive(self, task_id: str) -> None:
        try:
            while not (task := self._tasks.get(task_id)).ended:
                if task.agreement is None:
                    rental = await self._find_and_order(task)
                    if rental is None:
                        continue
                else:
                    rental = self._book.get(task.agreement)
                await self._see_through(rental)
        except* RoboComputeError as group:
            task = self._tasks.get(task_id)
            if task.ended:
                raise
            log.error("task %s failed: %s", task_id, _first(group))
            if task.agreement is not None:
                self._write_off(self._book.get(task.agreement))
            self._ends.fail(task_id, _first(group))

    async def _find_and_order(self, task: TaskRecord) -> RentalRecord | None:
        """Return a stored order; None when the task ended, or is to look again."""
        if task.cancel_requested:
            self._ends.cancelled(task)
            return None
        if not await self._may_run(task):
            return None
        waiting = task.stage == "matching" and task.stage_detail
        if not waiting:  # else it has been said why
            self._stage(task.task_id, "matching", "asking providers")
        found = await self._matchmaking.find(task, lambda: frozenset(self._files(task)))
        if isinstance(found, NotMatched):
            await self._not_matched(task, found)
            return None
        self._tasks.log(task.task_id).append(
            "match",
            {
                "provider": to_base58(found.match.offer.provider),
                "price_per_hour": format_amount(found.quote.price_per_hour),
                "why": found.why,
            },
        )
        try:
            channel = await self._fund_and_upload(task, found)
            if channel is not None and not await self._sync.agrees(channel):
                channel = None
            renewed = await self._matchmaking.renew(found, task)
        except* PeerGone as exc:
            log.info("provider went away after the quote: %s", _first(exc))
            self._matchmaking.standings.failed(found.match.offer.provider)
            self._matchmaking.away(found.match.offer.provider)
        except* (PeerRefused, RemoteProtocolError) as exc:
            refusal = _first(exc)
            if refusal.details.get("code") not in PASSING:  # busy: others came first meanwhile
                log.warning("provider left out after the quote: %s", refusal)
                self._matchmaking.standings.failed(found.match.offer.provider)
                self._ends.avoid(task, found.match.offer.provider)
        except* InsufficientFunds as exc:
            self._ends.fail(task.task_id, _first(exc))
        except* ChainError as exc:
            await self._not_funded(task, _first(exc))
        else:
            if (
                channel is not None
                and renewed is not None
                and not self._tasks.get(task.task_id).cancel_requested
                # Another task may have used up the channel while this one's files were sent.
                and self._channels.get(channel.channel).spare >= self._first_amount(renewed)
            ):
                return self._place(task, renewed, channel)
        return None

    async def _may_run(self, task: TaskRecord) -> bool:
        """Whether this job may run now: one that failed at once several times waits a little."""
        wait_ms = self._ends.due(task) - self._clock.now_ms()
        if wait_ms <= 0:
            return True
        told = f"failed within seconds again and again: waits {-(-wait_ms // 1_000)} s"
        self._stage(task.task_id, "matching", told)
        with trio.move_on_after(wait_ms / 1_000):
            await self._tasks.cancelled(task.task_id).wait()
        self._stage(task.task_id, "matching", "")
        return False

    async def _not_funded(self, task: TaskRecord, error: RoboComputeError) -> None:
        """Try again after a busy chain; after a refusal only where another try is another request."""
        race = isinstance(error, ChainRefused) and error.number in RACES
        if isinstance(error, ChainRefused) and not race:
            self._ends.fail(task.task_id, error)
            return
        self._stage(task.task_id, "funding", f"the chain is busy: {error}")
        await trio.sleep(LOOK_AGAIN_SECONDS)

    async def _not_matched(self, task: TaskRecord, found: NotMatched) -> None:
        for provider in found.failed:
            task = self._ends.avoid(task, provider)
        if not (found.busy or task.wait or self._young(task)):
            self._ends.fail(task.task_id, NoProvider(found.explanation))
            return
        self._stage(task.task_id, "matching", found.explanation)
        cancelled = self._tasks.cancelled(task.task_id)
        with trio.move_on_after(LOOK_AGAIN_SECONDS):
            async with trio.open_nursery() as nursery:

                async def until(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until, cancelled)
                if not found.busy:
                    nursery.start_soon(until, self._market.learnt())

    def _young(self, task: TaskRecord) -> bool:
        """A node that just started may not have met the market yet."""
        since = max(task.created_ms, self._started_ms)
        return self._clock.now_ms() - since < MARKET_MET_MS and not task.avoid

    async def _fund_and_upload(self, task: TaskRecord, found: Quoted) -> ChannelRecord | None:
        """Lock the money and bring the files, at once. None when the owner cancelled meanwhile."""
        quote, provider = found.quote, found.match.offer.provider
        channels: list[ChannelRecord] = []
        async with trio.open_nursery() as nursery:

            async def fund() -> None:
                with trio.CancelScope(shield=True):  # a transaction on its way is waited for
                    channels.append(
                        await self._channels.ensure(
                            quote.payee,
                            provider,
                            needed=self._first_amount(found),
                            min_challenge_s=quote.min_challenge_s,
                        )
                    )

            async def bring() -> None:
                await self._upload(task, provider)
                if not channels:
                    self._stage(task.task_id, "funding", "opening a payment channel")

            async def both() -> None:
                async with trio.open_nursery() as pair:
                    pair.start_soon(fund)
                    pair.start_soon(bring)
                nursery.cancel_scope.cancel()

            nursery.start_soon(both)
            await self._tasks.cancelled(task.task_id).wait()
            nursery.cancel_scope.cancel()
        return channels[0] if channels else None

    def _first_tick(self) -> Millis:
        client = self._config.client
        return Millis(int(min(client.first_tick_s, client.horizon_s) * 1000))

    def _first_amount(self, found: Quoted) -> MicroUnits:
        return charge(found.quote.price_per_hour, self._first_tick())

    def _files(self, task: TaskRecord) -> tuple[Digest, ...]:
        """The chunks of a task's upload, with those of its manifest."""
        return all_chunks(self._blobs, task.spec.upload)

    async def _upload(self, task: TaskRecord, provider: NodeKey) -> None:
        chunks = self._files(task)
        told_at = -TELL_UPLOAD_SECONDS

        async def told(sent: int, wanted: int) -> None:
            nonlocal told_at
            if trio.current_time() - told_at >= TELL_UPLOAD_SECONDS:
                told_at = trio.current_time()
                self._stage(task.task_id, "uploading", f"{sent} of {wanted} chunks")

        await self._exchange.push(provider, chunks, told=told)
        self._matchmaking.standings.has(provider, chunks)

    def _place(self, task: TaskRecord, found: Quoted, channel: ChannelRecord) -> RentalRecord:
        quote, client = found.quote, self._config.client
        terms = Terms(
            task=task.spec_digest,
            payer=self._wallet,
            payer_node=self._network.key,
            payee=quote.payee,
            payee_node=found.match.offer.provider,
            stake=quote.stake,
            mint=quote.mint,
            channel=channel.channel,
            nonce=bytes.fromhex(task.task_id),
            slots=quote.slots,
            price_per_hour=quote.price_per_hour,
            horizon_ms=Millis(int(client.horizon_s * 1000)),
            first_tick_ms=self._first_tick(),
            start_deadline_ms=Millis(int(client.start_deadline_s * 1000)),
        )
        if self._book.knows(rules.agreement_id(terms)):
            # Ordered before and never leased: that stands for ever, so this is another agreement.
            terms = msgspec.structs.replace(terms, nonce=secrets.token_bytes(16))
        changes: dict[str, Any] = {
            "provider": terms.payee_node,
            "price_per_hour": terms.price_per_hour,
        }

        def with_task(txn: Transaction, rental: RentalRecord) -> None:
            self._tasks.put(txn, task.task_id, agreement=rental.state.agreement, **changes)

        rental = self._book.place(task.task_id, terms, with_task)
        self._stage(task.task_id, "ordering", "")
        return rental

    # --- one agreement --------------------------------------------------------------------------

    async def _see_through(self, rental: RentalRecord) -> None:
        agreement, task_id = rental.state.agreement, rental.task_id
        link = self._link(rental)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_horizon, link, nursery.cancel_scope)
            placing = trio.CancelScope()
            nursery.start_soon(self._watch_cancel, link, task_id, placing)
            with placing:
                await link.place(codec.encode(self._tasks.get(task_id).spec))
            state = link.record.state
            if state.phase in (ClientPhase.ACTIVE, ClientPhase.ENDED, ClientPhase.CANCELLING):
                if state.ticks or state.phase is ClientPhase.ENDED:
                    if state.ticks:
                        self._running(task_id, link.record)
                    nursery.start_soon(link.keep_paid)
                    await link.follow()
                    if link.record.state.phase is ClientPhase.ACTIVE:
                        await link.cancel("the provider's feed is not valid")
                else:
                    await link.cancel(link.record.state.reason or "cancelled")
            nursery.cancel_scope.cancel()
        await self._ends.conclude(task_id, self._write_off(self._book.get(agreement)))

    def _write_off(self, rental: RentalRecord) -> RentalRecord:
        """An agreement that is left open is a lost one: it is asked about until it is settled."""
        if not rental.settled and rental.state.phase is not ClientPhase.LOST:
            return self._book.apply(rental.state.agreement, HorizonPassed())[0]
        return rental

    def _link(self, rental: RentalRecord) -> RentalLink:
        sink = TaskSink(
            self._tasks, self._inbox, self._blobs, self._exchange, rental.task_id, rental.provider
        )
        return RentalLink(
            self._network, self._clock, self._book, self._channels, rental.state.agreement, sink
        )

    def _running(self, task_id: str, rental: RentalRecord) -> None:
        self._tasks.update(task_id, status=TaskStatus.RUNNING, started_ms=rental.state.started_ms)

    async def _watch_cancel(
        self, link: RentalLink, task_id: str, placing: trio.CancelScope
    ) -> None:
        await self._tasks.cancelled(task_id).wait()
        if link.record.state.phase in (
            ClientPhase.ORDERED,
            ClientPhase.ACTIVE,
            ClientPhase.CANCELLING,
        ):
            await link.cancel("cancelled")
        placing.cancel()  # there is an answer: the order need not wait for its own

    async def _watch_horizon(self, link: RentalLink, scope: trio.CancelScope) -> None:
        """Give the provider up when nothing was heard of it for the horizon."""
        horizon = link.record.terms.horizon_ms
        while True:
            await trio.sleep(HORIZON_POLL_SECONDS)
            if link.silent_ms() > horizon:
                break
        self._book.apply(link.record.state.agreement, HorizonPassed())
        scope.cancel()

    # --- what the owner sees --------------------------------------------------------------------

    def _stage(self, task_id: str, stage: str, detail: str) -> None:
        self._tasks.enter_stage(task_id, stage, detail)


def _first(group: BaseExceptionGroup[RoboComputeError]) -> RoboComputeError:
    """The first error of a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RoboComputeError)
    return error
