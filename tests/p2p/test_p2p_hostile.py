"""A node among hostile peers: it survives, unrestarted, and still serves an honest one."""

from __future__ import annotations

import secrets
import struct
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from multiaddr import Multiaddr

from robocompute_node.p2p import tuning
from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import node_key_of, peer_id_of
from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from robocompute_node.p2p.port import FrameStream
    from robocompute_protocol.identifiers import NodeKey

pytestmark = pytest.mark.net

ECHO = "/test/echo/1"
DEAF = "/test/deaf/1"
TOPIC = "/test/topic/1"
MESHSUB = "/meshsub/1.1.0"
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
    def address(self) -> Multiaddr:
        return Multiaddr(self.node.addresses[0])

    @property
    def port(self) -> int:
        return int(self.address.value_for_protocol("tcp") or 0)


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


def noise_only(keys: KeyPair) -> dict[Any, Any]:
    return {NOISE: Noise(keys, noise_privkey=new_x25519().private_key)}


@asynccontextmanager
async def attacker(
    keys: KeyPair | None = None, security: dict[Any, Any] | None = None
) -> AsyncGenerator[Any]:
    """A bare libp2p host with none of our guards."""
    keys = keys or create_new_key_pair(secrets.token_bytes(32))
    host: Any = new_host(key_pair=keys, sec_opt=security or noise_only(keys))
    async with host.run(listen_addrs=[]):
        yield host
        for conn in host.get_network().get_connections():
            await conn.muxed_conn.secured_conn.close()


async def attack_stream(host: Any, victim: Victim, protocol: str) -> Any:
    await host.connect(info_from_p2p_addr(victim.address))
    return await host.new_stream(peer_id_of(victim.node.key), [protocol])


