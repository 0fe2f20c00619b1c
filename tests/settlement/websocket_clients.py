"""A bare websocket client, to hear exactly what a chain says."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PATIENCE_S: Final = 60.0
"""How long a notification may take on a busy machine."""


class WebsocketClient:
    """One connection. Answers and notifications are told apart and kept in order."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self._number = 0
        self.notifications: list[dict[str, Any]] = []

    async def call(self, method: str, *params: Any) -> Any:
        """A request; the whole answer."""
        self._number += 1
        body = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        await self.socket.send_message(json.dumps(body))
        with trio.fail_after(PATIENCE_S):
            while True:
                message = json.loads(await self.socket.get_message())
                if message.get("id") == self._number:
                    return message
                self.notifications.append(message)

    async def subscribe(self, kind: str, *params: Any) -> int:
        """The number of a new subscription."""
        answer = await self.call(f"{kind}Subscribe", *params)
        assert "result" in answer, answer
        return int(answer["result"])

    async def told(self, kind: str) -> dict[str, Any]:
        """The next notification of a kind that nobody has taken yet."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for each in self.notifications:
                    if each.get("method") == f"{kind}Notification":
                        self.notifications.remove(each)
                        return each["params"]
                self.notifications.append(json.loads(await self.socket.get_message()))


@asynccontextmanager
async def websocket(port: int) -> AsyncGenerator[WebsocketClient]:
    """A connection for as long as the block lasts."""
    async with (
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
        trio.open_nursery() as nursery,
    ):
        host = f"127.0.0.1:{port}"
        socket = await wrap_client_stream(nursery, stream, host, "/")
        try:
            yield WebsocketClient(socket)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await socket.aclose()
            nursery.cancel_scope.cancel()
