"""Frames over a pipe of bytes: four bytes of big-endian length, then that many bytes.

Knows nothing of libp2p: the pipe below it translates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError

from .port import PeerGone

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey

HEADER_BYTES: Final = 4
"""Length of the length: 262,144 does not fit into two bytes."""
READ_BYTES: Final = 262_144
"""Asked of the pipe at once: a whole initial yamux window."""
WRITE_DEADLINE_S: Final = 30.0
"""Seconds a peer may leave one frame unread before its stream is reset."""


class BytePipe(Protocol):
    """One stream of a muxed connection."""

    async def read(self, limit: int) -> bytes:
        """Return some bytes, or none at a clean end. Loses nothing when cancelled.

        Raises: PeerGone.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send all of ``data``; cancelled, it may have sent a part. Raises: PeerGone."""
        ...

    async def finish(self) -> None:
        """End our direction. Raises: PeerGone."""
        ...

    async def abort(self) -> None:
        """End both directions at once, dropping what is unread. Never raises."""
        ...


class PipeFrames:
    """A ``FrameStream`` over a pipe.

    A receive that was cancelled or timed out may be repeated. A send that was cut short ends
    the stream, because the peer could not tell the next frame from the rest of this one.
    """

    def __init__(
        self,
        pipe: BytePipe,
        peer: NodeKey,
        *,
        write_deadline_s: float = WRITE_DEADLINE_S,
        unread: bytes = b"",
    ) -> None:
        self._pipe = pipe
        self._peer = peer
        self._write_deadline_s = write_deadline_s
        self._unread = bytearray(unread)
        self._torn = False
        self._closed = False

    @property
    def peer(self) -> NodeKey:
        return self._peer

    async def send(self, frame: bytes) -> None:
        if len(frame) > limits.MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"a frame holds {limits.MAX_FRAME_BYTES} bytes, this one {len(frame)}"
            )
        if self._torn or self._closed:
            raise PeerGone("the stream is closed for sending")
        self._torn = True  # until the frame is out: a cancelled write may have sent half of it
        with trio.move_on_after(self._write_deadline_s) as scope:
            await self._pipe.write(len(frame).to_bytes(HEADER_BYTES, "big") + frame)
            self._torn = False
        if self._torn and scope.cancelled_caught:
            await self._pipe.abort()
            raise PeerGone(f"the peer did not read for {self._write_deadline_s:g} s")

    async def receive(self, *, timeout_s: float | None = None) -> bytes | None:
        try:
            with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
                return await self._next()
        except trio.TooSlowError:
            raise PeerGone(f"nothing came from the peer for {timeout_s:g} s") from None

    async def _next(self) -> bytes | None:
        while len(self._unread) < HEADER_BYTES:
            if not await self._more():
                if self._unread:
                    raise PeerGone("the stream ended inside a frame")
                return None
        length = int.from_bytes(self._unread[:HEADER_BYTES], "big")
        if length > limits.MAX_FRAME_BYTES:
            self._torn = True
            await self._pipe.abort()
            raise RemoteProtocolError(
                f"the peer announced a frame of {length} bytes; {limits.MAX_FRAME_BYTES} are allowed"
            )
        end = HEADER_BYTES + length
        while len(self._unread) < end:
            if not await self._more():
                raise PeerGone("the stream ended inside a frame")
        frame = bytes(self._unread[HEADER_BYTES:end])
        del self._unread[:end]
        return frame

    async def _more(self) -> bool:
        data = await self._pipe.read(READ_BYTES)
        self._unread += data
        return bool(data)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._torn:
            await self._pipe.abort()
            return
        try:
            with trio.move_on_after(self._write_deadline_s):
                await self._pipe.finish()
        except PeerGone:
            pass  # nobody is left to tell

    async def abort(self) -> None:
        """Reset the stream. Never raises."""
        self._closed = self._torn = True
        await self._pipe.abort()
