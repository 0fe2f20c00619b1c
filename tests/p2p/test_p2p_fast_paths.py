"""The shorter ways through libp2p: they save turns and copies, and change nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.exceptions import StreamReset
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import PeerScorer, ScoreParams
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.utils.varint import encode_uvarint

from robocompute_node.p2p import fast_paths, tuning
from robocompute_node.p2p.fast_paths import QuietLock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MUCH = bytes(range(256)) * 40_000
"""More than the kernel takes at once: ten megabytes."""


@pytest.fixture(autouse=True)
def tuned() -> None:
    assert tuning.apply() == tuning.ALL


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[TrioTCPStream, trio.SocketStream]]:
    """libp2p's end of a connection, and a plain other end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as ours:
            async with await listener.accept() as theirs:
                yield TrioTCPStream(ours), theirs


async def received(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        some = await stream.receive_some()
        if not some:
            break
        data += some
    return bytes(data)


class Turns:
    """Counts how often other tasks got their turn."""

    def __init__(self) -> None:
        self.taken = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.taken += 1


@asynccontextmanager
async def turns() -> AsyncGenerator[Turns]:
    counter = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counter.run)
        while not counter.taken:
            await trio.lowlevel.checkpoint()
        yield counter
        nursery.cancel_scope.cancel()


async def test_a_free_lock_takes_nobodys_turn_and_a_held_one_is_waited_for() -> None:
    lock = QuietLock()
    order: list[str] = []

    async def second() -> None:
        async with lock:
            order.append("second")

    async with turns() as others:
        before = others.taken
        for _ in range(10):
            async with lock:
                pass
        assert others.taken == before
    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            order.append("first")
    assert order == ["first", "second"]


async def test_those_who_wait_for_a_lock_get_it_one_by_one_and_the_impatient_not_at_all() -> None:
    lock = QuietLock()
    inside = most = done = 0

    async def work() -> None:
        nonlocal inside, most, done
        async with lock:
            inside += 1
            most = max(most, inside)
            await trio.lowlevel.checkpoint()
            inside -= 1
            done += 1

    async with trio.open_nursery() as nursery:
        async with lock:
            for _ in range(5):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0) as scope:
                async with lock:
                    done += 100
            assert scope.cancelled_caught
    assert (most, done) == (1, 5)


async def test_a_lock_is_free_again_after_a_fault() -> None:
    lock = QuietLock()
    with pytest.raises(KeyError):
        async with lock:
            raise KeyError
    with trio.fail_after(5):
        async with lock:
            pass


async def test_the_locks_that_every_message_passes_are_quiet() -> None:
    muxed: Any = SimpleNamespace(muxed_conn=None)
    stream: Any = NetStream(muxed, None, None)
    assert type(stream._state_lock) is QuietLock
    async with connected() as (raw, _):
        assert type(raw.write_lock) is QuietLock
        assert type(raw.read_lock) is QuietLock


async def test_a_small_write_takes_nobodys_turn_but_many_let_others_in() -> None:
    async with connected() as (ours, theirs), turns() as others:
        before = others.taken
        await ours.write(b"one")
        assert others.taken == before
        for _ in range(3 * fast_paths.UNYIELDED_WRITES):
            await ours.write(b"x")
        assert others.taken > before
        before = others.taken
        for _ in range(3):
            await ours.write(bytes(fast_paths.UNYIELDED_BYTES))
        assert others.taken > before
        count = 3 + 3 * (fast_paths.UNYIELDED_WRITES + fast_paths.UNYIELDED_BYTES)
        assert len(await received(theirs, count)) == count


async def test_a_cancelled_write_arrives_whole() -> None:
    found: list[bytes] = []
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:

        async def read() -> None:
            found.append(await received(theirs, len(MUCH)))

        nursery.start_soon(read)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.write(MUCH)
    assert found == [MUCH]


async def test_a_peer_that_takes_no_bytes_loses_its_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as (ours, _theirs):
        with pytest.raises(ConnectionClosedError, match="takes no bytes"):
            await ours.write(MUCH)
        assert autojump_clock.current_time() >= fast_paths.RAW_WRITE_DEADLINE_S
        assert ours.stream.socket.fileno() < 0


