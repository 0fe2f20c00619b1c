"""What a provider still holds of ours when it comes back: money it may not keep, and results.

An agreement that was written off, and one whose results did not all arrive, are asked about for as
long as the provider keeps them. Where it never comes back, the money returns when the channel closes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.tasks import end_message
from robocompute_node.services.output_proof import objection_to_output
from robocompute_protocol import codec, limits
from robocompute_protocol.agreement import ClientPhase
from robocompute_protocol.errors import RoboComputeError
from robocompute_protocol.messages import Receipt
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import ResultsStored

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.clocks import Clock
    from robocompute_node.services.rental_book import RentalBook, RentalRecord
    from robocompute_node.services.rental_link import RentalLink
    from robocompute_node.services.task_book import TaskBook
    from robocompute_protocol.identifiers import AgreementId

log = logging.getLogger(__name__)

RECLAIM_SECONDS: Final = 10.0
"""Between tries to reach a provider that was lost."""
ANSWER_SECONDS: Final = 30.0
"""A lost provider that has not answered by then is asked again later."""
FETCH_SECONDS: Final = 3_600.0
"""One try at fetching late results: they may be large, and what arrived is not fetched again."""
KEPT_MS: Final = Millis(7 * 86_400_000)
"""Providers keep results for a week: then there is nothing left to fetch."""


class Reclaiming:
    """Asks providers that went away for what they owe."""

    def __init__(
        self,
        clock: Clock,
        tasks: TaskBook,
        book: RentalBook,
        link: Callable[[RentalRecord], RentalLink],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._book = book
        self._link = link
        self._asking: set[AgreementId] = set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Ask again and again, each provider at its own pace, until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(RECLAIM_SECONDS)
                self._forget_declined()
                for rental in (*self._book.lost(), *self._unfetched()):
                    if rental.state.agreement not in self._asking:
                        self._asking.add(rental.state.agreement)
                        nursery.start_soon(self._ask, rental)
        raise AssertionError("unreachable")

    def _forget_declined(self) -> None:
        """Forget the tries that came to nothing of tasks that ended with another, or with none."""
        declined = self._book.never_leased_records()
        tasks = [self._tasks.get(record.task_id) for record in declined]
        self._book.forget(
            [
                record
                for record, task in zip(declined, tasks, strict=True)
                if task.ended and task.agreement != record.state.agreement
            ]
        )

    def _unfetched(self) -> tuple[RentalRecord, ...]:
        """Agreements with a receipt whose task ended without its results."""
        return tuple(r for r in self._book.unfetched() if self._tasks.get(r.task_id).ended)

    async def _ask(self, rental: RentalRecord) -> None:
        agreement = rental.state.agreement
        try:
            if rental.state.phase is ClientPhase.LOST:
                with trio.move_on_after(ANSWER_SECONDS):
                    await self._link(rental).try_cancel()
                self._came_back(self._book.get(agreement))
            if self._book.get(agreement).state.phase is ClientPhase.ENDED:
                await self._fetch(self._book.get(agreement))
        except* RoboComputeError as group:
            log.debug("lost provider still away: %s", group.exceptions[0])
        finally:
            self._asking.discard(agreement)

    def _came_back(self, rental: RentalRecord) -> None:
        signed = rental.state.receipt
        if rental.state.phase is ClientPhase.NEVER_LEASED:
            message = "the provider came back and never began it; all of it is credit with it"
            self._tasks.update(rental.task_id, message=message, prepaid=MicroUnits(0))
        if rental.state.phase is not ClientPhase.ENDED or signed is None:
            return
        receipt = codec.decode(Receipt, signed.body, limit=limits.MAX_FRAME_BYTES)
        self._tasks.update(
            rental.task_id,
            receipt=signed,
            cost=receipt.amount,
            message=_message(receipt, "its results are being fetched"),
        )

    async def _fetch(self, rental: RentalRecord) -> None:
        """Take in what the job said and made, however late."""
        agreement, task_id = rental.state.agreement, rental.task_id
        with trio.move_on_after(FETCH_SECONDS):
            await self._link(rental).follow()
        state = self._book.get(agreement).state
        assert state.receipt is not None
        receipt = codec.decode(Receipt, state.receipt.body, limit=limits.MAX_FRAME_BYTES)
        if state.phase is ClientPhase.KEPT:
            objection = await objection_to_output(self._tasks.log(task_id), receipt)
            told = "its results are here now" + (f"; {objection}" if objection else "")
            self._tasks.update(
                task_id, artifacts=receipt.artifacts, error="", message=_message(receipt, told)
            )
            log.info("late results of task %s are here", task_id)
        elif self._clock.now_ms() - (self._tasks.get(task_id).ended_ms or 0) > KEPT_MS:
            self._book.apply(agreement, ResultsStored())
            self._tasks.update(task_id, message=_message(receipt, "its results are lost"))


def _message(receipt: Receipt, told: str) -> str:
    return (
        end_message(
            receipt.cause,
            exit_code=receipt.exit_code,
            detail="",
            cost=receipt.amount,
            held=MicroUnits(0),
        )
        + f"; the provider came back; {told}; what was not used is credit with it"
    )
