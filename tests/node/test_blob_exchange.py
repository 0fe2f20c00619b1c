"""Chunks between two nodes whose link is cut, whose partner lies, and who has only so much room."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.blobs import FileBlobStore
from robocompute_node.p2p.fake import FakeHub, FakeNetwork
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.blob_access import BlobAccess
from robocompute_node.services.blob_exchange import (
    MUCH_CHUNKS,
    RESUME_PAUSES,
    STREAMS_PER_PEER,
    BlobExchange,
)
from robocompute_node.services.blob_flow import ALL_BYTES, PART_BYTES, PEER_BYTES, Intake
from robocompute_node.services.conversation import PeerRefused, hear, hear_or_end, say
from robocompute_node.store import Store
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import Digest, NodeKey, digest
from robocompute_protocol.messages import (
    PROTOCOL_BLOB,
    BlobMessage,
    ChunkPart,
    Credit,
    Have,
    Message,
    Missing,
    Refused,
    Stored,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream, StreamHandler

MIB = 1 << 20


@dataclass
class Side:
    """One node's chunks."""

    network: FakeNetwork
    blobs: FileBlobStore
    access: BlobAccess
    exchange: BlobExchange

    @property
    def key(self) -> NodeKey:
        return self.network.key


async def nothing(_sent: int, _wanted: int) -> None:
    await trio.lowlevel.checkpoint()


class Pair:
    """Two nodes and the link between them."""

    def __init__(self, folder: Path, *, direct: bool = False) -> None:
        self.hub = FakeHub()
        self.stored_bytes = 0
        self.cut_at: set[int] = set()
        self.open_stores: list[Store] = []
        self.direct_hub = FakeHub() if direct else None
        self.direct: list[FakeNetwork] = []
        self.client = self._side(folder / "client", b"c" * 32)
        self.provider = self._side(folder / "provider", b"p" * 32)

    def _side(self, folder: Path, key: bytes) -> Side:
        folder.mkdir()
        network, store = FakeNetwork(self.hub, NodeKey(key)), Store(folder / "store")
        self.open_stores.append(store)
        blobs = FileBlobStore(folder / "blobs")
        access = BlobAccess(store, blobs)
        direct = None
        if self.direct_hub is not None:
            direct = FakeNetwork(self.direct_hub, NodeKey(key))
            self.direct.append(direct)

        def may_store(_peer: NodeKey, size: int) -> bool:
            self.stored_bytes += size
            if self.stored_bytes in self.cut_at:
                self.cut_at.discard(self.stored_bytes)
                self.cut()
            return True

        exchange = BlobExchange(network, blobs, access, may_store=may_store, direct=direct)
        exchange.register()
        return Side(network, blobs, access, exchange)

    def cut(self) -> None:
        self.hub.cut(self.client.key, self.provider.key)
        if self.direct_hub is not None:
            self.direct_hub.cut(self.client.key, self.provider.key)

    @asynccontextmanager
    async def running(self, *, directly: bool = True) -> AsyncGenerator[None]:
        direct = self.direct if directly else []
        async with trio.open_nursery() as nursery:
            for network in (self.client.network, self.provider.network, *direct):
                await nursery.start(network.run)
            for one in (self.client.network, *self.direct[:1]):
                for other in (self.provider.network, *self.direct[1:]):
                    one.add_addresses(other.key, other.addresses)
                    other.add_addresses(one.key, one.addresses)
            yield
            nursery.cancel_scope.cancel()
        for store in self.open_stores:
            store.close()


def filled(side: Side, *sizes: int) -> tuple[Digest, ...]:
    return tuple(side.blobs.put(os.urandom(size)) for size in sizes)


async def test_only_what_is_missing_travels_and_a_second_time_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = filled(pair.client, 0, 1, PART_BYTES, PART_BYTES + 1, MIB)
    async with pair.running():
        sent = await pair.client.exchange.push(pair.provider.key, chunks[:2], told=nothing)
        assert sent == 1
        sent = await pair.client.exchange.push(pair.provider.key, chunks, told=nothing)
        assert sent == 2 * PART_BYTES + 1 + MIB
        assert await pair.client.exchange.push(pair.provider.key, chunks, told=nothing) == 0
        assert not pair.provider.blobs.missing(chunks)
        await pair.client.exchange.pull(pair.provider.key, chunks)


