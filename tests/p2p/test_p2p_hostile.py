"""A node among hostile peers: it survives, unrestarted, and still serves an honest one."""

from __future__ import annotations

import secrets
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attack_gossip import ENDS_THE_STREAM, JUNK, JUNK_MARK
from attack_kit import (
    DEAF,
    ECHO,
    MESHSUB,
    SYN,
    TOPIC,
    WINDOW,
    Target,
    attacker,
    connection,
    forged_keys,
    new_keys,
    noise_only,
    rpc,
    send_raw,
    signed,
    stream_to,
    until_cut,
    yamux,
)
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

from robocompute_node.p2p import tuning
from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import node_key_of, peer_id_of
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.p2p.port import FrameStream
    from robocompute_protocol.identifiers import NodeKey

pytestmark = pytest.mark.net

BOUNDS = PeerBounds(
    handshake_s=1,
    half_open_connections=24,
    inbound_connections=12,
    streams_at_once=16,
    streams_burst=64,
    linger_s=1.0,
)


class Victim:
    """A node, what it saw, and an honest peer to ask it with."""

    def __init__(self, node: Libp2pNetwork, honest: Libp2pNetwork) -> None:
        self.node = node
        self.honest = honest
        self.callers: list[NodeKey] = []
        self.errors: list[Exception] = []
        self.heard: list[bytes] = []
        node.serve(ECHO, self.echo)
        node.serve(DEAF, self.deaf)

    async def echo(self, stream: FrameStream) -> None:
        self.callers.append(stream.peer)
        try:
            while (frame := await stream.receive()) is not None:
                await stream.send(frame)
        except Exception as exc:
            self.errors.append(exc)
            raise

    async def deaf(self, stream: FrameStream) -> None:
        self.callers.append(stream.peer)
        await trio.sleep_forever()

    async def serves(self) -> None:
        """The honest peer is answered, by streams and by gossip, and nothing was restarted."""
        async with self.honest.open(self.node.key, ECHO) as stream:
            word = secrets.token_bytes(16)
            await stream.send(word)
            assert await stream.receive() == word
        while word not in self.heard:
            await self.honest.publish(TOPIC, word)
            await trio.sleep(0.05)
        assert self.node.starts == 1

    @property
    def target(self) -> Target:
        return Target(self.node.addresses[0])

    @property
    def port(self) -> int:
        return self.target.port


@pytest.fixture
async def victim(nursery: trio.Nursery) -> AsyncGenerator[Victim, None]:
    node = Libp2pNetwork(sha256(b"victim").digest(), bounds=BOUNDS)
    honest = Libp2pNetwork(sha256(b"honest").digest())
    found = Victim(node, honest)

    def choosy(_peer: NodeKey, payload: bytes) -> bool:
        if payload.startswith(b"boom"):
            raise KeyError("a bug in a validator")
        return not payload.startswith(b"bad")

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with node.subscribe(TOPIC, choosy) as messages:
            task_status.started()
            async for _, payload in messages:
                found.heard.append(payload)

    with trio.fail_after(25):
        await nursery.start(node.run)
        await nursery.start(honest.run)
        await nursery.start(listen)
        honest.add_addresses(node.key, node.addresses)
        await found.serves()
        yield found
    nursery.cancel_scope.cancel()


async def test_plaintext_cannot_be_dialled(victim: Victim) -> None:
    keys = new_keys()
    async with attacker(keys, {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}) as host:
        with pytest.raises(Exception, match="fail"):
            await connection(host, victim.target)
    await victim.serves()


@pytest.mark.parametrize("way", ["plaintext", "noise"])
async def test_a_stranger_with_a_public_key_does_not_pass_for_its_owner(
    victim: Victim, way: str
) -> None:
    keys = forged_keys(victim.honest.key)
    security = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
    before = len(victim.callers)
    async with attacker(keys, security if way == "plaintext" else noise_only(keys)) as host:
        with trio.move_on_after(2), pytest.raises(Exception):  # noqa: B017, PT011, PT012
            stream = await stream_to(host, victim.target, ECHO)
            await stream.read(1)
    assert len(victim.callers) == before
    await victim.serves()


