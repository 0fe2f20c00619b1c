"""Typed messages over frame streams: bytes become messages here, limits first."""

from __future__ import annotations

from typing import TypeVar, cast

from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import RemoteProtocolError, RoboComputeError
from robocompute_protocol.messages import Message, Refused

M = TypeVar("M", bound=Message)


class PeerRefused(RoboComputeError):
    """The peer said no, in words; nothing was promised. ``details["code"]`` is the peer's code."""

    code = "peer_refused"

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message, details={"code": refused.code})
        self.refused = refused


async def say(stream: FrameStream, message: Message) -> None:
    """Send one message. Raises: PeerGone."""
    await stream.send(codec.encode(message))


async def hear(stream: FrameStream, union: object, *, timeout_s: float | None) -> Message:
    """Return the next message of ``union``.

    Raises:
        PeerGone: the stream ended, or nothing came in time.
        RemoteProtocolError: what came is no such message.
    """
    message = await hear_or_end(stream, union, timeout_s=timeout_s)
    if message is None:
        raise PeerGone("the peer ended the stream where an answer was due")
    return message


async def hear_or_end(
    stream: FrameStream, union: object, *, timeout_s: float | None = None
) -> Message | None:
    """Like ``hear``, but a clean end of the stream is None."""
    frame = await stream.receive(timeout_s=timeout_s)
    if frame is None:
        return None
    return cast("Message", codec.decode(union, frame, limit=limits.MAX_FRAME_BYTES))


async def expect(
    stream: FrameStream, union: object, wanted: type[M], *, timeout_s: float | None
) -> M:
    """Return the next message, which must be a ``wanted``.

    Raises:
        PeerRefused: the peer refused.
        PeerGone, RemoteProtocolError: as ``hear``.
    """
    message = await hear(stream, union, timeout_s=timeout_s)
    if isinstance(message, Refused):
        raise PeerRefused(message)
    if not isinstance(message, wanted):
        raise RemoteProtocolError(
            f"expected {wanted.__name__}, the peer sent {type(message).__name__}"
        )
    return message
