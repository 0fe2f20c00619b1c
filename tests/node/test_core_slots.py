"""Which slots may be let to whom: never two payers for one moment."""

from __future__ import annotations

import itertools

from hypothesis import given, strategies as st

from robocompute_node.core.slots import HELD_IN_A_ROW, SlotTable, bits_of, indices_of
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address, AgreementId, NodeKey
from robocompute_protocol.money import Millis

PAYERS = [Address(bytes([n]) * 32) for n in range(3)]
A, B, C = PAYERS


def node(payer: Address) -> NodeKey:
    """The node that asks for a payer."""
    return NodeKey(bytes(payer))


def agreement(n: int) -> AgreementId:
    return AgreementId(n.to_bytes(32))


def test_a_held_slot_is_free_for_its_holder_only_and_only_for_a_while() -> None:
    table, hold = SlotTable.of(2).hold((0,), node(A), Millis(0), Millis(100))
    assert hold == 100
    assert table.free(A, node(A), Millis(50)) == (1, 0)
    assert table.free(B, node(B), Millis(50)) == (1,)
    assert table.free(B, node(B), Millis(100)) == (0, 1)


def test_nobody_gets_at_what_is_held_by_naming_whom_it_is_held_for() -> None:
    table, _ = SlotTable.of(1).hold((0,), node(A), Millis(0), Millis(100))
    assert table.free(A, node(B), Millis(50)) == ()
    assert table.unhold((0,), node(B), Millis(50)) == table
    assert table.unhold((0,), node(A), Millis(50)).free(B, node(B), Millis(50)) == (0,)


def test_quotes_alone_keep_a_slot_from_others_for_a_while_and_then_not_for_a_while() -> None:
    table, taken_by_b, now = SlotTable.of(1), list[int](), 0
    while now < 120_000:
        if table.free(A, node(A), Millis(now)):
            table, _ = table.hold((0,), node(A), Millis(now), limits.QUOTE_HOLD)
        if table.free(B, node(B), Millis(now)):
            taken_by_b.append(now)
        now += 500
    gaps = [later - sooner for sooner, later in itertools.pairwise([0, *taken_by_b])]
    assert max(gaps) <= HELD_IN_A_ROW + limits.QUOTE_HOLD
    assert len(taken_by_b) * 500 >= 120_000 // 4
    assert (
        table.let((0,), agreement(1), A, Millis(0)).release(agreement(1)).slots[0].held_since
        is None
    )


def test_a_released_slot_is_its_payers_at_once_and_others_after_the_last_tick() -> None:
    table = SlotTable.of(1).let((0,), agreement(1), A, Millis(1_000))
    assert table.free(A, node(A), Millis(10)) == ()
    table = table.release(agreement(1))
    assert table.free(A, node(A), Millis(10)) == (0,)
    assert table.free(B, node(B), Millis(999)) == ()
    assert table.free(B, node(B), Millis(1_000)) == (0,)


def test_a_payer_gets_the_slots_it_had_before_first() -> None:
    table = SlotTable.of(3).let((2,), agreement(1), A, Millis(1_000)).release(agreement(1))
    assert table.free(A, node(A), Millis(10)) == (2, 0, 1)


def test_a_shorter_tick_of_the_same_payer_never_shortens_what_was_signed() -> None:
    table = SlotTable.of(1).let((0,), agreement(1), A, Millis(1_000)).release(agreement(1))
    table = table.let((0,), agreement(2), A, Millis(500)).release(agreement(2))
    assert table.free(B, node(B), Millis(700)) == ()


@given(st.sets(st.integers(0, 61)))
def test_slot_bits_and_indices_are_the_same_thing(indices: set[int]) -> None:
    assert set(indices_of(bits_of(tuple(indices)))) == indices


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["let", "hold", "release", "extend"]),
        st.integers(0, 2),
        st.integers(0, 50),
        st.integers(1, 400),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_two_payers_never_have_one_slot_at_one_moment(
    actions: list[tuple[str, int, int, int]],
) -> None:
    table, now, number = SlotTable.of(3), 0, 0
    signed: list[tuple[int, Address, int, int]] = []
    live: list[tuple[AgreementId, int, Address]] = []
    for action, who, pause, length in actions:
        now += pause
        payer, free = PAYERS[who], table.free(PAYERS[who], node(PAYERS[who]), Millis(now))
        if action == "hold" and free:
            table, _ = table.hold(free[:1], node(payer), Millis(now), Millis(length))
        elif action == "let" and free:
            number += 1
            live.append((agreement(number), free[0], payer))
            table = table.let(free[:1], agreement(number), payer, Millis(now + length))
            signed.append((free[0], payer, now, now + length))
        elif action == "extend" and live:
            name, index, owner = live[-1]
            table = table.let((index,), name, owner, Millis(now + length))
            signed.append((index, owner, now, now + length))
        elif action == "release" and live:
            table = table.release(live.pop(0)[0])
    for n, (slot, payer, start, end) in enumerate(signed):
        for other_slot, other, other_start, other_end in signed[:n]:
            if slot == other_slot and payer != other:
                assert max(start, other_start) >= min(end, other_end)