async def test_garbage_and_half_open_connections_keep_nobody_out(victim: Victim) -> None:
    sockets: list[trio.SocketStream] = []
    for number in range(BOUNDS.half_open_connections * 2):
        stream = await trio.open_tcp_stream("127.0.0.1", victim.port)
        sockets.append(stream)
        if number % 3 == 0:
            await stream.send_all(secrets.token_bytes(500))
        elif number % 3 == 1:
            hello = b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + secrets.token_bytes(99)
            await stream.send_all(hello)
    await victim.serves()
    newcomer = Libp2pNetwork(sha256(b"newcomer").digest())
    async with trio.open_nursery() as nursery:
        await nursery.start(newcomer.run)
        newcomer.add_addresses(victim.node.key, victim.node.addresses)
        while True:  # the door is shut for as long as a handshake may take
            try:
                async with newcomer.open(victim.node.key, ECHO, timeout_s=3.0) as stream:
                    await stream.send(b"in")
                    assert await stream.receive() == b"in"
                break
            except Exception:  # noqa: BLE001
                await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    for stream in sockets:
        await stream.aclose()
    await victim.serves()


async def test_connections_that_ended_do_not_use_up_the_inbound_slots(victim: Victim) -> None:
    for _ in range(BOUNDS.inbound_connections + 3):
        async with attacker() as host:
            stream = await stream_to(host, victim.target, ECHO)
            await stream.write(b"\0\0\0\x01x")
            assert await stream.read(5) == b"\0\0\0\x01x"
    await victim.serves()


async def test_one_peer_gets_only_its_share_of_connections(victim: Victim) -> None:
    keys = new_keys()
    async with attacker(keys) as host:
        network = host.get_network()
        peer_id = peer_id_of(victim.node.key)
        for _ in range(BOUNDS.connections_per_peer + 4):
            await network.dial_addr(victim.target.multiaddr, peer_id)
        swarm: Any = victim.node._swarm  # pyright: ignore[reportPrivateUsage]
        mine = ID.from_pubkey(keys.public_key)
        while len(swarm.live_connections(mine)) > BOUNDS.connections_per_peer:  # noqa: ASYNC110
            await trio.sleep(0.02)
    await victim.serves()


async def test_garbage_on_every_protocol_ends_only_that_stream(victim: Victim) -> None:
    served: Any = victim.node._host  # pyright: ignore[reportPrivateUsage]
    protocols = [each for each in served.get_mux().get_protocols() if each]
    assert {ECHO, MESHSUB} <= set(protocols)
    noise = secrets.token_bytes(200)
    async with attacker() as host:
        for protocol in protocols:
            for payload in (b"\xc8\x01" + noise, b"\xc8\x01" + noise[:50], b"\xff" * 64, b"\0"):
                stream = await stream_to(host, victim.target, protocol)
                await stream.write(payload)
                await stream.close()
    await victim.serves()


async def test_nonsense_in_place_of_a_protocol_name_ends_that_stream(victim: Victim) -> None:
    async with attacker() as host:
        await connection(host, victim.target)
        conn = host.get_network().get_connections(peer_id_of(victim.node.key))[0]
        for payload in (
            b"\xff" * 32,
            b"\x02\xff\n",
            b"\x13/multistream/1.0.0\n\x04\xfe\xff\xfd\n",
        ):
            stream = await conn.new_stream()
            await stream.write(payload)
        for payload in (b"\x13/multistream/1.0.0\n", b""):  # these are left to time out
            stream = await conn.new_stream()
            if payload:
                await stream.write(payload)
        await until_cut(stream)
    await victim.serves()


