"""What the end of an agreement means for its task: the task's end, or another try elsewhere."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from robocompute_node.api.port import TaskStatus
from robocompute_node.core.matching import PASSING
from robocompute_node.core.tasks import TaskRecord, end_message
from robocompute_node.core.throttling import Streak
from robocompute_node.services.channels import ChannelPhase
from robocompute_node.services.output_proof import objection_to_output
from robocompute_node.services.task_ends import TaskEnds
from robocompute_protocol import codec, limits
from robocompute_protocol.agreement import ClientPhase
from robocompute_protocol.causes import ANSWERABLE, MEANING, Cause, Side
from robocompute_protocol.errors import ChainError, RoboComputeError
from robocompute_protocol.identifiers import Digest, NodeKey, to_base58
from robocompute_protocol.messages import Receipt
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import ResultsStored

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.services.channels import ChannelKeeper
    from robocompute_node.services.matchmaking import Matchmaking
    from robocompute_node.services.rental_book import RentalBook, RentalRecord
    from robocompute_node.services.task_book import TaskBook

log = logging.getLogger(__name__)

RESULTS_LOST: Final = "RESULTS_LOST"
"""The job ended, but its provider went away before its output and results were all here."""
MAX_STREAKS: Final = 1_024
"""Jobs that failed fast and are remembered for it: the ones that did last."""
CHANNEL_IS_WHY: Final = frozenset(
    {
        "closed_unknown",
        "voucher_conflict",
        "voucher_lowered",
        "channel_alarm",
        "channel_closing",
        "channel_fee_high",
    }
)
"""Refusals that another channel mends: the provider was restored and its books of this one are older
than ours, it is closing it, or the program's fee is lower than the one frozen in it."""


