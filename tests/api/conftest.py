"""A node's services made of dictionaries, and a real server in front of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from robocompute_node.api.port import (
    MissingChunks,
    NewTask,
    NoProvider,
    TaskEvent,
    TaskNotFound,
    TaskStatus,
    TaskView,
)
from robocompute_node.api.server import serve
from robocompute_node.config import ApiSettings, ChainSettings, NodeConfig
from robocompute_node.keys import make_api_key
from robocompute_protocol.causes import Cause, Side
from robocompute_protocol.identifiers import Address, Digest, digest
from robocompute_protocol.messages import Manifest
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path


class FakeMoneyApi:
    """Answers with what it is told to."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.refuse_with: Exception | None = None

    async def channels(self) -> Mapping[str, object]:
        return {"wallet_address": "Fake1111", "channels": []}

    async def earnings(self) -> Mapping[str, object]:
        return {"currency": "USDC", "lines": []}

    async def invoices(self) -> Mapping[str, object]:
        return {"currency": "USDC", "invoices": []}

    async def settle(self) -> Mapping[str, object]:
        return {"settled_channels": [], "transactions": [], "waiting": []}

    async def accept_alarms(self, name: str) -> Mapping[str, object]:
        if self.refuse_with is not None:
            raise self.refuse_with
        return {"accepted": [name]}

    async def close_channel(self, channel: str) -> Mapping[str, object]:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.closed.append(channel)
        return {"role": "payer", "channel": channel}


