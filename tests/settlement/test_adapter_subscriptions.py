"""Websockets that talk nonsense, break, or never answer: nobody waits for ever, nothing ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, serve_websocket

from robocompute_settlement.subscriptions import Subscriptions, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio_websocket import WebSocketConnection, WebSocketRequest

    Talk = Callable[[WebSocketConnection], Awaitable[None]]


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """Twenty times as fast as real time, which sockets need."""
    return trio.testing.MockClock(rate=20)


@asynccontextmanager
async def server(talk: Talk, *, port: int = 0) -> AsyncGenerator[str]:
    """A websocket server whose every connection is one talk."""

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        try:
            await talk(socket)
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        running = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", port, None))
        yield f"ws://127.0.0.1:{running.port}"
        nursery.cancel_scope.cancel()


async def listen(socket: WebSocketConnection, remote: int = 7) -> None:
    """Grant one subscription."""
    request: Any = msgspec.json.decode(await socket.get_message())
    await tell(socket, {"id": request["id"], "result": remote})


async def tell(socket: WebSocketConnection, message: Any) -> None:
    await socket.send_message(msgspec.json.encode(message).decode())


def news(slot: int, remote: int = 7) -> dict[str, Any]:
    """A notification."""
    result = {"context": {"slot": slot}, "value": None}
    return {"method": "accountNotification", "params": {"subscription": remote, "result": result}}


async def until_served(watch: Watch) -> None:
    while watch.remote is None:  # noqa: ASYNC110 - set by the connection
        await trio.sleep(0.01)


NONSENSE: list[str | bytes] = [
    "", "{", "[]", "null", "7", b"\xff\xfe", '{"params": {"subscription": "7"}}', "[" * 50_000,
    '{"id": "1", "result": {}}', '{"id": 99, "result": 5}', '{"id": 99, "error": {}}',
    '{"params": {"subscription": 7, "result": {"context": {"slot": "x"}}}}',
]  # fmt: skip


async def test_nonsense_is_passed_over(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await listen(socket)
        for message in NONSENSE:
            await socket.send_message(message)
        await tell(socket, news(55))
        await trio.sleep_forever()

    async with server(talk) as url:
        subscriptions = Subscriptions((url,))
        nursery.start_soon(subscriptions.run)
        with subscriptions.account(bytes(32)) as watch, trio.fail_after(60):
            while await watch.news() != 55:
                pass
        nursery.cancel_scope.cancel()


async def test_each_new_connection_wakes_whoever_waits(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    connections = 0

    async def talk(socket: WebSocketConnection) -> None:
        nonlocal connections
        connections += 1
        await listen(socket)
        await trio.sleep(0.5)

    async with server(talk) as url:
        subscriptions = Subscriptions((url,))
        nursery.start_soon(subscriptions.run)
        with subscriptions.account(bytes(32)) as watch:
            for _ in range(6):
                with trio.fail_after(20):  # polling alone would take thirty
                    assert await watch.news() == 0
        assert connections >= 3
        nursery.cancel_scope.cancel()


async def test_an_endpoint_without_websocket_is_left_for_the_next(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await listen(socket)
        await tell(socket, news(9))
        await trio.sleep_forever()

    async with server(talk) as url:
        subscriptions = Subscriptions(("ws://127.0.0.1:1", url))
        nursery.start_soon(subscriptions.run)
        with subscriptions.account(bytes(32)) as watch, trio.fail_after(60):
            while await watch.news() != 9:
                pass
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_no_websocket_harms_nobody(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1_000)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    subscriptions = Subscriptions((f"ws://127.0.0.1:{port}",))
    nursery.start_soon(subscriptions.run)
    with subscriptions.account(bytes(32)) as watch, trio.fail_after(60):
        for _ in range(3):
            await watch.changed()
    nursery.cancel_scope.cancel()


async def test_a_message_that_is_too_large_ends_the_connection_and_not_the_node(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    sent = 0

    async def talk(socket: WebSocketConnection) -> None:
        nonlocal sent
        sent += 1
        await listen(socket)
        if sent == 1:
            await socket.send_message("x" * 3_000_000)
        await tell(socket, news(4))
        await trio.sleep_forever()

    async with server(talk) as url:
        subscriptions = Subscriptions((url,))
        nursery.start_soon(subscriptions.run)
        with subscriptions.account(bytes(32)) as watch, trio.fail_after(60):
            while await watch.news() != 4:
                pass
        assert sent == 2
        nursery.cancel_scope.cancel()


async def test_without_any_websocket_it_is_time_to_look_from_time_to_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    subscriptions = Subscriptions(())
    with subscriptions.account(bytes(32)) as watch:
        started = trio.current_time()
        assert [await watch.news() for _ in range(3)] == [0, 0, 0]
        assert trio.current_time() - started == pytest.approx(15)
