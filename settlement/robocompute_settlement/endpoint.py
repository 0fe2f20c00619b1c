"""One JSON-RPC endpoint over HTTP, under trio, that may be slow, broken or hostile.

An answer is bounded in size and time, must be JSON and must carry the request's number. What is
no such answer is ``Unanswered``, which says whether the request may have been acted on.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import httpx
import msgspec
import trio

from robocompute_settlement.rate import RateLimiter
from robocompute_settlement.refusals import TOO_MANY_REQUESTS

REQUEST_DEADLINE_S: Final = 10.0
"""One request from its first byte to the answer's last: public endpoints answer in well under a
second or not at all."""
CONNECT_TIMEOUT_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 16_777_216
"""An answer larger than this is a broken or hostile endpoint's."""
HTTP_OK: Final = 200
HTTP_SERVER_ERROR: Final = 500
RETRY_AFTER_S: Final = 1.0
"""When an endpoint that wants fewer requests does not say for how long."""
REQUESTS_PER_S: Final = 50.0
BURST: Final = 100
"""What an endpoint of one's own bears easily. Public ones want less, and say so with 429."""


class Unanswered(Exception):
    """No answer that can be used."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached
        """Whether the request may have arrived and been acted on."""


class ErrorAnswer(Exception):
    """The endpoint answered with an error object: it did not do what was asked."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class Endpoint:
    """One URL. Any number of tasks may ask; the caller closes it."""

    def __init__(
        self,
        url: str,
        *,
        requests_per_s: float = REQUESTS_PER_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        burst = max(1, round(BURST * min(1.0, requests_per_s / REQUESTS_PER_S)))
        self._limiter = RateLimiter(per_s=requests_per_s, burst=burst)
        timeout = httpx.Timeout(REQUEST_DEADLINE_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(timeout=timeout, transport=transport, trust_env=False)
        self._numbers = itertools.count(1)

    async def aclose(self) -> None:
        """Close all connections. Repeatable."""
        await self._client.aclose()

    @property
    def paused(self) -> bool:
        """Whether it asked for fewer requests a moment ago."""
        return self._limiter.paused_s > 0

    async def ask(self, method: str, params: list[Any], *, urgent: bool = False) -> Any:
        """Ask once and return the result.

        Raises:
            Unanswered: no usable answer came.
            ErrorAnswer: the endpoint's answer is an error.
        """
        if self._limiter.paused_s > REQUEST_DEADLINE_S:
            raise Unanswered("it asked for fewer requests", reached=False)
        await self._limiter.take(urgent=urgent)
        number = next(self._numbers)
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        with trio.move_on_after(REQUEST_DEADLINE_S):
            return _result(number, await self._exchange(msgspec.json.encode(body)))
        raise Unanswered(f"no answer within {REQUEST_DEADLINE_S:g} s", reached=True)

    async def _exchange(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        answer = bytearray()
        try:
            with trio.CancelScope() as scope:
                async with self._client.stream(
                    "POST", self.url, content=body, headers=headers
                ) as response:
                    self._check_head(response)
                    async for part in response.aiter_bytes():
                        answer += part
                        if len(answer) > MAX_ANSWER_BYTES:
                            # Leaving the loop would leave the library's generators half-way.
                            scope.cancel()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
            raise Unanswered(_reason(exc), reached=False) from exc
        except (httpx.RequestError, httpx.InvalidURL) as exc:
            raise Unanswered(_reason(exc), reached=True) from exc
        if scope.cancelled_caught:
            raise Unanswered("the answer is too large", reached=True)
        return bytes(answer)

    def _check_head(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == TOO_MANY_REQUESTS:
            self._limiter.pause(_retry_after_s(response.headers.get("Retry-After", "")))
        if status != HTTP_OK:
            # A gateway that failed may have passed the request on; one that declined did not.
            raise Unanswered(f"HTTP {status}", reached=status >= HTTP_SERVER_ERROR)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unanswered("the answer is compressed, unasked", reached=True)


def _result(number: int, raw: bytes) -> Any:
    try:
        answer: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unanswered("the answer is no JSON", reached=True) from None
    match answer:
        case {"error": {"code": int(code), "message": str(message), **rest}, **envelope}:
            if envelope.get("id") not in (number, None):
                raise Unanswered("the answer is to another request", reached=True)
            raise ErrorAnswer(code, message, rest.get("data"))
        case {"result": result, "id": found} if found == number:
            return result
        case {"result": _}:
            raise Unanswered("the answer is to another request", reached=True)
        case _:
            raise Unanswered("the answer is no JSON-RPC", reached=True)


def _retry_after_s(text: str) -> float:
    """The header in seconds; its other form, a date, counts as not given."""
    return float(text) if text.isascii() and text.isdigit() else RETRY_AFTER_S


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
