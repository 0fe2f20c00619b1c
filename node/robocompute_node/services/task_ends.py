"""How a task's end is recorded: on disk first, then in its log for whoever follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robocompute_node.api.port import TaskStatus
from robocompute_node.api.views import task_json
from robocompute_node.core.tasks import status_of
from robocompute_protocol.causes import ANSWERABLE, Cause, Side
from robocompute_protocol.money import MicroUnits

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.core.tasks import TaskRecord
    from robocompute_node.services.task_book import TaskBook
    from robocompute_protocol.errors import RoboComputeError


class TaskEnds:
    """Ends tasks, each once."""

    def __init__(self, tasks: TaskBook, clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock

    def fail(self, task_id: str, error: RoboComputeError) -> None:
        """A task that came to no agreement: it cost nothing."""
        self._tasks.update(
            task_id,
            status=TaskStatus.FAILED,
            stage="done",
            stage_detail="",
            ended_ms=self._clock.now_ms(),
            cost=MicroUnits(0),
            ended_by=Side.CLIENT,
            message=str(error),
            error=error.code,
        )
        self._tell_end(task_id)

    def end(self, task: TaskRecord, cause: Cause, **changes: Any) -> None:
        """A task that was leased, or cancelled before."""
        fields: dict[str, Any] = {"cost": MicroUnits(0), "exit_code": None} | changes
        self._tasks.update(
            task.task_id,
            status=status_of(cause, fields["exit_code"]),
            stage="done",
            stage_detail="",
            ended_ms=self._clock.now_ms(),
            cause=cause,
            ended_by=ANSWERABLE[cause],
            **fields,
        )
        self._tell_end(task.task_id)

    def _tell_end(self, task_id: str) -> None:
        task = self._tasks.get(task_id)
        self._tasks.log(task_id).append("ended", task_json(task.view()))
