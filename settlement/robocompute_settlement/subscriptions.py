"""Wake-up calls from the chain's websocket: something changed, go and read it.

A wake-up carries no data and may be missed: every waiter also polls, seldom while the websocket
is up and often while it is down. So a lost connection costs time, never a fact.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httpx
import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from collections.abc import Generator

log = logging.getLogger(__name__)

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 15.0
"""Pauses between attempts double from the first to the most."""
CONNECT_TIMEOUT_S: Final = 10.0
PING_S: Final = 30.0
"""A connection that does not answer a ping in this time is given up."""
POLL_CONNECTED_S: Final = 2.0
POLL_ALONE_S: Final = 0.25
"""Polling with and without a websocket, by who waits for one thing that is about to happen."""
NEWS_CONNECTED_S: Final = 30.0
NEWS_ALONE_S: Final = 5.0
"""The same, by who watches many things for ever."""

_LOST: Final = (
    HandshakeError,
    ConnectionClosed,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)
"""How a connection ends, or does not come about."""


@dataclass(eq=False, slots=True)
class Watch:
    """One account or signature somebody waits for."""

    method: str
    params: tuple[Any, ...]
    remote: int | None = None
    """The subscription's number on the present connection."""
    _slot: int = 0
    _event: trio.Event = field(default_factory=trio.Event)

    def wake(self, slot: int = 0) -> None:
        """Let the waiter look again, for news of this slot."""
        self._slot = max(self._slot, slot)
        self._event.set()

    async def changed(self) -> None:
        """Return at the next wake-up, or when it is time to poll."""
        await self._next(POLL_CONNECTED_S, POLL_ALONE_S)

    async def news(self) -> int:
        """Return the slot of the next wake-up, and 0 when it is only time to look."""
        await self._next(NEWS_CONNECTED_S, NEWS_ALONE_S)
        slot, self._slot = self._slot, 0
        return slot

    async def _next(self, connected_s: float, alone_s: float) -> None:
        with trio.move_on_after(alone_s if self.remote is None else connected_s):
            await self._event.wait()
        self._event = trio.Event()


class Subscriptions:
    """One websocket, to the first of several endpoints that takes it.

    Works without ``run``, by polling alone.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self._numbers = itertools.count(1)
        self._watches: set[Watch] = set()
        self._pending: dict[int, Watch] = {}
        self._served = False
        self._outbox: trio.MemorySendChannel[bytes] | None = None

    @contextmanager
    def account(self, address: bytes) -> Generator[Watch]:
        """Watch an account, until the block ends."""
        options = {"encoding": "base64", "commitment": "confirmed"}
        with self._watch("accountSubscribe", (to_base58(address), options)) as watch:
            yield watch

    @contextmanager
    def signature(self, signature: str) -> Generator[Watch]:
        """Watch a transaction, until the block ends."""
        with self._watch("signatureSubscribe", (signature, {"commitment": "confirmed"})) as watch:
            yield watch

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep the websocket up, reconnecting, until cancelled."""
        task_status.started()
        pause = RECONNECT_FIRST_S
        for url in itertools.cycle(self._urls):
            try:
                await self._connect(url)
            except* _LOST as group:
                log.warning("no websocket to %s, will retry: %r", url, group.exceptions[0])
            await trio.sleep(pause)
            pause = RECONNECT_FIRST_S if self._served else min(pause * 2, RECONNECT_MOST_S)
            self._served = False
        await trio.sleep_forever()

    # --- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _watch(self, method: str, params: tuple[Any, ...]) -> Generator[Watch]:
        watch = Watch(method, params)
        self._watches.add(watch)
        self._subscribe(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            if watch.remote is not None:
                name = watch.method.replace("Subscribe", "Unsubscribe")
                self._request(name, (watch.remote,))

    async def _connect(self, url: str) -> None:
        """Serve one connection. The stream is ours, so that it is closed however that ends."""
        target = httpx.URL(url)
        with trio.fail_after(CONNECT_TIMEOUT_S):
            if target.scheme == "wss":
                stream = await trio.open_ssl_over_tcp_stream(target.host, target.port or 443)
            else:
                stream = await trio.open_tcp_stream(target.host, target.port or 80)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(CONNECT_TIMEOUT_S):
                    socket = await wrap_client_stream(
                        nursery, stream, target.netloc.decode(), target.raw_path.decode()
                    )
                self._served = True
                await self._serve(socket)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, socket: WebSocketConnection) -> None:
        send, receive = trio.open_memory_channel[bytes](1024)
        self._outbox = send
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, socket, receive)
                nursery.start_soon(_ping, socket)
                for watch in tuple(self._watches):
                    self._subscribe(watch)
                while True:
                    self._received(await socket.get_message())
        finally:
            self._outbox = None
            self._pending.clear()
            for watch in self._watches:
                watch.remote = None
                watch.wake()

    def _subscribe(self, watch: Watch) -> None:
        number = self._request(watch.method, watch.params)
        if number is not None:
            self._pending[number] = watch

    def _request(self, method: str, params: tuple[Any, ...]) -> int | None:
        if self._outbox is None:
            return None
        number = next(self._numbers)
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        try:
            self._outbox.send_nowait(msgspec.json.encode(body))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        return number

    def _received(self, message: str | bytes) -> None:
        try:
            decoded: Any = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        match decoded:
            case {"params": {"subscription": int(remote), **rest}}:
                for watch in self._watches:
                    if watch.remote == remote:
                        watch.wake(_slot(rest))
            case {"id": int(number), "result": int(remote)} if number in self._pending:
                watch = self._pending.pop(number)
                watch.remote = remote
                if watch not in self._watches:
                    name = watch.method.replace("Subscribe", "Unsubscribe")
                    self._request(name, (remote,))
                # What happened before the subscription began is found by looking once more.
                watch.wake()
            case {"id": int(number)}:
                self._pending.pop(number, None)
            case _:
                return


def _slot(params: Any) -> int:
    match params:
        case {"result": {"context": {"slot": int(slot)}}}:
            return slot
        case _:
            return 0


async def _write(socket: WebSocketConnection, receive: trio.MemoryReceiveChannel[bytes]) -> None:
    async for message in receive:
        await socket.send_message(message.decode())


async def _ping(socket: WebSocketConnection) -> None:
    while True:
        await trio.sleep(PING_S)
        try:
            with trio.fail_after(PING_S):
                await socket.ping()
        except trio.TooSlowError:
            await socket.aclose(1002, "no pong")
