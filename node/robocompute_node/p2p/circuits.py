"""The messages of circuit relay v2 on a stream, and a stream made into what a connection runs on."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message as Protobuf
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, StopMessage
from libp2p.relay.circuit_v2.protocol_buffer import StatusCode, to_proto_status
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr

from .identity import peer_id_of
from .port import PeerGone
from .streams import YamuxPipe, choose_protocol

if TYPE_CHECKING:
    from collections.abc import Generator

    from libp2p.abc import INetConn

    from robocompute_protocol.identifiers import NodeKey

P = TypeVar("P", bound=Protobuf)
M = TypeVar("M", HopMessage, StopMessage)

MAX_MESSAGE_BYTES: Final = 4_096
"""One message about a circuit: a key, a limit, a few addresses."""
ANSWER_S: Final = 10.0
"""Seconds for an answer about a circuit: through a relay it is two round trips."""
READ_BYTES: Final = 65_536
"""Read at once: one yamux frame."""


class CircuitPipe(ReadWriteCloser):
    """One libp2p stream as what a connection runs on. Reads, writes and ends like a socket."""

    def __init__(self, pipe: YamuxPipe, unread: bytes) -> None:
        self._pipe = pipe
        self._unread = unread

    async def read(self, n: int | None = None) -> bytes:
        limit = READ_BYTES if n is None else n
        if self._unread:
            data, self._unread = self._unread[:limit], self._unread[limit:]
            return data
        try:
            return await self._pipe.read(limit)
        except PeerGone:
            return b""  # the connection above says for itself that it broke off

    async def write(self, data: bytes) -> None:
        try:
            await self._pipe.write(data)
        except PeerGone as exc:
            raise ConnectionResetError(str(exc)) from exc

    async def close(self) -> None:
        await self._pipe.abort()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


def is_direct(conn: INetConn) -> bool:
    """Whether a connection runs on a socket of its own, and not through a relay."""
    return conn.get_connection_type() is not ConnectionType.RELAYED


def remote_of(muxed: object) -> tuple[str, int] | None:
    """Return the IP address and port at the other end; None through a relay.

    Stock knows no IPv6: its own answer is None there too.
    """
    layer: Any = muxed
    for name in ("secured_conn", "conn", "read_writer", "read_write_closer", "stream", "stream"):
        layer = getattr(layer, name, None)
    try:
        name = layer.socket.getpeername()
    except (AttributeError, OSError):
        return None
    return str(name[0]).partition("%")[0], int(name[1])


def raw_connection(pipe: CircuitPipe, relay: NodeKey, *, initiator: bool) -> RawConnection:
    """Return what the swarm makes a connection of; it is known there as a relayed one."""
    address = Multiaddr(f"/p2p/{peer_id_of(relay)}/p2p-circuit")
    return RawConnection(pipe, initiator, ConnectionType.RELAYED, [address])


@contextmanager
def patience(whom: str) -> Generator[None]:
    """Bound a step about a circuit. Raises: PeerGone."""
    try:
        with trio.fail_after(ANSWER_S):
            yield
    except trio.TooSlowError:
        raise PeerGone(f"{whom} did not answer within {ANSWER_S:g} s") from None


async def open_stream(conn: INetConn, protocol: str) -> tuple[YamuxPipe, bytearray]:
    """Open a stream of ``protocol``; return it and what came behind the choice. Raises: PeerGone."""
    try:
        stream = await conn.new_stream()
    except Exception as exc:
        raise PeerGone("the connection is broken") from exc
    pipe = YamuxPipe(stream)
    try:
        return pipe, bytearray(await choose_protocol(pipe, protocol))
    except BaseException:
        await pipe.abort()
        raise


async def read_message(
    pipe: YamuxPipe, kind: type[P], held: bytearray, *, limit: int = MAX_MESSAGE_BYTES
) -> P:
    """Read one message; what came behind it stays in ``held``.

    ``limit`` is below 16,384 bytes: a length that takes three bytes is refused unread.

    Raises:
        PeerGone: the stream ended, or what came is no such message.
    """
    while True:
        length = used = 0
        for used, byte in enumerate(held[:2], 1):
            length |= (byte & 127) << (7 * (used - 1))
            if byte < 128:
                break
        else:
            if len(held) >= 2:
                raise PeerGone("an overlong message about a circuit")
            used = 0
        if length > limit:
            raise PeerGone("an overlong message about a circuit")
        if used and len(held) >= used + length:
            body = bytes(held[used : used + length])
            del held[: used + length]
            try:
                message = kind()
                message.ParseFromString(body)
            except DecodeError:
                raise PeerGone("not a message about a circuit") from None
            return message
        data = await pipe.read(READ_BYTES)
        if not data:
            raise PeerGone("the stream ended inside a message about a circuit")
        held += data


async def write_message(pipe: YamuxPipe, message: Protobuf) -> None:
    """Send one message. Raises: PeerGone."""
    await pipe.write(encode_varint_prefixed(message.SerializeToString()))


async def ask(pipe: YamuxPipe, question: M, held: bytearray) -> M:
    """Send ``question``; return the answer, which is of the same kind and says that it is done.

    Raises:
        PeerGone: it is not done; the text has the status.
    """
    await write_message(pipe, question)
    answer = await read_message(pipe, type(question), held)
    if answer.type != answer.STATUS or answer.status != StatusCode.OK:
        raise PeerGone(f"the answer is no: status {answer.status}")
    return answer


async def write_status(pipe: YamuxPipe, status: StatusCode, limit: Limit | None = None) -> None:
    """Answer somebody who asked a relay; a refusal ends the stream. Raises: PeerGone."""
    answer = HopMessage(type=HopMessage.STATUS, status=to_proto_status(status))
    if limit is not None:
        answer.limit.CopyFrom(limit)
    await write_message(pipe, answer)
    if status is not StatusCode.OK:
        await pipe.finish()
        await pipe.linger(ANSWER_S)
