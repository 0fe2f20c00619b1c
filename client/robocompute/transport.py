"""HTTP to one node, on the standard library: a command line may not spend 300 ms importing a client.

The only module that knows of sockets. Everything it raises is a NetworkError.
"""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from robocompute.exceptions import NetworkError, NodeUnreachableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

LINE_BYTES: Final = 2_097_152
"""Longest line of a stream: an event is at most a MiB where the node keeps it."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StreamedResponse:
    """An answer that is still arriving."""

    def __init__(self, raw: http.client.HTTPResponse) -> None:
        self._raw = raw
        self.status = raw.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in raw.getheaders()}

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; empty at the end. Raises: NetworkError."""
        try:
            return self._raw.read(None if size < 0 else size)
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(f"the connection to the node broke: {_reason(error)}") from error

    def lines(self) -> Iterator[bytes]:
        """Lines without their end, as they arrive, until the node closes. Raises: NetworkError."""
        while True:
            try:
                line = self._raw.readline(LINE_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise NetworkError(
                    f"the connection to the node broke: {_reason(error)}"
                ) from error
            if not line:
                return
            if not line.endswith(b"\n"):
                raise NetworkError("the connection to the node broke in the middle of a line")
            yield line.rstrip(b"\r\n")


class Transport:
    """Requests to one base URL, each thread on a keep-alive connection of its own.

    ``close`` ends the calling thread's connection; the others end with their threads.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], *, timeout: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is not an http or https address")
        self.base_url = base_url.rstrip("/")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._headers = dict(headers)
        self._timeout = timeout
        self._local = threading.local()

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """One request, one whole answer, whatever its status.

        Raises:
            NodeUnreachableError: nothing was sent.
            NetworkError: sent, perhaps in part, and no answer came.
        """
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.sock is None:
            connection = None
        reused = connection is not None
        if connection is None:
            connection = self._connect(self._timeout)
            self._local.connection = connection
        try:
            raw = self._request(connection, method, path, query, headers, body)
            return Response(
                raw.status, {name.lower(): v for name, v in raw.getheaders()}, raw.read()
            )
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            connection.close()
            if reused:
                # The node closed an idle connection: this request never reached a handler.
                return self.send(method, path, query=query, headers=headers, body=body)
            raise NetworkError("the node closed the connection without an answer") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NetworkError(f"no answer from {self.base_url}: {_reason(error)}") from error

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float,
    ) -> Generator[StreamedResponse]:
        """One request whose answer is read as it comes, on a connection of its own.

        ``silence``: seconds without a byte after which the connection counts as broken.
        Raises: as ``send``.
        """
        connection = self._connect(silence)
        try:
            try:
                raw = self._request(connection, method, path, query, headers, None)
            except (OSError, http.client.HTTPException) as error:
                raise NetworkError(f"no answer from {self.base_url}: {_reason(error)}") from error
            yield StreamedResponse(raw)
        finally:
            connection.close()

    def close(self) -> None:
        """End the calling thread's connection. The transport can be used again."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            raise NodeUnreachableError(
                f"cannot connect to {self.base_url}: {_reason(error)}",
            ) from error
        return connection

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | None,
    ) -> http.client.HTTPResponse:
        target = self._prefix + path + ("?" + urlencode(query) if query else "")
        connection.request(method, target, body=body, headers={**self._headers, **(headers or {})})
        return connection.getresponse()


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).lower()
