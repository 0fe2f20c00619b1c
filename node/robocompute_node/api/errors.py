"""Every refusal in one shape: ``{"error": {"code", "message", "details"}}``."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse

from robocompute_node.api.port import (
    InsufficientFunds,
    InvalidRequest,
    MissingChunks,
    NoProvider,
    TaskNotFound,
)
from robocompute_protocol.errors import ChainBusy, ChainRefused, ChainUnknown, RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS_OF: Final[tuple[tuple[type[RoboComputeError], HTTPStatus], ...]] = (
    (InvalidRequest, HTTPStatus.BAD_REQUEST),
    (InsufficientFunds, HTTPStatus.PAYMENT_REQUIRED),
    (TaskNotFound, HTTPStatus.NOT_FOUND),
    (MissingChunks, HTTPStatus.CONFLICT),
    (NoProvider, HTTPStatus.SERVICE_UNAVAILABLE),
    (ChainRefused, HTTPStatus.BAD_GATEWAY),
    (ChainBusy, HTTPStatus.SERVICE_UNAVAILABLE),
    (ChainUnknown, HTTPStatus.GATEWAY_TIMEOUT),
)
"""The HTTP status of each error; any other RoboComputeError is a 500."""

CODE_OF: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "INVALID_REQUEST",
    HTTPStatus.UNAUTHORIZED: "UNAUTHORIZED",
    HTTPStatus.FORBIDDEN: "FORBIDDEN",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.METHOD_NOT_ALLOWED: "METHOD_NOT_ALLOWED",
    HTTPStatus.REQUEST_TIMEOUT: "REQUEST_TIMEOUT",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "REQUEST_TOO_LARGE",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UNSUPPORTED_MEDIA_TYPE",
    HTTPStatus.UNPROCESSABLE_ENTITY: "INVALID_REQUEST",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
}
"""The code of a refusal that HTTP itself makes."""


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    details: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the one error shape."""
    body = {"error": {"code": code, "message": message, "details": dict(details or {})}}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def refusal_of(error: RoboComputeError) -> JSONResponse:
    """Translate an error of the node."""
    for kind, status in STATUS_OF:
        if isinstance(error, kind):
            return refusal(status, error.code, str(error), details=error.details)
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, error.code, str(error), details=error.details)


def refusal_of_fields(errors: list[Any]) -> JSONResponse:
    """Translate what pydantic found wrong: the message names the first field, details the others."""
    found = [
        {"field": _field(error["loc"]), "problem": str(error["msg"]).removeprefix("Value error, ")}
        for error in errors[:16]
    ]
    first = found[0] if found else {"field": "body", "problem": "not understood"}
    return refusal(
        HTTPStatus.BAD_REQUEST,
        "INVALID_REQUEST",
        f"{first['field']}: {first['problem']}",
        details={"field": first["field"], "problems": found},
    )


def _field(place: tuple[object, ...]) -> str:
    """("body", "upload", "files", 0, "path") → "upload.files.0.path"."""
    return ".".join(str(part) for part in place[1:]) or str(place[0])
