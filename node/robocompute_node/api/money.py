"""Routes of the owner's books: channels, earnings, invoices, and what can be asked of them.

Only what the node's own key may sign happens here; the wallet's key is in no running node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from robocompute_node.api.port import MoneyApi


def money_routes(api: MoneyApi) -> APIRouter:
    """Return the routes below /wallet that tell and settle."""
    routes = APIRouter(prefix="/wallet", tags=["wallet"])

    @routes.get("/channels")
    async def channels() -> Response:
        """Every payment channel of the wallet."""
        return JSONResponse(dict(await api.channels()))

    @routes.get("/earnings")
    async def earnings() -> Response:
        """What was earned, line by line, with its evidence."""
        return JSONResponse(dict(await api.earnings()))

    @routes.get("/invoices")
    async def invoices() -> Response:
        """One invoice for each agreement that was rented by."""
        return JSONResponse(dict(await api.invoices()))

    @routes.post("/settle")
    async def settle() -> Response:
        """Settle what is owed to this node now."""
        return JSONResponse(dict(await api.settle()))

    @routes.post("/alarms/{name}/accept")
    async def accept(name: str) -> Response:
        """End the alarms on a channel, or of a kind that concerns the wallet."""
        return JSONResponse(dict(await api.accept_alarms(name)))

    @routes.post("/channels/{channel}/close")
    async def close(channel: str) -> Response:
        """Begin to close a channel."""
        return JSONResponse(dict(await api.close_channel(channel)))

    return routes
