"""An HTTP server on loopback whose answers are raw bytes that a test chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import base58
import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.abc import Stream

GENESIS: Final = sha256(b"hostile endpoint").digest()
Reply = Callable[[Any, trio.SocketStream], Awaitable[None]]
"""Answers one decoded request on its connection."""


def http(body: bytes, *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """A whole HTTP answer."""
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def answer(request: Any, result: Any, **envelope: Any) -> bytes:
    """A proper JSON-RPC answer."""
    body = {"jsonrpc": "2.0", "id": request["id"], "result": result} | envelope
    return http(msgspec.json.encode(body), headers=("Content-Type: application/json",))


def error(request: Any, code: int, data: Any = None) -> bytes:
    """A JSON-RPC error."""
    fault = {"code": code, "message": "as ordered"} | ({} if data is None else {"data": data})
    body = {"jsonrpc": "2.0", "id": request["id"], "error": fault}
    return http(msgspec.json.encode(body))


def says(make: Callable[[Any], bytes]) -> Reply:
    """Send these bytes, and keep the connection."""

    async def reply(request: Any, stream: Stream) -> None:
        await stream.send_all(make(request))

    return reply


def hangs_up(make: Callable[[Any], bytes] = lambda _: b"") -> Reply:
    """Send these bytes and close the connection."""

    async def reply(request: Any, stream: Stream) -> None:
        await stream.send_all(make(request))
        await stream.aclose()

    return reply


def drips(make: Callable[[Any], bytes]) -> Reply:
    """Send one byte each second, for ever."""

    async def reply(request: Any, stream: Stream) -> None:
        for byte in make(request):
            await stream.send_all(bytes((byte,)))
            await trio.sleep(1)
        await trio.sleep_forever()

    return reply


def floods(size: int) -> Reply:
    """Send an answer that has no end, of which ``size`` bytes must never be read."""

    async def reply(_request: Any, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        for _ in range(size // 65_536):
            await stream.send_all(part)
        message = "the whole flood was read"
        raise AssertionError(message)

    return reply


@dataclass(slots=True)
class HostileServer:
    """Honest about its genesis hash, unless told otherwise; the rest is the test's."""

    port: int = 0
    genesis: bytes = GENESIS
    replies: deque[Reply] = field(default_factory=deque[Reply])
    then: Reply = field(default_factory=lambda: says(lambda request: answer(request, None)))
    """When no reply is left."""
    asked: list[Any] = field(default_factory=list[Any])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    more = await stream.receive_some(65_536)
                    if not more:
                        return
                    buffer += more
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                while len(buffer) < length:
                    buffer += await stream.receive_some(65_536)
                request = msgspec.json.decode(buffer[:length])
                buffer = buffer[length:]
                await self._reply(request, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _reply(self, request: Any, stream: trio.SocketStream) -> None:
        if request["method"] == "getGenesisHash":
            text = base58.b58encode(self.genesis).decode()
            await stream.send_all(answer(request, text))
            return
        self.asked.append(request)
        await (self.replies.popleft() if self.replies else self.then)(request, stream)


@asynccontextmanager
async def hostile_server(port: int = 0) -> AsyncGenerator[HostileServer]:
    """A server for as long as the block lasts."""
    server = HostileServer()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, server.serve, port, host="127.0.0.1")
        )
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
