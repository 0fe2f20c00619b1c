"""What every network promises, the real one and the fake."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.fake import FakeHub, FakeNetwork
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import key_pair_of
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError
from robocompute_protocol.identifiers import NodeKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ECHO = "/test/echo/1"
TOPIC = "/test/topic/1"
PATIENCE_S = 30.0
WRITE_DEADLINE_S = 0.5


def seed_of(name: str) -> bytes:
    return sha256(name.encode()).digest()


def key_of(name: str) -> NodeKey:
    return NodeKey(key_pair_of(seed_of(name)).public_key.to_bytes())


@dataclass
class World:
    """Makes nodes of one kind."""

    kind: str
    nursery: trio.Nursery
    hub: FakeHub = field(default_factory=FakeHub)
    scopes: dict[NodeKey, trio.CancelScope] = field(
        default_factory=dict[NodeKey, trio.CancelScope]
    )

    def node(
        self, name: str, *, listen: str = "/ip4/127.0.0.1/tcp/0"
    ) -> FakeNetwork | Libp2pNetwork:
        if self.kind == "fake":
            return FakeNetwork(self.hub, key_of(name), write_deadline_s=WRITE_DEADLINE_S)
        bounds = PeerBounds(write_deadline_s=WRITE_DEADLINE_S, linger_s=2.0)
        return Libp2pNetwork(seed_of(name), listen=(listen,), bounds=bounds)

    async def start(self, node: FakeNetwork | Libp2pNetwork) -> None:
        async def run(task_status: trio.TaskStatus[None]) -> None:
            with trio.CancelScope() as scope:
                self.scopes[node.key] = scope
                await node.run(task_status=task_status)
            gone.set()

        gone = trio.Event()
        self.gone = gone
        await self.nursery.start(run)

    async def stop(self, node: Network) -> None:
        self.scopes.pop(node.key).cancel()
        await self.gone.wait()

    async def pair(self) -> tuple[FakeNetwork | Libp2pNetwork, FakeNetwork | Libp2pNetwork]:
        one, other = self.node("one"), self.node("other")
        await self.start(one)
        await self.start(other)
        one.add_addresses(other.key, other.addresses)
        return one, other


@pytest.fixture(params=["fake", pytest.param("libp2p", marks=pytest.mark.net)])
async def world(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[World]:
    with trio.fail_after(PATIENCE_S):
        yield World(request.param, nursery)
    nursery.cancel_scope.cancel()


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 libp2p's tables have no event
        await trio.sleep(0.02)


async def link(one: Network, other: Network) -> None:
    """Connect two nodes by a stream that is refused or not: the connection stays."""
    one.add_addresses(other.key, other.addresses)
    with pytest.raises(PeerGone):
        async with one.open(other.key, "/test/nothing/1"):
            pass
    await eventually(lambda: other.key in one.peers() and one.key in other.peers())


async def test_frames_go_both_ways_and_arrive_whole_and_in_order(world: World) -> None:
    one, other = await world.pair()
    seen: list[NodeKey] = []

    async def handler(stream: FrameStream) -> None:
        seen.append(stream.peer)
        await echo(stream)

    other.serve(ECHO, handler)
    sizes = (0, 1, 3, 4, 65_536, limits.MAX_FRAME_BYTES)
    async with one.open(other.key, ECHO) as stream:
        assert stream.peer == other.key
        for size in sizes:
            await stream.send(bytes([size % 251]) * size)
            assert await stream.receive() == bytes([size % 251]) * size
    assert seen == [one.key]


async def test_a_clean_end_reads_as_none_and_the_other_way_stays_open(world: World) -> None:
    one, other = await world.pair()

    async def count(stream: FrameStream) -> None:
        total = 0
        while (frame := await stream.receive()) is not None:
            total += len(frame)
        await stream.send(total.to_bytes(8, "big"))

    other.serve(ECHO, count)
    async with one.open(other.key, ECHO) as stream:
        for _ in range(5):
            await stream.send(b"12345")
        await stream.close()
        await stream.close()
        assert await stream.receive() == (25).to_bytes(8, "big")
        assert await stream.receive() is None
        with pytest.raises(PeerGone):
            await stream.send(b"after the end")


async def test_a_frame_over_the_limit_is_not_sent(world: World) -> None:
    one, other = await world.pair()
    other.serve(ECHO, echo)
    async with one.open(other.key, ECHO) as stream:
        with pytest.raises(LocalProtocolError):
            await stream.send(bytes(limits.MAX_FRAME_BYTES + 1))
        await stream.send(b"still fine")
        assert await stream.receive() == b"still fine"


async def test_a_peer_without_known_address_is_gone_at_once(world: World) -> None:
    one, _ = await world.pair()
    with pytest.raises(PeerGone, match="no address"):
        async with one.open(key_of("unknown"), ECHO):
            pass


async def test_a_node_does_not_dial_itself(world: World) -> None:
    one, _ = await world.pair()
    with pytest.raises(PeerGone, match="itself"):
        async with one.open(one.key, ECHO):
            pass


async def test_a_protocol_that_is_not_served_is_refused_and_may_be_served_later(
    world: World,
) -> None:
    one, other = await world.pair()
    with pytest.raises(PeerGone, match="does not speak"):
        async with one.open(other.key, ECHO):
            pass
    other.serve(ECHO, echo)
    async with one.open(other.key, ECHO) as stream:
        await stream.send(b"now")
        assert await stream.receive() == b"now"


async def test_whoever_was_dialled_can_open_streams_back(world: World) -> None:
    one, other = await world.pair()
    one.serve(ECHO, echo)
    await link(one, other)
    async with other.open(one.key, ECHO) as stream:
        await stream.send(b"back")
        assert await stream.receive() == b"back"


async def test_a_handler_that_raises_ends_its_stream_and_nothing_else(world: World) -> None:
    one, other = await world.pair()

    async def broken(stream: FrameStream) -> None:
        await stream.receive()
        raise KeyError("a bug")

    other.serve("/test/broken/1", broken)
    other.serve(ECHO, echo)
    async with one.open(other.key, ECHO) as good:
        async with one.open(other.key, "/test/broken/1") as bad:
            await bad.send(b"x")
            with pytest.raises(PeerGone):
                await bad.receive()
        await good.send(b"alive")
        assert await good.receive() == b"alive"


async def test_an_exception_in_the_callers_block_resets_the_stream(world: World) -> None:
    one, other = await world.pair()
    ends: list[str] = []

    async def handler(stream: FrameStream) -> None:
        await stream.send(b"ready")
        try:
            await stream.receive()
        except PeerGone:
            ends.append("reset")

    other.serve(ECHO, handler)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 the block is what is tested
        async with one.open(other.key, ECHO) as stream:
            assert await stream.receive() == b"ready"
            raise ZeroDivisionError
    await eventually(lambda: ends == ["reset"])


async def test_a_receive_that_timed_out_may_be_repeated(world: World) -> None:
    one, other = await world.pair()
    other.serve(ECHO, echo)
    async with one.open(other.key, ECHO) as stream:
        with pytest.raises(PeerGone, match="nothing came"):
            await stream.receive(timeout_s=0.05)
        await stream.send(b"late")
        assert await stream.receive(timeout_s=5.0) == b"late"


async def test_a_peer_that_never_reads_is_gone_after_the_write_deadline(world: World) -> None:
    one, other = await world.pair()

    async def deaf(stream: FrameStream) -> None:
        del stream
        await trio.sleep_forever()

    other.serve("/test/deaf/1", deaf)
    other.serve(ECHO, echo)
    with pytest.raises(PeerGone, match="did not read"):  # noqa: PT012 which send is unknown
        async with one.open(other.key, "/test/deaf/1") as stream:
            while True:
                await stream.send(bytes(limits.MAX_FRAME_BYTES))
    async with one.open(other.key, ECHO) as stream:
        await stream.send(b"alive")
        assert await stream.receive() == b"alive"


async def test_a_peer_that_stops_cuts_its_streams_and_can_be_reached_again(world: World) -> None:
    one, other = await world.pair()
    other.serve(ECHO, echo)
    async with one.open(other.key, ECHO) as stream:
        await stream.send(b"before")
        assert await stream.receive() == b"before"
        await world.stop(other)
        with pytest.raises(PeerGone):
            await stream.receive()
    await eventually(lambda: other.key not in one.peers())
    with pytest.raises(PeerGone):
        async with one.open(other.key, ECHO, timeout_s=2.0):
            pass
    listen = other.addresses[0].rsplit("/p2p/", 1)[0]
    again = world.node("other", listen=listen)
    again.serve(ECHO, echo)
    await world.start(again)
    async with one.open(other.key, ECHO) as stream:
        await stream.send(b"after")
        assert await stream.receive() == b"after"


async def test_gossip_reaches_every_follower_with_the_signers_key_but_not_the_sender(
    world: World,
) -> None:
    nodes = [world.node(name) for name in ("a", "b", "c")]
    for node in nodes:
        await world.start(node)
    a, b, c = nodes
    async with (
        a.subscribe(TOPIC, lambda _peer, _payload: True) as of_a,
        b.subscribe(TOPIC, lambda _peer, _payload: True) as of_b,
        c.subscribe(TOPIC, lambda _peer, _payload: True) as of_c,
    ):
        await link(a, b)
        await link(b, c)
        await publish_until_heard(a, b"from a", of_c)
        assert await heard(of_b, b"from a") == a.key
        await publish_until_heard(c, b"from c", of_a)
        assert await heard(of_b, b"from c") == c.key


async def test_what_a_validator_refuses_or_raises_on_is_neither_delivered_nor_relayed(
    world: World,
) -> None:
    nodes = [world.node(name) for name in ("a", "b", "c")]
    for node in nodes:
        await world.start(node)
    a, b, c = nodes
    forwarders: set[NodeKey] = set()

    def choosy(peer: NodeKey, payload: bytes) -> bool:
        forwarders.add(peer)
        if payload.startswith(b"boom"):
            raise KeyError("a bug")
        return not payload.startswith(b"bad")

    async with (
        b.subscribe(TOPIC, choosy) as of_b,
        c.subscribe(TOPIC, lambda _peer, _payload: True) as of_c,
    ):
        await link(a, b)
        await link(b, c)
        await publish_until_heard(a, b"good 1", of_c)
        await a.publish(TOPIC, b"bad")
        await a.publish(TOPIC, b"boom")
        await publish_until_heard(a, b"good 2", of_c, never=(b"bad", b"boom"))
        await heard(of_b, b"good 2", never=(b"bad", b"boom"))
    assert forwarders == {a.key}


async def test_a_late_follower_hears_what_is_published_afterwards(world: World) -> None:
    one, other = await world.pair()
    await link(one, other)
    await one.publish(TOPIC, b"nobody listens")
    async with other.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
        await publish_until_heard(one, b"hello", messages)


async def test_a_slow_follower_loses_the_oldest_messages(world: World) -> None:
    one, other = await world.pair()
    async with (
        other.subscribe(TOPIC, lambda _peer, _payload: True) as messages,
        other.subscribe(TOPIC, lambda _peer, _payload: True) as counted,
    ):
        await link(one, other)
        await publish_until_heard(one, b"ready", counted)
        for number in range(1_100):
            await one.publish(TOPIC, number.to_bytes(4, "big"))
            if number % 50 == 0:
                await trio.sleep(0.01)
        async for _, payload in counted:
            if payload == (1_099).to_bytes(4, "big"):
                break
        got = [await anext(messages) for _ in range(1_024)]
    assert got[-1][1] == (1_099).to_bytes(4, "big")
    assert got[0][1] not in {b"ready", (0).to_bytes(4, "big")}


async def test_gossip_over_the_limit_is_refused_here(world: World) -> None:
    one, _ = await world.pair()
    with pytest.raises(LocalProtocolError):
        await one.publish(TOPIC, bytes(limits.MAX_GOSSIP_BYTES + 1))


async def heard(
    messages: AsyncIterator[tuple[NodeKey, bytes]], payload: bytes, never: tuple[bytes, ...] = ()
) -> NodeKey:
    async for signer, got in messages:
        assert got not in never
        if got == payload:
            return signer
    raise AssertionError("the subscription ended")


async def publish_until_heard(
    node: Network,
    payload: bytes,
    messages: AsyncIterator[tuple[NodeKey, bytes]],
    never: tuple[bytes, ...] = (),
) -> None:
    """Announce again and again, as every sender does: a mesh needs a moment to form."""

    async def announce() -> None:
        while True:
            await node.publish(TOPIC, payload)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        assert await heard(messages, payload, never) == node.key
        nursery.cancel_scope.cancel()
