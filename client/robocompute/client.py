"""The client of one's own node: tasks, their output and results, and the wallet's balance."""

from __future__ import annotations

import json
import secrets
from struct import pack
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from robocompute.exceptions import (
    NetworkError,
    NodeUnreachableError,
    RoboComputeError,
    error_of,
    is_stated,
)
from robocompute.sse import EventStream, json_or_none
from robocompute.transport import Response, StreamedResponse, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8000/api/v1"
"""A node serves its owner on this machine."""
API_PREFIX: Final = "/api/v1"
TIMEOUT: Final = 30.0
"""Seconds for one answer: creating a task waits for the node's disk, and for nothing else."""
RETRY_PAUSES: Final = (0.2, 0.5, 1.0)
"""Seconds before each further attempt."""
BATCH_BYTES: Final = 16_777_216
"""Chunks in one upload request: a quarter of what the node accepts, so progress shows."""
MISSING_BATCH: Final = 4_096
"""Digests in one question for missing chunks: 270 kB of JSON."""


class Record(dict[str, Any]):
    """A JSON object whose fields can also be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this record has no field {name!r}") from None


class RoboComputeClient:
    """Speaks to one node. Safe to use from several threads; usable as a context manager.

    Every request is repeated when the node did not answer; creating a task carries a key by which
    the node knows the repetition, so it is never created twice.
    """

    def __init__(
        self,
        api_key: str,
        wallet_address: str | None = None,
        solana_rpc: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = TIMEOUT,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self.wallet_address = wallet_address
        self.solana_rpc = solana_rpc
        self.base_url = api_base(base_url or DEFAULT_BASE_URL)
        self._pause = pause
        headers = {"Accept": "application/json", "User-Agent": "robocompute-python"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.transport = Transport(self.base_url, headers, timeout=timeout)
        self.tasks = Tasks(self)
        self.wallet = Wallet(self)
        self.blobs = Blobs(self)

    def __enter__(self) -> RoboComputeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the calling thread's connection."""
        self.transport.close()

    def validate(self) -> Record:
        """Who the API key belongs to. Raises: AuthenticationError, NetworkError."""
        return Record(self.request("GET", "/auth/validate"))

    def node(self) -> Record:
        """The node's own status."""
        return Record(self.request("GET", "/node"))

    def offers(self) -> list[Record]:
        """Live offers of the node's book."""
        answer: Any = self.request("GET", "/offers")
        return [Record(offer) for offer in answer["offers"]]

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = len(RETRY_PAUSES) + 1,
    ) -> Any:
        """The JSON answer to one request, repeated while the node does not answer.

        Raises:
            RoboComputeError: the node refused; the subclass and ``code`` say why.
            NetworkError: it did not answer in any attempt.
        """
        sent = dict(headers or {})
        if document is not None:
            body = json.dumps(document, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        response = self._send(method, path, query, sent, body, attempts)
        answer = json_or_none(response.body)
        if response.status >= 400:
            raise error_of(
                response.status, answer, retry_after=response.headers.get("retry-after")
            )
        if answer is None:
            raise RoboComputeError(
                f"{self.base_url} does not answer as a node does (is it one?)", code="NOT_A_NODE"
            )
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
        attempts: int,
    ) -> Response:
        failed: NetworkError | None = None
        busy: Response | None = None
        for pause in (0.0, *RETRY_PAUSES)[:attempts]:
            if pause:
                self._pause(pause)
            try:
                response = self.transport.send(
                    method, path, query=query, headers=headers, body=body
                )
            except NodeUnreachableError:
                raise
            except NetworkError as error:
                failed, busy = error, None
                continue
            if response.status in (502, 503, 504) and not is_stated(json_or_none(response.body)):
                busy = response
                continue
            return response
        if busy is not None:
            return busy
        assert failed is not None
        raise failed


