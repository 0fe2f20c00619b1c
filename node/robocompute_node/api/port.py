"""What the REST server needs of the node: the seam between HTTP and the services."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from robocompute_protocol.causes import Cause, Side
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.messages import Manifest, Requirements, Usage
    from robocompute_protocol.money import MicroUnits, Millis


class TaskNotFound(RoboComputeError):
    """No task of this node has that id."""

    code = "TASK_NOT_FOUND"


class InsufficientFunds(RoboComputeError):
    """The balance does not cover it. details: required, available, currency; text: the command."""

    code = "INSUFFICIENT_FUNDS"


class NoProvider(RoboComputeError):
    """No provider fits; the text says which requirement nobody meets."""

    code = "PROVIDER_UNAVAILABLE"


class InvalidRequest(RoboComputeError):
    """The request cannot be carried out as it stands; nothing was changed."""

    code = "INVALID_REQUEST"


class MissingChunks(RoboComputeError):
    """The manifest names chunks that were not uploaded. details: missing."""

    code = "MISSING_CHUNKS"


class TaskStatus(StrEnum):
    """The six words of the published SDK."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task as its owner asks for it."""

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    requirements: Requirements
    upload: Manifest
    requirements_file: str | None
    max_price_per_hour: MicroUnits | None
    timeout: Millis
    wait: bool
    """Keep waiting when no provider fits, rather than fail."""
    idempotency_key: str | None = None
    provider: str | None = None
    """Base58 node key to insist on."""
    image: str | None = None
    """The container image to run in; None is the provider's own sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task as it is now. Money is exact; None means not known yet."""

    task_id: str
    name: str
    argv: tuple[str, ...]
    status: TaskStatus
    stage: str
    stage_detail: str
    created_ms: Millis
    started_ms: Millis | None
    ended_ms: Millis | None
    provider: str | None
    price_per_hour: MicroUnits | None
    prepaid: MicroUnits
    """Signed to the provider for this task so far."""
    cost: MicroUnits | None
    """What it came to; while it runs, what the metered time comes to so far."""
    exit_code: int | None
    cause: Cause | None
    ended_by: Side | None
    message: str
    """One line: why it ended, what it cost, what to do. Empty while it runs."""
    task_hash: Digest | None
    agreement: str | None
    error: str | None = None
    """The error code, when it ended without any agreement."""
    usage: Usage | None = None
    """What the job used when it was last measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One numbered thing that happened to a task. Numbers are consecutive from 1, and durable.

    kind "stage": {"stage", "detail", "at_ms"}; "output": {"sequence", "stream", "kind", "at_ns", "text" or,
    where the bytes are not UTF-8, "base64"}; "match": {"provider", "price_per_hour", "why"};
    "ended": the task as REST shows it.
    """

    number: int
    kind: str
    data: Mapping[str, object]


class NodeApi(Protocol):
    """The node's services, as its owner's clients see them."""

    @property
    def money(self) -> MoneyApi: ...

    def node_status(self) -> Mapping[str, object]:
        """JSON-ready: node, peer_id, roles, addresses, peers, offers, chain, version, jobs."""
        ...

    async def wallet_balance(self) -> Mapping[str, object]:
        """JSON-ready: wallet_address, usdc_balance, usdt_balance, sol_balance, available, locked."""
        ...

    async def offers(
        self, *, resource_class: str | None, limit: int
    ) -> list[Mapping[str, object]]:
        """Live offers of the book with their age, the cheapest first, JSON-ready.

        A class that is asked for is followed from then on. Raises: InvalidRequest.
        """
        ...

    def missing_chunks(self, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]: ...
    async def put_chunk(self, data: bytes) -> Digest: ...
    async def create_task(self, task: NewTask) -> TaskView:
        """Durable when it returns. Raises: InvalidRequest, MissingChunks, InsufficientFunds, NoProvider."""
        ...

    def task(self, task_id: str) -> TaskView:
        """Raises: TaskNotFound (also in all that follow)."""
        ...

    def tasks(self, *, status: TaskStatus | None, limit: int, offset: int) -> list[TaskView]:
        """Newest first."""
        ...

    async def cancel_task(self, task_id: str) -> TaskView:
        """Ask for the end; returns at once with the task as it is. Repeating is harmless."""
        ...

    def events(self, task_id: str, *, after: int) -> AsyncIterator[TaskEvent]:
        """Events with a number above ``after``, live, ending after "ended"."""
        ...

    def logs(self, task_id: str, *, lines: int, start: int | None) -> list[Mapping[str, object]]:
        """The last ``lines`` output records, or ``lines`` from record ``start`` on; JSON-ready."""
        ...

    def artifacts(self, task_id: str) -> Manifest:
        """The result files, once the task ended and they are all here; before, an empty manifest."""
        ...

    def chunk(self, chunk: Digest) -> bytes:
        """Raises: KeyError."""
        ...

    def tunnels(self, task_id: str) -> list[Mapping[str, object]]:
        """Open tunnels to a task's job, JSON-ready: port, host, local_port."""
        ...

    async def open_tunnel(self, task_id: str, port: int, local_port: int) -> Mapping[str, object]:
        """Listen on loopback (``local_port`` 0: anywhere) for a port of a running task's job.

        Ends with the task. Repeating is harmless. Raises: InvalidRequest.
        """
        ...

    def close_tunnel(self, task_id: str, port: int) -> None:
        """Close one, with its connections. Repeating is harmless."""
        ...

    async def receipt(self, task_id: str) -> Mapping[str, object] | None:
        """JSON-ready receipt with signature, voucher and, once settled, the chain's signature."""
        ...


class MoneyApi(Protocol):
    """The owner's books, JSON-ready. Raises: ChainError where the chain does not answer."""

    async def channels(self) -> Mapping[str, object]:
        """Every channel that the chain or the store knows, on either side of it."""
        ...

    async def earnings(self) -> Mapping[str, object]:
        """What was earned, line by line: which receipt, which transaction, what is not settled."""
        ...

    async def invoices(self) -> Mapping[str, object]:
        """One for each agreement that this node rented by, with the transactions that paid it."""
        ...

    async def settle(self) -> Mapping[str, object]:
        """Settle all that is owed, now. What the chain does not take waits, and is named."""
        ...

    async def accept_alarms(self, name: str) -> Mapping[str, object]:
        """Take what an alarm tells as it is: those on a channel, or of a kind of the wallet's.

        Raises: InvalidRequest where none stands.
        """
        ...

    async def close_channel(self, channel: str) -> Mapping[str, object]:
        """As its payer, ask for the close; as its payee, settle and take nothing more on it.

        Repeating is harmless. Raises: InvalidRequest, ChainRefused.
        """
        ...
