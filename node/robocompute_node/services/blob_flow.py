"""One round of chunks on a stream: parts one way, credit the other.

The sender never has more under way than the receiver allowed; the receiver never allows more than
its share of what this node takes in at once. A cut leaves whole chunks in the store and the begun one
here, so that the next round goes on behind it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NoReturn, cast

import trio

from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_node.services.conversation import PeerRefused, hear, hear_or_end, say
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import (
    BlobMessage,
    ChunkPart,
    Credit,
    Missing,
    Refused,
    Stored,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from robocompute_protocol.identifiers import Digest, NodeKey

PART_BYTES: Final = 65_000
"""Data of one part: with its envelope it fits one transport frame of 65,507 bytes."""
STEP_SECONDS: Final = 30.0
"""Nothing for this long on a transfer is a dead peer."""
CHUNK_SECONDS: Final = 120.0
"""One chunk, from its first part to its last: under 9 kB/s nothing is worth waiting for."""
STORING_SECONDS: Final = 60.0
"""From a round's last part until the receiver says that all is on its disk."""
PEER_BYTES: Final = 8_388_608
"""Allowed to one peer at once over all its transfers: two whole credits."""
ALL_BYTES: Final = 67_108_864
"""Allowed to all peers at once: what this node may have to hold in memory."""
BEGUN_CHUNKS: Final = 32
"""Begun chunks kept after a cut, one a peer, the oldest dropped: 32 MiB at most."""


class ChunksGone(PeerGone):
    """The peer no longer has what was asked for; asking again will not help."""


class Withdrawn(PeerGone):
    """The peer ended the stream in good order before it sent anything of this round."""


class Intake:
    """What this node takes in at once, from all peers together."""

    def __init__(self) -> None:
        self._allowed: Counter[NodeKey] = Counter()
        self._freed = trio.Event()
        self._begun: OrderedDict[NodeKey, tuple[Digest, bytes]] = OrderedDict()

    @property
    def allowed(self) -> int:
        """Bytes that all peers together may send now, beside the one chunk each has begun."""
        return self._allowed.total()

    @asynccontextmanager
    async def share(self, peer: NodeKey) -> AsyncGenerator[int]:
        """Take a credit for one round: between a chunk and the most there is.

        Raises:
            PeerGone: no room for so long that the peer will have given up.
        """
        with trio.move_on_after(STEP_SECONDS / 2):
            while self._room(peer) < limits.MIN_CREDIT_BYTES:
                await self._freed.wait()
        room = self._room(peer)
        if room < limits.MIN_CREDIT_BYTES:
            raise PeerGone("too much is being taken in already")
        taken = min(room, limits.MAX_CREDIT_BYTES)
        self._allowed[peer] += taken
        try:
            yield taken
        finally:
            self._allowed[peer] -= taken
            if not self._allowed[peer]:
                del self._allowed[peer]
            self._freed.set()
            self._freed = trio.Event()

    def _room(self, peer: NodeKey) -> int:
        return min(PEER_BYTES - self._allowed[peer], ALL_BYTES - self._allowed.total())

    def begun(self, peer: NodeKey, wanted: tuple[Digest, ...]) -> tuple[Digest, bytes] | None:
        """Hand out the chunk that ``peer`` had begun, if it is wanted still."""
        kept = self._begun.pop(peer, None)
        return kept if kept is not None and kept[0] in wanted else None

    def keep_begun(self, peer: NodeKey, chunk: Digest, data: bytes) -> None:
        """Remember what came of a chunk before the cut. For the same peer only."""
        if data:
            self._begun[peer] = (chunk, data)
            while len(self._begun) > BEGUN_CHUNKS:
                self._begun.popitem(last=False)


