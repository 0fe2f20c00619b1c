"""Bytes to messages and back, once, at the edge: size first, then shape, then values."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeVar, overload

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError

T = TypeVar("T")

_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return the MessagePack of ``message``: equal messages give equal bytes."""
    return _ENCODER.encode(message)


@cache
def _decoder(type: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type)


@overload
def decode(type: type[T], data: bytes, *, limit: int = ...) -> T: ...
@overload
def decode(type: Any, data: bytes, *, limit: int = ...) -> Any: ...
def decode(type: Any, data: bytes, *, limit: int = limits.MAX_FRAME_BYTES) -> Any:
    """Read one ``type``, which may be a message or a protocol's union, from all of ``data``.

    Raises:
        RemoteProtocolError: over ``limit`` bytes, not MessagePack, bytes left over, or not exactly
            what ``type`` says: unknown fields, other types and values out of bounds are refused.
    """
    if len(data) > limit:
        raise RemoteProtocolError(
            f"a message of {len(data)} bytes where {limit} are allowed", code="too_large"
        )
    try:
        return _decoder(type).decode(data)
    except (msgspec.MsgspecError, RecursionError, OverflowError, UnicodeError) as exc:
        raise RemoteProtocolError(f"not a valid message: {exc}", code="malformed") from exc
