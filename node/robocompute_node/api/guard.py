"""The door of the REST server: who may speak, from where, and how much.

Other programs share this loopback, and every web page its owner opens can send requests to it. So
the Host header must name this machine (a page cannot reach us by a name of its own), a browser's
write must come from our own page, there are no cookies, and everything but /health and the API's
description wants the key.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio
from starlette.exceptions import HTTPException

from robocompute_node.api.errors import CODE_OF, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS: Final = frozenset({"/health", "/api/v1/openapi.json"})
"""Answered without a key: they tell nothing about the owner."""
OWN_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_LIMITS: Final[Mapping[str, int]] = {
    "/api/v1/tasks": 48 * 2**20,
    "/api/v1/blobs": 64 * 2**20,
    "/api/v1/blobs/missing": 16 * 2**20,
}
"""Bytes of a request's body. A task carries its manifest (16 MiB on the wire, twice that in hex)."""
OTHER_BODY_LIMIT: Final = 65_536
BODY_PAUSE_S: Final = 60.0
"""A body that makes no progress for this long is given up: its connection holds memory."""
ALWAYS_SENT: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware around the whole application; refuses in the one error shape."""

    def __init__(self, app: ASGIApp, *, api_key: str, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._key = sha256(api_key.encode()).digest()
        self._names = OWN_NAMES | {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *ALWAYS_SENT]
            await send(message)

        headers: dict[bytes, bytes] = dict(scope["headers"])
        limit = BODY_LIMITS.get(scope["path"], OTHER_BODY_LIMIT)
        refused = self._refuse(scope, headers, limit)
        if refused is not None:
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, _bounded(receive, limit), send_with_headers)

    def _refuse(self, scope: Scope, headers: Mapping[bytes, bytes], limit: int) -> Response | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _without_port(host) not in self._names:
            return refusal(
                HTTPStatus.FORBIDDEN,
                "HOST_NOT_ALLOWED",
                f"this server does not answer to the name {host!r}: use 127.0.0.1, or add the name "
                "to allowed_hosts in [api] of config.toml",
            )
        if scope["method"] not in READS and not _own_page(headers, host):
            return refusal(
                HTTPStatus.FORBIDDEN,
                "ORIGIN_NOT_ALLOWED",
                "a page of another origin may not change anything here",
            )
        if scope["path"] not in OPEN_PATHS and not self._authorized(headers):
            return refusal(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "the API key is missing or wrong: send `Authorization: Bearer …` with the line in "
                "the node's file api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            return _too_large(limit)
        return None

    def _authorized(self, headers: Mapping[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(sha256(given.strip()).digest(), self._key)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Let at most ``limit`` bytes of body through, and no pause longer than BODY_PAUSE_S in it."""
    seen = 0
    complete = False

    async def bounded() -> Message:
        nonlocal seen, complete
        if complete:
            return await receive()
        with trio.move_on_after(BODY_PAUSE_S) as pause:
            message = await receive()
            if message["type"] != "http.request":
                complete = True
                return message
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large_text(limit))
            return message
        assert pause.cancelled_caught
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, f"the body paused for more than {BODY_PAUSE_S:g} seconds"
        )

    return bounded


def _too_large(limit: int) -> Response:
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return refusal(
        status, CODE_OF[status], _too_large_text(limit), headers={"Connection": "close"}
    )


def _too_large_text(limit: int) -> str:
    return f"at most {limit} bytes in one request here: send it in smaller parts"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _own_page(headers: Mapping[bytes, bytes], host: str) -> bool:
    """Whether a write comes from no browser at all, or from a page this server itself sent."""
    if headers.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"}:
        return False
    origin = headers.get(b"origin")
    return origin is None or origin.decode("latin-1").lower() in {
        f"http://{host}",
        f"https://{host}",
    }
