"""``/robocompute/blob/1``: content-addressed chunks both ways; only what is missing travels.

Push: the sender says Have, the other answers Want, the wanted chunks follow in parts, Stored ends a
round. Pull: the asker says Want, the other answers with the chunks, or Missing. A transfer that is
cut goes on where it was; where there is much to carry, on a direct connection if there is one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from robocompute_node.p2p.port import FrameStream, Network, PeerGone, StreamHandler
from robocompute_node.services.blob_flow import (
    STEP_SECONDS,
    ChunksGone,
    Intake,
    Receiving,
    Sending,
    Withdrawn,
)
from robocompute_node.services.conversation import expect, hear, hear_or_end, say
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError, StoreError
from robocompute_protocol.identifiers import Digest, NodeKey
from robocompute_protocol.messages import (
    PROTOCOL_BLOB,
    BlobMessage,
    Credit,
    Have,
    Message,
    Missing,
    Refused,
    Stored,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from robocompute_node.executor.port import BlobStore
    from robocompute_node.services.blob_access import BlobAccess

log = logging.getLogger(__name__)

ROUND_CHUNKS: Final = 1_024
"""Chunks named in one round: a frame of 34 kB."""
MAX_ROUNDS: Final = 1_024
"""Rounds on one stream: a million chunks, a terabyte."""
MAX_LATE_CREDITS: Final = 8
"""Credits that cross the end of a round: the receiver did not know yet that it was one."""
MUCH_CHUNKS: Final = 4
"""From so many chunks on, a direct connection is worth its handshake."""
GRANT_CHUNKS: Final = 16
"""Chunks that a peer's right to is stored at once: a power cut costs it this many."""
RESUME_PAUSES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between tries of a cut transfer; one that moved something begins again at the first."""
STREAMS_PER_PEER: Final = 8
"""Transfers one peer may have here at once: each may hold two chunks in memory."""
STREAMS: Final = 64
"""The same of all peers."""
NOT_EXPECTED: Final = Refused(
    code="no_upload_expected", message="uploads are taken after a quote, up to its disk size"
)
BUSY: Final = Refused(code="blobs_busy", message="too many transfers at once; try again")

T = TypeVar("T")
Quota = Callable[[NodeKey, int], bool]
"""(peer, bytes) → may this peer store that many more? Asked before anything is written."""
Told = Callable[[int, int], Awaitable[None]]
"""(sent, wanted): chunks of this round, as they go."""


class Work(Protocol):
    """Runs what waits for the disk."""

    async def __call__(self, job: Callable[[], T]) -> T: ...


class Direct(Protocol):
    """Connections for much data, where there are any."""

    def open(self, peer: NodeKey, protocol: str) -> AbstractAsyncContextManager[FrameStream]:
        """Raises: PeerGone: none is to be had."""
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None: ...


async def at_once(job: Callable[[], T]) -> T:
    """Run ``job`` here and now: the whole node waits for the disk."""
    await trio.lowlevel.checkpoint()
    return job()


async def in_thread(job: Callable[[], T]) -> T:
    """Run ``job`` beside the node's own thread. Cancelled, it is waited for."""
    return await trio.to_thread.run_sync(job)


def in_rounds(chunks: tuple[Digest, ...]) -> Iterator[tuple[Digest, ...]]:
    """Yield ``chunks`` in rounds of at most ``ROUND_CHUNKS``."""
    for start in range(0, len(chunks), ROUND_CHUNKS):
        yield chunks[start : start + ROUND_CHUNKS]


class _Going:
    """How far one transfer has come, over all its tries."""

    def __init__(self, *, at_most: float = float("inf")) -> None:
        """``at_most`` bytes are kept of what a peer sends."""
        self._room = at_most
        self.moved = 0
        self.mark = (-1, 0)

    def reached(self, number: int, place: int) -> None:
        """Note a place in a round that only real progress gets beyond."""
        self.mark = max(self.mark, (number, place))

    def make_room(self, size: int) -> None:
        """Count ``size`` bytes that are about to be kept. Raises: RemoteProtocolError."""
        self._room -= size
        if self._room < 0:
            raise RemoteProtocolError("chunks of more bytes than were announced", code="too_large")


