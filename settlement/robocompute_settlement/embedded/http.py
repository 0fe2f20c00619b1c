"""JSON-RPC over HTTP: h11 on trio, keep-alive, bounded in size, number and time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import h11
import msgspec
import trio

from robocompute_settlement.embedded.requests import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    RpcFault,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robocompute_settlement.embedded.faults import Faults
    from robocompute_settlement.embedded.ledger import Ledger
    from robocompute_settlement.embedded.methods import Methods

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 51_200
"""One request body, as a node has it: a hundred addresses are under 6 kB."""
MAX_BATCH: Final = 100
"""Requests in one body."""
MAX_CONNECTIONS: Final = 512
"""HTTP connections at once; a further one is answered 503 and closed."""
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

Response = tuple[int, bytes, bytes]
"""HTTP status, content type, body."""


def answer(methods: Methods, body: bytes) -> bytes:
    """Answer one JSON-RPC body, a single request or a batch."""
    try:
        request: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return msgspec.json.encode(error_answer(None, RpcFault(PARSE_ERROR, "Parse error")))
    if isinstance(request, list):
        if not 0 < len(request) <= MAX_BATCH:  # pyright: ignore[reportUnknownArgumentType]
            fault = RpcFault(INVALID_REQUEST, "Invalid request")
            return msgspec.json.encode(error_answer(None, fault))
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
                return error_answer(identifier, fault)
            except (TypeError, ValueError, LookupError, ArithmeticError):
                # Parameters of a shape no method expects: this client's fault, nobody else's.
                log.exception("cannot answer %s", name)
                return error_answer(identifier, RpcFault(INTERNAL_ERROR, "Internal error"))
            return {"jsonrpc": "2.0", "result": result, "id": identifier}
        case _:
            return error_answer(None, RpcFault(INVALID_REQUEST, "Invalid request"))


def error_answer(identifier: Any, fault: RpcFault) -> dict[str, Any]:
    """An answer with an error object."""
    return {"jsonrpc": "2.0", "error": fault.as_json(), "id": identifier}


class HttpServer:
    """Serves one ledger's methods; every connection is one task of the caller's nursery."""

    def __init__(self, ledger: Ledger, methods: Methods) -> None:
        self._ledger = ledger
        self._methods = methods
        self._connections = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it closes, idles or errs. Closes the stream."""
        connection = h11.Connection(h11.SERVER)
        self._connections += 1
        try:
            async with stream:
                if self._connections > MAX_CONNECTIONS:
                    await self._refuse(stream)
                    return
                while await self._serve_one(stream, connection):
                    connection.start_next_cycle()
        except h11.RemoteProtocolError as exc:
            log.debug("a client sent no HTTP: %s", exc)
        except (trio.BrokenResourceError, trio.TooSlowError, trio.ClosedResourceError):
            return
        finally:
            self._connections -= 1

    async def _serve_one(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        """Serve one request; return whether the connection may carry another."""
        try:
            request, body = await self._read(stream, connection)
        except h11.RemoteProtocolError as exc:
            await self._complain(stream, connection, exc.error_status_hint)
            return False
        if request is None:
            return False
        response = await self._respond(request, body)
        await self._send(stream, connection, response)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _read(
        self, stream: trio.SocketStream, connection: h11.Connection
    ) -> tuple[h11.Request | None, bytes]:
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
                    return request, bytes(body)
                else:
                    return None, b""

    async def _respond(self, request: h11.Request, body: bytes) -> Response:
        if request.method == b"POST":
            spoiled = await _spoil(self._ledger.faults, body)
            return spoiled or (200, b"application/json", answer(self._methods, body))
        if request.method == b"OPTIONS":
            return 204, b"text/plain", b""
        if request.method == b"GET" and request.target == b"/health":
            return 200, b"text/plain", b"ok"
        return 405, b"text/plain", b"Used HTTP Method is not allowed. POST is required\n"

    async def _send(
        self,
        stream: trio.SocketStream,
        connection: h11.Connection,
        response: Response,
        *,
        last: bool = False,
    ) -> None:
        status, kind, payload = response
        headers = [
            (b"Content-Type", kind),
            (b"Content-Length", str(len(payload)).encode("ascii")),
            *_HEADERS,
            *([(b"Connection", b"close")] if last else []),
        ]
        out = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        out += connection.send(h11.Data(data=payload)) or b""
        out += connection.send(h11.EndOfMessage()) or b""
        with trio.fail_after(IDLE_S):
            await stream.send_all(out)

    async def _refuse(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(LINGER_S):
            await stream.send_all(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
                b"Connection: close\r\n\r\n"
            )
            await stream.send_eof()
            while await stream.receive_some(READ_BYTES):
                pass

    async def _complain(
        self, stream: trio.SocketStream, connection: h11.Connection, status: int
    ) -> None:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(stream, connection, (status or 400, b"text/plain", b""), last=True)
            # A close with unread bytes would reset the connection and lose the answer.
            await stream.send_eof()
            with trio.move_on_after(LINGER_S):
                while await stream.receive_some(READ_BYTES):
                    pass


async def _spoil(faults: Faults, body: bytes) -> Response | None:
    """Hold or fail a request as a test has asked; ``None`` where it is to be answered."""
    if not faults.fail_requests and not faults.answer_delay_ms:
        return None
    try:
        request: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    if not isinstance(request, dict) or not faults.hits(str(request.get("method"))):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return None
    if faults.answer_delay_ms:
        await trio.sleep(faults.answer_delay_ms / 1000)
    if not faults.fail_requests:
        return None
    faults.fail_requests -= 1
    if faults.fail_code > 0:
        return faults.fail_code, b"text/plain", b""
    fault = RpcFault(faults.fail_code, "a fault that a test asked for")
    identifier: Any = request.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return 200, b"application/json", msgspec.json.encode(error_answer(identifier, fault))
