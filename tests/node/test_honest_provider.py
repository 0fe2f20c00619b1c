"""An honest provider cannot be slashed, whatever its clients, its power and its owner do to it.

Histories are drawn at random: hedged quotes, races, resent orders, extensions, cancels, clients that
vanish, kills, power cut right after any write (between store and speech), rotated keys, stores
restored from an old copy, a clock that was set. Of all leases it ever signed no two prove a double
sale; ``tests/chain/test_attack_honest.py`` holds that rule to what the chain takes for one.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing
from fake_world import fake_world
from hypothesis import HealthCheck, given, settings, strategies as st
from reckless_renters import Renter, WatchedProvider

from robocompute_node.executor.fake import Pause
from robocompute_protocol.leases import overlaps

if TYPE_CHECKING:
    from robocompute_protocol.messages import LeaseTick

RENTERS = 3
SLOTS = 2
WHO = st.integers(0, RENTERS - 1)
SLOT = st.integers(0, SLOTS - 1)
WHICH = st.integers(0, 5)
TICK = st.sampled_from([2_000, 3_141, 10_000])
ACTIONS = st.one_of(
    st.tuples(st.just("quote"), WHO),
    st.tuples(st.just("order"), WHO, SLOT, TICK),
    st.tuples(st.just("order"), WHO, SLOT, TICK),
    st.tuples(st.just("race"), SLOT, TICK),
    st.tuples(st.just("order again"), WHO, WHICH),
    st.tuples(st.just("extend"), WHO, WHICH, st.sampled_from([5_000, 40_000, 290_000])),
    st.tuples(st.just("cancel"), WHO, WHICH),
    st.tuples(st.just("keep"), WHO, WHICH),
    st.tuples(st.just("wait"), st.sampled_from([1, 7, 60, 340])),
    st.tuples(st.just("start")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("cut"), st.integers(1, 6)),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("back up")),
    st.tuples(st.just("restore")),
    st.tuples(st.just("clock"), st.sampled_from([-90, -10, -1, 20])),
)
Action = tuple[object, ...]


async def act(provider: WatchedProvider, renters: list[Renter], action: Action) -> None:
    match action:
        case ("quote", int(who)):
            await renters[who].quote()
        case ("order", int(who), int(slot), int(tick)):
            await renters[who].order(slot, tick)
        case ("race", int(slot), int(tick)):
            async with trio.open_nursery() as nursery:
                for renter in renters:
                    nursery.start_soon(renter.order, slot, tick)
        case ("order again", int(who), int(which)):
            await renters[who].order_again(which)
        case ("extend", int(who), int(which), int(ahead)):
            await renters[who].extend(which, ahead)
        case ("cancel", int(who), int(which)):
            await renters[who].cancel(which)
        case ("keep", int(who), int(which)):
            await renters[who].keep(which)
        case ("wait", int(seconds)):
            await trio.sleep(seconds)
        case ("start",):
            await provider.start()
        case ("kill",):
            await provider.kill()
        case ("cut", int(writes)):
            await provider.kill()
            await provider.start(cut_after=writes)
        case ("rotate",):
            await provider.rotate()
        case ("back up",):
            await provider.back_up()
        case ("restore",):
            await provider.restore()
        case ("clock", int(shift)):
            await provider.set_clock(shift)
        case _:
            raise AssertionError(action)


async def signed_in(folder: Path, actions: list[Action]) -> list[LeaseTick]:
    """Every lease that the provider signs in this history."""
    async with fake_world(folder) as world:
        node = await world.provider(script=lambda _: (Pause(86_400_000),), slots=SLOTS)
        provider = WatchedProvider(world, node)
        await world.start(node)
        renters: list[Renter] = []
        for n in range(RENTERS):
            renters.append(Renter(await world.start(await world.client(f"client {n}")), provider))
            await trio.sleep(1)
            await renters[-1].prepare()
            await trio.sleep(6)
        for action in actions:
            with trio.fail_after(3_600):
                await act(provider, renters, action)
                await trio.sleep(0.1)
            if not provider.running and action[0] not in ("kill", "back up", "restore", "clock"):
                await provider.start()
        return provider.signed


def history(*actions: Action) -> list[LeaseTick]:
    with TemporaryDirectory() as folder:
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(signed_in, Path(folder), list(actions), clock=clock)


def double_sales(signed: list[LeaseTick]) -> list[tuple[LeaseTick, LeaseTick]]:
    return [pair for pair in combinations(signed, 2) if overlaps(*pair)]


ORDER_A, ORDER_B = ("order", 0, 0, 10_000), ("order", 1, 0, 10_000)


def test_the_histories_below_do_let_slots() -> None:
    signed = history(ORDER_A, ("extend", 0, 0, 40_000), ("cancel", 0, 0), ("wait", 60), ORDER_B)
    assert [one.payer for one in signed[:2]] != [one.payer for one in signed[2:]]
    assert len(signed) == 3


def test_two_leases_that_share_a_moment_would_be_found() -> None:
    first, *_, last = history(ORDER_A, ("cancel", 0, 0), ("wait", 60), ORDER_B)
    assert double_sales([first, last]) == []
    moved = msgspec.structs.replace(last, start_s=first.start_s, end_s=first.end_s)
    assert double_sales([first, moved]) == [(first, moved)]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(ACTIONS, min_size=4, max_size=14))
def test_no_history_makes_an_honest_provider_sell_a_moment_twice(actions: list[Action]) -> None:
    assert double_sales(history(*actions)) == []


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@settings(
    max_examples=1_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(ACTIONS, min_size=8, max_size=40))
def test_no_long_history_makes_an_honest_provider_sell_a_moment_twice(
    actions: list[Action],
) -> None:
    assert double_sales(history(*actions)) == []


ORDER_A_LONG = (ORDER_A, ("extend", 0, 0, 290_000))

TOLD: dict[str, tuple[Action, ...]] = {
    "it hedges quotes and three race for one slot": (
        ("quote", 0), ("quote", 1), ("quote", 2), ("race", 0, 2_000), ("wait", 7), ("race", 0, 3_141),
    ),
    "a client vanishes and its slot is let again": (
        *ORDER_A_LONG, ("wait", 340), ORDER_B, ("order again", 0, 0), ("extend", 0, 0, 40_000),
    ),
    "a client cancels and another wants the rest of its time": (
        *ORDER_A_LONG, ("cancel", 0, 0), ORDER_B, ("wait", 60), ("order", 1, 0, 2_000),
    ),
    "power goes between store and speech, and another client comes first": (
        ("cut", 1), ORDER_A, ("start",), ORDER_B, ("order again", 0, 0), ("wait", 7), ORDER_B,
    ),
    "it is killed with a tick out and asked by others at once": (
        *ORDER_A_LONG, ("kill",), ("start",), ("race", 0, 2_000), ("wait", 60), ("race", 0, 2_000),
    ),
    "its store is restored from before the tick": (
        ("back up",), ("start",), *ORDER_A_LONG, ("restore",), ("start",), ORDER_B,
        ("wait", 60), ORDER_B, ("wait", 340), ORDER_B,
    ),
    "its store is lost": (
        *ORDER_A_LONG, ("restore",), ("start",), ORDER_B, ("wait", 60), ORDER_B, ("wait", 340),
        ORDER_B,
    ),
    "its key is rotated with a tick out": (
        *ORDER_A_LONG, ("rotate",), ("start",), ORDER_B, ("wait", 60), ORDER_B, ("wait", 340), ORDER_B,
    ),
    "its clock is set back while it is down, and all its jobs were fetched": (
        ORDER_A, ("wait", 1), ("cancel", 0, 0), ("keep", 0, 0), ("wait", 60), ("clock", -65),
        ("start",), ORDER_B,
    ),
    "its clock is set back by a second": (
        ORDER_A, ("cancel", 0, 0), ("keep", 0, 0), ("wait", 7), ("wait", 1), ("wait", 1),
        ("wait", 1), ("wait", 1), ("clock", -1), ("start",), ORDER_B,
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", TOLD)
def test_an_honest_provider_sells_no_moment_twice_when(story: str) -> None:
    signed = history(*TOLD[story])
    assert signed
    assert double_sales(signed) == []


@pytest.mark.parametrize("writes", range(1, 9))
def test_no_cut_between_order_and_lease_and_no_clock_make_it_forget_the_client_before(
    writes: int,
) -> None:
    signed = history(
        *ORDER_A_LONG, ("cancel", 0, 0), ("wait", 340), ("cut", writes), ORDER_B, ("clock", -90),
        ("start",), ("order again", 1, 0),
    )  # fmt: skip
    assert double_sales(signed) == []
