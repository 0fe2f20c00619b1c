"""The Python side of ``bench/p2p.py``: the daemon's own network, told what to do line by line.

``p2p_peer.py streams`` serves and measures streams, ``p2p_peer.py gossip`` runs several nodes on
one topic. Orders are JSON lines on standard input, each answered by one line; ``bench/go`` speaks
the same on go-libp2p.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.bulk import Bulk
from robocompute_node.p2p.dialing import parse_address
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import node_key_of
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from robocompute_node.p2p.port import FrameStream
    from robocompute_protocol.identifiers import NodeKey

ECHO: Final = "/bench/echo/1"
SINK: Final = "/bench/sink/1"
SOURCE: Final = "/bench/source/1"
TOPIC: Final = "bench"
MESSAGE: Final = struct.Struct("!IIIQ")
"""Round, publishing node, number, wall clock in nanoseconds."""
LINE_BYTES: Final = 1 << 20

Order = dict[str, Any]


def cpu_seconds() -> float:
    """Core time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def told(answer: Order) -> None:
    """Answer one order."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def orders() -> AsyncIterator[Order]:
    """Lines of standard input as they come."""
    held = bytearray()
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        while data := await stdin.receive_some(LINE_BYTES):
            held += data
            while (end := held.find(b"\n")) >= 0:
                line = bytes(held[:end])
                del held[: end + 1]
                yield json.loads(line)


def key_at(address: str) -> NodeKey:
    """Whose address it is."""
    named, _ = parse_address(address)
    if named is None:
        raise ValueError(f"no peer id in {address}")
    return node_key_of(named)


def unbounded() -> PeerBounds:
    """Rates out of the way: a benchmark opens streams as fast as it can."""
    return PeerBounds(streams_per_second=1e6, gossip_per_second=1e6)


async def echo(stream: FrameStream) -> None:
    """Send every frame back."""
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def sink(stream: FrameStream) -> None:
    """Take frames up to an empty one, then say how many bytes came."""
    total = 0
    while frame := await stream.receive():
        total += len(frame)
    await stream.send(total.to_bytes(8, "big"))


async def source(stream: FrameStream) -> None:
    """Send as many bytes as asked for, in frames of the size asked for."""
    asked = await stream.receive()
    if asked is None:
        return
    left, size = struct.unpack("!QQ", asked)
    body = os.urandom(size)
    while left > 0:
        await stream.send(body[:left] if left < size else body)
        left -= size


class Opens(Protocol):
    """What transfers go over: the network's streams, or direct connections."""

    def open(self, peer: NodeKey, protocol: str) -> AbstractAsyncContextManager[FrameStream]: ...


def serve(node: Libp2pNetwork | Bulk) -> None:
    """Answer all three."""
    for protocol, handler in ((ECHO, echo), (SINK, sink), (SOURCE, source)):
        node.serve(protocol, handler)


async def connect(order: Order) -> list[float]:
    """A fresh host each time: from knowing an address to the first answer."""
    found: list[float] = []
    address = str(order["address"])
    for number in range(order["count"]):
        seed = hashlib.sha256(f"connect-{os.getpid()}-{number}".encode()).digest()
        node = Libp2pNetwork(seed, bounds=unbounded())
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            node.add_addresses(key_at(address), (address,))
            start = time.perf_counter()
            async with node.open(key_at(address), ECHO) as stream:
                await stream.send(b"x")
                await stream.receive()
                found.append(time.perf_counter() - start)
            nursery.cancel_scope.cancel()
    return found


async def round_trip(node: Opens, peer: NodeKey, order: Order) -> list[float]:
    """32 bytes there and back on an open stream."""
    found: list[float] = []
    async with node.open(peer, ECHO) as stream:
        for _ in range(order["count"]):
            start = time.perf_counter()
            await stream.send(bytes(32))
            await stream.receive()
            found.append(time.perf_counter() - start)
    return found


async def open_stream(node: Opens, peer: NodeKey, order: Order) -> list[float]:
    """A new stream on an open connection, to its first answer."""
    found: list[float] = []
    for _ in range(order["count"]):
        start = time.perf_counter()
        async with node.open(peer, ECHO) as stream:
            await stream.send(b"x")
            await stream.receive()
            found.append(time.perf_counter() - start)
    return found


async def up(node: Opens, peer: NodeKey, order: Order) -> list[float]:
    """Bytes to the peer, to its word that all came."""
    found: list[float] = []
    body = os.urandom(order["frame"])
    for _ in range(order["count"]):
        start = time.perf_counter()
        async with node.open(peer, SINK) as stream:
            for _ in range(0, order["bytes"], len(body)):
                await stream.send(body)
            await stream.send(b"")
            answer = await stream.receive()
        if answer is None or int.from_bytes(answer, "big") != order["bytes"]:
            raise AssertionError("not all bytes arrived")
        found.append(time.perf_counter() - start)
    return found


