"""Rendezvous points: what is on the list, what is not, and what nobody can put there."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
import trio
from discovery_world import NETWORK, PATIENCE_S, Member, member, until
from libp2p.discovery.rendezvous.messages import create_discover_message, create_register_message
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message
from multiaddr import Multiaddr

from robocompute_node.p2p.circuits import open_stream
from robocompute_node.p2p.discovery.known import Found
from robocompute_node.p2p.discovery.rendezvous import (
    MAX_ADDRESSES,
    MAX_FOUND,
    MAX_OF_ONE_HOST,
    MAX_REGISTERED,
    RENDEZVOUS_PROTOCOL,
    TTL_S,
    RendezvousPoint,
    namespace_of,
)
from robocompute_node.p2p.identity import peer_id_of
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol.identifiers import digest
from robocompute_protocol.signing import SigningKey

OK = Message.ResponseStatus.OK
NAME = namespace_of(NETWORK)
AT = Multiaddr("/ip4/11.1.1.1/tcp/4001")


def register(
    point: RendezvousPoint,
    name: object,
    host: str,
    *,
    namespace: str = NAME,
    addresses: int = 1,
    ttl: int = 3_600,
    of: object = None,
) -> Message.RegisterResponse:
    peer_id, named = _id(name), _id(name if of is None else of)
    asked = create_register_message(namespace, named, [AT] * addresses, ttl)
    return point.register(peer_id, host, asked.register).registerResponse


def _id(name: object) -> Any:
    return peer_id_of(SigningKey(sha256(str(name).encode()).digest()).node_key)


def listed(point: RendezvousPoint, namespace: str = NAME, limit: int = 0) -> Any:
    asked = create_discover_message(namespace, limit or 1_000, b"")
    return point.discover(_id("asker"), asked.discover).discoverResponse


def a_point() -> RendezvousPoint:
    return RendezvousPoint(lambda: NETWORK)


def test_who_registers_is_on_the_list_and_one_that_registers_again_is_there_once() -> None:
    point = a_point()
    for _ in range(3):
        assert register(point, "a", "11.1.1.1").status == OK
    assert [each.peer.id for each in listed(point).registrations] == [_id("a").to_bytes()]


def test_nobody_registers_somebody_else() -> None:
    point = a_point()
    assert register(point, "a", "11.1.1.1", of="b").status != OK
    assert len(listed(point).registrations) == 0


def test_a_flood_from_one_host_leaves_room_for_the_others() -> None:
    point = a_point()
    taken = sum(register(point, n, "11.6.6.6").status == OK for n in range(200))
    assert taken == MAX_OF_ONE_HOST
    assert register(point, "honest", "11.1.1.1").status == OK


def test_the_list_and_each_answer_are_bounded() -> None:
    point = a_point()
    for number in range(MAX_REGISTERED + 50):
        register(point, number, f"host {number}")
    assert len(point.registrations[NAME]) == MAX_REGISTERED
    assert register(point, "one more", "another host").status != OK
    assert register(point, 0, "host 0").status == OK  # who is on it may stay
    assert len(listed(point).registrations) == MAX_FOUND


def test_names_that_peers_make_up_take_no_room() -> None:
    point = a_point()
    for number in range(100):
        name = namespace_of(digest(str(number).encode()))
        assert register(point, number, f"host {number}", namespace=name).status != OK
        assert listed(point, name).status != OK
    assert point.registrations == {}
    nameless = RendezvousPoint(lambda: None)
    assert register(nameless, "a", "11.1.1.1").status != OK


def test_addresses_and_time_are_bounded() -> None:
    point = a_point()
    assert register(point, "a", "11.1.1.1", addresses=MAX_ADDRESSES + 1).status != OK
    assert register(point, "a", "11.1.1.1", ttl=10**9).ttl == TTL_S


@pytest.mark.net
async def test_nodes_register_with_their_bootstrap_node_and_hear_of_each_other() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("point") as hub:
            point = a_point()
            hub.network.links.serve_rendezvous(point)
            async with (
                member("one", bootstrap=[hub.address]) as one,
                member("two", bootstrap=[hub.address]) as two,
            ):
                for each in (one, two):
                    await until(lambda each=each: hub.key in each.network.peers())
                assert await _meet(one, hub) == ()
                ((peer, addresses),) = await _meet(two, hub)
                assert peer == one.key
                assert addresses == (one.address.split("/p2p/")[0],)
                with pytest.raises(PeerGone, match="does not speak"):
                    await _meet_at(hub, one)


async def _meet(one: Member, point: Member) -> Any:
    links = one.network.links
    return await links.meet_at(point.key, NETWORK, one.network.addresses)


async def _meet_at(one: Member, other: Member) -> Any:
    return await one.network.links.meet_at(other.key, NETWORK, ())


@pytest.mark.net
async def test_what_a_point_lists_is_found_by_rendezvous_and_dialled() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("point") as hub, member("listed") as other:
            point = a_point()
            at = Multiaddr(other.address.split("/p2p/")[0])
            asked = create_register_message(NAME, peer_id_of(other.key), [at], 3_600)
            point.register(peer_id_of(other.key), "somewhere", asked.register)
            hub.network.links.serve_rendezvous(point)
            async with member("one", bootstrap=[hub.address], rendezvous=True) as one:
                await until(lambda: other.key in one.network.peers())
                found = {each.link.peer: each.found for each in one.discovery.neighbours()}
                assert found[other.key] is Found.RENDEZVOUS


@pytest.mark.net
async def test_garbage_and_floods_leave_a_point_working() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("point") as hub:
            hub.network.links.serve_rendezvous(a_point())
            async with (
                member("attacker", bootstrap=[hub.address]) as attacker,
                member("one", bootstrap=[hub.address]) as one,
            ):
                for each in (attacker, one):
                    await until(lambda each=each: hub.key in each.network.peers())
                typed: Any = attacker.network
                conn = typed._swarm.live_connections(peer_id_of(hub.key))[0]
                for junk in (b"\xff" * 64, b"\x03abc", b"\x80", b"", b"\xff\xff\x7f") * 6:
                    pipe, _ = await open_stream(conn, RENDEZVOUS_PROTOCOL)
                    await pipe.write(junk)
                    await pipe.finish()
                with pytest.raises(PeerGone):
                    await _flood(attacker, hub)
                assert await _meet(one, hub) is not None


async def _flood(attacker: Member, point: Member) -> None:
    for _ in range(40):
        await _meet(attacker, point)