@pytest.mark.parametrize("direct", [False, True], ids=["libp2p", "direct"])
async def test_a_push_that_is_cut_again_and_again_sends_nothing_twice(
    tmp_path: Path, autojump_clock: trio.abc.Clock, direct: bool
) -> None:
    pair = Pair(tmp_path, direct=direct)
    chunks = filled(pair.client, *([MIB] * 24))
    pair.cut_at = {3 * MIB, 4 * MIB, 11 * MIB, 23 * MIB}
    async with pair.running():
        sent = await pair.client.exchange.push(pair.provider.key, chunks, told=nothing)
        assert not pair.provider.access.missing(pair.client.key, chunks)
    assert pair.stored_bytes == 24 * MIB, "a chunk came twice"
    assert not pair.cut_at
    # Only what was on the wire at the moment of a cut is sent again: at most a credit each time.
    assert 24 * MIB <= sent <= 24 * MIB + 4 * limits.MAX_CREDIT_BYTES


async def test_a_pull_that_is_cut_goes_on_inside_the_chunk(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    (chunk,) = filled(pair.provider, MIB)
    data = pair.provider.blobs.get(chunk)
    offsets: list[int] = []

    async def half(stream: FrameStream) -> None:
        want = await hear(stream, BlobMessage, timeout_s=9)
        assert isinstance(want, Want)
        offsets.append(want.offset)
        end = min(MIB, want.offset + 400_000)
        for at in range(want.offset, end, 100_000):
            part = data[at : min(end, at + 100_000)]
            last = at + len(part) == MIB
            await say(stream, ChunkPart(chunk=chunk, offset=at, data=part, last=last))
        if end < MIB:
            await trio.sleep(1)
            pair.cut()
            return
        await say(stream, Stored())
        await hear_or_end(stream, BlobMessage, timeout_s=9)

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, half)
        await pair.client.exchange.pull(pair.provider.key, (chunk,))
    assert offsets == [0, 400_000, 800_000]
    assert pair.client.blobs.get(chunk) == data


async def test_a_begun_chunk_that_turns_out_wrong_is_dropped_whole_and_is_one_peer_s_alone(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    (chunk,) = filled(pair.provider, 200_000)
    asked: list[Want] = []

    async def lie(stream: FrameStream) -> None:
        want = await hear(stream, BlobMessage, timeout_s=9)
        assert isinstance(want, Want)
        asked.append(want)
        last = want.offset > 0
        part = ChunkPart(chunk=chunk, offset=want.offset, data=b"x" * 100_000, last=last)
        await say(stream, part)
        await trio.sleep(1)
        pair.cut()

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, lie)
        with pytest.raises(RemoteProtocolError, match="do not fit"):
            await pair.client.exchange.pull(pair.provider.key, (chunk,))
        assert [want.offset for want in asked] == [0, 100_000]
        assert not pair.client.blobs.has(chunk)
        pair.provider.exchange.register()
        pair.provider.access.grant(pair.client.key, (chunk,))
        await pair.client.exchange.pull(pair.provider.key, (chunk,))
    assert pair.client.blobs.has(chunk)


async def test_a_transfer_that_moves_nothing_any_more_is_given_up(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = filled(pair.provider, MIB)
    tries = 0

    async def hang_up(stream: FrameStream) -> None:
        nonlocal tries
        tries += 1
        want = await hear(stream, BlobMessage, timeout_s=9)
        assert isinstance(want, Want)
        if tries == 1:
            part = ChunkPart(chunk=chunks[0], offset=0, data=b"1", last=False)
            await say(stream, part)
            await trio.sleep(1)
        pair.cut()

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, hang_up)
        with pytest.raises(PeerGone):
            await pair.client.exchange.pull(pair.provider.key, chunks)
        assert tries == 1 + len(RESUME_PAUSES)
        with pytest.raises(PeerGone):  # and one that never moved anything, at once
            await pair.client.exchange.pull(pair.provider.key, chunks)
        assert tries == 2 + len(RESUME_PAUSES)


