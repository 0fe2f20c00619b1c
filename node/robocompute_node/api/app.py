"""The REST application: routes over the node's services, one door, one error shape."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from robocompute_node.api.blobs import blob_routes
from robocompute_node.api.errors import CODE_OF, refusal, refusal_of, refusal_of_fields
from robocompute_node.api.guard import Guard
from robocompute_node.api.money import money_routes
from robocompute_node.api.node import health_routes, node_routes
from robocompute_node.api.tasks import task_routes
from robocompute_node.api.tunnels import tunnel_routes
from robocompute_node.api.wallet import wallet_routes
from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from robocompute_node.api.port import NodeApi

PREFIX = "/api/v1"


def make_app(api: NodeApi, *, api_key: str, allowed_hosts: tuple[str, ...] = ()) -> ASGIApp:
    """Return the ASGI application."""
    app = FastAPI(
        title="RoboCompute node",
        version=version("robocompute"),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(health_routes())
    versioned = APIRouter(prefix=PREFIX)
    for routes in (
        task_routes(api),
        tunnel_routes(api),
        blob_routes(api),
        node_routes(api),
        wallet_routes(api),
        money_routes(api.money),
    ):
        versioned.include_router(routes)
    app.include_router(versioned)
    app.add_exception_handler(RoboComputeError, _refuse_node_error)
    app.add_exception_handler(RequestValidationError, _refuse_fields)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _refuse_bug)
    return Guard(app, api_key=api_key, allowed_hosts=allowed_hosts)


async def _refuse_node_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RoboComputeError)
    return refusal_of(error)


async def _refuse_fields(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems: list[Any] = list(error.errors())
    return refusal_of_fields(problems)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if message == HTTPStatus(error.status_code).phrase:
        message = (
            f"{request.method} {request.url.path}: {message.lower()}; see {PREFIX}/openapi.json"
        )
    return refusal(
        error.status_code,
        CODE_OF.get(error.status_code, "HTTP_ERROR"),
        message,
        headers=dict(error.headers or {}),
    )


async def _refuse_bug(_request: Request, _error: Exception) -> Response:
    """The server logs the traceback; the answer says nothing of our insides."""
    return refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        CODE_OF[HTTPStatus.INTERNAL_SERVER_ERROR],
        "the node failed to answer this; its log says why",
    )
