"""Routes of chunks: what is missing here, and here it is."""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from robocompute_node.api.bodies import MissingBody  # noqa: TC001  FastAPI reads it
from robocompute_node.api.port import InvalidRequest
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from robocompute_node.api.port import NodeApi

LENGTH_BYTES = 4
"""Each chunk is preceded by its length: unsigned, big-endian."""


def blob_routes(api: NodeApi) -> APIRouter:
    """Return the routes below /blobs."""
    routes = APIRouter(prefix="/blobs", tags=["blobs"])

    @routes.post("/missing")
    async def missing(body: MissingBody) -> Response:
        """Which of these chunks are not here yet?"""
        asked = tuple(Digest(bytes.fromhex(chunk)) for chunk in body.chunks)
        return JSONResponse({"missing": [chunk.hex() for chunk in api.missing_chunks(asked)]})

    @routes.post("", status_code=HTTPStatus.OK)
    async def store(request: Request) -> Response:
        """Store chunks, each preceded by its length in 4 bytes. Durable when answered."""
        async with aclosing(request.stream()) as body, aclosing(chunks_of(body)) as chunks:
            stored = [(await api.put_chunk(chunk)).hex() async for chunk in chunks]
        return JSONResponse({"stored": stored})

    return routes


async def chunks_of(body: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Split a body into its chunks, holding no more than one of them.

    Raises:
        InvalidRequest: a chunk of no bytes, of too many, or one cut short.
    """
    buffer = bytearray()
    async for piece in body:
        buffer += piece
        while len(buffer) >= LENGTH_BYTES:
            length = int.from_bytes(buffer[:LENGTH_BYTES])
            if not 0 < length <= limits.MAX_CHUNK_BYTES:
                raise InvalidRequest(
                    f"a chunk has from 1 to {limits.MAX_CHUNK_BYTES} bytes, not {length}",
                    details={"field": "body"},
                )
            if len(buffer) < LENGTH_BYTES + length:
                break
            yield bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
            del buffer[: LENGTH_BYTES + length]
    if buffer:
        raise InvalidRequest("the last chunk is cut short", details={"field": "body"})
