"""Routes of tunnels: ports of this machine's loopback that lead to ports of a running job."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.responses import JSONResponse, Response

from robocompute_node.api.bodies import Body

if TYPE_CHECKING:
    from robocompute_node.api.port import NodeApi

PortNumber = Annotated[int, Path(ge=1, le=65_535)]


class TunnelBody(Body):
    """Which port of the job, and where on this machine's loopback it is to be; 0: anywhere."""

    port: Annotated[int, Field(ge=1, le=65_535)]
    local_port: Annotated[int, Field(ge=0, le=65_535)] = 0


def tunnel_routes(api: NodeApi) -> APIRouter:
    """Return the routes below /tasks/{task_id}/tunnels."""
    routes = APIRouter(prefix="/tasks/{task_id}/tunnels", tags=["tasks"])

    @routes.get("")
    async def listing(task_id: str) -> Response:
        """The open tunnels of a task."""
        return JSONResponse({"tunnels": [dict(one) for one in api.tunnels(task_id)]})

    @routes.post("", status_code=HTTPStatus.CREATED)
    async def create(task_id: str, body: TunnelBody) -> Response:
        """Listen on loopback for a port of the job, until the task ends. Repeating is harmless."""
        made = await api.open_tunnel(task_id, body.port, body.local_port)
        return JSONResponse(dict(made), status_code=HTTPStatus.CREATED)

    @routes.delete("/{port}")
    async def close(task_id: str, port: PortNumber) -> Response:
        """Close a tunnel and its connections; answers with those left. Repeating is harmless."""
        api.close_tunnel(task_id, port)
        return JSONResponse({"tunnels": [dict(one) for one in api.tunnels(task_id)]})

    return routes
