"""Routes of money, for reading.

Deposits and withdrawals need the wallet's key, which no running node holds: they are made with
`robocompute-node wallet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from robocompute_node.api.port import NodeApi


def wallet_routes(api: NodeApi) -> APIRouter:
    """Return the routes below /wallet."""
    routes = APIRouter(prefix="/wallet", tags=["wallet"])

    @routes.get("/balance")
    async def balance() -> Response:
        """What the wallet and its balance in the settlement program hold."""
        return JSONResponse(dict(await api.wallet_balance()))

    return routes
