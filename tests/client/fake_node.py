"""A node that speaks the REST contract over a real socket, and does as a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API_KEY = "rc_live_test"
PROVIDER = "9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin"


@dataclass
class FakeTask:
    """One task: what was asked, what happened, what it made."""

    asked: dict[str, Any]
    view: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    receipt: dict[str, Any] | None = field(default_factory=lambda: {"amount": "0.000300"})
    cancels: int = 0


Script = Callable[["FakeNode", FakeTask], None]


def nothing(node: FakeNode, task: FakeTask) -> None:
    """A task that ends at once, without a word."""
    node.end(task)


class FakeNode:
    """Serves from ``start`` to ``stop``, and again from the same port with the same tasks."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.blobs: dict[str, bytes] = {}
        self.tasks: dict[str, FakeTask] = {}
        self.keys: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.script: Script = nothing
        self.on_cancel: Script = lambda node, task: node.end(
            task, status="cancelled", cause="cancelled", exit_code=None
        )
        self.refusal: tuple[int, dict[str, Any]] | None = None
        """Answer of every POST of a task."""
        self.cut_after: list[int] = []
        """Numbers after which the event stream is cut, each once."""
        self.skip: set[int] = set()
        """Numbers that the event stream leaves out."""
        self.busy = 0
        """How many of the next requests are answered with 503."""
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"node": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        with self.lock:
            self.lock.notify_all()
        server.shutdown()
        self._thread.join()
        server.server_close()

    @property
    def running(self) -> bool:
        return self._server is not None

    # --- what a script makes happen ---

    def emit(self, task: FakeTask, event: str, /, **data: Any) -> None:
        with self.lock:
            task.events.append((event, data))
            self.lock.notify_all()

    def output(self, task: FakeTask, stream: str, kind: str, text: str | bytes) -> None:
        sequence = sum(known == "output" for known, _ in task.events)
        data: dict[str, Any] = {"sequence": sequence, "stream": stream, "kind": kind, "at_ns": 0}
        if isinstance(text, bytes):
            from base64 import b64encode

            data["base64"] = b64encode(text).decode()
        else:
            data["text"] = text
        self.emit(task, "output", **data)

    def end(self, task: FakeTask, **changes: Any) -> None:
        ended = {
            "status": "completed",
            "stage": "done",
            "started_at": "2026-01-01T00:00:00.000Z",
            "ended_at": "2026-01-01T00:00:01.500Z",
            "provider": PROVIDER,
            "cost": "0.000300",
            "exit_code": 0,
            "cause": "exited",
            "ended_by": "client",
            "message": "the program ended by itself",
        }
        with self.lock:
            task.view.update({**ended, **changes})
        self.emit(task, "ended", **task.view)

    def only_task(self) -> FakeTask:
        (task,) = self.tasks.values()
        return task


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    node: FakeNode
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        node = self.node
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        node.requests.append((method, parts.path))
        if node.busy:
            node.busy -= 1
            self._answer(503, {"error": {"code": "BUSY", "message": "starting", "details": {}}})
            return
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            self._refuse(401, "UNAUTHORIZED", "the API key is missing or wrong")
            return
        words = [unquote(word) for word in parts.path.removeprefix("/api/v1/").split("/")]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match method, words:
            case "GET", ["auth", "validate"]:
                self._answer(200, {"email": None, "wallet_address": "wallet"})
            case "GET", ["wallet", "balance"]:
                self._answer(200, {"usdc_balance": "12.000000", "usdt_balance": "0.000000"})
            case "POST", ["blobs", "missing"]:
                asked = json.loads(body)["chunks"]
                self._answer(200, {"missing": [c for c in asked if c not in node.blobs]})
            case "POST", ["blobs"]:
                self._answer(200, {"stored": self._store(body)})
            case "POST", ["tasks"]:
                self._create(json.loads(body))
            case "GET", ["tasks"]:
                views = [task.view for task in reversed(node.tasks.values())]
                self._answer(200, {"tasks": views[: int(query["limit"])]})
            case _, ["tasks", task_id, *rest]:
                task = node.tasks.get(task_id)
                if task is None:
                    self._refuse(404, "TASK_NOT_FOUND", f"no task {task_id}", task_id=task_id)
                else:
                    self._task(method, task, rest, query)
            case _:
                self._refuse(404, "NOT_FOUND", f"no {parts.path}")

    def _task(self, method: str, task: FakeTask, rest: list[str], query: dict[str, str]) -> None:
        match method, rest:
            case "GET", []:
                self._answer(200, task.view)
            case "DELETE", []:
                task.cancels += 1
                if task.cancels == 1:
                    self.node.on_cancel(self.node, task)
                self._answer(200, task.view)
            case "GET", ["stream"]:
                self._stream(task, int(query["after"]))
            case "GET", ["logs"]:
                records = [data for kind, data in task.events if kind == "output"]
                start = int(query.get("start", max(0, len(records) - int(query["lines"]))))
                shown = [
                    {**r, "message": r.get("text", ""), "timestamp": "", "level": "info"}
                    for r in records[start : start + int(query["lines"])]
                ]
                self._answer(200, {"logs": shown})
            case "GET", ["artifacts"]:
                files = [
                    {"path": path, "size": len(data), "mode": 0o644}
                    for path, data in task.files.items()
                ]
                self._answer(200, {"files": files})
            case "GET", ["artifacts", *path]:
                self._bytes(task.files["/".join(path)])
            case "GET", ["receipt"]:
                if task.receipt is None:
                    self._refuse(404, "RECEIPT_NOT_READY", "not yet")
                else:
                    self._answer(200, task.receipt)
            case _:
                self._refuse(404, "NOT_FOUND", "no such thing")

    def _create(self, asked: dict[str, Any]) -> None:
        node = self.node
        if node.refusal is not None:
            status, error = node.refusal
            self._answer(status, {"error": error})
            return
        key = self.headers["Idempotency-Key"]
        lacking = [
            chunk
            for file in asked["upload"]["files"]
            for chunk in file["chunks"]
            if chunk not in node.blobs
        ]
        if lacking:
            self._refuse(400, "MISSING_CHUNKS", "not uploaded", missing=lacking)
            return
        if key not in node.keys:
            task_id = f"{len(node.tasks) + 1:032x}"
            view: dict[str, Any] = dict.fromkeys(
                ("started_at", "ended_at", "provider", "cost", "exit_code", "cause", "ended_by")
            )
            view.update(
                task_id=task_id,
                name=asked["name"],
                command=asked["command"],
                status="pending",
                created_at="2026-01-01T00:00:00.000Z",
                message="",
            )
            task = FakeTask(asked, view)
            with node.lock:
                node.tasks[task_id] = task
                node.keys[key] = task_id
            threading.Thread(target=node.script, args=(node, task), daemon=True).start()
        self._answer(201, node.tasks[node.keys[key]].view)

    def _stream(self, task: FakeTask, after: int) -> None:
        node = self.node
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        number = after
        while True:
            with node.lock:
                node.lock.wait_for(lambda seen=number: len(task.events) > seen or not node.running)
                if not node.running:
                    return
                kind, data = task.events[number]
            number += 1
            if number not in node.skip:
                frame = f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
                self.wfile.write(b": ping\n\n" + frame.encode())
                self.wfile.flush()
            if number in node.cut_after:
                node.cut_after.remove(number)
                return
            if kind == "ended":
                return

    def _store(self, body: bytes) -> list[str]:
        stored: list[str] = []
        while body:
            length = int.from_bytes(body[:4], "big")
            chunk, body = body[4 : 4 + length], body[4 + length :]
            name = sha256(chunk).hexdigest()
            self.node.blobs[name] = chunk
            stored.append(name)
        return stored

    def _refuse(self, status: int, code: str, message: str, **details: Any) -> None:
        self._answer(status, {"error": {"code": code, "message": message, "details": details}})

    def _answer(self, status: int, document: Any) -> None:
        self._bytes(json.dumps(document).encode(), status)

    def _bytes(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)