async def test_a_frame_over_the_limit_ends_its_stream(victim: Victim) -> None:
    async with attacker() as host:
        stream = await stream_to(host, victim.target, ECHO)
        await stream.write((limits.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        await until_cut(stream)
    assert [type(exc) for exc in victim.errors] == [RemoteProtocolError]
    await victim.serves()


def opened(count: int) -> list[bytes]:
    return [yamux(WINDOW, SYN, each, 0) for each in range(100_001, 100_001 + 2 * count, 2)]


async def test_streams_over_the_share_of_a_peer_are_reset(victim: Victim) -> None:
    async with attacker() as host:
        await send_raw(host, victim.target, *opened(100))
        await victim.serves()
        swarm: Any = victim.node._swarm  # pyright: ignore[reportPrivateUsage]
        held = swarm.live_connections(host.get_id())[0].muxed_conn
        while len(held.streams) > BOUNDS.streams_at_once:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert victim.node.status().streams_refused > 0
    await victim.serves()


async def test_a_peer_that_floods_with_streams_is_shut_out_for_a_while(victim: Victim) -> None:
    keys = new_keys()
    swarm: Any = victim.node._swarm  # pyright: ignore[reportPrivateUsage]
    async with attacker(keys) as host:
        with suppress(Exception):
            await send_raw(host, victim.target, *opened(1_000))
        while swarm.live_connections(host.get_id()):  # noqa: ASYNC110
            await trio.sleep(0.02)
        await victim.serves()
    async with attacker(keys) as host:
        with suppress(Exception):  # it may notice only at its first stream
            await connection(host, victim.target)
        while not victim.node.status().connections_refused.get("barred"):  # noqa: ASYNC110
            await trio.sleep(0.02)
        assert not swarm.live_connections(host.get_id())
    assert victim.node.status().peers_barred == 1
    await victim.serves()


async def test_a_peer_that_ignores_its_window_loses_its_connection(victim: Victim) -> None:
    async with attacker() as host:
        stream = await stream_to(host, victim.target, DEAF)
        muxed = stream.muxed_stream
        with pytest.raises(Exception):  # noqa: B017, PT011, PT012
            while True:
                muxed.send_window = 1 << 30
                await stream.write(bytes(60_000))
    await victim.serves()


async def test_junk_gossip_is_neither_heard_nor_deadly(victim: Victim) -> None:
    keys = new_keys()
    async with attacker(keys) as host:
        for name, make in JUNK.items():
            stream = await stream_to(host, victim.target, MESHSUB)
            await stream.write(make(keys))
            if name in ENDS_THE_STREAM:
                await until_cut(stream)
            await trio.sleep(0.02)
            assert victim.node.starts == 1, name
        stream = await stream_to(host, victim.target, MESHSUB)
        await stream.write(rpc(signed(keys, b"good", 1_000)))
        while b"good" not in victim.heard:  # noqa: ASYNC110
            await trio.sleep(0.02)
    await victim.serves()
    assert not {JUNK_MARK, b"boom"} & set(victim.heard)


async def test_a_peer_that_gossips_too_fast_is_cut_down_to_its_share(
    nursery: trio.Nursery,
) -> None:
    bounds = PeerBounds(gossip_burst=10, gossip_per_second=0.001)
    node = Libp2pNetwork(sha256(b"victim").digest(), bounds=bounds)
    keys = new_keys()
    heard: list[bytes] = []
    with trio.fail_after(20):
        await nursery.start(node.run)
        async with node.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
            async with attacker(keys) as host:
                victim = Victim(node, node)
                stream = await stream_to(host, victim.target, MESHSUB)
                await stream.write(
                    b"".join(rpc(signed(keys, bytes([each]), each)) for each in range(50))
                )
                with trio.move_on_after(1.0):
                    async for _, payload in messages:
                        heard.append(payload)
    assert len(heard) == bounds.gossip_burst
    assert node.starts == 1
    nursery.cancel_scope.cancel()


def test_every_patch_is_on_in_these_tests() -> None:
    assert tuning.apply() == tuning.ALL
    assert node_key_of(
        peer_id_of(node_key_of(ID(b"\0\x24\x08\x01\x12\x20" + bytes(32))))
    ) == bytes(32)
