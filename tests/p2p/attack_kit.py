"""What attackers are made of: bare libp2p hosts, raw sockets, and bytes that no honest peer sends.

Nothing here goes through our own guards: an attacker is a separate peer over TCP.
"""

from __future__ import annotations

import secrets
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from multiaddr import Multiaddr

from robocompute_node.p2p.identity import peer_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_protocol.identifiers import NodeKey

ECHO = "/test/echo/1"
DEAF = "/test/deaf/1"
TOPIC = "/test/topic/1"
MESHSUB = "/meshsub/1.1.0"
SYN, ACK, FIN, RST = 1, 2, 4, 8
DATA, WINDOW, PING, GO_AWAY = 0, 1, 2, 3


@dataclass
class Target:
    """The node attacked, and the address it is attacked from."""

    address: str
    """Its multiaddr with /p2p/."""
    source: str = "127.0.0.1"
    """All of 127.0.0.0/8 is this machine: a different one is a different attacker's address."""
    protocols: tuple[str, ...] = (ECHO, DEAF, MESHSUB)
    """What it serves, as far as is known."""
    heard: set[bytes] = field(default_factory=set[bytes])
    """Payloads that its subscribers were given; none of an attacker's junk may be among them."""

    @property
    def multiaddr(self) -> Multiaddr:
        return Multiaddr(self.address.rsplit("/p2p/", 1)[0])

    @property
    def peer_id(self) -> ID:
        return ID.from_base58(self.address.rsplit("/p2p/", 1)[1])

    @property
    def port(self) -> int:
        return int(self.multiaddr.value_for_protocol("tcp") or 0)


def new_keys() -> KeyPair:
    return create_new_key_pair(secrets.token_bytes(32))


def noise_only(keys: KeyPair) -> dict[Any, Any]:
    return {NOISE: Noise(keys, noise_privkey=new_x25519().private_key)}


QUIET = ConnectionConfig(min_connections=0, low_watermark=0)
"""An attacker's libp2p dials nobody of its own accord."""


@asynccontextmanager
async def attacker(
    keys: KeyPair | None = None, security: dict[Any, Any] | None = None
) -> AsyncGenerator[Any]:
    """A bare libp2p host with none of our guards."""
    keys = keys or new_keys()
    host: Any = new_host(
        key_pair=keys, sec_opt=security or noise_only(keys), connection_config=QUIET
    )
    host.get_network().retry_config.max_retries = 0
    async with host.run(listen_addrs=[]):
        yield host
        for conn in host.get_network().get_connections():
            with suppress(Exception):
                await conn.muxed_conn.secured_conn.close()


async def connection(host: Any, target: Target) -> Any:
    """The attacker's connection to the target: the one it has, or a new one."""
    network = host.get_network()
    known = network.get_connections(target.peer_id)
    if known:
        return known[0]
    return await network.dial_addr(target.multiaddr, target.peer_id, source=(target.source, 0))


async def stream_to(host: Any, target: Target, protocol: str) -> Any:
    await connection(host, target)
    return await host.new_stream(target.peer_id, [protocol])


async def send_raw(host: Any, target: Target, *frames: bytes) -> None:
    """Send bytes of the attacker's making below yamux, inside the encrypted connection."""
    conn = await connection(host, target)
    for frame in frames:
        await conn.muxed_conn.secured_conn.write(frame)


async def until_cut(stream: Any) -> None:
    """Read until the target ends the stream."""
    with suppress(Exception):
        while await stream.read(65_536):
            pass


async def raw_socket(target: Target) -> trio.SocketStream:
    """A TCP connection to the target, from the attacker's own address, saying nothing yet."""
    made = trio.socket.socket()
    await made.bind((target.source, 0))
    await made.connect(("127.0.0.1", target.port))
    return trio.SocketStream(made)


def yamux(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The header of one yamux frame."""
    return struct.pack("!BBHII", 0, kind, flags, stream, length)


class Forged(Ed25519PrivateKey):
    """A private key that shows somebody else's public key."""

    shown: Any = None

    def get_public_key(self) -> Any:
        return self.shown


def forged_keys(wanted: NodeKey) -> KeyPair:
    shown = peer_id_of(wanted).extract_public_key()
    assert shown is not None
    private: Any = new_keys().private_key
    key = Forged(private.impl)
    key.shown = shown
    return KeyPair(key, shown)


def signed(
    keys: KeyPair, data: bytes, number: int, topic: str = TOPIC, **changes: Any
) -> rpc_pb2.Message:
    """A gossip message signed by ``keys``, then changed as said."""
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
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


def framed(body: bytes) -> bytes:
    return varint(len(body)) + body


def rpc(*messages: rpc_pb2.Message) -> bytes:
    return framed(rpc_pb2.RPC(publish=messages).SerializeToString())


def control(**entries: Any) -> bytes:
    """One gossip RPC with only control entries."""
    return framed(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**entries)).SerializeToString())


def subscriptions(topics: list[str], *, subscribe: bool = True) -> bytes:
    """One gossip RPC that joins or leaves topics."""
    wishes = [rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic) for topic in topics]
    return framed(rpc_pb2.RPC(subscriptions=wishes).SerializeToString())