async def test_a_peer_that_no_longer_has_a_chunk_is_not_asked_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    async with pair.running():
        began = trio.current_time()
        with pytest.raises(PeerGone, match="no longer"):
            await pair.client.exchange.pull(pair.provider.key, (digest(b"gone"),))
        assert trio.current_time() == began


async def converse(pair: Pair, *said: Message) -> list[Message | None]:
    """Say everything to the provider, then hear all that it says until it ends the stream."""
    heard: list[Message | None] = []
    async with pair.client.network.open(pair.provider.key, PROTOCOL_BLOB) as stream:
        try:
            for message in said:
                await say(stream, message)
            while True:
                heard.append(await hear_or_end(stream, BlobMessage, timeout_s=60))
                if heard[-1] is None:
                    return heard
        except PeerGone:
            return [*heard, None]


async def test_what_is_out_of_place_ends_the_stream_and_leaves_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    data = os.urandom(3 * PART_BYTES)
    chunk = digest(data)
    have = Have(chunks=(chunk,))
    good = ChunkPart(chunk=chunk, offset=0, data=data[:PART_BYTES], last=False)
    hostile: list[tuple[Message, ...]] = [
        (Stored(),),
        (Missing(chunks=()),),
        tuple(Credit(more=limits.MIN_CREDIT_BYTES) for _ in range(9)),
        (have, Stored()),
        (have, good, good),
        (have, ChunkPart(chunk=chunk, offset=9, data=data[:9], last=True)),
        (have, ChunkPart(chunk=digest(b"x"), offset=0, data=b"x", last=True)),
        (have, ChunkPart(chunk=chunk, offset=0, data=data[:9], last=True)),
        (have, ChunkPart(chunk=chunk, offset=0, data=b"", last=False)),
        (have, *(
            ChunkPart(chunk=chunk, offset=at, data=bytes(PART_BYTES), last=False)
            for at in range(0, 2 * MIB, PART_BYTES)
        )),
    ]  # fmt: skip
    async with pair.running():
        for said in hostile:
            heard = await converse(pair, *said)
            assert heard[-1] is None
            assert Stored() not in heard
            assert not pair.provider.blobs.has(chunk)
        assert pair.provider.exchange.intake.allowed == 0
        kept = pair.client.blobs.put(data)
        await pair.client.exchange.push(pair.provider.key, (kept,), told=nothing)
        assert pair.provider.blobs.has(chunk)


async def test_a_sender_waits_for_credit_and_gives_up_on_a_receiver_that_allows_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = filled(pair.provider, MIB, MIB, MIB)
    pair.provider.access.grant(pair.client.key, chunks)
    async with pair.running():
        heard = await converse(pair, Want(chunks=chunks, credit=limits.MIN_CREDIT_BYTES))
        sent = sum(len(part.data) for part in heard if isinstance(part, ChunkPart))
        assert sent == limits.MIN_CREDIT_BYTES
        heard = await converse(
            pair,
            Want(chunks=chunks, credit=limits.MIN_CREDIT_BYTES),
            Credit(more=2 * limits.MIN_CREDIT_BYTES),
        )
        assert heard[-2:] == [Stored(), None]
        flood = [Credit(more=limits.MAX_CREDIT_BYTES)] * 4
        heard = await converse(pair, Want(chunks=chunks, credit=limits.MIN_CREDIT_BYTES), *flood)
        assert Stored() not in heard


async def test_a_receiver_that_says_nothing_of_storing_is_given_up(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = filled(pair.client, 10)

    async def swallow(stream: FrameStream) -> None:
        await hear(stream, BlobMessage, timeout_s=9)
        await say(stream, Want(chunks=chunks))
        while await hear_or_end(stream, BlobMessage):
            pass

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, swallow)
        with pytest.raises(PeerGone):
            await pair.client.exchange.push(pair.provider.key, chunks, told=nothing)


async def test_a_refusal_inside_a_round_is_the_peer_s_word(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = filled(pair.client, MIB)

    async def refuse(stream: FrameStream) -> None:
        await hear(stream, BlobMessage, timeout_s=9)
        await say(stream, Want(chunks=chunks))
        await hear(stream, BlobMessage, timeout_s=9)
        await say(stream, Refused(code="no_upload_expected", message="enough"))
        while await hear_or_end(stream, BlobMessage):
            pass

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, refuse)
        with pytest.raises(PeerRefused, match="enough"):
            await pair.client.exchange.push(pair.provider.key, chunks, told=nothing)


