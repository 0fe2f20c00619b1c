"""JSON-RPC over HTTP: h11 on trio, keep-alive, bounded in size and time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import h11
import msgspec
import trio

from robocompute_settlement.embedded.requests import INTERNAL_ERROR, INVALID_REQUEST, RpcFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robocompute_settlement.embedded.methods import Methods

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1_048_576
"""One request body: a hundred addresses or a batch of transactions are far smaller."""
MAX_BATCH: Final = 100
IDLE_S: Final = 60.0
"""A connection that says nothing for this long is closed."""
LINGER_S: Final = 2.0
"""What a refused client sends for this long is read and thrown away."""
READ_BYTES: Final = 65_536

_HEADERS: Final[Sequence[tuple[bytes, bytes]]] = (
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Headers", b"Content-Type, Solana-Client"),
    (b"Access-Control-Allow-Methods", b"POST, GET, OPTIONS"),
)
"""As a node answers, so that wallets in a browser can use a local world."""


def answer(methods: Methods, body: bytes) -> bytes:
    """Answer one JSON-RPC body, a single request or a batch."""
    try:
        request: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return msgspec.json.encode(_error(None, RpcFault(-32700, "Parse error")))
    if isinstance(request, list):
        if not 0 < len(request) <= MAX_BATCH:  # pyright: ignore[reportUnknownArgumentType]
            return msgspec.json.encode(_error(None, RpcFault(INVALID_REQUEST, "Invalid batch")))
        return msgspec.json.encode([answer_one(methods, each) for each in request])  # pyright: ignore[reportUnknownVariableType]
    return msgspec.json.encode(answer_one(methods, request))


def answer_one(methods: Methods, request: Any) -> dict[str, Any]:
    """Answer one decoded request."""
    match request:
        case {"method": str(name), **rest}:
            identifier = rest.get("id")
            try:
                result = methods.call(name, rest.get("params"))
            except RpcFault as fault:
                return _error(identifier, fault)
            except (TypeError, ValueError, LookupError, ArithmeticError):
                # Parameters of a shape no method expects: this client's fault, nobody else's.
                log.exception("cannot answer %s", name)
                return _error(identifier, RpcFault(INTERNAL_ERROR, "Internal error"))
            return {"jsonrpc": "2.0", "result": result, "id": identifier}
        case _:
            return _error(None, RpcFault(INVALID_REQUEST, "Invalid request"))


def _error(identifier: Any, fault: RpcFault) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": fault.as_json(), "id": identifier}


class HttpServer:
    """Serves one ledger's methods; every connection is one task of the caller's nursery."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it closes, idles or errs. Closes the stream."""
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._serve_one(stream, connection):
                    connection.start_next_cycle()
            except h11.RemoteProtocolError as exc:
                await self._complain(stream, connection, exc.error_status_hint)
            except (trio.BrokenResourceError, trio.TooSlowError, trio.ClosedResourceError):
                return

    async def _serve_one(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        """Serve one request; return whether the connection may carry another."""
        request: h11.Request | None = None
        body = bytearray()
        with trio.fail_after(IDLE_S):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    if connection.they_are_waiting_for_100_continue:
                        await stream.send_all(
                            connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                            or b""
                        )
                    connection.receive_data(await stream.receive_some(READ_BYTES))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MAX_BODY_BYTES:
                        raise h11.RemoteProtocolError("too large", error_status_hint=413)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return False
        if request is None:
            return False
        status, kind, payload = self._respond(request, bytes(body))
        await self._send(stream, connection, status, kind, payload)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    def _respond(self, request: h11.Request, body: bytes) -> tuple[int, bytes, bytes]:
        if request.method == b"POST":
            return 200, b"application/json", answer(self._methods, body)
        if request.method == b"OPTIONS":
            return 204, b"text/plain", b""
        if request.method == b"GET" and request.target == b"/health":
            return 200, b"text/plain", b"ok"
        return 405, b"text/plain", b"Used HTTP Method is not allowed. POST is required\n"

    async def _send(
        self,
        stream: trio.SocketStream,
        connection: h11.Connection,
        status: int,
        kind: bytes,
        payload: bytes,
    ) -> None:
        headers = [
            (b"Content-Type", kind),
            (b"Content-Length", str(len(payload)).encode("ascii")),
            *_HEADERS,
        ]
        out = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        out += connection.send(h11.Data(data=payload)) or b""
        out += connection.send(h11.EndOfMessage()) or b""
        with trio.fail_after(IDLE_S):
            await stream.send_all(out)

    async def _complain(
        self, stream: trio.SocketStream, connection: h11.Connection, status: int
    ) -> None:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            try:
                await self._send(stream, connection, status or 400, b"text/plain", b"")
                # A close with unread bytes would reset the connection and lose the answer.
                await stream.send_eof()
                with trio.move_on_after(LINGER_S):
                    while await stream.receive_some(READ_BYTES):
                        pass
            except (trio.BrokenResourceError, trio.TooSlowError):
                return
