"""Responses that go on: server-sent events, and output as JSON lines.

Nothing is buffered here: an event is on its way before the next is asked for, and a reader that
does not read holds back its own stream only. A stream ends with its events, when the reader goes,
or, where the node fails in the middle, by a cut; the reader resumes from the last number it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast
from urllib.parse import quote

import msgspec
import trio
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Receive, Scope, Send

    from robocompute_node.api.port import TaskEvent
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.messages import FileEntry

PING: Final = b": ping\n\n"
"""A comment, which readers of event streams skip."""
PING_EVERY_S: Final = 10.0
"""Silence is broken this often, so that both ends notice a dead connection."""

Item = TypeVar("Item")

_encode = msgspec.json.Encoder().encode


def frame_of(event: TaskEvent) -> bytes:
    """Write one server-sent event. JSON has no raw line ends, so it is always one data line."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        event.number,
        event.kind.encode(),
        _encode(event.data),
    )


class LiveStream(Response, Generic[Item]):
    """Sends each item as it comes, in the form ``frame`` gives it; items without one are skipped."""

    def __init__(
        self,
        items: AsyncIterator[Item],
        frame: Callable[[Item], bytes | None],
        *,
        media_type: str,
        ping: bytes | None = None,
    ) -> None:
        super().__init__(status_code=HTTPStatus.OK, media_type=media_type)
        del self.headers["content-length"]
        self._items = items
        self._frame = frame
        self._ping = ping
        self._sending = trio.Lock()
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": [*self.raw_headers, (b"x-accel-buffering", b"no")],
            }
        )
        self._sent_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            if self._ping is not None:
                nursery.start_soon(self._keep_alive, send, self._ping)
            async with _closing(self._items) as items:
                async for item in items:
                    frame = self._frame(item)
                    if frame is not None:
                        await self._send(send, frame)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    async def _keep_alive(self, send: Send, ping: bytes) -> None:
        while True:
            await trio.sleep_until(self._sent_at + PING_EVERY_S)
            if trio.current_time() >= self._sent_at + PING_EVERY_S:
                await self._send(send, ping)

    async def _send(self, send: Send, frame: bytes) -> None:
        async with self._sending:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        self._sent_at = trio.current_time()


class Attachment(Response):
    """A file, chunk by chunk: no more than one of them is held here."""

    def __init__(self, file: FileEntry, chunk: Callable[[Digest], bytes]) -> None:
        name = quote(file.path.rpartition("/")[2], safe="")
        super().__init__(
            status_code=HTTPStatus.OK,
            media_type="application/octet-stream",
            headers={
                "Content-Length": str(file.size),
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            },
        )
        self._file = file
        self._chunk = chunk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for chunk in self._file.chunks:
            body = self._chunk(chunk)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _closing(items: AsyncIterator[Item]) -> AbstractAsyncContextManager[AsyncIterator[Item]]:
    """Close a generator where we leave it, rather than where the collector finds it."""
    if isinstance(items, AsyncGenerator):
        generator = cast("AsyncGenerator[Item]", items)
        return aclosing(generator)
    return nullcontext(items)


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