class Receiving:
    """The receiving side of one round."""

    def __init__(
        self, stream: FrameStream, intake: Intake, wanted: tuple[Digest, ...], credit: int
    ) -> None:
        self._stream = stream
        self._intake = intake
        self._credit = credit
        self._left = credit
        begun = intake.begun(stream.peer, wanted)
        self._held: bytearray = bytearray()
        self.wanted = wanted
        if begun is not None:
            self._held += begun[1]
            self.wanted = (begun[0], *(chunk for chunk in wanted if chunk != begun[0]))
        self._due = len(self.wanted)
        self.received = 0

    async def ask(self) -> None:
        """Say what is wanted, and how much of it may come."""
        await say(
            self._stream, Want(chunks=self.wanted, offset=len(self._held), credit=self._credit)
        )

    async def chunk(self, chunk: Digest) -> bytes:
        """Return the next chunk's bytes, not yet checked. Called for each wanted one, in order.

        Raises:
            PeerGone: cut, or too slow; what came stays for the next round.
            ChunksGone: the peer has it no more.
            RemoteProtocolError: not the part that is due.
        """
        try:
            with trio.fail_after(CHUNK_SECONDS):
                while not await self._part(chunk):
                    pass
        except trio.TooSlowError:
            self._intake.keep_begun(self._stream.peer, chunk, bytes(self._held))
            raise PeerGone(f"a chunk took longer than {CHUNK_SECONDS:g} s") from None
        except (PeerGone, trio.Cancelled):
            self._intake.keep_begun(self._stream.peer, chunk, bytes(self._held))
            raise
        data, self._held = bytes(self._held), bytearray()
        self._due -= 1
        return data

    async def _part(self, chunk: Digest) -> bool:
        """Take one part; True if it was the chunk's last."""
        message = await hear_or_end(self._stream, BlobMessage, timeout_s=STEP_SECONDS)
        match message:
            case None if not self.received:
                raise Withdrawn("the peer sends its chunks another way")
            case None:
                raise PeerGone("the peer ended the stream inside a chunk")
            case ChunkPart() if message.chunk == chunk:
                pass
            case Missing():
                raise ChunksGone("the peer no longer has a chunk that it announced")
            case Refused():
                raise PeerRefused(message)
            case _:
                raise RemoteProtocolError("not a part of the chunk that is due")
        end = len(self._held) + len(message.data)
        if message.offset != len(self._held) or end > limits.MAX_CHUNK_BYTES:
            raise RemoteProtocolError("a chunk's parts do not follow each other, or are too many")
        self._left -= len(message.data)
        if self._left < 0:
            raise RemoteProtocolError("the peer sends more than it was allowed")
        if not message.data and not message.last:
            raise RemoteProtocolError("an empty part")
        self._held += message.data
        self.received += len(message.data)
        if not message.last or self._due > 1:
            await self._allow()
        return message.last

    async def _allow(self) -> None:
        """Allow as much again as was taken in, in steps worth a message."""
        more = self._credit - self._left
        if more >= limits.MIN_CREDIT_BYTES or self._left < PART_BYTES:
            more = max(more, limits.MIN_CREDIT_BYTES)
            self._left += more
            await say(self._stream, Credit(more=more))


class Sending:
    """The sending side of one round."""

    def __init__(self, stream: FrameStream, want: Want) -> None:
        self._stream = stream
        self._offset = want.offset
        self._credit = want.credit
        self._allowed = trio.Event()
        self._answered = trio.Event()
        self.sent = 0

    async def chunks(
        self,
        wanted: tuple[Digest, ...],
        read: Callable[[Digest], Awaitable[bytes]],
        *,
        told: Callable[[int], Awaitable[None]] | None = None,
        answered: bool,
    ) -> None:
        """Send ``wanted``; with ``answered``, return once the receiver says that all is stored.

        ``read`` may raise KeyError. Raises: PeerGone, PeerRefused, RemoteProtocolError.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                for number, chunk in enumerate(wanted):
                    if told is not None:
                        await told(number)
                    await self._chunk(chunk, await read(chunk), self._offset)
                    self._offset = 0
                if answered:
                    with trio.move_on_after(STORING_SECONDS):
                        await self._answered.wait()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            _raise_clearest(group)
        if answered and not self._answered.is_set():
            raise PeerGone("the peer does not say that it stored what it wanted")

    async def _chunk(self, chunk: Digest, data: bytes, offset: int) -> None:
        if offset > len(data):
            raise RemoteProtocolError("the peer has more of a chunk than there is")
        while True:
            await self._may_send()
            part = data[offset : offset + min(PART_BYTES, self._credit)]
            last = offset + len(part) >= len(data)
            await say(self._stream, ChunkPart(chunk=chunk, offset=offset, data=part, last=last))
            self._credit -= len(part)
            self.sent += len(part)
            offset += len(part)
            if last:
                return

    async def _may_send(self) -> None:
        if self._credit > 0:
            return
        with trio.move_on_after(STEP_SECONDS):
            while self._credit <= 0:
                self._allowed = trio.Event()
                await self._allowed.wait()
        if self._credit <= 0:
            raise PeerGone("the peer allows nothing more")

    async def _listen(self) -> None:
        """Hear what the receiver says meanwhile: credit, and at the end that all is stored."""
        while True:
            message = await hear(self._stream, BlobMessage, timeout_s=None)
            match message:
                case Credit():
                    self._credit += message.more
                    if self._credit > 2 * limits.MAX_CREDIT_BYTES:
                        raise RemoteProtocolError("more is allowed than one may allow")
                    self._allowed.set()
                case Stored():
                    self._answered.set()
                    return
                case Refused():
                    raise PeerRefused(message)
                case _:
                    raise RemoteProtocolError("neither credit nor the end of a round")


def _raise_clearest(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the one error that ended a nursery, or the group where it was cancelled from outside."""
    _, others = group.split(trio.Cancelled)
    if others is None:
        raise group
    raise next(_leaves(others)) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    each: BaseException
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", each))
        else:
            yield each