async def test_a_write_to_a_lost_connection_says_so_and_one_to_a_closed_says_nothing() -> None:
    async with connected() as (ours, theirs):
        await theirs.aclose()

        async def write_on() -> None:
            while True:
                await ours.write(b"x")
                await trio.lowlevel.checkpoint()

        with pytest.raises(ConnectionClosedError):
            await write_on()
        await ours.close()
        await ours.write(b"x")


async def test_a_write_in_wait_ends_when_the_connection_is_closed_here() -> None:
    async with connected() as (ours, _theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.write, MUCH)
        await trio.testing.wait_all_tasks_blocked()
        await ours.close()


class Secured:
    """A secured connection that nothing comes from."""

    is_initiator = True

    async def read(self, n: int | None = None) -> bytes:
        del n
        raise ConnectionClosedError("closed")


def muxed_stream() -> Any:
    conn: Any = Yamux(Secured(), PEER, is_initiator=True)  # pyright: ignore[reportArgumentType]
    stream: Any = YamuxStream(1, conn, True)
    conn.streams[1] = stream
    conn.stream_buffers[1] = bytearray()
    conn.stream_events[1] = trio.Event()
    return stream


async def test_bytes_that_are_here_are_read_as_much_as_is_asked_for() -> None:
    stream = muxed_stream()
    stream.conn.stream_buffers[1] += b"abcdef"
    assert await stream.conn.read_stream(1, 2) == b"ab"
    assert await stream.conn.read_stream(1, -1) == b"cdef"


