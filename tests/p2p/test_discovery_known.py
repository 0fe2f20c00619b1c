"""The table of nodes heard of: what a liar can put there, and what leaves it."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import pytest

from robocompute_node.p2p.discovery.exchange import widest_first
from robocompute_node.p2p.discovery.known import (
    HOST_DIALS,
    MAX_AT_ONE_HOST,
    MAX_KNOWN,
    MAX_UNREACHED_OF_ONE,
    TRIES,
    Found,
    KnownNodes,
)
from robocompute_node.p2p.discovery.places import Scope, host_of, place_of, scope_of
from robocompute_node.p2p.discovery.witnesses import Reach, Witnesses
from robocompute_node.p2p.identity import peer_id_of
from robocompute_protocol import codec, limits
from robocompute_protocol.identifiers import NodeKey, digest
from robocompute_protocol.messages import PeerRecord, Signed
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import PEER, SigningKey, sign_message

NOW = Millis(1_800_000_000_000)
OWN = NodeKey(b"\0" * 32)
NETWORK = digest(b"network")


def key(name: object) -> NodeKey:
    return SigningKey(sha256(str(name).encode()).digest()).node_key


def signed(name: object, *addresses: str, sequence: int = NOW) -> tuple[PeerRecord, Signed]:
    signer = SigningKey(sha256(str(name).encode()).digest())
    record = PeerRecord(
        key=signer.node_key,
        network=NETWORK,
        sequence=sequence,
        ttl_ms=limits.MAX_PEER_TTL,
        addresses=addresses,
    )
    return record, sign_message(PEER, signer, codec.encode(record))


def told(table: KnownNodes, name: object, address: str, teller: NodeKey) -> bool:
    record = signed(name, address)
    return table.hear(
        key(name), (address,), NOW, found=Found.EXCHANGE, teller=teller, signed=record
    )


def public(number: int) -> str:
    return f"/ip4/{11 + number // 65536}.{number // 256 % 256}.{number % 256}.1/tcp/4001"


def test_thousands_of_invented_nodes_of_one_liar_take_its_share_and_no_more() -> None:
    table, liar = KnownNodes(OWN), key("liar")
    for number in range(1_000):
        told(table, number, public(number), liar)
    assert len(table) == MAX_UNREACHED_OF_ONE
    assert told(table, "honest", public(6_000), key("somebody else"))


def test_the_table_is_bounded_however_many_tellers_there_are_and_keeps_what_was_reached() -> None:
    table = KnownNodes(OWN)
    told(table, "good", public(0), key("teller"))
    table.reached(key("good"), place_of(public(0)).direct, NOW)
    for number in range(1, MAX_KNOWN + 300):
        told(table, number, public(number), key(f"teller {number // 100}"))
    assert len(table) <= MAX_KNOWN
    assert table.of(key("good")) is not None


def test_an_honest_tellers_nodes_are_dialled_beside_a_liars_long_list() -> None:
    table = KnownNodes(OWN)
    for number in range(100):
        told(table, number, public(number), key("liar"))
    told(table, "honest", public(500), key("honest teller"))
    chosen = table.to_dial(NOW, (), 4, Random(1))
    assert key("honest") in {each.peer for each in chosen}


def test_a_victims_host_is_named_and_dialled_only_so_often() -> None:
    table = KnownNodes(OWN)
    for number in range(100):
        told(table, number, f"/ip4/11.2.3.4/tcp/{1000 + number}", key(f"liar {number}"))
    assert len(table) == MAX_AT_ONE_HOST
    dials = 0
    for second in range(59):
        now = Millis(NOW + second * 1000)
        for each in table.to_dial(now, (), 8, Random(second)):
            dials += 1
            table.failed(each.peer, now)
        for number in range(20):  # the liars say it all again
            told(table, number, f"/ip4/11.2.3.4/tcp/{1000 + number}", key(f"liar {number}"))
    assert dials == HOST_DIALS


def test_fakes_named_at_an_honest_nodes_host_crowd_it_out_neither_by_one_liar_nor_by_many() -> (
    None
):
    table, address = KnownNodes(OWN), "/ip4/11.2.3.4/tcp/4001"
    for number in range(20):
        told(table, number, f"/ip4/11.2.3.4/tcp/{1000 + number}", key("liar"))
    assert told(table, "honest", address, key("honest teller"))
    for number in range(20, 100):
        told(table, number, f"/ip4/11.2.3.4/tcp/{1000 + number}", key(f"liar {number}"))
    assert told(table, "newcomer", address, key("newcomer"))  # speaks for itself


def test_nodes_behind_one_ip6_network_count_as_one_host() -> None:
    assert host_of("2001:db8:1:2:3::4") == host_of("2001:db8:1:2:ffff::1")
    assert host_of("2001:db8:1:2::1") != host_of("2001:db8:1:3::1")
    assert host_of("::ffff:11.2.3.4") == "11.2.3.4"


@pytest.mark.parametrize(
    ("ip", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("169.254.169.254", Scope.LINK),
        ("fe80::1", Scope.LINK),
        ("192.168.1.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("11.2.3.4", Scope.PUBLIC),
        ("2600::1", Scope.PUBLIC),
    ],
)
def test_an_address_reaches_as_far_as_it_does(ip: str, scope: Scope) -> None:
    assert scope_of(ip) is scope


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/22",
        "/ip4/169.254.169.254/tcp/80",
        "/ip4/192.168.1.1/tcp/80",
        "/ip6/::1/tcp/80",
        "/ip6/::ffff:10.0.0.1/tcp/80",
        "/dns4/metadata.internal/tcp/80",
        "/ip4/0.0.0.0/tcp/80",
        "/ip4/11.2.3.4/udp/53",
        f"/ip4/10.0.0.1/tcp/80/p2p/{peer_id_of(key('relay'))}/p2p-circuit",
        "nonsense",
    ],
)
def test_over_the_internet_nobody_names_an_inner_address_or_a_name(address: str) -> None:
    table = KnownNodes(OWN)
    assert not table.hear(key("x"), (address,), NOW, found=Found.EXCHANGE, over=Scope.PUBLIC)
    assert not len(table)


def test_in_a_private_network_private_addresses_are_believed_and_loopback_is_not() -> None:
    table = KnownNodes(OWN)
    both = ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.7/tcp/1")
    assert table.hear(key("x"), both, NOW, found=Found.LAN, over=Scope.PRIVATE)
    known = table.of(key("x"))
    assert known is not None
    assert known.addresses == both[1:]


def test_what_was_never_reached_is_vouched_for_to_nobody() -> None:
    table, rng = KnownNodes(OWN), Random(1)
    told(table, "a", public(1), key("teller"))
    assert table.vouched(NOW, Scope.PUBLIC, rng, leave_out=()) == ()
    table.reached(key("a"), "/ip4/11.9.9.9/tcp/1", NOW)  # not where the record says
    assert table.vouched(NOW, Scope.PUBLIC, rng, leave_out=()) == ()
    table.reached(key("a"), public(1), NOW)
    assert len(table.vouched(NOW, Scope.PUBLIC, rng, leave_out=())) == 1
    assert table.vouched(NOW, Scope.PUBLIC, rng, leave_out={key("a")}) == ()
    later = Millis(NOW + 3_600_001)
    assert table.vouched(later, Scope.PUBLIC, rng, leave_out=()) == ()


def test_a_new_record_that_moves_elsewhere_is_to_be_reached_anew() -> None:
    table, rng = KnownNodes(OWN), Random(1)
    told(table, "a", public(1), key("teller"))
    table.reached(key("a"), public(1), NOW)
    moved = signed("a", public(2), sequence=NOW + 1)
    assert table.hear(key("a"), (public(2),), NOW, found=Found.EXCHANGE, signed=moved)
    assert table.vouched(NOW, Scope.PUBLIC, rng, leave_out=()) == ()


def test_an_old_record_and_hearsay_change_nothing_that_a_newer_record_says() -> None:
    table = KnownNodes(OWN)
    told(table, "a", public(1), key("teller"))
    older = signed("a", public(2), sequence=NOW - 1)
    assert not table.hear(key("a"), (public(2),), NOW, found=Found.EXCHANGE, signed=older)
    assert not table.hear(key("a"), (public(3),), NOW, found=Found.LAN)


def test_a_node_never_reached_is_dropped_and_one_once_reached_is_tried_for_ever() -> None:
    table = KnownNodes(OWN)
    told(table, "liar", public(1), key("teller"))
    told(table, "old friend", public(2), key("teller"))
    table.reached(key("old friend"), public(2), NOW)
    for _ in range(TRIES):
        table.failed(key("liar"), NOW)
    assert table.of(key("liar")) is None
    for _ in range(100):
        table.failed(key("old friend"), NOW)
    known = table.of(key("old friend"))
    assert known is not None
    assert NOW < known.due <= NOW + 600_000


def test_what_is_over_is_forgotten() -> None:
    table = KnownNodes(OWN)
    told(table, "a", public(1), key("teller"))
    table.forget_stale(Millis(NOW + limits.MAX_PEER_TTL))
    assert not len(table)


def test_a_node_does_not_take_itself_for_another() -> None:
    table = KnownNodes(key("me"))
    assert not told(table, "me", public(1), key("teller"))


def test_a_record_of_eight_addresses_keeps_those_that_reach_furthest() -> None:
    assert widest_first(
        ("/ip4/127.0.0.1/tcp/1", "/ip4/11.1.1.1/tcp/1", "/ip4/10.0.0.1/tcp/1")
    ) == (
        "/ip4/11.1.1.1/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    )


def test_one_liar_among_the_witnesses_changes_nothing() -> None:
    witnesses = Witnesses()
    assert witnesses.reach(NOW) is Reach.UNKNOWN
    for name in ("a", "b"):
        witnesses.note(key(name), "11.1.1.1", (4001,), NOW)
    witnesses.note(key("liar"), "11.1.1.1", (), NOW)
    assert witnesses.reach(NOW) is Reach.DIRECT
    assert witnesses.confirmed(NOW) == ("/ip4/11.1.1.1/tcp/4001",)


def test_an_address_that_only_one_stranger_dialled_is_not_announced() -> None:
    witnesses = Witnesses(trusted={key("bootstrap")})
    witnesses.note(key("liar"), "11.6.6.6", (80,), NOW)
    assert witnesses.confirmed(NOW) == ()
    witnesses.note(key("bootstrap"), "11.1.1.1", (4001,), NOW)
    assert witnesses.confirmed(NOW) == ("/ip4/11.1.1.1/tcp/4001",)


def test_a_neighbour_that_can_dial_does_not_outweigh_the_world_that_cannot() -> None:
    witnesses = Witnesses()
    for name in ("a", "b", "c"):
        witnesses.note(key(name), "192.168.0.7", (4001,), NOW)
    assert witnesses.reach(NOW) is Reach.DIRECT
    witnesses.note(key("far"), "11.1.1.1", (), NOW)
    assert witnesses.reach(NOW) is Reach.NOT
    assert witnesses.reach(Millis(NOW + 1_800_001)) is Reach.UNKNOWN


def test_nonsense_is_no_testimony() -> None:
    witnesses = Witnesses()
    assert not witnesses.note(key("x"), "not an address", (1,), NOW)
    assert witnesses.reach(NOW) is Reach.UNKNOWN
