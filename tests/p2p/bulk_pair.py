"""Two nodes with direct connections between them, and what strangers need to attack one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import trio

from robocompute_node.p2p.bulk import Bulk
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_protocol import codec, limits
from robocompute_protocol.messages import PROTOCOL_BULK, BulkAsk, BulkAt, BulkMessage, Refused
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.p2p.port import FrameStream

ECHO = "/test/echo/1"
LISTEN = ("/ip4/127.0.0.1/tcp/0",)
HANDSHAKE_S = 2.0


@dataclass
class Node:
    """One node."""

    seed: bytes
    network: Libp2pNetwork
    bulk: Bulk

    async def ask(self, other: Node, certificate: bytes, protocol: str = ECHO) -> BulkAt | Refused:
        """Ask for a direct connection and do not make it."""
        async with self.network.open(other.network.key, PROTOCOL_BULK) as stream:
            await stream.send(codec.encode(BulkAsk(protocol=protocol, certificate=certificate)))
            frame = await stream.receive(timeout_s=30)
        assert frame is not None
        answer = codec.decode(BulkMessage, frame, limit=limits.MAX_FRAME_BYTES)
        assert isinstance(answer, BulkAt | Refused)
        return answer


def port_of(answer: BulkAt) -> int:
    return int(answer.addresses[0].rsplit("/", 1)[1])


@asynccontextmanager
async def bulk_nodes(*names: str) -> AsyncGenerator[list[Node]]:
    """Nodes that know each other's libp2p addresses, and echo on direct connections."""
    nodes: list[Node] = []
    async with trio.open_nursery() as nursery:
        for name in names:
            seed = sha256(name.encode()).digest()
            network = Libp2pNetwork(seed, listen=LISTEN)
            bulk = Bulk(network, SigningKey(seed), listen=LISTEN, handshake_s=HANDSHAKE_S)
            bulk.serve(ECHO, echo)
            await nursery.start(network.run)
            await nursery.start(bulk.run)
            nodes.append(Node(seed, network, bulk))
        for one in nodes:
            for other in nodes:
                if one is not other:
                    one.network.add_addresses(other.network.key, other.network.addresses)
        yield nodes
        nursery.cancel_scope.cancel()


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(stream.peer[:0] + frame)