class FakeNodeApi:
    """Keeps tasks, events and chunks in memory; does nothing by itself."""

    def __init__(self) -> None:
        self.money = FakeMoneyApi()
        self.open_ports: dict[int, int] = {}
        self.views: dict[str, TaskView] = {}
        self.asked: list[NewTask] = []
        self.chunks: dict[Digest, bytes] = {}
        self.results: dict[str, Manifest] = {}
        self.receipts: dict[str, Mapping[str, object]] = {}
        self.offered: list[Mapping[str, object]] = []
        self.refuse_with: Exception | None = None
        self._events: dict[str, list[TaskEvent]] = {}
        self._news = trio.Event()
        self.readers = 0

    def tell(self, task_id: str, kind: str, data: Mapping[str, object]) -> TaskEvent:
        events = self._events.setdefault(task_id, [])
        event = TaskEvent(number=len(events) + 1, kind=kind, data=data)
        events.append(event)
        self._news.set()
        self._news = trio.Event()
        return event

    def say(self, task_id: str, sequence: int, text: str, stream: str = "stdout") -> TaskEvent:
        data = {
            "sequence": sequence,
            "stream": stream,
            "kind": "line",
            "at_ns": 1_700_000_000_000_000_000 + sequence,
            "text": text,
        }
        return self.tell(task_id, "output", data)

    def end(self, task_id: str) -> None:
        self.views[task_id] = replace(
            self.views[task_id],
            status=TaskStatus.COMPLETED,
            stage="done",
            ended_ms=Millis(1_700_000_005_000),
            exit_code=0,
            cause=Cause.EXITED,
            ended_by=Side.CLIENT,
            cost=MicroUnits(139),
        )
        self.tell(task_id, "ended", {"status": "completed"})

    def node_status(self) -> Mapping[str, object]:
        return {
            "peer_id": "12D3KooFake",
            "roles": ["client"],
            "peers": 0,
            "wallet_address": "Fake1111",
        }

    async def wallet_balance(self) -> Mapping[str, object]:
        return {"wallet_address": "Fake1111", "usdc_balance": "1.000000"}

    async def offers(
        self, *, resource_class: str | None, limit: int
    ) -> list[Mapping[str, object]]:
        chosen = [
            each for each in self.offered if resource_class in (None, each["resource_class"])
        ]
        return chosen[:limit]

    def missing_chunks(self, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]:
        return tuple(chunk for chunk in chunks if chunk not in self.chunks)

    async def put_chunk(self, data: bytes) -> Digest:
        name = digest(data)
        self.chunks[name] = data
        return name

    async def create_task(self, task: NewTask) -> TaskView:
        if self.refuse_with is not None:
            raise self.refuse_with
        if task.provider == "nobody":
            raise NoProvider("no provider of that name", details={"provider_id": "nobody"})
        missing = self.missing_chunks(tuple(c for file in task.upload.files for c in file.chunks))
        if missing:
            raise MissingChunks("chunks are missing", details={"missing": [missing[0].hex()]})
        self.asked.append(task)
        task_id = f"{len(self.asked):032x}"
        self.views[task_id] = TaskView(
            task_id=task_id,
            name=task.name,
            argv=task.argv,
            status=TaskStatus.PENDING,
            stage="matching",
            stage_detail="",
            created_ms=Millis(1_700_000_000_000),
            started_ms=None,
            ended_ms=None,
            provider=None,
            price_per_hour=None,
            prepaid=MicroUnits(0),
            cost=None,
            exit_code=None,
            cause=None,
            ended_by=None,
            message="",
            task_hash=None,
            agreement=None,
        )
        return self.views[task_id]

    def task(self, task_id: str) -> TaskView:
        if task_id not in self.views:
            raise TaskNotFound(f"no task {task_id}", details={"task_id": task_id})
        return self.views[task_id]

    def tasks(self, *, status: TaskStatus | None, limit: int, offset: int) -> list[TaskView]:
        found = [view for view in reversed(self.views.values()) if status in {None, view.status}]
        return found[offset : offset + limit]

    async def cancel_task(self, task_id: str) -> TaskView:
        return self.task(task_id)

    async def events(self, task_id: str, *, after: int) -> AsyncIterator[TaskEvent]:
        self.readers += 1
        try:
            while True:
                news = self._news
                for event in self._events.get(task_id, [])[after:]:
                    yield event
                    after = event.number
                    if event.kind == "ended":
                        return
                await news.wait()
        finally:
            self.readers -= 1

    def logs(self, task_id: str, *, lines: int, start: int | None) -> list[Mapping[str, object]]:
        outputs = [event.data for event in self._events.get(task_id, []) if event.kind == "output"]
        return outputs[-lines:] if start is None else outputs[start : start + lines]

    def artifacts(self, task_id: str) -> Manifest:
        self.task(task_id)
        return self.results.get(task_id, Manifest(files=()))

    def chunk(self, chunk: Digest) -> bytes:
        return self.chunks[chunk]

    def tunnels(self, task_id: str) -> list[Mapping[str, object]]:
        self.task(task_id)
        return [
            {"port": port, "host": "127.0.0.1", "local_port": local_port}
            for port, local_port in self.open_ports.items()
        ]

    async def open_tunnel(self, task_id: str, port: int, local_port: int) -> Mapping[str, object]:
        self.open_ports[port] = local_port or 49_152
        return self.tunnels(task_id)[-1]

    def close_tunnel(self, task_id: str, port: int) -> None:
        self.task(task_id)
        self.open_ports.pop(port, None)

    async def receipt(self, task_id: str) -> Mapping[str, object] | None:
        return self.receipts.get(task_id)


@pytest.fixture
def node() -> FakeNodeApi:
    return FakeNodeApi()


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    mint = Address(bytes(32))
    chain = ChainSettings(program_id=mint, mint=mint)
    found = NodeConfig(data_dir=tmp_path, chain=chain, api=ApiSettings(port=0))
    make_api_key(found.api_key_path)
    return found


@pytest.fixture
async def port(node: FakeNodeApi, config: NodeConfig, nursery: trio.Nursery) -> int:
    bound: int = await nursery.start(partial(serve, node, config))
    return bound


@pytest.fixture
async def client(config: NodeConfig, port: int) -> AsyncIterator[httpx.AsyncClient]:
    key = config.api_key_path.read_text().strip()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/api/v1",
        headers={"Authorization": f"Bearer {key}"},
        timeout=10,
        trust_env=False,
    ) as found:
        yield found
