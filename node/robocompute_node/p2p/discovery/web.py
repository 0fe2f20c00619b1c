"""What discovery asks of the running host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from robocompute_node.p2p.links import Link
    from robocompute_protocol.identifiers import NodeKey


class Web(Protocol):
    """This node's connections, and the ways to make and to test one."""

    def all(self) -> tuple[Link, ...]:
        """Return all connections that work as far as is known."""
        ...

    async def dial(self, peer: NodeKey, addresses: tuple[str, ...]) -> None:
        """Connect unless connected. Raises: PeerGone."""
        ...

    async def probe(self, peer: NodeKey, address: str) -> bool:
        """Whether ``peer`` answers at ``address`` with its key."""
        ...

    async def reserve(self, relay: NodeKey) -> float:
        """Be reached through ``relay``; return seconds until that is renewed. Raises: PeerGone."""
        ...
