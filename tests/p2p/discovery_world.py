"""Nodes that find each other, for the tests: real hosts, each with its discovery."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from robocompute_node.clocks import Clock
from robocompute_node.p2p.discovery.lan import LanBeacon
from robocompute_node.p2p.discovery.service import Discovery, Finding
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.relay import RelayBounds
from robocompute_protocol.identifiers import Digest, digest
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from robocompute_protocol.identifiers import NodeKey

PATIENCE_S = 90.0
"""Six hosts on a machine with ten times its load shake hands for many seconds."""
NETWORK = digest(b"a network of the tests")
ECHO = "/test/echo/1"
TOPIC = "/test/topic/1"


@dataclass(frozen=True, slots=True)
class Member:
    """One running node."""

    network: Libp2pNetwork
    discovery: Discovery
    scope: trio.CancelScope

    @property
    def key(self) -> NodeKey:
        return self.network.key

    @property
    def address(self) -> str:
        return self.network.addresses[0]


async def echo(stream: Any) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


@asynccontextmanager
async def member(
    name: str,
    *,
    relay: bool = False,
    network_id: Digest | None = NETWORK,
    wanted: int = 8,
    lan: bool = False,
    rendezvous: bool = False,
    remembered: tuple[tuple[NodeKey, tuple[str, ...]], ...] = (),
    remember: Callable[[NodeKey, str], None] | None = None,
    **settings: Any,
) -> AsyncGenerator[Member]:
    """Run a node with its discovery; it is off the air when the context ends."""
    seed = sha256(name.encode()).digest()
    network = Libp2pNetwork(seed, relay=RelayBounds() if relay else None, **settings)
    network.serve(ECHO, echo)
    clock = Clock()
    discovery = Discovery(
        network,
        SigningKey(seed),
        clock,
        Random(name),
        network_id=lambda: network_id,
        finding=Finding(relays=relay, wanted=wanted, rendezvous=rendezvous),
        bootstrap=network.bootstrap,
        remembered=remembered,
        remember=remember,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(discovery.run)
        if lan:
            beacon = LanBeacon(
                network.key, lambda: network.addresses, lambda: network_id, discovery.found
            )
            nursery.start_soon(beacon.run)
        yield Member(network, discovery, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 many things may make it true
        await trio.sleep(0.05)


async def ask(one: Libp2pNetwork, peer: NodeKey, word: bytes) -> None:
    async with one.open(peer, ECHO, timeout_s=30.0) as stream:
        await stream.send(word)
        assert await stream.receive(timeout_s=30.0) == word