class Tasks:
    """What one can do with tasks."""

    def __init__(self, client: RoboComputeClient) -> None:
        self._client = client

    def create(
        self,
        *,
        name: str,
        command: Sequence[str],
        type: str = "gpu",
        resource_requirements: Mapping[str, int | float] | None = None,
        gpu: str | None = None,
        env: Mapping[str, str] | None = None,
        upload: Mapping[str, Any] | None = None,
        requirements_file: str | None = None,
        docker_image: str | None = None,
        max_price_per_hour: str | None = None,
        timeout_seconds: int = 3600,
        wait: bool = False,
        provider: str | None = None,
        idempotency_key: str | None = None,
    ) -> Record:
        """Hand a task to the node; it is on the node's disk when this returns.

        Raises: InsufficientFundsError, ProviderUnavailableError, RoboComputeError, and TypeError
        where ``command`` is one string: it would be taken for a word a letter.
        """
        if isinstance(command, str):
            raise TypeError(
                f"command is a list of words, like {command.split()}, and not a string"
            )
        document: dict[str, Any] = {
            "name": name,
            "type": type,
            "command": list(command),
            "env": dict(env or {}),
            "gpu": gpu,
            "resource_requirements": dict(resource_requirements or {}),
            "upload": upload if upload is not None else {"files": []},
            "requirements_file": requirements_file,
            "docker_image": docker_image,
            "max_price_per_hour": max_price_per_hour,
            "timeout_seconds": timeout_seconds,
            "wait": wait,
            "provider": provider,
        }
        key = idempotency_key or secrets.token_hex(16)
        return Record(
            self._client.request(
                "POST", "/tasks", document=document, headers={"Idempotency-Key": key}
            )
        )

    def get(self, task_id: str) -> Record:
        """The task as it is now. Raises: TaskNotFoundError."""
        return Record(self._client.request("GET", _task_path(task_id)))

    def list(self, *, status: str | None = None, limit: int = 50, offset: int = 0) -> list[Record]:
        """Newest first."""
        query = {"limit": str(limit), "offset": str(offset)}
        if status is not None:
            query["status"] = status
        answer = self._client.request("GET", "/tasks", query=query)
        return [Record(task) for task in answer["tasks"]]

    def cancel(self, task_id: str) -> Record:
        """Ask for the end and return at once; repeating is harmless."""
        return Record(self._client.request("DELETE", _task_path(task_id)))

    def events(
        self,
        task_id: str,
        *,
        after: int = 0,
        patience: float = 120.0,
        on_lost: Callable[[NetworkError], None] | None = None,
    ) -> EventStream:
        """The task's numbered events, each once, live and across restarts of the node."""
        return EventStream(
            self._client.transport,
            _task_path(task_id) + "/stream",
            after=after,
            patience=patience,
            on_lost=on_lost,
        )

    def stream(self, task_id: str, *, after: int = 0) -> Iterator[Record]:
        """Updates until the task ends: the event's fields, and ``number``, ``event``, ``status``."""
        status = "pending"
        for event in self.events(task_id, after=after):
            if event.kind == "ended":
                status = str(event.data.get("status", status))
            elif event.kind == "stage" and event.data.get("stage") in ("running", "frozen"):
                status = "running"
            yield Record(
                {**event.data, "number": event.number, "event": event.kind, "status": status}
            )

    def get_logs(
        self, task_id: str, *, lines: int = 100, start: int | None = None, follow: bool = False
    ) -> dict[str, Any] | Iterator[Record]:
        """The last ``lines`` records of output, or from ``start`` on; with ``follow``, live ones."""
        if follow:
            return (update for update in self.stream(task_id) if update["event"] == "output")
        query = {"lines": str(lines)}
        if start is not None:
            query["start"] = str(start)
        return Record(self._client.request("GET", _task_path(task_id) + "/logs", query=query))

    def artifacts(self, task_id: str) -> list[Record]:
        """Result files, once the task ended and they are all here."""
        answer = self._client.request("GET", _task_path(task_id) + "/artifacts")
        return [Record(file) for file in answer["files"]]

    def download(self, task_id: str, path: str, write: Callable[[bytes], object]) -> int:
        """Give the bytes of one result file to ``write``; return how many they were.

        Raises: RoboComputeError, also when fewer bytes came than the node said there were.
        """
        from urllib.parse import quote

        target = f"{_task_path(task_id)}/artifacts/{quote(path)}"
        with self._client.transport.stream("GET", target, silence=TIMEOUT) as response:
            if response.status != 200:
                raise error_of(
                    response.status,
                    json_or_none(response.read()),
                    retry_after=response.headers.get("retry-after"),
                )
            return _copy(response, write)

    def receipt(self, task_id: str) -> Record | None:
        """The signed receipt; None while there is none yet."""
        try:
            return Record(self._client.request("GET", _task_path(task_id) + "/receipt"))
        except RoboComputeError as error:
            if error.code == "RECEIPT_NOT_READY":
                return None
            raise


class Wallet:
    """The money behind the node."""

    def __init__(self, client: RoboComputeClient) -> None:
        self._client = client

    def get_balance(self) -> Record:
        """Decimal strings: usdc_balance, usdt_balance, sol_balance, and what is locked."""
        return Record(self._client.request("GET", "/wallet/balance"))


class Blobs:
    """Content-addressed chunks of at most a MiB, on their way to the node."""

    def __init__(self, client: RoboComputeClient) -> None:
        self._client = client

    def missing(self, chunks: Sequence[str]) -> list[str]:
        """Those of ``chunks`` (hex SHA-256) that the node does not have, in their order."""
        absent: list[str] = []
        for start in range(0, len(chunks), MISSING_BATCH):
            batch = list(chunks[start : start + MISSING_BATCH])
            answer = self._client.request("POST", "/blobs/missing", document={"chunks": batch})
            absent.extend(answer["missing"])
        return absent

    def put(
        self, chunks: Iterator[bytes], *, progress: Callable[[int], None] | None = None
    ) -> None:
        """Send chunks in requests of some size; ``progress`` is told the bytes of each."""
        batch: list[bytes] = []
        held = 0
        for chunk in chunks:
            batch.append(chunk)
            held += len(chunk)
            if held >= BATCH_BYTES:
                self._put(batch, held, progress)
                batch, held = [], 0
        if batch:
            self._put(batch, held, progress)

    def _put(self, batch: list[bytes], size: int, progress: Callable[[int], None] | None) -> None:
        body = b"".join(pack(">I", len(chunk)) + chunk for chunk in batch)
        self._client.request(
            "POST", "/blobs", body=body, headers={"Content-Type": "application/octet-stream"}
        )
        if progress is not None:
            progress(size)


def api_base(url: str) -> str:
    """The versioned base address: ``url`` may be a host, end in /api, or be the whole of it."""
    url = url.rstrip("/")
    if url.endswith(API_PREFIX):
        return url
    return url + ("/v1" if url.endswith("/api") else API_PREFIX)


def _task_path(task_id: str) -> str:
    from urllib.parse import quote

    return f"/tasks/{quote(task_id, safe='')}"


def _copy(response: StreamedResponse, write: Callable[[bytes], object]) -> int:
    total = 0
    while block := response.read(262_144):
        write(block)
        total += len(block)
    expected = response.headers.get("content-length")
    if expected is not None and expected.isdigit() and int(expected) != total:
        raise NetworkError(f"the node sent {total} of {expected} bytes")
    return total
