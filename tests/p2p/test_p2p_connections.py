"""The connection table: who is let in, and who has to go."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from robocompute_node.p2p.bounds import MAX_TRACKED_PEERS, Offences, PeerBounds, StreamGate
from robocompute_node.p2p.connections import (
    NOWHERE,
    ConnectionTable,
    Knock,
    Refusal,
    Visit,
    origin_of,
)
from robocompute_protocol.identifiers import NodeKey

NOBODY: frozenset[NodeKey] = frozenset()
BOUNDS = PeerBounds(
    connections=12,
    inbound_connections=8,
    connections_per_address=4,
    connections_per_network=6,
    half_open_connections=6,
    half_open_per_address=3,
    arrivals_per_second=1.0,
    arrivals_burst=100,
    arrivals_per_address_per_second=1.0,
    arrivals_per_address_burst=50,
    grace_s=20.0,
)


def key(number: int) -> NodeKey:
    return NodeKey(sha256(number.to_bytes(4, "big")).digest())


def let_in(table: ConnectionTable, host: str, peer: NodeKey, now: float) -> Visit:
    knock = table.knock(host, now, NOBODY)
    assert isinstance(knock, Knock)
    visit = table.arrive(peer, inbound=True, now=now)
    table.answered(knock, visit)
    return visit


@pytest.mark.parametrize(
    ("host", "address", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
    ],
)
def test_an_origin_is_what_its_owner_cannot_multiply_freely(
    host: str, address: str, network: str
) -> None:
    assert (origin_of(host).address, origin_of(host).network) == (address, network)


def test_what_is_no_address_comes_from_nowhere() -> None:
    assert origin_of("") is NOWHERE
    assert origin_of("somewhere.example") is NOWHERE


def test_half_open_handshakes_are_bounded_for_each_address_and_for_all() -> None:
    table = ConnectionTable(BOUNDS)
    knocks = [table.knock("192.0.2.1", 0.0, NOBODY) for _ in range(4)]
    assert knocks[-1] is Refusal.HALF_OPEN_OF_ADDRESS
    more = [table.knock(f"198.51.{each}.1", 0.0, NOBODY) for each in range(4)]
    assert more[-1] is Refusal.HALF_OPEN
    assert table.half_open == BOUNDS.half_open_connections
    first = knocks[0]
    assert isinstance(first, Knock)
    table.answered(first, None)
    assert isinstance(table.knock("203.0.113.1", 0.0, NOBODY), Knock)


def test_one_address_and_one_network_get_only_their_share_of_the_connections() -> None:
    table = ConnectionTable(BOUNDS)
    visits = [let_in(table, "192.0.2.1", key(each), 0.0) for each in range(4)]
    assert table.knock("192.0.2.1", 0.0, NOBODY) is Refusal.ADDRESS_FULL
    visits += [let_in(table, "192.0.2.2", key(10 + each), 0.0) for each in range(2)]
    assert table.knock("192.0.2.3", 0.0, NOBODY) is Refusal.NETWORK_FULL
    assert isinstance(table.knock("198.51.100.1", 0.0, NOBODY), Knock)
    table.leave(visits[-1])
    table.leave(visits[-1])
    assert isinstance(table.knock("192.0.2.3", 0.0, NOBODY), Knock)


def test_arrivals_are_slowed_down_to_what_handshakes_may_cost() -> None:
    bounds = PeerBounds(
        arrivals_per_second=2.0,
        arrivals_burst=3,
        arrivals_per_address_per_second=1.0,
        arrivals_per_address_burst=2,
    )
    table = ConnectionTable(bounds)

    def arrive(host: str, now: float) -> Knock | Refusal:
        knock = table.knock(host, now, NOBODY)
        if isinstance(knock, Knock):
            table.answered(knock, None)
        return knock

    assert isinstance(arrive("192.0.2.1", 0.0), Knock)
    assert isinstance(arrive("192.0.2.1", 0.0), Knock)
    assert arrive("192.0.2.1", 0.0) is Refusal.ADDRESS_TOO_FAST
    assert isinstance(arrive("198.51.100.1", 0.0), Knock)
    assert arrive("203.0.113.1", 0.0) is Refusal.TOO_FAST
    assert isinstance(arrive("203.0.113.1", 0.5), Knock)
    assert isinstance(arrive("192.0.2.1", 1.0), Knock)


def test_a_process_that_runs_late_turns_newcomers_away() -> None:
    table = ConnectionTable(BOUNDS)
    table.lag_s = BOUNDS.shed_at_lag_s + 0.1
    assert table.knock("192.0.2.1", 0.0, NOBODY) is Refusal.OVERLOADED
    table.lag_s = BOUNDS.shed_at_lag_s
    assert isinstance(table.knock("192.0.2.1", 0.0, NOBODY), Knock)


def test_a_full_table_lets_nobody_in_until_somebody_may_go() -> None:
    table = ConnectionTable(BOUNDS)
    for each in range(BOUNDS.inbound_connections):
        let_in(table, f"10.{each}.0.1", key(each), 0.0)
    assert table.is_full
    assert not table.is_over
    assert table.knock("192.0.2.1", 19.0, NOBODY) is Refusal.FULL
    assert isinstance(table.knock("192.0.2.1", 20.0, NOBODY), Knock)
    everybody = frozenset(map(key, range(BOUNDS.inbound_connections)))
    assert table.knock("192.0.2.2", 20.0, everybody) is Refusal.FULL


def test_the_one_without_use_for_longest_goes_first_and_a_crowd_displaces_itself() -> None:
    table = ConnectionTable(BOUNDS)
    useful = let_in(table, "192.0.2.1", key(1), 0.0)
    lonely = let_in(table, "198.51.100.1", key(2), 1.0)
    crowd = [let_in(table, "203.0.113.1", key(3 + each), 2.0 + each) for each in range(3)]
    table.note_useful(useful.peer, 3.0)
    assert table.least_useful(100.0, NOBODY) is crowd[0]
    assert table.least_useful(100.0, {crowd[0].peer}) is crowd[1]
    for each in crowd:
        table.leave(each)
    assert table.least_useful(100.0, NOBODY) is lonely
    table.leave(lonely)
    assert table.least_useful(100.0, NOBODY) is useful
    assert table.least_useful(100.0, {useful.peer}) is None


def test_what_this_node_dialled_is_not_pruned_and_what_is_new_has_its_grace() -> None:
    table = ConnectionTable(BOUNDS)
    table.arrive(key(1), inbound=False, now=0.0)
    newcomer = let_in(table, "192.0.2.1", key(2), 90.0)
    assert table.least_useful(100.0, NOBODY) is None
    assert table.least_useful(110.0, NOBODY) is newcomer


def test_of_how_many_peers_the_use_is_known_is_bounded() -> None:
    table = ConnectionTable(BOUNDS)
    visit = let_in(table, "192.0.2.1", key(0), 0.0)
    other = let_in(table, "192.0.2.1", key(1), 0.0)
    table.note_useful(visit.peer, 1.0)
    table.note_useful(other.peer, 0.5)
    assert table.least_useful(50.0, NOBODY) is other
    for each in range(MAX_TRACKED_PEERS - 1):
        table.note_useful(key(2 + each), 2.0)
    assert table.least_useful(50.0, NOBODY) is visit


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60))
def test_whatever_comes_and_goes_the_counts_end_at_nothing(steps: list[tuple[int, int]]) -> None:
    table = ConnectionTable(BOUNDS)
    knocks: list[Knock] = []
    visits: list[Visit] = []
    for now, (step, place) in enumerate(steps):
        if step == 0:
            knock = table.knock(f"10.0.{place}.1", float(now), NOBODY)
            knocks += [knock] if isinstance(knock, Knock) else []
        elif step == 1 and knocks:
            visits.append(table.arrive(key(place), inbound=True, now=float(now)))
            table.answered(knocks.pop(), visits[-1])
        elif step == 2 and knocks:
            table.answered(knocks.pop(0), None)
        elif step == 3 and visits:
            table.leave(visits.pop(0))
    for knock in knocks:
        table.answered(knock, None)
    for visit in visits:
        table.leave(visit)
    assert (table.half_open, table.total, table.inbound) == (0, 0, 0)
    fresh = [table.knock(f"10.0.{place}.1", 1e6, NOBODY) for place in range(6)]
    assert all(isinstance(each, Knock) for each in fresh)


def test_streams_are_counted_for_each_peer_and_for_all() -> None:
    gate = StreamGate(PeerBounds(streams_at_once=2, streams_in_all=3))
    assert [gate.enter(key(1), 0.0) for _ in range(3)] == [True, True, False]
    assert [gate.enter(key(2), 0.0) for _ in range(2)] == [True, False]
    assert gate.total == 3
    gate.leave(key(1))
    assert gate.enter(key(2), 0.0)


def test_who_offends_too_often_is_shut_out_once_and_for_a_while() -> None:
    offences = Offences(PeerBounds(offences_burst=2, offences_per_second=0.0, barred_s=60.0))
    assert [offences.note(key(1), 0.0) for _ in range(4)] == [False, False, True, False]
    assert offences.is_barred(key(1), 59.0)
    assert not offences.is_barred(key(2), 0.0)
    assert not offences.is_barred(key(1), 60.0)
    assert offences.note(key(1), 61.0)


def test_how_many_are_shut_out_is_bounded() -> None:
    offences = Offences(PeerBounds(offences_burst=0, offences_per_second=0.0))
    for each in range(MAX_TRACKED_PEERS + 1):
        assert offences.note(key(each), 0.0)
    assert not offences.is_barred(key(0), 0.0)
    assert offences.is_barred(key(1), 0.0)
