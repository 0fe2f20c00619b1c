"""A task as its owner's node keeps it: what was asked, where it stands, how it ended."""

from __future__ import annotations

import msgspec

from robocompute_node.api.port import TaskStatus, TaskView
from robocompute_protocol.causes import ANSWERABLE, MEANING, Cause, Side
from robocompute_protocol.identifiers import AgreementId, Digest, NodeKey, to_base58
from robocompute_protocol.messages import Signed, TaskSpec, Usage
from robocompute_protocol.money import MicroUnits, Millis, format_amount

STAGES = (
    "matching", "funding", "uploading", "ordering", "preparing", "environment", "starting",
    "running", "frozen", "collecting", "done",
)  # fmt: skip
"""Where a task can be, in order; "frozen" and "running" alternate."""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task in the store. Replaced as a whole by ``msgspec.structs.replace``."""

    task_id: str
    spec: TaskSpec
    spec_digest: Digest
    max_price_per_hour: MicroUnits | None
    only: NodeKey | None
    wait: bool
    created_ms: Millis
    idempotency_key: str | None = None
    status: TaskStatus = TaskStatus.PENDING
    stage: str = "matching"
    stage_detail: str = ""
    avoid: tuple[NodeKey, ...] = ()
    """Providers that refused or failed this task: never asked again for it."""
    provider: NodeKey | None = None
    price_per_hour: MicroUnits | None = None
    agreement: AgreementId | None = None
    started_ms: Millis | None = None
    ended_ms: Millis | None = None
    prepaid: MicroUnits = MicroUnits(0)
    cost: MicroUnits | None = None
    exit_code: int | None = None
    cause: Cause | None = None
    ended_by: Side | None = None
    message: str = ""
    error: str = ""
    """The error code, when it ended without any agreement."""
    cancel_requested: bool = False
    artifacts: Digest | None = None
    receipt: Signed | None = None
    usage: Usage | None = None
    """The newest measurement of the running job."""

    @property
    def ended(self) -> bool:
        return self.status not in (TaskStatus.PENDING, TaskStatus.RUNNING)

    def view(
        self, *, cost_so_far: MicroUnits | None = None, promised: MicroUnits | None = None
    ) -> TaskView:
        """The task as REST shows it."""
        return TaskView(
            task_id=self.task_id,
            name=self.spec.app_name,
            argv=self.spec.argv,
            status=self.status,
            stage=self.stage,
            stage_detail=self.stage_detail,
            created_ms=self.created_ms,
            started_ms=self.started_ms,
            ended_ms=self.ended_ms,
            provider=None if self.provider is None else to_base58(self.provider),
            price_per_hour=self.price_per_hour,
            prepaid=self.prepaid if promised is None else promised,
            cost=self.cost if self.cost is not None else cost_so_far,
            exit_code=self.exit_code,
            cause=self.cause,
            ended_by=self.ended_by,
            message=self.message,
            error=self.error or None,
            task_hash=self.spec_digest,
            usage=self.usage,
            agreement=None if self.agreement is None else self.agreement.hex(),
        )


def status_of(cause: Cause, exit_code: int | None) -> TaskStatus:
    """The word REST uses for an end."""
    match cause:
        case Cause.EXITED:
            return TaskStatus.COMPLETED if exit_code == 0 else TaskStatus.FAILED
        case Cause.CANCELLED:
            return TaskStatus.CANCELLED
        case Cause.WALL_TIME:
            return TaskStatus.TIMEOUT
        case _:
            return TaskStatus.FAILED


def end_message(
    cause: Cause, *, exit_code: int | None, detail: str, cost: MicroUnits, held: MicroUnits
) -> str:
    """One line: who ended it, why, what it cost, what becomes of money that was not used."""
    side = ANSWERABLE[cause]
    if cause is Cause.EXITED:
        told = f"exit code {exit_code}"
    else:
        told = f"{MEANING[cause]} (ended by the {side.value})"
        if detail and detail != MEANING[cause]:
            told += f": {detail}"
    told += f"; cost {format_amount(cost)}"
    if held:
        told += (
            f"; {format_amount(held)} was signed to the provider and not used: it comes back as "
            "credit if the provider returns, or when the channel closes"
        )
    return told
