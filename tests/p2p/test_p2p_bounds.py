"""Addresses, rates and counts: the bookkeeping without a network."""

from __future__ import annotations

from hashlib import sha256

import pytest
from libp2p.peer.id import ID

from robocompute_node.p2p.addresses import MAX_ADDRESSES, AddressBook, parse_address
from robocompute_node.p2p.bounds import (
    MAX_TRACKED_PEERS,
    PeerBounds,
    Rates,
    StreamGate,
    TokenBucket,
)
from robocompute_node.p2p.identity import key_pair_of, node_key_of, peer_id_of
from robocompute_protocol.identifiers import NodeKey


def key(number: int) -> NodeKey:
    return NodeKey(sha256(number.to_bytes(4, "big")).digest())


def test_a_node_key_and_its_peer_id_say_the_same() -> None:
    pair = key_pair_of(bytes(range(32)))
    node_key = NodeKey(pair.public_key.to_bytes())
    assert peer_id_of(node_key) == ID.from_pubkey(pair.public_key)
    assert node_key_of(peer_id_of(node_key)) == node_key


@pytest.mark.parametrize(
    "raw", [b"", b"\x12\x20" + bytes(32), b"\0\x24\x08\x02\x12\x20" + bytes(32)]
)
def test_another_kind_of_peer_id_has_no_node_key(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not an ed25519 peer id"):
        node_key_of(ID(raw))


def test_keys_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        peer_id_of(NodeKey(b"short"))
    with pytest.raises(ValueError, match="32 bytes"):
        key_pair_of(b"short")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "/ip4/1.2.3.4",
        "/ip4/1.2.3.4/udp/1/quic-v1",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/1.2.3.999/tcp/1",
        "/ip4/1.2.3.4/tcp/99999",
        "/ip4/1.2.3.4/tcp/1/ws",
        "/ip4/1.2.3.4/tcp/1/p2p/junk",
        "/ip4/1.2.3.4/tcp/1/p2p-circuit",
        "/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
    ],
)
def test_what_cannot_be_dialled_is_no_address_and_is_ignored_by_the_book(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)
    book = AddressBook()
    book.add(key(1), (text,))
    assert book.of(key(1)) == ()


@pytest.mark.parametrize("text", ["/ip4/1.2.3.4/tcp/1", "/ip6/::1/tcp/1", "/dns4/a.example/tcp/1"])
def test_tcp_at_an_address_or_a_name_can_be_dialled(text: str) -> None:
    assert parse_address(text) == (None, parse_address(text)[1])
    peer, address = parse_address(f"{text}/p2p/{peer_id_of(key(1))}")
    assert peer == peer_id_of(key(1))
    assert str(address) == text


def test_the_address_of_another_peer_is_ignored() -> None:
    book = AddressBook()
    book.add(key(1), (f"/ip4/1.2.3.4/tcp/1/p2p/{peer_id_of(key(2))}",))
    assert book.of(key(1)) == ()


def test_new_addresses_come_first_and_the_oldest_go() -> None:
    book = AddressBook()
    for port in range(1, MAX_ADDRESSES + 3):
        book.add(key(1), (f"/ip4/1.2.3.4/tcp/{port}",))
    found = [str(each) for each in book.of(key(1))]
    assert len(found) == MAX_ADDRESSES
    assert found[0] == f"/ip4/1.2.3.4/tcp/{MAX_ADDRESSES + 2}"


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(per_second=2.0, burst=3.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(10.5)
    assert not bucket.take(10.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_rates_are_a_peers_own_and_bounded_in_number() -> None:
    rates: Rates[NodeKey] = Rates(per_second=0.0, burst=1.0)
    assert rates.take(key(0), 0.0)
    assert not rates.take(key(0), 0.0)
    assert rates.take(key(1), 0.0)
    for number in range(2, MAX_TRACKED_PEERS + 2):
        rates.take(key(number), 0.0)
    assert rates.take(key(0), 0.0)


def test_a_gate_counts_what_is_open_and_what_was_opened() -> None:
    gate = StreamGate(PeerBounds(streams_at_once=2, streams_per_second=1.0, streams_burst=3))
    assert [gate.enter(key(1), 0.0) for _ in range(3)] == [True, True, False]
    assert gate.enter(key(2), 0.0)
    gate.leave(key(1))
    assert gate.enter(key(1), 0.0)
    gate.leave(key(1))
    assert not gate.enter(key(1), 0.0)
    assert gate.enter(key(1), 1.0)