async def _resume(attempt: Callable[[], Awaitable[None]], going: _Going) -> None:
    """Make ``attempt`` again after cuts, for as long as it gets any further.

    One that never moved anything fails at once: another peer may do better.
    """
    pauses = iter(RESUME_PAUSES)
    while True:
        before = going.mark
        try:
            await attempt()
        except ChunksGone:
            raise
        except PeerGone as exc:
            if going.mark > before:
                pauses = iter(RESUME_PAUSES)
            pause = next(pauses, None)
            if pause is None or not going.moved:
                raise
            log.info("a transfer was cut and goes on in %g s: %s", pause, exc)
            await trio.sleep(pause)
        else:
            return


class BlobExchange:
    """Serves other nodes' pushes and pulls, and makes our own."""

    def __init__(
        self,
        network: Network,
        blobs: BlobStore,
        access: BlobAccess,
        *,
        may_store: Quota,
        direct: Direct | None = None,
        work: Work = at_once,
    ) -> None:
        self._network = network
        self._blobs = blobs
        self._access = access
        self._may_store = may_store
        self._direct = direct
        self._work = work
        self.intake = Intake()
        self._serving: Counter[NodeKey] = Counter()

    def register(self) -> None:
        """Answer ``/robocompute/blob/1``."""
        self._network.serve(PROTOCOL_BLOB, self.answer)
        if self._direct is not None:
            self._direct.serve(PROTOCOL_BLOB, self.answer)

    async def push(self, peer: NodeKey, chunks: tuple[Digest, ...], *, told: Told) -> int:
        """Make sure ``peer`` has ``chunks``; return how many bytes had to travel.

        ``told(sent, wanted)`` counts chunks as they go. Raises: PeerGone, PeerRefused.
        """
        going = _Going()

        async def attempt() -> None:
            async with self._network.open(peer, PROTOCOL_BLOB) as stream:
                few_only = self._direct is not None
                if await self._push_over(stream, chunks, told, going, few_only=few_only):
                    return
            async with self._best(peer) as stream:
                await self._push_over(stream, chunks, told, going, few_only=False)

        await _resume(attempt, going)
        return going.moved

    async def pull(
        self, peer: NodeKey, chunks: tuple[Digest, ...], *, at_most: float = float("inf")
    ) -> None:
        """Fetch the chunks that are not here yet: a digest does not say how large its chunk is.

        Raises:
            PeerGone: also when the peer no longer has one.
            RemoteProtocolError: what it sent is not what was asked for, or is more than ``at_most``
                bytes; nothing of that is kept.
        """
        going = _Going(at_most=at_most)

        async def attempt() -> None:
            wanted = self._blobs.missing(chunks)
            if not wanted:
                return
            much = self._direct is not None and len(wanted) >= MUCH_CHUNKS
            way = self._best(peer) if much else self._network.open(peer, PROTOCOL_BLOB)
            async with way as stream:
                for some in in_rounds(wanted):
                    await self._receive(stream, some, ours=going)
                    await expect(stream, BlobMessage, Stored, timeout_s=STEP_SECONDS)

        await _resume(attempt, going)

    @asynccontextmanager
    async def _best(self, peer: NodeKey) -> AsyncGenerator[FrameStream]:
        """A direct connection where there is one, else a stream."""
        async with AsyncExitStack() as stack:
            assert self._direct is not None
            try:
                way = self._direct.open(peer, PROTOCOL_BLOB)
                stream = await stack.enter_async_context(way)
            except PeerGone as exc:
                log.info("chunks go over libp2p: %s", exc)
                way = self._network.open(peer, PROTOCOL_BLOB)
                stream = await stack.enter_async_context(way)
            else:
                log.info("chunks go directly")
            yield stream

    # --- one round, either way ------------------------------------------------------------------

    async def _push_over(
        self,
        stream: FrameStream,
        chunks: tuple[Digest, ...],
        told: Told,
        going: _Going,
        *,
        few_only: bool,
    ) -> bool:
        """Offer ``chunks`` and send what is wanted; with ``few_only``, False where that is much."""
        for number, some in enumerate(in_rounds(chunks)):
            await say(stream, Have(chunks=some))
            want = await expect(stream, BlobMessage, Want, timeout_s=STEP_SECONDS)
            if not set(want.chunks) <= set(some) or len(set(want.chunks)) != len(want.chunks):
                raise RemoteProtocolError("the peer wants chunks that it was not offered")
            # What the peer says it lacks, not what was sent: a peer may swallow and store nothing.
            going.reached(number, want.offset - len(want.chunks) * limits.MAX_CHUNK_BYTES)
            if few_only and len(want.chunks) >= MUCH_CHUNKS:
                return False

            async def count(number: int, wanted: int = len(want.chunks)) -> None:
                await told(number, wanted)

            sending = Sending(stream, want)
            try:
                await sending.chunks(want.chunks, self._read, told=count, answered=True)
            finally:
                going.moved += sending.sent
        return True

    async def _read(self, chunk: Digest) -> bytes:
        return await self._work(partial(self._blobs.get, chunk))

    async def _receive(
        self, stream: FrameStream, wanted: tuple[Digest, ...], *, ours: _Going | None = None
    ) -> None:
        """Take in one round of chunks. Whatever ends it, what came whole is kept and granted."""
        async with self.intake.share(stream.peer) as credit:
            receiving = Receiving(stream, self.intake, wanted, credit)
            await receiving.ask()
            new: list[Digest] = []
            try:
                for chunk in receiving.wanted:
                    data = await receiving.chunk(chunk)
                    if ours is None and not self._may_store(stream.peer, len(data)):
                        await say(stream, NOT_EXPECTED)
                        raise RemoteProtocolError(NOT_EXPECTED.message, code=NOT_EXPECTED.code)
                    if ours is not None:
                        ours.make_room(len(data))
                    if not await self._work(partial(self._blobs.keep, chunk, data)):
                        raise RemoteProtocolError("a chunk's bytes do not fit its digest")
                    new.append(chunk)
                    if ours is None and len(new) >= GRANT_CHUNKS:
                        self._access.grant(stream.peer, tuple(new))
                        new.clear()
            finally:
                if ours is not None:
                    ours.moved += receiving.received
                    ours.reached(0, ours.moved)
                elif new:
                    self._access.grant(stream.peer, tuple(new))

    # --- answering ------------------------------------------------------------------------------

    async def answer(self, stream: FrameStream) -> None:
        peer = stream.peer
        if self._serving[peer] >= STREAMS_PER_PEER or self._serving.total() >= STREAMS:
            await hear(stream, BlobMessage, timeout_s=STEP_SECONDS)
            await say(stream, BUSY)
            return
        self._serving[peer] += 1
        try:
            await self._rounds(stream)
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]

    async def _rounds(self, stream: FrameStream) -> None:
        late = 0
        for _ in range(MAX_ROUNDS + MAX_LATE_CREDITS):
            message: Message | None = await hear_or_end(
                stream, BlobMessage, timeout_s=STEP_SECONDS
            )
            match message:
                case None:
                    return
                case Have():
                    late = 0
                    try:
                        await self._take(stream, message.chunks)
                    except Withdrawn:
                        return
                case Want():
                    late = 0
                    await self._give(stream, message)
                case Credit() if late < MAX_LATE_CREDITS:
                    late += 1
                case _:
                    raise RemoteProtocolError("a blob stream begins with Have or Want")

    async def _take(self, stream: FrameStream, offered: tuple[Digest, ...]) -> None:
        wanted = self._access.missing(stream.peer, offered)
        if not wanted:
            await say(stream, Want(chunks=()))
        elif not self._may_store(stream.peer, 0):
            await say(stream, NOT_EXPECTED)
            return
        else:
            await self._receive(stream, wanted)
        await say(stream, Stored())

    async def _give(self, stream: FrameStream, want: Want) -> None:
        gone = self._access.missing(stream.peer, want.chunks)
        if gone:
            await say(stream, Missing(chunks=gone))
            return
        try:
            await Sending(stream, want).chunks(want.chunks, self._read, answered=False)
        except (KeyError, StoreError) as exc:
            log.warning("a chunk that was granted cannot be read: %s", exc)
            await say(stream, Missing(chunks=want.chunks))
            return
        await say(stream, Stored())
