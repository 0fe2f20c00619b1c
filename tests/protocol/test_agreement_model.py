"""What holds of an agreement whatever the link, the clocks and crashes of either side do to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from agreement_model import DRIFTS, FIRST, HORIZON, NAME, TERMS, Crash, Packet, World

from robocompute_protocol import codec, steps, terms as rules
from robocompute_protocol.agreement import ClientPhase as C, ProviderPhase as P
from robocompute_protocol.causes import ANSWERABLE, Cause
from robocompute_protocol.messages import Receipt

SLACK_MS = 1_500
"""The second that the protocol allows for a late packet, and what a fast clock gains in a horizon."""
ACTIONS = (
    "deliver", "deliver", "deliver", "duplicate", "lose", "wait", "wait", "wait long",
    "client looks", "client looks", "provider looks", "cancel", "grant", "grant", "refuse",
    "decline", "job exits", "operator stops", "channel closes", "client will crash",
    "provider will crash",
)  # fmt: skip
HISTORIES = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 15)), max_size=60)
LONG_LEASES = st.lists(
    st.tuples(
        st.sampled_from(
            ("deliver", "deliver", "wait", "wait long", "client looks", "client looks", "lose",
             "client will crash", "provider will crash", "provider looks")
        ),
        st.integers(0, 15),
    ),
    max_size=80,
)  # fmt: skip


def check_bounds(world: World) -> None:
    """What either side can lose, at this instant."""
    ran = 0 if world.job is None else world.job.ran(world.now)
    promised = world.client.ledger.paid(NAME)
    assert promised - ran <= HORIZON + SLACK_MS, "the client is promised to more than its horizon"
    if world.client.state.ticks == 0:
        assert promised <= rules.prepaid_amount(TERMS, FIRST)
    assert ran <= world.provider.ledger.paid(NAME), "the provider works for nothing"
    assert len(world.provider.written) <= 1 or world.provider.state is not None
    if world.provider.never:
        assert world.job is None
        assert world.provider.ticks == []


def check_the_end(world: World) -> None:
    """Both sides came to the same end, and each knows why and for how much."""
    client, provider = world.client, world.provider
    assert provider.state is not None
    if client.state.phase is C.NEVER_LEASED:
        assert provider.state.phase is P.NEVER_LEASED
        assert world.job is None
        assert client.ledger.open == ()
        assert client.ledger.credit == client.ledger.cumulative
        return
    assert client.state.phase in (C.ENDED, C.KEPT)
    assert provider.state.phase in (P.ENDED, P.KEPT)
    signed = client.state.receipt
    assert signed is not None
    assert signed == provider.state.receipt
    receipt = codec.decode(Receipt, signed.body)
    assert receipt.cause is provider.state.cause
    assert ANSWERABLE[receipt.cause]
    assert client.ledger.closed_total == provider.ledger.owed == receipt.amount
    assert client.ledger.open == ()
    ran = 0 if world.job is None else world.job.ran(world.now)
    assert receipt.amount <= max(ran, 1_000)


def play(world: World, history: list[tuple[str, int]]) -> None:
    for action, number in history:
        world.act(action, number)
        check_bounds(world)
    world.settle()
    check_bounds(world)
    check_the_end(world)


@settings(max_examples=150)
@given(st.sampled_from(DRIFTS), st.sampled_from(DRIFTS), HISTORIES)
def test_whatever_happens_neither_side_loses_more_than_agreed_and_both_end_alike(
    fast: int, slow: int, history: list[tuple[str, int]]
) -> None:
    play(World((fast, slow)), history)


LEASED = [("deliver", 0), ("grant", 0), ("deliver", 0), ("deliver", 0)]


@settings(max_examples=120)
@given(st.sampled_from(DRIFTS), st.sampled_from(DRIFTS), LONG_LEASES)
@example(0, 0, [("client will crash", 0), ("client looks", 0)] * 4 + [("client looks", 0)])
def test_a_lease_whose_nodes_restart_with_other_clocks_is_never_paid_too_far_ahead(
    fast: int, slow: int, history: list[tuple[str, int]]
) -> None:
    world = World((fast, slow))
    for action, number in LEASED:
        world.act(action, number)
    assert world.client.state.phase is C.ACTIVE
    play(world, history)


@pytest.mark.parametrize("at", range(7))
@pytest.mark.parametrize("who", ["client", "provider"])
@pytest.mark.parametrize(
    "then",
    [
        [],
        [("cancel", 0), ("deliver", 0), ("deliver", 0)],
        [("job exits", 0), ("provider looks", 0), ("deliver", 0), ("client looks", 0)],
        [("wait long", 2), ("client looks", 0), ("deliver", 0), ("deliver", 0)],
        [("operator stops", 0), ("deliver", 0)],
        [("channel closes", 0), ("deliver", 0)],
    ],
    ids=["order", "cancel", "exit", "extension", "stop", "close"],
)
def test_a_crash_between_any_two_steps_of_either_side_is_survived(
    at: int, who: str, then: list[tuple[str, int]]
) -> None:
    for before in range(0, len(LEASED) + len(then), 2):
        history = [*LEASED, *then]
        history.insert(before, (f"{who} will crash", at))
        play(World(), history)


CROSSINGS = {
    "cancel meets grant": ("cancel", "grant"),
    "cancel meets decline": ("cancel", "decline"),
    "cancel meets refusal": ("cancel", "refuse"),
    "cancel meets the job's end": ("cancel", "job exits"),
    "cancel meets the operator's stop": ("cancel", "operator stops"),
    "cancel meets a closing channel": ("cancel", "channel closes"),
    "an extension meets the job's end": ("client looks", "job exits"),
}


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize("crossing", CROSSINGS.values(), ids=CROSSINGS.keys())
def test_words_that_cross_end_the_same_way_on_both_sides(
    crossing: tuple[str, str], leased: bool, order: int
) -> None:
    world = World()
    for action, number in LEASED if leased else LEASED[:1]:
        world.act(action, number)
    world.act("wait long", 1)
    for action in crossing if order % 2 else crossing[::-1]:
        world.act(action, 0)
    play(world, [("deliver", order // 2), ("provider looks", 0), ("deliver", 0), ("deliver", 1)])


def test_a_clock_set_forward_while_the_client_was_down_makes_it_promise_nothing_more() -> None:
    world = World()
    for action, number in LEASED:
        world.act(action, number)
    world.client.restart(jump=86_400_000)
    promised = world.client.ledger.paid(NAME)
    for _ in range(5):
        world.act("client looks", 0)
        assert (
            world.client.ledger.paid(NAME) == promised
        )  # until the provider said how long it ran
    while world.link:
        world.deliver(0)
    assert world.client.elapsed() < 1_000
    world.act("wait long", 1)
    world.act("client looks", 0)
    assert world.client.ledger.paid(NAME) > promised
    check_bounds(world)


def test_a_crash_is_one() -> None:
    """The model would prove nothing if its fuses did not burn."""
    world = World()
    world.client.fuse = 0
    with pytest.raises(Crash):
        world.client.poll()
    world.provider.fuse = 1
    with pytest.raises(Crash):
        world.provider.hear(Packet(True, "order"))
    assert world.provider.state is not None


def test_the_model_sees_what_it_is_to_see() -> None:
    world = World()
    for action, number in LEASED:
        world.act(action, number)
    world.client.ledger, _ = world.client.ledger.allocate(
        NAME, rules.prepaid_amount(TERMS, rules.Millis(FIRST + HORIZON + 2 * SLACK_MS))
    )
    with pytest.raises(AssertionError, match="more than its horizon"):
        check_bounds(world)
    assert world.provider.state is not None
    world.provider.tell(steps.StopOrdered(cause=Cause.GPU_FAULT, detail=""))
    with pytest.raises(AssertionError):
        check_the_end(world)