async def test_a_reader_waits_until_something_comes() -> None:
    stream = muxed_stream()
    found: list[bytes] = []

    async def read() -> None:
        found.append(await stream.conn.read_stream(1, 10))
        found.append(await stream.conn.read_stream(1, 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for part in (b"one", b"two"):
            await trio.testing.wait_all_tasks_blocked()
            stream.conn.stream_buffers[1] += part
            stream.conn.stream_events[1].set()
    assert found == [b"one", b"two"]


async def test_what_came_before_the_end_is_read_and_then_the_end() -> None:
    stream = muxed_stream()
    stream.conn.stream_buffers[1] += b"last"
    stream.recv_closed = stream.closed = stream.send_closed = True
    assert await stream.conn.read_stream(1, 10) == b"last"
    with pytest.raises(MuxedStreamEOF):
        await stream.conn.read_stream(1, 10)
    assert stream.conn.streams == {}


async def test_a_reset_and_a_lost_connection_end_reading() -> None:
    stream = muxed_stream()
    stream.conn.stream_buffers[1] += b"dropped"
    stream.reset_received = True
    with pytest.raises(MuxedStreamReset):
        await stream.conn.read_stream(1, 10)
    other = muxed_stream()
    other.conn.event_shutting_down.set()
    with pytest.raises(MuxedStreamEOF):
        await other.conn.read_stream(1, 10)
    with pytest.raises(MuxedStreamEOF):
        await muxed_stream().conn.read_stream(3, 10)


async def test_a_waiting_reader_ends_with_its_connection() -> None:
    stream = muxed_stream()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(MuxedStreamEOF):
                await stream.conn.read_stream(1, 10)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        event = stream.conn.stream_events.pop(1)
        stream.conn.streams.clear()
        event.set()


async def test_a_body_that_came_with_its_header_is_not_waited_for() -> None:
    session: Any = object.__new__(SecureSession)
    session._reset_internal_buffer()
    session._fill(b"bodyrest")
    conn: Any = SimpleNamespace(secured_conn=session)
    assert await Yamux._read_data_body(conn, 4) == b"body"  # pyright: ignore[reportPrivateUsage]
    conn.secured_conn = Secured()
    with pytest.raises(ConnectionClosedError):
        await Yamux._read_data_body(conn, 4)  # pyright: ignore[reportPrivateUsage]


PEER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


def test_scores_without_a_threshold_are_not_added_up() -> None:
    scorer = PeerScorer(ScoreParams())
    assert scorer.allow_publish(PEER, ["t"])
    assert scorer.allow_gossip(PEER, ["t"])
    assert not scorer.is_graylisted(PEER, ["t"])
    assert not scorer.time_in_mesh
    assert not scorer.allow_publish(PEER, [])


def test_scores_with_a_threshold_count() -> None:
    scorer = PeerScorer(ScoreParams(publish_threshold=1.0, gossip_threshold=1.0))
    scorer.params.graylist_threshold = 1.0
    assert not scorer.allow_publish(PEER, ["t"])
    assert not scorer.allow_gossip(PEER, ["t"])
    assert scorer.is_graylisted(PEER, ["t"])


def message(number: int, size: int = 100) -> rpc_pb2.RPC:
    published = rpc_pb2.Message(data=bytes([number]) * size, topicIDs=["t"])
    return rpc_pb2.RPC(publish=[published])


def router_to(*peers: ID, length: int = 8) -> tuple[Any, dict[ID, RpcQueue]]:
    router: Any = GossipSub([], 6, 5, 12)
    queues = {peer: RpcQueue(max_size=length) for peer in peers}
    router.pubsub = SimpleNamespace(peer_queues=queues)
    return router, queues


async def test_a_message_to_many_peers_is_one_object_serialised_once() -> None:
    peers = [ID(PEER.to_bytes()[:-1] + bytes([last])) for last in range(3)]
    router, queues = router_to(*peers)
    rpc = message(7)
    for peer in peers:
        router.send_rpc(peer, rpc)
    popped = [await queue.pop() for queue in queues.values()]
    assert all(each is rpc for each in popped)
    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.append(data)

    pubsub: Any = SimpleNamespace()
    for each in popped:
        assert each is not None
        assert await Pubsub.write_msg(pubsub, SimpleNamespace(write=write), each)  # pyright: ignore[reportArgumentType]
    body = rpc.SerializeToString()
    assert written == [encode_uvarint(len(body)) + body] * 3
    assert written[0] is written[2]


async def test_a_write_to_a_stream_that_is_gone_makes_its_peer_dead() -> None:
    dead: list[ID] = []

    async def write(_data: bytes) -> None:
        raise StreamReset

    stream: Any = SimpleNamespace(write=write, muxed_conn=SimpleNamespace(peer_id=PEER))
    pubsub: Any = SimpleNamespace(_handle_dead_peer=dead.append)
    assert not await Pubsub.write_msg(pubsub, stream, message(1))
    assert dead == [PEER]


def test_control_messages_and_full_queues_are_treated_as_before() -> None:
    router, queues = router_to(PEER, length=2)
    rpc = message(1)
    rpc.control.graft.append(rpc_pb2.ControlGraft(topicID="t"))
    router.send_rpc(PEER, rpc)
    assert len(queues[PEER]) == 2  # split as stock does: the message, then the control part
    router.send_rpc(PEER, message(2))
    assert len(queues[PEER]) == 2


async def test_what_waits_for_one_peer_goes_out_as_one_rpc() -> None:
    queue = RpcQueue()
    for number in range(3):
        queue.push(message(number))
    merged = await queue.pop()
    assert merged is not None
    assert [each.data[0] for each in merged.publish] == [0, 1, 2]
    assert len(queue) == 0


async def test_merging_stops_at_the_size_of_an_rpc_and_at_control_messages() -> None:
    queue = RpcQueue()
    large = message(1, size=tuning.GOSSIP_RPC_BYTES // 2)
    for _ in range(3):
        queue.push(large)
    control = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="t")])
    queue.push(message(4))
    queue.push(control)
    found = [await queue.pop() for _ in range(4)]
    assert [len(each.publish) for each in found if each is not None] == [1, 1, 2, 0]
    assert found[0] is large
    assert all(each is not None and each.ByteSize() <= tuning.GOSSIP_RPC_BYTES for each in found)
