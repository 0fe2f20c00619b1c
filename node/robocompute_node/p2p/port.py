"""The network port: all that services know of libp2p.

A fault of one peer ends that peer's stream with ``PeerGone`` or ``RemoteProtocolError`` and
reaches nobody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from robocompute_protocol.errors import RoboComputeError
from robocompute_protocol.identifiers import NodeKey

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class PeerGone(RoboComputeError):
    """The peer cannot be reached, or the stream ended where more was due."""

    code = "peer_gone"


class FrameStream(Protocol):
    """Length-prefixed frames both ways. One reader and one writer at a time."""

    @property
    def peer(self) -> NodeKey:
        """Who is at the other end: authenticated by the noise handshake."""
        ...

    async def send(self, frame: bytes) -> None:
        """Raises: PeerGone, also when the peer does not read for the write deadline (30 s)."""
        ...

    async def receive(self, *, timeout_s: float | None = None) -> bytes | None:
        """Return the next frame, or None at a clean end.

        Raises: PeerGone (cut, reset or timed out), RemoteProtocolError (frame over the limit).
        """
        ...

    async def close(self) -> None:
        """End our direction after all that was sent; never raises."""
        ...


StreamHandler = Callable[[FrameStream], Awaitable[None]]
Validator = Callable[[NodeKey, bytes], bool]
"""(forwarding peer, payload) → relay it? Synchronous, fast, never raises for bad bytes."""


class Network(Protocol):
    """A running host."""

    @property
    def key(self) -> NodeKey: ...
    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs that others may dial, with the /p2p/ part."""
        ...

    def peers(self) -> tuple[NodeKey, ...]: ...
    def add_addresses(self, peer: NodeKey, addresses: tuple[str, ...]) -> None:
        """Remember where ``peer`` can be dialled (from its signed offer). Bad ones are ignored."""
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Answer streams of ``protocol``. Call before the host runs, or any time after."""
        ...

    def open(
        self, peer: NodeKey, protocol: str, *, timeout_s: float = 10.0
    ) -> AbstractAsyncContextManager[FrameStream]:
        """Dial if need be and open a stream; reset on exception, closed otherwise.

        Raises: PeerGone.
        """
        ...

    async def publish(self, topic: str, payload: bytes) -> None: ...
    def subscribe(
        self, topic: str, validator: Validator
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[NodeKey, bytes]]]:
        """Messages of a topic, (signer's key, payload), own ones left out. Bounded; oldest dropped."""
        ...
