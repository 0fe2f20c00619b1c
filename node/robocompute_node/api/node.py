"""Routes about the node itself: is it alive, what does it see, may this key speak to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from robocompute_node.api.port import NodeApi

MAX_LISTED: Final = 10_000
"""Offers in one answer: ten megabytes."""


def health_routes() -> APIRouter:
    """Return /health: true as long as the server answers at all."""
    routes = APIRouter(tags=["node"])

    @routes.get("/health")
    async def health() -> Response:
        """Is the node's server there?"""
        return JSONResponse({"status": "ok"})

    return routes


def node_routes(api: NodeApi) -> APIRouter:
    """Return /node, /offers and /auth/validate."""
    routes = APIRouter(tags=["node"])

    @routes.get("/node")
    async def node() -> Response:
        """What this node is, sees and does."""
        return JSONResponse(dict(api.node_status()))

    @routes.get("/offers")
    async def offers(
        resource_class: Annotated[str | None, Query(max_length=16)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 1_000,
    ) -> Response:
        """Live offers of the network, with their age. Whether one can be had is the quote's job."""
        found = await api.offers(resource_class=resource_class, limit=limit)
        return JSONResponse({"offers": [dict(offer) for offer in found]})

    @routes.get("/auth/validate")
    async def validate() -> Response:
        """Does this key open the door? There are no e-mail addresses here."""
        wallet = api.node_status().get("wallet_address")
        return JSONResponse({"email": None, "wallet_address": wallet})

    return routes
