"""Whatever bytes come, the parsers end them as the peer's fault or take them as what they are."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import Any

import pytest
import trio
from attack_kit import TOPIC, framed, new_keys, signed
from hypothesis import HealthCheck, given, settings, strategies as st
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.anyio_service import background_trio_service

from robocompute_node.p2p.addresses import parse_address
from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.framing import PipeFrames
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import node_key_of
from robocompute_node.p2p.metrics import Drop
from robocompute_node.p2p.port import PeerGone
from robocompute_node.p2p.pubsub import MAX_TOPIC_BYTES, new_pubsub
from robocompute_node.p2p.streams import MAX_LINE_BYTES, choose_protocol
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError

KEYS = new_keys()
PEER_ID = ID.from_pubkey(KEYS.public_key)
PEER = node_key_of(PEER_ID)
FUZZ = settings(max_examples=100, deadline=None)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Each of these makes and ends a whole gossip."""


class Bytes:
    """A pipe and a libp2p stream in one: gives bytes in pieces, then ends."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self._size = size
        self.muxed_conn = self
        self.peer_id = PEER_ID

    async def read(self, limit: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self._data[: min(self._size, limit or self._size)]
        self._data = self._data[len(piece) :]
        return piece

    async def write(self, data: bytes) -> None:
        del data

    async def finish(self) -> None:
        pass

    async def abort(self) -> None:
        self._data = b""


class Ending(Bytes):
    """Says as libp2p does that it ended."""

    async def read(self, limit: int | None = None) -> bytes:
        piece = await super().read(limit)
        if not piece:
            raise StreamEOF
        return piece


@FUZZ
@given(st.binary(max_size=2_000), st.integers(1, 300))
def test_frames_end_as_a_fault_of_the_peer_or_not_at_all(data: bytes, size: int) -> None:
    async def read_all() -> None:
        frames = PipeFrames(Bytes(data, size), PEER)
        try:
            while (frame := await frames.receive()) is not None:
                assert len(frame) <= limits.MAX_FRAME_BYTES
        except (PeerGone, RemoteProtocolError):
            pass

    trio.run(read_all)


@FUZZ
@given(st.binary(max_size=3 * MAX_LINE_BYTES), st.integers(1, 300))
def test_the_choice_of_a_protocol_ends_with_the_protocol_or_without_the_peer(
    data: bytes, size: int
) -> None:
    async def choose() -> None:
        with pytest.raises(PeerGone):
            await choose_protocol(Bytes(data, size), "/test/1")

    trio.run(choose)


@FUZZ
@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: f"/ip4/1.2.3.4/tcp/{raw!r}"))
def test_an_address_is_one_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_address(text)


TOPICS = st.just(TOPIC) | st.text(max_size=2 * MAX_TOPIC_BYTES)
CHANGES: dict[str, st.SearchStrategy[bytes]] = {
    "from_id": st.binary(max_size=40),
    "key": st.binary(max_size=40),
    "signature": st.binary(max_size=70),
    "seqno": st.binary(max_size=12),
}


@st.composite
def rpcs(draw: st.DrawFn) -> bytes:
    """Random bytes, or an RPC whose parts are partly right."""
    if draw(st.integers(0, 3)) == 0:
        return framed(draw(st.binary(max_size=300)))
    rpc = rpc_pb2.RPC()
    for number in range(draw(st.integers(0, 3))):
        message = signed(KEYS, draw(st.binary(max_size=60)), number, draw(TOPICS))
        for name, values in CHANGES.items():
            if draw(st.integers(0, 3)) == 0:
                setattr(message, name, draw(values))
        rpc.publish.append(message)
    for _ in range(draw(st.integers(0, 3))):
        wish = rpc_pb2.RPC.SubOpts(topicid=draw(TOPICS), subscribe=draw(st.booleans()))
        rpc.subscriptions.append(wish)
    if draw(st.booleans()):
        topic, ids = draw(TOPICS), draw(st.lists(st.binary(max_size=50), max_size=5))
        told = rpc_pb2.ControlMessage()
        told.ihave.append(rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids))
        told.iwant.append(rpc_pb2.ControlIWant(messageIDs=ids))
        told.graft.append(rpc_pb2.ControlGraft(topicID=topic))
        backoff = draw(st.integers(0, 2**64 - 1))
        told.prune.append(rpc_pb2.ControlPrune(topicID=topic, backoff=backoff))
        rpc.control.CopyFrom(told)
    if draw(st.booleans()):
        rpc.senderRecord = draw(st.binary(max_size=40))
    return framed(rpc.SerializeToString())


@FEW
@given(st.lists(rpcs(), max_size=4), st.integers(1, 400))
def test_gossip_ends_its_own_stream_and_delivers_only_what_is_signed(
    data: list[bytes], size: int
) -> None:
    delivered: list[tuple[str, bytes, bytes]] = []

    async def gossip() -> None:
        node = Libp2pNetwork(sha256(b"fuzzed").digest())
        host, swarm = node._new_host()  # pyright: ignore[reportPrivateUsage]
        meters: Any = node._meters  # pyright: ignore[reportPrivateUsage]

        def deliver(topic: str, signer: bytes, payload: bytes) -> None:
            delivered.append((topic, signer, payload))

        pubsub, router = new_pubsub(host, swarm, PeerBounds(), meters, deliver)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            await pubsub.subscribe(TOPIC)
            stream: Any = Ending(b"".join(data), size)
            stream.reset = stream.abort
            await pubsub.stream_handler(stream)
            assert pubsub.manager.is_running
            assert router.manager.is_running
            assert all(len(topic.encode()) <= MAX_TOPIC_BYTES for topic in pubsub.peer_topics)
            assert set(router.back_off) <= {TOPIC}
            assert set(meters.gossip_dropped) <= set(Drop)

    trio.run(gossip)
    assert all(signer == PEER for _, signer, _ in delivered)
    assert all(topic == TOPIC for topic, _, _ in delivered)
