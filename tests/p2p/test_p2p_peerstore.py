"""Peers remembered on disk."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.peerstore import (
    MAX_FAILURES,
    MAX_FILE_BYTES,
    MAX_KEPT_ADDRESSES,
    MAX_PER_NETWORK,
    MAX_REMEMBERED,
    SAVE_EVERY_S,
    PeerStore,
)
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol.identifiers import NodeKey
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream

ECHO = "/test/echo/1"


def key(number: int) -> NodeKey:
    return NodeKey(sha256(number.to_bytes(4, "big")).digest())


class Wall:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_000

    def __call__(self) -> Millis:
        return Millis(self.ms)


async def saved(store: PeerStore) -> None:
    """Run the store until what it knows is on disk."""
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_reached_peers_survive_a_restart_and_unreached_ones_are_not_added(
    tmp_path: Path,
) -> None:
    path, wall = tmp_path / "peers.json", Wall()
    store = PeerStore(path, wall)
    store.reached(key(1), "/ip4/192.0.2.1/tcp/4001")
    wall.ms = 2_000
    store.reached(key(2), "/ip6/2001:db8::2/tcp/4001")
    store.failed(key(1))
    store.failed(key(3))
    await saved(store)
    again = PeerStore(path, wall)
    assert [
        (each.key, each.addresses, each.last_seen, each.failures) for each in again.known()
    ] == [
        (key(2), ("/ip6/2001:db8::2/tcp/4001",), 2_000, 0),
        (key(1), ("/ip4/192.0.2.1/tcp/4001",), 1_000, 1),
    ]


async def test_changes_wait_a_while_for_the_disk_but_not_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "peers.json"
    store = PeerStore(path, Wall())
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        store.reached(key(1), "/ip4/192.0.2.1/tcp/4001")
        while len(PeerStore(path, Wall())) < 1:
            await trio.lowlevel.checkpoint()
        store.reached(key(2), "/ip4/192.0.2.2/tcp/4001")
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert len(PeerStore(path, Wall())) == 1
        await trio.sleep(SAVE_EVERY_S)
        while len(PeerStore(path, Wall())) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert autojump_clock.current_time() < 2 * SAVE_EVERY_S


def test_the_address_reached_last_comes_first_and_only_some_are_kept() -> None:
    store = PeerStore(None, Wall())
    for port in range(1, MAX_KEPT_ADDRESSES + 3):
        store.reached(key(1), f"/ip4/192.0.2.1/tcp/{port}")
    store.reached(key(1), f"/ip4/192.0.2.1/tcp/{MAX_KEPT_ADDRESSES + 1}")
    (known,) = store.known()
    assert len(known.addresses) == MAX_KEPT_ADDRESSES
    assert known.addresses[0] == f"/ip4/192.0.2.1/tcp/{MAX_KEPT_ADDRESSES + 1}"
    assert len(set(known.addresses)) == MAX_KEPT_ADDRESSES


def test_a_peer_that_never_answers_again_is_forgotten_and_one_that_does_is_forgiven() -> None:
    store = PeerStore(None, Wall())
    store.reached(key(1), "/ip4/192.0.2.1/tcp/1")
    for _ in range(MAX_FAILURES - 1):
        store.failed(key(1))
    store.reached(key(1), "/ip4/192.0.2.1/tcp/1")
    assert store.known()[0].failures == 0
    for _ in range(MAX_FAILURES):
        store.failed(key(1))
    assert store.known() == ()


def test_no_network_gets_more_than_its_share_of_the_memory() -> None:
    store, wall = PeerStore(None, Wall()), Wall()
    store.reached(key(0), "/ip4/198.51.100.1/tcp/1")
    for each in range(1, 3 * MAX_PER_NETWORK):
        wall.ms += 1
        store.reached(key(each), f"/ip4/192.0.2.{each}/tcp/1")
    assert len(store) == MAX_PER_NETWORK + 1
    assert key(0) in {each.key for each in store.known()}


def test_how_many_are_remembered_is_bounded_and_the_newest_stay() -> None:
    wall = Wall()
    store = PeerStore(None, wall)
    for each in range(MAX_REMEMBERED + 5):
        wall.ms += 1
        store.reached(key(each), f"/ip4/10.{each // 200}.{each % 200}.1/tcp/1")
    assert len(store) == MAX_REMEMBERED
    assert store.known()[0].key == key(MAX_REMEMBERED + 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b'{"version":2,"peers":[]}',
        b'{"version":1,"peers":[{"peer":"junk","addresses":["/ip4/1.2.3.4/tcp/1"],"last_seen":1}]}',
        b'{"version":1,"peers":[],"more":1}',
        b" " * (MAX_FILE_BYTES + 1),
    ],
)
def test_a_file_that_is_none_is_an_empty_memory_with_a_word(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert len(PeerStore(path, Wall())) == 0
    assert "no peer is remembered" in caplog.text


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_no_file_keeps_a_node_from_starting(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "peers.json"
    path.write_bytes(content)
    assert len(PeerStore(path, Wall())) == 0


async def test_a_disk_that_takes_nothing_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PeerStore(tmp_path / "missing" / "peers.json", Wall())
    store.reached(key(1), "/ip4/192.0.2.1/tcp/1")
    await saved(store)
    assert "peers cannot be remembered" in caplog.text


@pytest.mark.net
async def test_a_node_remembers_whom_it_reached_and_finds_back_with_nothing_else(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    async def echo(stream: FrameStream) -> None:
        while (frame := await stream.receive()) is not None:
            await stream.send(frame)

    async def ask(node: Libp2pNetwork) -> None:
        async with node.open(other.key, ECHO) as stream:
            await stream.send(b"hi")
            assert await stream.receive() == b"hi"

    path, wall = tmp_path / "peers.json", Wall()
    other = Libp2pNetwork(sha256(b"other").digest())
    other.serve(ECHO, echo)
    seed = sha256(b"one").digest()
    with trio.fail_after(60):
        await nursery.start(other.run)
        async with trio.open_nursery() as first:
            store = PeerStore(path, wall)
            one = Libp2pNetwork(seed, remembered=store)
            await first.start(one.run)
            one.add_addresses(other.key, ("/ip4/127.0.0.1/tcp/1", *other.addresses))
            one.add_addresses(key(9), ("/ip4/127.0.0.1/tcp/1",))
            with pytest.raises(PeerGone):
                await ask_nobody(one)
            await ask(one)
            first.cancel_scope.cancel()
        await saved(store)
        again = Libp2pNetwork(seed, remembered=PeerStore(path, wall))
        assert again.status().remembered == 1
        await nursery.start(again.run)
        await ask(again)
    nursery.cancel_scope.cancel()


async def ask_nobody(node: Libp2pNetwork) -> None:
    async with node.open(key(9), ECHO):
        pass
