"""``/robocompute/blob/1``: content-addressed chunks both ways; only what is missing travels.

Push: the sender says Have, the other answers Want, the wanted chunks follow in parts, Stored ends a
round. Pull: the asker says Want, the other answers with the chunks, or Missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import expect, hear, hear_or_end, say
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import Digest, NodeKey, digest
from robocompute_protocol.messages import (
    PROTOCOL_BLOB,
    BlobMessage,
    ChunkPart,
    Have,
    Manifest,
    Message,
    Missing,
    Refused,
    Stored,
    Want,
)

if TYPE_CHECKING:
    from robocompute_node.executor.port import BlobStore
    from robocompute_node.services.blob_access import BlobAccess

PART_BYTES: Final = 65_000
"""Data of one part: with its envelope it fits one transport frame of 65,507 bytes."""
ROUND_CHUNKS: Final = 1_024
"""Chunks named in one round: a frame of 34 kB."""
STEP_SECONDS: Final = 30.0
"""Nothing for this long on a transfer is a dead peer."""
MAX_ROUNDS: Final = 1_024
"""Rounds on one stream: a million chunks, a terabyte."""
NOT_EXPECTED: Final = Refused(
    code="no_upload_expected", message="uploads are taken after a quote, up to its disk size"
)

Quota = Callable[[NodeKey, int], bool]
"""(peer, bytes) → may this peer store that many more? Asked before anything is written."""


def in_rounds(chunks: tuple[Digest, ...]) -> Iterator[tuple[Digest, ...]]:
    """Yield ``chunks`` in rounds of at most ``ROUND_CHUNKS``."""
    for start in range(0, len(chunks), ROUND_CHUNKS):
        yield chunks[start : start + ROUND_CHUNKS]


def chunks_of(manifest: Manifest) -> tuple[Digest, ...]:
    """Every chunk the files need, each once, in order."""
    return tuple(dict.fromkeys(chunk for file in manifest.files for chunk in file.chunks))


class BlobExchange:
    """Serves other nodes' pushes and pulls, and makes our own."""

    def __init__(
        self, network: Network, blobs: BlobStore, access: BlobAccess, *, may_store: Quota
    ) -> None:
        self._network = network
        self._blobs = blobs
        self._access = access
        self._may_store = may_store

    def register(self) -> None:
        """Answer ``/robocompute/blob/1``."""
        self._network.serve(PROTOCOL_BLOB, self._serve)

    async def push(
        self,
        peer: NodeKey,
        chunks: tuple[Digest, ...],
        *,
        told: Callable[[int, int], Awaitable[None]],
    ) -> int:
        """Make sure ``peer`` has ``chunks``; return how many bytes had to travel.

        ``told(sent, wanted)`` counts chunks as they go. Raises: PeerGone, PeerRefused.
        """
        sent_bytes = 0
        async with self._network.open(peer, PROTOCOL_BLOB) as stream:
            for some in in_rounds(chunks):
                await say(stream, Have(chunks=some))
                wanted = (await expect(stream, BlobMessage, Want, timeout_s=STEP_SECONDS)).chunks
                if not set(wanted) <= set(some):
                    raise RemoteProtocolError("the peer wants chunks that it was not offered")
                for number, chunk in enumerate(wanted):
                    await told(number, len(wanted))
                    sent_bytes += await self._send(stream, chunk)
                await expect(stream, BlobMessage, Stored, timeout_s=STEP_SECONDS)
        return sent_bytes

    async def pull(self, peer: NodeKey, chunks: tuple[Digest, ...]) -> None:
        """Fetch the chunks that are not here yet.

        Raises:
            PeerGone: also when the peer no longer has one.
        """
        wanted = self._blobs.missing(chunks)
        if not wanted:
            return
        async with self._network.open(peer, PROTOCOL_BLOB) as stream:
            for some in in_rounds(wanted):
                await say(stream, Want(chunks=some))
                for chunk in some:
                    await self._receive(stream, chunk)
                await expect(stream, BlobMessage, Stored, timeout_s=STEP_SECONDS)

    async def _send(self, stream: FrameStream, chunk: Digest) -> int:
        data = self._blobs.get(chunk)
        for offset in range(0, max(1, len(data)), PART_BYTES):
            part = data[offset : offset + PART_BYTES]
            await say(
                stream,
                ChunkPart(
                    chunk=chunk, offset=offset, data=part, last=offset + len(part) >= len(data)
                ),
            )
        return len(data)

    async def _receive(self, stream: FrameStream, chunk: Digest) -> None:
        self._blobs.put(await self._hear_chunk(stream, chunk))

    async def _hear_chunk(self, stream: FrameStream, chunk: Digest) -> bytes:
        data = bytearray()
        while True:
            message = await hear(stream, BlobMessage, timeout_s=STEP_SECONDS)
            if isinstance(message, Missing):
                raise PeerGone("the peer no longer has a chunk that it announced")
            if not isinstance(message, ChunkPart) or message.chunk != chunk:
                raise RemoteProtocolError("a part of another chunk than the one that is due")
            if (
                message.offset != len(data)
                or len(data) + len(message.data) > limits.MAX_CHUNK_BYTES
            ):
                raise RemoteProtocolError(
                    "a chunk's parts do not follow each other, or are too many"
                )
            data += message.data
            if message.last:
                break
        if digest(bytes(data)) != chunk:
            raise RemoteProtocolError("a chunk's bytes do not fit its digest")
        return bytes(data)

    async def _serve(self, stream: FrameStream) -> None:
        for _ in range(MAX_ROUNDS):
            message: Message | None = await hear_or_end(
                stream, BlobMessage, timeout_s=STEP_SECONDS
            )
            if message is None:
                return
            if isinstance(message, Have):
                await self._take(stream, message.chunks)
            elif isinstance(message, Want):
                await self._give(stream, message.chunks)
            else:
                raise RemoteProtocolError("a blob stream begins with Have or Want")

    async def _take(self, stream: FrameStream, offered: tuple[Digest, ...]) -> None:
        wanted = self._access.missing(stream.peer, offered)
        if wanted and not self._may_store(stream.peer, 0):
            await say(stream, NOT_EXPECTED)
            return
        await say(stream, Want(chunks=wanted))
        for chunk in wanted:
            data = await self._hear_chunk(stream, chunk)
            if not self._may_store(stream.peer, len(data)):
                await say(stream, NOT_EXPECTED)
                raise RemoteProtocolError(NOT_EXPECTED.message, code=NOT_EXPECTED.code)
            self._blobs.put(data)
        self._access.grant(stream.peer, wanted)
        await say(stream, Stored())

    async def _give(self, stream: FrameStream, wanted: tuple[Digest, ...]) -> None:
        gone = self._access.missing(stream.peer, wanted)
        if gone:
            await say(stream, Missing(chunks=gone))
            return
        for chunk in wanted:
            await self._send(stream, chunk)
        await say(stream, Stored())
