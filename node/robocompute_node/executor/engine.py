"""Speaks the Docker-compatible API over its unix socket. Standard library only, and blocking.

Docker and Podman both answer it. Every call is one connection with a deadline; a supervisor uses
it directly, the daemon from a thread.
"""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote, urlencode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_VERSION = "/v1.41"
"""Of the API: Docker 20.10 and later, Podman 4 and later."""
CALL_S = 30.0
"""An engine that is busy starting other containers answers within this."""
_MAX_ANSWER = 8 << 20
"""Bytes of one answer; the largest, an image's description, is a few hundred KiB."""
_MAX_LINE = 1 << 20
_HEADER = 8
"""Bytes before each piece of attached output: stream, three zeros, length."""
_READ_BYTES = 65_536
_FIRST_ERROR = 400
_CREATED_ALREADY = 304
_NOT_FOUND = 404


class EngineError(Exception):
    """The engine cannot be reached, or refused; ``status`` is 0 in the first case."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def absent(self) -> bool:
        """Whether what was asked about does not exist."""
        return self.status == _NOT_FOUND


class _UnixConnection(HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """A container engine behind a unix socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        timeout_s: float | None = CALL_S,
    ) -> Any:
        """Return the answer's JSON, or None where it has none.

        Raises:
            EngineError: it was refused, or nobody answered in time.
        """
        data = None if body is None else json.dumps(body).encode()
        connection = _UnixConnection(self.path, timeout_s)
        try:
            answer = self._ask(connection, method, path, query, data, "application/json")
            return _json(answer.read(_MAX_ANSWER))
        except (OSError, HTTPException, ValueError) as exc:
            raise EngineError(self._unreachable(exc)) from exc
        finally:
            connection.close()

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
    ) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of an answer as they come; ``timeout_s`` is for each.

        Raises:
            EngineError: as ``call``, and where the answer itself reports a failure.
        """
        connection = _UnixConnection(self.path, timeout_s)
        try:
            answer = self._ask(connection, method, path, query, body, "application/x-tar")
            while line := answer.readline(_MAX_LINE):
                word = _object(line)
                if "error" in word:
                    raise EngineError(str(word["error"]), status=500)
                yield word
        except (OSError, HTTPException, ValueError) as exc:
            raise EngineError(self._unreachable(exc)) from exc
        finally:
            connection.close()

    def attach(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Attach to a container that has not started, and yield its output: (stream, bytes).

        The first thing yielded is ``(0, b"")``, once attached. Nothing times out: the caller ends
        it by ending the container.

        Raises:
            EngineError: it could not be attached.
        """
        query = urlencode({"stream": "1", "stdout": "1", "stderr": "1"})
        head = (
            f"POST {_VERSION}/containers/{name}/attach?{query} HTTP/1.1\r\nHost: engine\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CALL_S)
            sock.connect(self.path)
            sock.sendall(head.encode())
            with sock.makefile("rb") as answer:
                status = int(answer.readline(_READ_BYTES).split()[1])
                while answer.readline(_READ_BYTES).strip():
                    pass
                if status not in (101, 200):
                    raise EngineError(f"attaching was refused with {status}", status=status)
                sock.settimeout(None)
                yield 0, b""
                while header := answer.read(_HEADER):
                    left = int.from_bytes(header[4:], "big")
                    while left:
                        data = answer.read1(min(left, _READ_BYTES))
                        if not data:
                            return
                        left -= len(data)
                        yield header[0], data
        except (OSError, ValueError, IndexError) as exc:
            raise EngineError(self._unreachable(exc)) from exc
        finally:
            sock.close()

    def remove(self, name: str) -> None:
        """Kill a container and take it away; one that is not there is no error."""
        try:
            self.call("DELETE", f"/containers/{name}", query={"force": "1", "v": "1"})
        except EngineError as exc:
            if not exc.absent:
                raise

    def _ask(
        self,
        connection: _UnixConnection,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        content_type: str,
    ) -> Any:
        target = _VERSION + quote(path, safe="/:@") + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content_type} if data is not None else {}
        connection.request(method, target, body=data, headers=headers)
        answer = connection.getresponse()
        if answer.status >= _FIRST_ERROR:
            word = _object(answer.read(_MAX_LINE))
            text = word.get("message") or word.get("cause") or f"{method} {path}: {answer.status}"
            raise EngineError(str(text), status=answer.status)
        return answer

    def _unreachable(self, exc: Exception) -> str:
        return f"the container engine at {self.path} did not answer: {exc or type(exc).__name__}"


def _json(data: bytes) -> Any:
    """Return what ``data`` says, or None where it is empty or no JSON."""
    try:
        return json.loads(data) if data.strip() else None
    except ValueError:
        return None


def _object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in ``data``; an empty one where it is anything else."""
    found = _json(data)
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]
