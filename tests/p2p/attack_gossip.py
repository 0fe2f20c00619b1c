"""Attacks by gossip. Whatever they send under the name of ``JUNK_MARK`` must never be heard."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import trio
from attack_kit import (
    MESHSUB,
    TOPIC,
    Target,
    attacker,
    control,
    framed,
    new_keys,
    rpc,
    signed,
    stream_to,
    subscriptions,
    until_cut,
    varint,
)
from libp2p.pubsub.pb import rpc_pb2

from robocompute_protocol import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.crypto.keys import KeyPair

JUNK_MARK = b"junk"


def _control_junk() -> bytes:
    told = rpc_pb2.ControlMessage()
    told.ihave.append(rpc_pb2.ControlIHave(topicID="nope"))
    told.graft.append(rpc_pb2.ControlGraft(topicID="nope"))
    told.prune.append(rpc_pb2.ControlPrune(topicID="nope", backoff=1 << 40))
    exchange = rpc_pb2.ControlPrune(topicID=TOPIC)
    peer = exchange.peers.add()
    peer.peerID = peer.signedPeerRecord = b"junk"
    told.prune.append(exchange)
    return framed(rpc_pb2.RPC(control=told).SerializeToString())


def _changed(message: rpc_pb2.Message) -> rpc_pb2.Message:
    message.data = JUNK_MARK
    return message


def _bad_record(keys: KeyPair) -> bytes:
    message = rpc_pb2.RPC(publish=[signed(keys, b"its record is not looked at", 90)])
    message.senderRecord = b"\x99" * 40
    return framed(message.SerializeToString())


JUNK: dict[str, Callable[[KeyPair], bytes]] = {
    "random bytes": lambda _keys: framed(secrets.token_bytes(300)),
    "a junk key": lambda keys: rpc(signed(keys, b"the id has it", 1, key=b"\xff\xff\xff")),
    "a hashed id and a junk key": lambda keys: rpc(
        signed(keys, JUNK_MARK, 2, key=b"\xff" * 3, from_id=b"\x12\x20" + bytes(32))
    ),
    "a short id": lambda keys: rpc(signed(keys, JUNK_MARK, 3, from_id=b"\x01")),
    "a topic that is no text": lambda _keys: framed(
        b"\x12\x0e\x0a\x02\x01\x02\x12\x01a\x1a\x01b\x22\x02\xff\xfe"
    ),
    "a subscription that is no text": lambda _keys: framed(b"\x0a\x06\x08\x01\x12\x02\xff\xfe"),
    "a bad signature": lambda keys: rpc(signed(keys, JUNK_MARK, 4, signature=bytes(64))),
    "no signature": lambda keys: rpc(signed(keys, JUNK_MARK, 8, signature=b"")),
    "someone else's signature": lambda keys: rpc(
        signed(keys, JUNK_MARK, 5, from_id=b"\0\x24\x08\x01\x12\x20" + bytes(32))
    ),
    "a payload changed under way": lambda keys: rpc(_changed(signed(keys, b"x", 9))),
    "a bad record": _bad_record,
    "control junk": lambda _keys: _control_junk(),
    "a raising validator": lambda keys: rpc(signed(keys, b"boom", 6)),
    "too large a payload": lambda keys: rpc(
        signed(keys, JUNK_MARK + bytes(limits.MAX_GOSSIP_BYTES), 7)
    ),
    "a message in two topics": lambda keys: rpc(
        rpc_pb2.Message(data=JUNK_MARK, topicIDs=[TOPIC, "x"])
    ),
    "ten megabytes": lambda _keys: varint(10 << 20) + bytes(100_000),
    "an endless length": lambda _keys: b"\xff" * 4096,
}
ENDS_THE_STREAM = frozenset({"ten megabytes", "an endless length", "random bytes"})


async def junk_of_every_kind(target: Target) -> None:
    """Each kind of unreadable, forged or oversized message, one after the other."""
    keys = new_keys()
    async with attacker(keys) as host:
        for name, make in JUNK.items():
            stream = await stream_to(host, target, MESHSUB)
            await stream.write(make(keys))
            if name in ENDS_THE_STREAM:
                await until_cut(stream)


async def replays(target: Target) -> None:
    """One good message, again and again: it is heard once at most."""
    keys = new_keys()
    message = rpc(signed(keys, b"replayed " + secrets.token_bytes(8), 1))
    async with attacker(keys) as host:
        stream = await stream_to(host, target, MESHSUB)
        for _ in range(50):
            await stream.write(message * 10)
            await trio.sleep(0.01)


async def topics_without_end(target: Target) -> None:
    """Subscriptions to made-up topics, some with names of a hundred kilobytes."""
    async with attacker() as host:
        stream = await stream_to(host, target, MESHSUB)
        for number in range(40):
            names = [f"made-up/{number}/{each}/{secrets.token_hex(4)}" for each in range(64)]
            await stream.write(subscriptions(names))
            await stream.write(subscriptions(["x" * 100_000 + str(number)]))
            await trio.sleep(0.01)


async def joining_and_leaving(target: Target) -> None:
    """The same topic joined and left without end: each joining asks for recent messages."""
    async with attacker() as host:
        stream = await stream_to(host, target, MESHSUB)
        for _ in range(40):
            flip = subscriptions([TOPIC]) + subscriptions([TOPIC], subscribe=False)
            await stream.write(flip * 25)
            await trio.sleep(0.01)


async def control_floods(target: Target) -> None:
    """Haves, wants, grafts and prunes for topics and messages that nobody has."""
    async with attacker() as host:
        stream = await stream_to(host, target, MESHSUB)
        known = secrets.token_hex(20).encode()
        for number in range(20):
            topics = [f"{number}/{each}" for each in range(300)]
            prunes = [rpc_pb2.ControlPrune(topicID=each, backoff=1 << 40) for each in topics]
            await stream.write(control(prune=prunes))
            await stream.write(control(graft=[{"topicID": each} for each in topics]))
            have: dict[str, Any] = {"topicID": TOPIC, "messageIDs": [known] * 1_000}
            await stream.write(control(ihave=[have]))
            await stream.write(control(iwant=[{"messageIDs": [known] * 2_000}]))
            await trio.sleep(0.01)


async def messages_too_fast(target: Target) -> None:
    """Well signed messages, hundreds at once, from one peer."""
    keys = new_keys()
    async with attacker(keys) as host:
        stream = await stream_to(host, target, MESHSUB)
        for number in range(4):
            batch = [signed(keys, b"bad", 1_000 * number + each) for each in range(150)]
            await stream.write(rpc(*batch))
            await trio.sleep(0.05)


async def ten_megabytes(target: Target) -> None:
    """One gossip message of ten megabytes, really sent."""
    async with attacker() as host:
        stream = await stream_to(host, target, MESHSUB)
        await stream.write(varint(10 << 20))
        for _ in range(160):
            await stream.write(bytes(65_536))


async def never_reading_gossip(target: Target) -> None:
    """A follower of the topic that never reads what it is sent."""
    async with attacker() as host:

        async def deaf(stream: Any) -> None:
            del stream
            await trio.sleep_forever()

        host.set_stream_handler(MESHSUB, deaf)
        stream = await stream_to(host, target, MESHSUB)
        await stream.write(subscriptions([TOPIC]) + control(graft=[{"topicID": TOPIC}]))
        await trio.sleep(2.0)


ATTACKS = (
    junk_of_every_kind,
    replays,
    topics_without_end,
    joining_and_leaving,
    control_floods,
    messages_too_fast,
    ten_megabytes,
    never_reading_gossip,
)
