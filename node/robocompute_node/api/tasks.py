"""Routes of tasks: ask for one, watch it, end it, fetch what it made."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import APIRouter, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from robocompute_node.api.bodies import TaskBody  # noqa: TC001  FastAPI reads it
from robocompute_node.api.errors import refusal
from robocompute_node.api.port import InvalidRequest, TaskStatus
from robocompute_node.api.stream import PING, Attachment, LiveStream, frame_of
from robocompute_node.api.views import file_json, log_json, task_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.api.port import NodeApi, TaskEvent

MAX_LISTED = 1_000
"""Tasks in one answer; more by offset."""
MAX_LINES = 10_000
"""Output records in one answer; more by start, or all of them by follow."""
MAX_NUMBER = 2**53
IdempotencyKey = Annotated[str | None, Header(max_length=255)]


def task_routes(api: NodeApi) -> APIRouter:
    """Return the routes below /tasks."""
    routes = APIRouter(prefix="/tasks", tags=["tasks"])

    @routes.post("", status_code=HTTPStatus.CREATED)
    async def create(body: TaskBody, idempotency_key: IdempotencyKey = None) -> Response:
        """Ask for a task. Durable when answered; the same Idempotency-Key gives the same task."""
        task = await api.create_task(body.new_task(idempotency_key=idempotency_key))
        return JSONResponse(task_json(task), status_code=HTTPStatus.CREATED)

    @routes.get("")
    async def listing(
        status: TaskStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        offset: Annotated[int, Query(ge=0, le=MAX_NUMBER)] = 0,
    ) -> Response:
        """Tasks of this node, newest first."""
        found = api.tasks(status=status, limit=limit, offset=offset)
        return JSONResponse({"tasks": [task_json(task) for task in found]})

    @routes.get("/{task_id}")
    async def one(task_id: str) -> Response:
        """A task as it is now."""
        return JSONResponse(task_json(api.task(task_id)))

    @routes.delete("/{task_id}")
    async def cancel(task_id: str) -> Response:
        """Ask for the end of a task; answers at once. Repeating is harmless."""
        return JSONResponse(task_json(await api.cancel_task(task_id)))

    @routes.get("/{task_id}/logs")
    async def logs(
        task_id: str,
        lines: Annotated[int, Query(ge=0, le=MAX_LINES)] = 100,
        start: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
        follow: bool = False,
    ) -> Response:
        """The last output records, or those from number ``start`` on.

        With ``follow`` they come as JSON lines, and go on until the task ends.
        """
        api.task(task_id)
        found = api.logs(task_id, lines=lines, start=start)
        if not follow:
            return JSONResponse({"logs": found})
        first = start if start is not None else _first_number(found)
        return LiveStream(
            api.events(task_id, after=0),
            lambda event: _log_line(event, first),
            media_type="application/x-ndjson",
        )

    @routes.get("/{task_id}/stream")
    async def stream(
        task_id: str,
        request: Request,
        after: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    ) -> Response:
        """Server-sent events above number ``after`` (or Last-Event-ID), up to the one named "ended"."""
        api.task(task_id)
        return LiveStream(
            api.events(task_id, after=_resume_from(request, after)),
            frame_of,
            media_type="text/event-stream",
            ping=PING,
        )

    @routes.get("/{task_id}/artifacts")
    async def artifacts(task_id: str) -> Response:
        """The files a task made, once it ended and all of them are here."""
        files = api.artifacts(task_id).files
        return JSONResponse({"files": [file_json(file) for file in files]})

    @routes.get("/{task_id}/artifacts/{path:path}")
    async def artifact(task_id: str, path: str) -> Response:
        """One file, as an attachment."""
        for file in api.artifacts(task_id).files:
            if file.path == path:
                return Attachment(file, api.chunk)
        raise HTTPException(HTTPStatus.NOT_FOUND, f"task {task_id} has no artifact {path!r}")

    @routes.get("/{task_id}/receipt")
    async def receipt(task_id: str) -> Response:
        """The provider's signed receipt, its voucher and, once settled, the chain's signature."""
        task = api.task(task_id)
        found: Mapping[str, object] | None = await api.receipt(task_id)
        if found is None:
            return refusal(
                HTTPStatus.NOT_FOUND,
                "RECEIPT_NOT_READY",
                f"task {task_id} has no receipt yet (it is {task.status.value}): ask again after "
                "its end",
                details={"status": task.status.value},
            )
        return JSONResponse(dict(found))

    return routes


def _resume_from(request: Request, after: int | None) -> int:
    if after is not None:
        return after
    given = request.headers.get("last-event-id", "0") or "0"
    if not given.isdecimal() or int(given) > MAX_NUMBER:
        raise InvalidRequest(
            f"Last-Event-ID must be a number, not {given[:64]!r}",
            details={"field": "Last-Event-ID"},
        )
    return int(given)


def _first_number(records: list[Mapping[str, object]]) -> int:
    number = records[0].get("sequence", 0) if records else 0
    return number if isinstance(number, int) else 0


def _log_line(event: TaskEvent, first: int) -> bytes | None:
    if event.kind != "output":
        return None
    record = log_json(event.data)
    number = record["sequence"]
    if not isinstance(number, int) or number < first:
        return None
    return msgspec.json.encode(record) + b"\n"
