from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

from robocompute_node.api.port import TaskEvent
from robocompute_node.api.stream import PING, PING_EVERY_S, LiveStream, frame_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from conftest import FakeNodeApi

TASK: dict[str, Any] = {"name": "app", "type": "cpu", "command": ["python", "train.py"]}


async def created(client: httpx.AsyncClient) -> str:
    return str((await client.post("/tasks", json=TASK)).json()["task_id"])


async def test_events_arrive_one_by_one_and_the_stream_ends_with_the_task(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = await created(client)
    node.tell(task_id, "stage", {"stage": "matching", "detail": ""})
    async with client.stream("GET", f"/tasks/{task_id}/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in answer.headers
        lines = answer.aiter_lines()
        first = [await anext(lines) for _ in range(4)]
        assert first == [
            "id: 1",
            "event: stage",
            'data: {"stage":"matching","detail":""}',
            "",
        ]
        # Only now does the next one happen: it must come without anything behind it.
        node.say(task_id, 0, "hello\nworld")
        second = [await anext(lines) for _ in range(4)]
        assert second[:2] == ["id: 2", "event: output"]
        assert json.loads(second[2].removeprefix("data: "))["text"] == "hello\nworld"
        node.end(task_id)
        rest = [line async for line in lines]
        assert rest[:2] == ["id: 3", "event: ended"]
    assert node.readers == 0


async def test_a_reader_resumes_behind_the_last_number_it_has(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = await created(client)
    for number in range(5):
        node.say(task_id, number, str(number))
    node.end(task_id)
    by_query = await client.get(f"/tasks/{task_id}/stream?after=3")
    by_header = await client.get(f"/tasks/{task_id}/stream", headers={"Last-Event-ID": "3"})
    assert by_query.text == by_header.text
    ids = [line for line in by_query.text.splitlines() if line.startswith("id:")]
    assert ids == ["id: 4", "id: 5", "id: 6"]
    wrong = await client.get(f"/tasks/{task_id}/stream", headers={"Last-Event-ID": "x"})
    assert wrong.json()["error"]["code"] == "INVALID_REQUEST"


async def test_a_reader_that_goes_away_is_forgotten(
    client: httpx.AsyncClient, node: FakeNodeApi, port: int
) -> None:
    task_id = await created(client)
    node.say(task_id, 0, "x")
    reader = await trio.open_tcp_stream("127.0.0.1", port)
    await reader.send_all(
        f"GET /api/v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n\r\n".encode()
    )
    with trio.fail_after(5):
        while b"event: output" not in await reader.receive_some():
            pass
        assert node.readers == 1
        await reader.aclose()
        while node.readers:  # noqa: ASYNC110 - it is the server that lets go
            await trio.sleep(0.005)


async def test_many_readers_each_get_everything(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = await created(client)
    bodies: list[str] = []

    async def read() -> None:
        bodies.append((await client.get(f"/tasks/{task_id}/stream")).text)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read)
        with trio.fail_after(5):
            while node.readers < 20:  # noqa: ASYNC110 - it is the server that reads
                await trio.sleep(0.005)
        for number in range(100):
            node.say(task_id, number, "line")
        node.end(task_id)
    assert len(set(bodies)) == 1
    assert bodies[0].count("event: output") == 100


async def test_logs_are_followed_as_json_lines_from_where_they_were_asked(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = await created(client)
    for number in range(5):
        node.say(task_id, number, f"line {number}", "stderr" if number % 2 else "stdout")
    node.tell(
        task_id,
        "output",
        {"sequence": 5, "stream": "stdout", "kind": "part", "at_ns": 0, "base64": "/w=="},
    )
    node.end(task_id)
    last = await client.get(f"/tasks/{task_id}/logs?lines=2&follow=true")
    records = [json.loads(line) for line in last.text.splitlines()]
    assert [record["sequence"] for record in records] == [4, 5]
    assert records[1]["message"] == "\ufffd"
    started = await client.get(f"/tasks/{task_id}/logs?start=1&follow=true")
    records = [json.loads(line) for line in started.text.splitlines()]
    assert [record["sequence"] for record in records] == [1, 2, 3, 4, 5]
    assert records[0] == {
        "sequence": 1,
        "stream": "stderr",
        "kind": "line",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "message": "line 1",
        "level": "error",
    }
    assert len((await client.get(f"/tasks/{task_id}/logs?lines=3")).json()["logs"]) == 3


async def test_silence_is_broken_by_a_ping_and_events_put_it_off(
    autojump_clock: trio.abc.Clock,
) -> None:
    async def events() -> AsyncIterator[TaskEvent]:
        await trio.sleep(PING_EVERY_S * 0.6)
        yield TaskEvent(number=1, kind="stage", data={})
        await trio.sleep(PING_EVERY_S * 2.5)
        yield TaskEvent(number=2, kind="ended", data={})

    sent: list[tuple[float, bytes]] = []
    start = trio.current_time()

    async def send(message: Any) -> None:
        if message.get("body"):
            sent.append((trio.current_time() - start, message["body"]))

    async def receive() -> Any:
        await trio.sleep_forever()

    response = LiveStream(events(), frame_of, media_type="text/event-stream", ping=PING)
    await response({"type": "http"}, receive, send)
    assert [body == PING for _, body in sent] == [False, True, True, False]
    assert [round(at, 3) for at, _ in sent] == [6.0, 16.0, 26.0, 31.0]
