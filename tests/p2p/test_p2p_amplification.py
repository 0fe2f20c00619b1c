"""Nothing small makes this node do much: repeated wishes are answered once, dials take turns."""

from __future__ import annotations

import secrets
import socket
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attack_kit import (
    MESHSUB,
    TOPIC,
    Target,
    attacker,
    control,
    new_keys,
    rpc,
    signed,
    stream_to,
    subscriptions,
)
from libp2p.pubsub.pb import rpc_pb2

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import key_pair_of
from robocompute_protocol.identifiers import NodeKey

if TYPE_CHECKING:
    from robocompute_node.p2p.pubsub import GuardedPubsub, GuardedRouter

pytestmark = pytest.mark.net

SIZE = 10_000


def parts_of(node: Libp2pNetwork) -> tuple[GuardedPubsub, GuardedRouter]:
    gossip: Any = node._gossip  # pyright: ignore[reportPrivateUsage]
    return gossip._pubsub, gossip._pubsub.router


async def test_a_message_asked_for_a_thousand_times_is_sent_once(nursery: trio.Nursery) -> None:
    node = Libp2pNetwork(sha256(b"asked").digest())
    got = 0

    async def collect(stream: Any) -> None:
        nonlocal got
        while data := await stream.read(65_536):
            got += len(data)

    with trio.fail_after(60):
        await nursery.start(node.run)
        async with node.subscribe(TOPIC, lambda _peer, _payload: True), attacker() as host:
            host.set_stream_handler(MESHSUB, collect)
            stream = await stream_to(host, Target(node.addresses[0]), MESHSUB)
            pubsub, router = parts_of(node)
            while host.get_id() not in pubsub.peers:  # noqa: ASYNC110
                await trio.sleep(0.02)
            await node.publish(TOPIC, secrets.token_bytes(SIZE))
            (entry,) = router.mcache.msgs.values()
            wish = pubsub.get_message_id(entry).hex().encode()
            await stream.write(control(iwant=[{"messageIDs": [wish] * 1_000}]))
            while got < SIZE:  # noqa: ASYNC110
                await trio.sleep(0.02)
            with trio.move_on_after(1.0):
                await trio.sleep_forever()
    assert got < 2 * SIZE
    nursery.cancel_scope.cancel()


async def test_what_a_peer_makes_up_leaves_nothing_behind(nursery: trio.Nursery) -> None:
    node = Libp2pNetwork(sha256(b"told").digest(), bounds=PeerBounds(topic_changes_burst=80))
    keys = new_keys()
    heard: list[bytes] = []
    with trio.fail_after(60):
        await nursery.start(node.run)
        async with (
            node.subscribe(TOPIC, lambda _peer, _payload: True) as messages,
            attacker(keys) as host,
        ):
            stream = await stream_to(host, Target(node.addresses[0]), MESHSUB)
            topics = [f"made up {each}" for each in range(300)]
            prunes = [rpc_pb2.ControlPrune(topicID=each, backoff=1 << 40) for each in topics]
            prunes.append(rpc_pb2.ControlPrune(topicID=TOPIC, backoff=1 << 40))
            haves = [rpc_pb2.ControlIHave(topicID=each) for each in topics]
            grafts = [rpc_pb2.ControlGraft(topicID=each) for each in topics]
            await stream.write(control(prune=prunes, ihave=haves, graft=grafts))
            await stream.write(subscriptions(["x" * 1_000]))
            for start in range(0, 300, 50):
                await stream.write(subscriptions(topics[start : start + 50]))
            await stream.write(rpc(signed(keys, b"the end", 1)))
            async for _, payload in messages:
                heard.append(payload)
                break
            pubsub, router = parts_of(node)
            assert set(router.back_off) <= {TOPIC}
            assert set(router.mesh) == {TOPIC}
            assert sum(map(len, router.ihave_message_limits.values())) == 0
            assert (
                sum(map(len, router.graft_flood_tracking.values())) <= PeerBounds().topics_per_peer
            )
            assert len(pubsub.peer_topics) <= PeerBounds().topics_per_peer
            assert max(map(len, pubsub.peer_topics)) < 1_000
            assert node.status().gossip_dropped["subscription"] > 0
        while pubsub.peer_topics or router.graft_flood_tracking or router.back_off.get(TOPIC, {}):
            waits = router.back_off.get(TOPIC, {})
            assert all(until < 2**33 for until in waits.values())
            if waits and not pubsub.peer_topics and not router.graft_flood_tracking:
                break  # an hour at most is waited for, and then it is dropped
            await trio.sleep(0.05)
    assert heard == [b"the end"]
    nursery.cancel_scope.cancel()


async def test_dials_take_turns(nursery: trio.Nursery) -> None:
    node = Libp2pNetwork(sha256(b"dialler").digest(), bounds=PeerBounds(dials_at_once=2))
    with trio.fail_after(60), socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # takes connections, and says nothing
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        await nursery.start(node.run)

        async def dial(number: int) -> None:
            seed = sha256(b"nobody" + bytes([number])).digest()
            peer = NodeKey(key_pair_of(seed).public_key.to_bytes())
            node.add_addresses(peer, (address,))
            async with node.open(peer, "/test/1", timeout_s=50.0):
                pass

        async with trio.open_nursery() as dialling:
            for number in range(6):
                dialling.start_soon(dial, number)
            while node.status().dials < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
            with trio.move_on_after(0.5):
                await trio.sleep_forever()
            assert node.status().dials == 2
            dialling.cancel_scope.cancel()
    nursery.cancel_scope.cancel()