async def test_one_peer_has_only_so_many_transfers_and_bytes_at_once(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    chunks = [digest(bytes([number])) for number in range(STREAMS_PER_PEER + 1)]
    answers: list[Message] = []
    async with pair.running(), trio.open_nursery() as nursery:

        async def offer(chunk: Digest) -> None:
            async with pair.client.network.open(pair.provider.key, PROTOCOL_BLOB) as stream:
                await say(stream, Have(chunks=(chunk,)))
                answers.append(await hear(stream, BlobMessage, timeout_s=600))
                await trio.sleep(600)

        for chunk in chunks:
            nursery.start_soon(offer, chunk)
        await trio.sleep(1)
        wants = [answer for answer in answers if isinstance(answer, Want)]
        assert sum(want.credit for want in wants) <= PEER_BYTES
        assert len(wants) == PEER_BYTES // limits.MAX_CREDIT_BYTES
        (refused,) = [answer for answer in answers if isinstance(answer, Refused)]
        assert refused.code == "blobs_busy"
        nursery.cancel_scope.cancel()


async def test_all_peers_together_have_only_so_many_bytes_at_once(
    autojump_clock: trio.abc.Clock,
) -> None:
    intake = Intake()
    taken: list[int] = []
    async with trio.open_nursery() as nursery:

        async def hold(number: int) -> None:
            async with intake.share(NodeKey(bytes([number]) * 32)) as credit:
                assert limits.MIN_CREDIT_BYTES <= credit <= limits.MAX_CREDIT_BYTES
                taken.append(credit)
                await trio.sleep(5)

        for number in range(40):
            nursery.start_soon(hold, number)
        await trio.sleep(1)
        assert sum(taken) == intake.allowed == ALL_BYTES
        await trio.sleep(5)
        assert intake.allowed <= ALL_BYTES
    assert len(taken) == 40
    assert intake.allowed == 0


async def test_much_goes_directly_and_over_libp2p_where_that_is_not_to_be_had(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path, direct=True)
    few, much = filled(pair.client, 5, 6), filled(pair.client, *range(10, 10 + MUCH_CHUNKS))
    carried: list[str] = []
    serve = pair.provider.exchange.answer

    def noted(way: str) -> StreamHandler:
        async def handler(stream: FrameStream) -> None:
            carried.append(way)
            await serve(stream)

        return handler

    async with pair.running():
        pair.provider.network.serve(PROTOCOL_BLOB, noted("libp2p"))
        pair.direct[1].serve(PROTOCOL_BLOB, noted("direct"))
        await pair.client.exchange.push(pair.provider.key, few, told=nothing)
        assert carried == ["libp2p"]
        await pair.client.exchange.push(pair.provider.key, much, told=nothing)
        assert carried == ["libp2p", "libp2p", "direct"]
        assert not pair.provider.blobs.missing((*few, *much))


async def test_much_goes_over_libp2p_where_no_direct_connection_is_to_be_had(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path, direct=True)
    chunks = filled(pair.client, *range(1, 1 + 2 * MUCH_CHUNKS))
    async with pair.running(directly=False):
        await pair.client.exchange.push(pair.provider.key, chunks, told=nothing)
        assert not pair.provider.blobs.missing(chunks)
        back = filled(pair.provider, *range(50, 50 + MUCH_CHUNKS))
        pair.provider.access.grant(pair.client.key, back)
        await pair.client.exchange.pull(pair.provider.key, back)
        assert not pair.client.blobs.missing(back)


async def test_a_peer_whose_chunks_are_larger_than_announced_fills_no_disk(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    pair = Pair(tmp_path)
    async with pair.running():
        chunks = filled(pair.provider, 1_000, 1_000, 1_000)
        pair.provider.access.grant(pair.client.key, chunks)
        with pytest.raises(RemoteProtocolError, match="more bytes than were announced"):
            await pair.client.exchange.pull(pair.provider.key, chunks, at_most=2_999)
        assert len(pair.client.blobs.missing(chunks)) == 1
        await pair.client.exchange.pull(pair.provider.key, chunks, at_most=1_000)
        assert pair.client.blobs.missing(chunks) == ()
