"""Nodes that find each other: islands that merge, lies that go no further, networks kept apart."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from discovery_world import PATIENCE_S, TOPIC, Member, ask, member, until

from robocompute_node.p2p.discovery.known import Found
from robocompute_protocol.identifiers import digest

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey

pytestmark = pytest.mark.net


async def island(stack: AsyncExitStack, name: str, size: int) -> list[Member]:
    """Nodes of which all know the first, as their bootstrap node, and nobody else."""
    first = await stack.enter_async_context(member(f"{name} 0"))
    others = [
        await stack.enter_async_context(member(f"{name} {n}", bootstrap=[first.address]))
        for n in range(1, size)
    ]
    return [first, *others]


def reachable(members: list[Member]) -> set[NodeKey]:
    """Whom the first can reach over connections between the living."""
    by_key = {each.key: each for each in members}
    found, edge = {members[0].key}, [members[0].key]
    while edge:
        for peer in by_key[edge.pop()].network.peers():
            if peer in by_key and peer not in found:
                found.add(peer)
                edge.append(peer)
    return found


async def test_two_islands_that_one_node_joins_stay_one_network_when_that_node_is_gone() -> None:
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            one = await island(stack, "one", 3)
            other = await island(stack, "other", 3)
            everybody = [*one, *other]
            assert len(reachable(everybody)) <= len(one)
            bridge = [one[0].address, other[0].address]
            async with member("bridge", bootstrap=bridge):
                await until(lambda: _crossings(one, other) >= 2)
            gone = [one[0], other[0]]  # the bridge is gone; and now both bootstrap nodes go too
            for each in gone:
                each.scope.cancel()
            left = [each for each in everybody if each not in gone]
            await until(lambda: len(reachable(left)) == len(left))
            await _gossip_reaches_all(left)


def _crossings(one: list[Member], other: list[Member]) -> int:
    """Connections between two islands, those of the bootstrap nodes left out."""
    keys = {each.key for each in other[1:]}
    return sum(len(keys & set(each.network.peers())) for each in one[1:])


async def _gossip_reaches_all(members: list[Member]) -> None:
    sender, listeners = members[0], members[1:]
    heard: set[NodeKey] = set()

    async def listen(each: Member) -> None:
        async with each.network.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
            async for _signer, _payload in messages:
                heard.add(each.key)

    async with trio.open_nursery() as nursery:
        for each in listeners:
            nursery.start_soon(listen, each)
        number = 0
        while len(heard) < len(listeners):
            number += 1
            await sender.network.publish(TOPIC, number.to_bytes(4, "big"))
            await trio.sleep(0.2)
        nursery.cancel_scope.cancel()


async def test_a_node_whose_bootstrap_nodes_are_all_gone_finds_the_network_by_what_it_remembers() -> (
    None
):
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            two = await stack.enter_async_context(member("friend"))
            three = await stack.enter_async_context(
                member("friend of the friend", bootstrap=[two.address])
            )
            remembered = ((two.key, (two.address.split("/p2p/")[0],)),)
            one = await stack.enter_async_context(
                member("me", bootstrap=[NOBODY], remembered=remembered)
            )
            await until(lambda: {two.key, three.key} <= set(one.network.peers()))
            found = {each.link.peer: each.found for each in one.discovery.neighbours()}
            assert found[two.key] is Found.REMEMBERED
            assert found[three.key] in {Found.EXCHANGE, Found.INBOUND}


NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


async def test_nodes_of_another_chain_are_not_introduced() -> None:
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            hub = await stack.enter_async_context(member("hub"))
            ours = await stack.enter_async_context(member("ours", bootstrap=[hub.address]))
            theirs = await stack.enter_async_context(
                member("theirs", bootstrap=[hub.address], network_id=digest(b"another"))
            )
            second = await stack.enter_async_context(member("second", bootstrap=[hub.address]))
            await until(lambda: second.key in ours.network.peers())
            assert theirs.network.peers() == (hub.key,)
            assert hub.discovery.known.of(theirs.key) is None
            assert ours.discovery.known.of(theirs.key) is None


async def test_a_network_name_that_is_not_known_yet_is_waited_for() -> None:
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            hub = await stack.enter_async_context(member("hub", network_id=None))
            one = await stack.enter_async_context(member("one", bootstrap=[hub.address]))
            await until(lambda: hub.key in one.network.peers())
            await ask(one.network, hub.key, b"what needs no name works")
            assert hub.discovery.known.of(one.key) is None


async def test_whoever_connected_here_and_can_be_dialled_is_remembered_for_the_next_start() -> (
    None
):
    kept: list[tuple[NodeKey, str]] = []
    with trio.fail_after(PATIENCE_S):
        async with (
            member("asked", remember=lambda peer, address: kept.append((peer, address))) as asked,
            member("asking", bootstrap=[asked.address]) as asking,
        ):
            await until(lambda: bool(kept))
            assert kept[0][0] == asking.key
            assert asking.address.startswith(kept[0][1])
