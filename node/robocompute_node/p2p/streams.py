"""A libp2p stream as a pipe of bytes, and the choice of its protocol."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from .guards import quietly
from .port import PeerGone

if TYPE_CHECKING:
    from libp2p.abc import INetStream

    from .framing import BytePipe

MULTISTREAM: Final = "/multistream/1.0.0"
MAX_LINE_BYTES: Final = 1_024
"""One line of the choice of a protocol: names are short."""
ABORT_S: Final = 5.0
"""Seconds to put one reset on the wire; afterwards the connection is lost anyway."""


class YamuxPipe:
    """One yamux stream. Errors of every layer below come out as ``PeerGone``."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        typed: Any = stream
        self._muxed: Any = typed.muxed_stream
        self._conn: Any = typed.muxed_conn

    async def read(self, limit: int) -> bytes:
        try:
            data: bytes = await self._conn.read_stream(self._muxed.stream_id, limit)
        except MuxedStreamEOF as exc:
            if self._muxed.reset_received or self._conn.event_shutting_down.is_set():
                raise PeerGone("the connection to the peer was lost") from exc
            return b""
        except Exception as exc:
            raise PeerGone("the peer cut the stream") from exc
        with trio.CancelScope(shield=True):  # the bytes are ours now: a cancel must not lose them
            await quietly(self._grow_window)
        return data

    async def _grow_window(self) -> None:
        await self._muxed._auto_tune_and_send_window_update(bytes_read=0)

    async def write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except Exception as exc:
            raise PeerGone("the stream to the peer is broken") from exc

    async def finish(self) -> None:
        try:
            await self._stream.close()
        except Exception as exc:
            raise PeerGone("the stream to the peer is broken") from exc

    async def abort(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + ABORT_S):
            await quietly(self._stream.reset)

    async def linger(self, seconds: float) -> None:
        """After ``finish``: wait for the peer's end, drop what still comes, then reset."""
        ended = False
        try:
            with trio.move_on_after(seconds):
                while await self.read(65_536):
                    pass
                ended = True
        except PeerGone:
            pass  # that is an end too, and reset below for libp2p's own books
        if not ended:
            await self.abort()


async def choose_protocol(pipe: BytePipe, protocol: str) -> bytes:
    """Name the one protocol wanted, in one round trip; return what came after the answer.

    Raises:
        PeerGone: the peer does not speak it, or answers nonsense.
    """
    await pipe.write(_line(MULTISTREAM) + _line(protocol))
    held = bytearray()
    if await _read_line(pipe, held) != MULTISTREAM:
        raise PeerGone("the peer does not negotiate protocols as libp2p does")
    answer = await _read_line(pipe, held)
    if answer != protocol:
        raise PeerGone(f"the peer does not speak {protocol}")
    return bytes(held)


def _line(text: str) -> bytes:
    body = text.encode("ascii") + b"\n"
    if len(body) < 128:
        return bytes((len(body),)) + body
    return bytes((len(body) & 127 | 128, len(body) >> 7)) + body


async def _read_line(pipe: BytePipe, held: bytearray) -> str:
    while True:
        length = held[0] if held and held[0] < 128 else None
        start = 1
        if length is None and len(held) > 1:
            length, start = held[0] & 127 | held[1] << 7, 2
        if length is not None and length > MAX_LINE_BYTES:
            raise PeerGone("the peer answered with an overlong line")
        if length is not None and len(held) >= start + length:
            body = bytes(held[start : start + length])
            del held[: start + length]
            return body.decode("utf-8", "replace").removesuffix("\n")
        data = await pipe.read(MAX_LINE_BYTES)
        if not data:
            raise PeerGone("the peer ended the stream instead of choosing a protocol")
        held += data