async def down(node: Opens, peer: NodeKey, order: Order) -> list[float]:
    """Bytes from the peer, until all are here."""
    found: list[float] = []
    for _ in range(order["count"]):
        start = time.perf_counter()
        got = 0
        async with node.open(peer, SOURCE) as stream:
            await stream.send(struct.pack("!QQ", order["bytes"], order["frame"]))
            while got < order["bytes"] and (frame := await stream.receive()) is not None:
                got += len(frame)
        if got != order["bytes"]:
            raise AssertionError("not all bytes arrived")
        found.append(time.perf_counter() - start)
    return found


MEASURES: Final[dict[str, Callable[[Opens, NodeKey, Order], Awaitable[list[float]]]]] = {
    "round-trip": round_trip,
    "open": open_stream,
    "up": up,
    "down": down,
}


async def streams() -> None:
    """Serve, and measure towards the addresses in the orders."""
    seed = hashlib.sha256(str(os.getpid()).encode()).digest()
    node = Libp2pNetwork(seed, bounds=unbounded())
    bulk = Bulk(node, SigningKey(seed), listen=("/ip4/127.0.0.1/tcp/0",))
    for each in (node, bulk):
        serve(each)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await nursery.start(bulk.run)
        told({"address": node.addresses[0]})
        async for order in orders():
            if order["op"] == "cpu":
                told({"cpu": cpu_seconds()})
                continue
            gc.collect()
            if order["op"] == "connect":
                told({"seconds": await connect(order)})
                continue
            address = str(order["address"])
            peer = key_at(address)
            node.add_addresses(peer, (address,))
            over = bulk if order.get("bulk") else node
            told({"seconds": await MEASURES[order["op"]](over, peer, order)})
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class Heard:
    """What all nodes of this process received since the last ``begin``."""

    round: int = 0
    waits: list[float] = field(default_factory=list[float])
    seen: set[tuple[int, int, int]] = field(default_factory=set[tuple[int, int, int]])
    doubles: int = 0

    def note(self, node: int, data: bytes) -> None:
        now = time.time_ns()
        of_round, publisher, number, at = MESSAGE.unpack_from(data)
        if publisher == node or of_round != self.round:
            return
        name = (node, publisher, number)
        if name in self.seen:
            self.doubles += 1
            return
        self.seen.add(name)
        self.waits.append((now - at) / 1e9)


async def publish(node: Libp2pNetwork, order: Order) -> None:
    """Publish at a rate, or without one as fast as the node takes it."""
    start = trio.current_time()
    for number in range(order["count"]):
        if order["rate"]:
            await trio.sleep_until(start + number / order["rate"])
        head = MESSAGE.pack(order["round"], order["node"], number, time.time_ns())
        await node.publish(TOPIC, head + os.urandom(order["bytes"] - MESSAGE.size))


async def gossip() -> None:
    """Run nodes that all follow one topic."""
    nodes: list[Libp2pNetwork] = []
    heard = Heard()
    first = 0

    def named(order: Order) -> Libp2pNetwork:
        return nodes[int(order["node"]) - first]

    async def follow(
        number: int,
        node: Libp2pNetwork,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with node.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
            task_status.started()
            async for _signer, payload in messages:
                heard.note(number, payload)

    async with trio.open_nursery() as nursery:
        async for order in orders():
            answer: Order = {}
            match order["op"]:
                case "start":
                    first = int(order["first"])
                    for number, seed in enumerate(order["seeds"]):
                        node = Libp2pNetwork(bytes.fromhex(seed), bounds=unbounded())
                        serve(node)
                        await nursery.start(node.run)
                        await nursery.start(follow, first + number, node)
                        nodes.append(node)
                    answer["addresses"] = [node.addresses[0] for node in nodes]
                case "dial":
                    node = named(order)
                    for address in order["dial"]:
                        peer = key_at(address)
                        node.add_addresses(peer, (address,))
                        async with node.open(peer, ECHO):
                            pass
                case "begin":
                    gc.collect()
                    heard = Heard(order["round"])
                    answer["cpu"] = cpu_seconds()
                case "publish":
                    nursery.start_soon(publish, named(order), order)
                case "count":
                    answer["count"] = len(heard.waits)
                case "report":
                    answer = {
                        "waits": heard.waits,
                        "doubles": heard.doubles,
                        "cpu": cpu_seconds(),
                    }
                case unknown:
                    raise ValueError(f"no such order: {unknown}")
            told(answer)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run({"streams": streams, "gossip": gossip}[sys.argv[1]])
