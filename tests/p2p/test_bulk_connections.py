"""Direct connections: what two honest nodes have of them, and when they do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from bulk_pair import ECHO, LISTEN, Node, bulk_nodes

from robocompute_node.p2p.bulk import MAX_PER_PEER, Bulk
from robocompute_node.p2p.certificates import Certificate
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.messages import BulkAt, Refused
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream
    from robocompute_protocol.identifiers import NodeKey

pytestmark = pytest.mark.net
PATIENCE_S = 60.0


async def first_frame(one: Node, other: Node, protocol: str) -> bytes | None:
    async with one.bulk.open(other.network.key, protocol) as stream:
        return await stream.receive()


async def test_frames_go_both_ways_and_both_sides_know_whom_they_talk_to() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            seen: list[NodeKey] = []

            async def answer(stream: FrameStream) -> None:
                seen.append(stream.peer)
                while (frame := await stream.receive()) is not None:
                    await stream.send(frame)

            other.bulk.serve("/test/who/1", answer)
            async with one.bulk.open(other.network.key, "/test/who/1") as stream:
                assert stream.peer == other.network.key
                for size in (0, 1, 65_536, limits.MAX_FRAME_BYTES):
                    await stream.send(bytes(size))
                    assert await stream.receive() == bytes(size)
            assert seen == [one.network.key]
            while other.bulk.connections():  # noqa: ASYNC110 the other side's end has no event
                await trio.sleep(0.01)


async def test_the_other_side_s_handler_sees_the_end_and_an_abort() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            ends: list[object] = []
            ended = trio.Event()

            async def listen(stream: FrameStream) -> None:
                try:
                    ends.append(await stream.receive())
                except PeerGone:
                    ends.append("cut")
                    raise
                finally:
                    ended.set()

            other.bulk.serve("/test/end/1", listen)
            async with one.bulk.open(other.network.key, "/test/end/1"):
                pass
            await ended.wait()
            ended = trio.Event()
            with pytest.raises(ValueError, match="mine"):
                async with one.bulk.open(other.network.key, "/test/end/1"):
                    raise ValueError("mine")
            await ended.wait()
            assert ends == [None, "cut"]


async def test_a_handler_s_fault_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):

            async def fail(_stream: FrameStream) -> None:
                raise ValueError("a bug")

            other.bulk.serve("/test/bug/1", fail)
            with pytest.raises(PeerGone):
                await first_frame(one, other, "/test/bug/1")
            assert "a bug" in caplog.text
            async with one.bulk.open(other.network.key, ECHO) as stream:
                await stream.send(b"still there")
                assert await stream.receive() == b"still there"


async def test_what_is_not_served_directly_is_refused_at_once() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            with pytest.raises(PeerGone, match="use the stream"):
                async with one.bulk.open(other.network.key, "/test/nothing/1"):
                    pass


async def test_a_peer_whose_port_is_closed_is_not_dialled_again_for_a_while() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other", "third") as (one, other, third):
            listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            port = listener.socket.getsockname()[1]
            await listener.aclose()
            lying = BulkAt(
                addresses=(f"/ip4/127.0.0.1/tcp/{port}",),
                token=bytes(32),
                certificate=Certificate(SigningKey(other.seed)).der,
            )

            async def lie(stream: FrameStream) -> None:
                await stream.receive()
                await stream.send(codec.encode(lying))

            other.network.serve("/robocompute/bulk/1", lie)
            with pytest.raises(PeerGone, match="no direct connection"):
                async with one.bulk.open(other.network.key, ECHO):
                    pass
            with pytest.raises(PeerGone, match="a moment ago"):
                async with one.bulk.open(other.network.key, ECHO):
                    pass
            async with one.bulk.open(third.network.key, ECHO) as stream:
                await stream.send(b"others are not meant")
                assert await stream.receive() == b"others are not meant"


async def test_one_peer_has_a_few_connections_and_tokens_at_once() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other", "third") as (one, other, third):
            mine = Certificate(SigningKey(one.seed)).der
            for _ in range(MAX_PER_PEER):
                assert isinstance(await one.ask(other, mine), BulkAt)
            refused = await one.ask(other, mine)
            assert isinstance(refused, Refused)
            assert refused.code == "bulk_busy"
            theirs = Certificate(SigningKey(third.seed)).der
            assert isinstance(await third.ask(other, theirs), BulkAt)


async def test_a_node_that_cannot_listen_says_so_and_does_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            bulk = Bulk(other.network, SigningKey(other.seed), listen=("/ip4/203.0.113.9/tcp/1",))
            async with trio.open_nursery() as nursery:
                await nursery.start(bulk.run)
                assert "no direct connections at 203.0.113.9" in caplog.text
                answer = await one.ask(other, Certificate(SigningKey(one.seed)).der)
                assert isinstance(answer, Refused)
                assert answer.code == "bulk_off"
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("listen", ["/dns4/here/tcp/1", "nonsense", "/ip4/300.1.1.1/tcp/1"])
def test_what_is_no_address_to_listen_on_is_refused(listen: str) -> None:
    network = Libp2pNetwork(bytes(range(32)), listen=LISTEN)
    with pytest.raises(ConfigError):
        Bulk(network, SigningKey(bytes(range(32))), listen=(listen,))