async def read_to_the_end(stream: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011, PT012 whatever libp2p says to a dead stream
        while True:
            await stream.read(65_536)


class Forged(Ed25519PrivateKey):
    """A private key that shows somebody else's public key."""

    shown: Any = None

    def get_public_key(self) -> Any:
        return self.shown


def forged_keys(wanted: NodeKey) -> KeyPair:
    mine = create_new_key_pair(secrets.token_bytes(32))
    shown = peer_id_of(wanted).extract_public_key()
    assert shown is not None
    private: Any = mine.private_key
    key = Forged(private.impl)
    key.shown = shown
    return KeyPair(key, shown)


async def test_plaintext_cannot_be_dialled(victim: Victim) -> None:
    keys = create_new_key_pair(secrets.token_bytes(32))
    async with attacker(keys, {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}) as host:
        host.get_network().retry_config.max_retries = 0
        with pytest.raises(Exception, match="unable to connect"):
            await host.connect(info_from_p2p_addr(victim.address))
    await victim.serves()


@pytest.mark.parametrize("way", ["plaintext", "noise"])
async def test_a_stranger_with_a_public_key_does_not_pass_for_its_owner(
    victim: Victim, way: str
) -> None:
    keys = forged_keys(victim.honest.key)
    security = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
    before = len(victim.callers)
    async with attacker(keys, security if way == "plaintext" else noise_only(keys)) as host:
        host.get_network().retry_config.max_retries = 0
        with trio.move_on_after(2), pytest.raises(Exception):  # noqa: B017, PT011, PT012
            stream = await attack_stream(host, victim, ECHO)
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
            stream = await attack_stream(host, victim, ECHO)
            await stream.write(b"\0\0\0\x01x")
            assert await stream.read(5) == b"\0\0\0\x01x"
    await victim.serves()


async def test_one_peer_gets_only_its_share_of_connections(victim: Victim) -> None:
    keys = create_new_key_pair(secrets.token_bytes(32))
    async with attacker(keys) as host:
        network = host.get_network()
        peer_id = peer_id_of(victim.node.key)
        for _ in range(BOUNDS.connections_per_peer + 4):
            await network.dial_addr(victim.address, peer_id)
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
                stream = await attack_stream(host, victim, protocol)
                await stream.write(payload)
                await stream.close()
    await victim.serves()


async def test_nonsense_in_place_of_a_protocol_name_ends_that_stream(victim: Victim) -> None:
    async with attacker() as host:
        await host.connect(info_from_p2p_addr(victim.address))
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
        await read_to_the_end(stream)
    await victim.serves()


async def test_a_frame_over_the_limit_ends_its_stream(victim: Victim) -> None:
    async with attacker() as host:
        stream = await attack_stream(host, victim, ECHO)
        await stream.write((limits.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        await read_to_the_end(stream)
    assert [type(exc) for exc in victim.errors] == [RemoteProtocolError]
    await victim.serves()


async def open_streams_raw(host: Any, victim: Victim, count: int) -> None:
    """Open ``count`` streams by their bare yamux frames, waiting for no answer."""
    await host.connect(info_from_p2p_addr(victim.address))
    conn = host.get_network().get_connections(peer_id_of(victim.node.key))[0]
    secured = conn.muxed_conn.secured_conn
    for stream_id in range(100_001, 100_001 + 2 * count, 2):
        await secured.write(struct.pack("!BBHII", 0, 1, 1, stream_id, 0))


async def test_streams_over_the_share_of_a_peer_are_reset(victim: Victim) -> None:
    async with attacker() as host:
        await open_streams_raw(host, victim, 100)
        await victim.serves()
        swarm: Any = victim.node._swarm  # pyright: ignore[reportPrivateUsage]
        held = swarm.live_connections(host.get_id())[0].muxed_conn
        while len(held.streams) > BOUNDS.streams_at_once:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert victim.node.status().streams_refused > 0
    await victim.serves()


async def test_a_peer_that_floods_with_streams_is_shut_out_for_a_while(victim: Victim) -> None:
    keys = create_new_key_pair(secrets.token_bytes(32))
    swarm: Any = victim.node._swarm  # pyright: ignore[reportPrivateUsage]
    async with attacker(keys) as host:
        with suppress(Exception):
            await open_streams_raw(host, victim, 1_000)
        while swarm.live_connections(host.get_id()):  # noqa: ASYNC110
            await trio.sleep(0.02)
        await victim.serves()
    async with attacker(keys) as host:
        host.get_network().retry_config.max_retries = 0
        with suppress(Exception):  # it may notice only at its first stream
            await host.connect(info_from_p2p_addr(victim.address))
        while not victim.node.status().connections_refused.get("barred"):  # noqa: ASYNC110
            await trio.sleep(0.02)
        assert not swarm.live_connections(host.get_id())
    assert victim.node.status().peers_barred == 1
    await victim.serves()


async def test_a_peer_that_ignores_its_window_loses_its_connection(victim: Victim) -> None:
    async with attacker() as host:
        stream = await attack_stream(host, victim, DEAF)
        muxed = stream.muxed_stream
        with pytest.raises(Exception):  # noqa: B017, PT011, PT012
            while True:
                muxed.send_window = 1 << 30
                await stream.write(bytes(60_000))
    await victim.serves()


def signed(keys: KeyPair, data: bytes, number: int, **changes: Any) -> rpc_pb2.Message:
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[TOPIC],
        from_id=ID.from_pubkey(keys.public_key).to_bytes(),
        seqno=struct.pack(">Q", number),
    )
    body = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = keys.private_key.sign(body)
    message.key = keys.public_key.serialize()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def rpc(*messages: rpc_pb2.Message) -> bytes:
    return framed(rpc_pb2.RPC(publish=messages).SerializeToString())


def framed(body: bytes) -> bytes:
    return varint(len(body)) + body


def control_junk() -> bytes:
    control = rpc_pb2.ControlMessage()
    control.ihave.append(rpc_pb2.ControlIHave(topicID="nope"))
    control.graft.append(rpc_pb2.ControlGraft(topicID="nope"))
    control.prune.append(rpc_pb2.ControlPrune(topicID="nope", backoff=1 << 40))
    exchange = rpc_pb2.ControlPrune(topicID=TOPIC)
    peer = exchange.peers.add()
    peer.peerID = peer.signedPeerRecord = b"junk"
    control.prune.append(exchange)
    return framed(rpc_pb2.RPC(control=control).SerializeToString())


def bad_record(keys: KeyPair) -> bytes:
    message = rpc_pb2.RPC(publish=[signed(keys, b"its record is not looked at", 90)])
    message.senderRecord = b"\x99" * 40
    return framed(message.SerializeToString())


JUNK: dict[str, Callable[[KeyPair], bytes]] = {
    "random bytes": lambda _keys: framed(secrets.token_bytes(300)),
    "a junk key": lambda keys: rpc(signed(keys, b"the id has it", 1, key=b"\xff\xff\xff")),
    "a hashed id and a junk key": lambda keys: rpc(
        signed(keys, b"unheard", 2, key=b"\xff" * 3, from_id=b"\x12\x20" + bytes(32))
    ),
    "a short id": lambda keys: rpc(signed(keys, b"unheard", 3, from_id=b"\x01")),
    "a topic that is no text": lambda _keys: framed(
        b"\x12\x0e\x0a\x02\x01\x02\x12\x01a\x1a\x01b\x22\x02\xff\xfe"
    ),
    "a subscription that is no text": lambda _keys: framed(b"\x0a\x06\x08\x01\x12\x02\xff\xfe"),
    "a bad signature": lambda keys: rpc(signed(keys, b"unheard", 4, signature=bytes(64))),
    "someone else's signature": lambda keys: rpc(
        signed(keys, b"unheard", 5, from_id=b"\0\x24\x08\x01\x12\x20" + bytes(32))
    ),
    "a bad record": bad_record,
    "control junk": lambda _keys: control_junk(),
    "a raising validator": lambda keys: rpc(signed(keys, b"boom", 6)),
    "too large a payload": lambda keys: rpc(signed(keys, bytes(limits.MAX_GOSSIP_BYTES + 1), 7)),
    "a message in two topics": lambda keys: rpc(
        rpc_pb2.Message(data=b"unheard", topicIDs=[TOPIC, "x"])
    ),
    "ten megabytes": lambda _keys: varint(10 << 20) + bytes(100_000),
    "an endless length": lambda _keys: b"\xff" * 4096,
}


async def test_junk_gossip_is_neither_heard_nor_deadly(victim: Victim) -> None:
    keys = create_new_key_pair(secrets.token_bytes(32))
    async with attacker(keys) as host:
        for name, make in JUNK.items():
            stream = await attack_stream(host, victim, MESHSUB)
            await stream.write(make(keys))
            if name in {"ten megabytes", "an endless length", "random bytes"}:
                await read_to_the_end(stream)
            await trio.sleep(0.02)
            assert victim.node.starts == 1, name
        stream = await attack_stream(host, victim, MESHSUB)
        await stream.write(rpc(signed(keys, b"good", 1_000)))
        while b"good" not in victim.heard:  # noqa: ASYNC110
            await trio.sleep(0.02)
    await victim.serves()
    assert not {b"unheard", b"boom"} & set(victim.heard)


async def test_a_peer_that_gossips_too_fast_is_cut_down_to_its_share(
    nursery: trio.Nursery,
) -> None:
    bounds = PeerBounds(gossip_burst=10, gossip_per_second=0.001)
    node = Libp2pNetwork(sha256(b"victim").digest(), bounds=bounds)
    keys = create_new_key_pair(secrets.token_bytes(32))
    heard: list[bytes] = []
    with trio.fail_after(20):
        await nursery.start(node.run)
        async with node.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
            async with attacker(keys) as host:
                victim = Victim(node, node)
                stream = await attack_stream(host, victim, MESHSUB)
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