class RentalEnds:
    """Ends tasks, or sends them on."""

    def __init__(
        self,
        tasks: TaskBook,
        book: RentalBook,
        channels: ChannelKeeper,
        matchmaking: Matchmaking,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._book = book
        self._channels = channels
        self._matchmaking = matchmaking
        self._clock = clock
        self._records = TaskEnds(tasks, clock)
        self._streaks: OrderedDict[Digest, Streak] = OrderedDict()

    def fail(self, task_id: str, error: RoboComputeError) -> None:
        """End a task that came to no agreement."""
        self._records.fail(task_id, error)

    def cancelled(self, task: TaskRecord) -> None:
        """End a task that its owner took back before it was ordered."""
        self._records.end(
            task, Cause.CANCELLED, message="cancelled before it began; cost 0.000000"
        )

    def avoid(self, task: TaskRecord, provider: NodeKey) -> TaskRecord:
        """Never ask this provider again for this task."""
        avoid = (*self._tasks.get(task.task_id).avoid, provider)
        return self._tasks.update(task.task_id, avoid=avoid)

    def due(self, task: TaskRecord) -> Millis:
        """From when on this job may run: later where it failed fast several times in a row."""
        return self._streaks.get(task.spec_digest, Streak()).due()

    async def conclude(self, task_id: str, rental: RentalRecord) -> None:
        """Record what an agreement's end means for its task: its end, or another try elsewhere."""
        task = self._tasks.get(task_id)
        state = rental.state
        if state.receipt is not None:
            await self._conclude_with_receipt(task, rental)
        elif state.phase is ClientPhase.NEVER_LEASED:
            if task.cancel_requested:
                self._records.end(
                    task, Cause.CANCELLED, message="cancelled before it ran; cost 0.000000"
                )
            else:
                if state.reason not in PASSING and await self._closed_elsewhere(rental):
                    log.warning("the payment channel was closed elsewhere: another is opened")
                elif state.reason == "":  # not said why: it may be over soon
                    self._matchmaking.away(rental.provider)
                elif state.reason in CHANNEL_IS_WHY and self._channels.give_up_used(
                    rental.terms.channel
                ):
                    log.warning("the channel is refused (%s): another is opened", state.reason)
                elif state.reason not in PASSING:  # busy: somebody else was quicker
                    self._matchmaking.standings.failed(rental.provider)
                    self.avoid(task, rental.provider)
                self._tasks.update(task_id, agreement=None, provider=None, price_per_hour=None)
        else:
            held = rental.promised
            self._matchmaking.standings.ended(rental.provider, Cause.PROVIDER_LOST)
            self._records.end(
                task,
                Cause.PROVIDER_LOST,
                prepaid=held,
                cost=MicroUnits(0),
                message=end_message(
                    Cause.PROVIDER_LOST,
                    exit_code=None,
                    detail="",
                    cost=MicroUnits(0),
                    held=held,
                )
                + "; run it again to have it elsewhere",
            )

    async def _closed_elsewhere(self, rental: RentalRecord) -> bool:
        """Whether the chain shows that an agreement's channel closes, or is gone. Marked, if so."""
        try:
            channel = await self._channels.look(rental.terms.channel)
        except ChainError as exc:
            log.info("the payment channel cannot be looked at: %s", exc)
            return False
        return channel.phase is not ChannelPhase.OPEN

    async def _conclude_with_receipt(self, task: TaskRecord, rental: RentalRecord) -> None:
        signed = rental.state.receipt
        assert signed is not None
        receipt = codec.decode(Receipt, signed.body, limit=limits.MAX_FRAME_BYTES)
        if receipt.cause is Cause.CHANNEL_CLOSED:
            await self._closed_elsewhere(rental)
        self._heed(task, rental, receipt)
        if self._goes_elsewhere(task, rental, receipt):
            return
        fetched = rental.state.phase is ClientPhase.KEPT
        message = end_message(
            receipt.cause,
            exit_code=receipt.exit_code,
            detail=receipt.detail,
            cost=receipt.amount,
            held=MicroUnits(0),
        )
        objection = await objection_to_output(self._tasks.log(task.task_id), receipt)
        if not fetched:
            message += "; the provider went away before all results were fetched"
        elif objection is not None:
            log.warning("task %s: %s", task.task_id, objection)
            message += f"; {objection}"
        self._records.end(
            task,
            receipt.cause,
            exit_code=receipt.exit_code,
            prepaid=receipt.prepaid,
            cost=receipt.amount,
            message=message,
            receipt=signed,
            error="" if fetched else RESULTS_LOST,
            artifacts=receipt.artifacts if fetched else None,
        )

    def _heed(self, task: TaskRecord, rental: RentalRecord, receipt: Receipt) -> None:
        """Remember how the provider did, and whether the job got anywhere."""
        self._matchmaking.standings.ended(rental.provider, receipt.cause)
        failed = receipt.cause not in (Cause.CANCELLED, Cause.CLIENT_LOST) and (
            receipt.cause is not Cause.EXITED or receipt.exit_code != 0
        )
        streak = self._streaks.pop(task.spec_digest, Streak()).after(
            failed=failed, ran=receipt.metered_ms, now=self._clock.now_ms()
        )
        if streak.failures:
            self._streaks[task.spec_digest] = streak
        while len(self._streaks) > MAX_STREAKS:
            self._streaks.popitem(last=False)

    def _goes_elsewhere(self, task: TaskRecord, rental: RentalRecord, receipt: Receipt) -> bool:
        """Send a job that its provider never got to run to another one, where there is one."""
        nothing_ran = receipt.output_records == 0 and receipt.exit_code is None
        at_fault = ANSWERABLE[receipt.cause] is Side.PROVIDER
        if not (nothing_ran and at_fault) or task.cancel_requested:
            return False
        task = self.avoid(task, rental.provider)
        if not self._matchmaking.has_another(task):
            return False
        agreement = rental.state.agreement
        if rental.state.phase is ClientPhase.ENDED:  # its results are nobody's any more
            self._book.apply(agreement, ResultsStored())
        told = f"{to_base58(rental.provider)}: {MEANING[receipt.cause]}; tried elsewhere"
        log.warning("task %s: %s", task.task_id, told)
        self._tasks.update(
            task.task_id,
            status=TaskStatus.PENDING,
            agreement=None,
            provider=None,
            price_per_hour=None,
            started_ms=None,
        )
        self._tasks.enter_stage(task.task_id, "matching", told)
        return True
