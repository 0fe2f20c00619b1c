"""Processes die by SIGKILL at chosen commits from order to payout; afterwards all books agree.

The short test dies where it hurts most. The sweeps, which are part of ``make soak``, die at every
commit: before it, when what was about to be said is lost, and after it, when nobody was told.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from mortal_world import PROCESSES, Death, Money, MortalWorld, mortal_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.world

LATE = (10, 8, 6, 4)
"""At how many tenths of a job's commits is tried, one after the other: while it waits for a busy
machine or a slow chain, a provider makes twice as many."""
TRIES = 4
"""A job after one that cost nothing finds its channel full, and begins without a transaction; so do
those after it, until it is spent."""


def on_a_validator(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """Mark a test that needs Solana's validator, and minutes of it."""
    test = pytest.mark.skipif(
        "ROBOCOMPUTE_VALIDATOR" not in os.environ,
        reason="ROBOCOMPUTE_VALIDATOR names no validator",
    )(test)
    return pytest.mark.chain(pytest.mark.soak(pytest.mark.timeout(1_200)(test)))


def die_once(world: MortalWorld, before: Money, death: Death) -> tuple[Money, bool]:
    """One job with a death in it, and its books; whether anybody really died."""
    deaths = dict(world.deaths)
    try:
        task = world.one_job(death)
        after = world.check(before, task)
    except BaseException as exc:
        exc.add_note(f"at: {death}")
        raise
    died = {name for name in PROCESSES if world.deaths[name] > deaths[name]}
    assert died <= set(death.victims), f"{died} died, at: {death}"
    print(f"{death}: {task['cause'] or task['error']}" if died else f"{death}: not reached")
    return after, died == set(death.victims)


def rehearsed(world: MortalWorld) -> tuple[Money, int]:
    """Open the channel with one job, and count the provider's commits for another.

    Returns the books and that number.
    """
    before = world.check(world.money(), world.one_job(None))
    made = world.commits()["provider-1"]
    before = world.check(before, world.one_job(None))
    return before, world.commits()["provider-1"] - made


def die_late(world: MortalWorld, before: Money, made: int, moment: str, *victims: str) -> Money:
    """Die at one of the last of the about ``made`` commits that the provider makes for a job.

    How many there really are depends on how long the job takes, so this is tried again a little
    earlier where it did not get there.
    """
    for tenths in LATE:
        commit = max(1, made * tenths // 10 - 2)
        before, died = die_once(world, before, Death("provider-1", moment, commit, victims))
        if died:
            return before
    raise AssertionError(f"{victims} did not die {moment} any late commit of the provider")


@pytest.mark.timeout(300)
def test_a_settlement_that_nobody_saw_land_is_neither_lost_nor_paid_twice(
    tmp_path: Path,
) -> None:
    with mortal_world(tmp_path / "mortal", "chain", "provider-1") as world:
        before, made = rehearsed(world)
        # The channel is there by now: the chain's next commit is the settlement.
        landed = Death("chain", "after", 1, ("provider-1", "chain"))
        before, died = die_once(world, before, landed)
        assert died, f"nobody died at: {landed}"
        # The provider's last ones say that the settlement was seen to land.
        die_late(world, before, made, "before", "provider-1")


def sweep(world: MortalWorld, at: str, moment: str, *victims: str) -> int:
    """Die at every commit that ``at`` makes for one job; at how many somebody died."""
    before = world.money()
    made = world.commits()[at]
    before = world.check(before, world.one_job(None))
    reached = 0
    for commit in range(1, world.commits()[at] - made + 1):
        for _ in range(TRIES):
            before, died = die_once(world, before, Death(at, moment, commit, victims))
            reached += died
            if died:
                break
    return reached


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_may_die_at_any_commit_from_order_to_payout(
    name: str, moment: str, tmp_path: Path
) -> None:
    with mortal_world(tmp_path / "mortal", *PROCESSES, top_ups=True) as world:
        assert sweep(world, name, moment, name) >= 3


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["provider-1", "client-1"])
def test_a_node_may_die_while_any_transaction_is_in_flight(
    name: str, moment: str, tmp_path: Path
) -> None:
    with mortal_world(tmp_path / "mortal", *PROCESSES, top_ups=True) as world:
        assert sweep(world, "chain", moment, name) >= 3
        assert sweep(world, "chain", moment, name, "chain") >= 3


@on_a_validator
def test_nodes_on_a_real_validator_may_die_around_their_settlement(tmp_path: Path) -> None:
    with mortal_world(tmp_path / "mortal", "provider-1", "client-1", backend="validator") as world:
        before, made = rehearsed(world)
        before = die_late(world, before, made, "before", "provider-1")
        before = die_late(world, before, made, "after", "provider-1")
        for death in (
            Death("provider-1", "after", made // 2, ("provider-1",)),
            Death("client-1", "before", 4, ("client-1",)),
        ):
            before, _died = die_once(world, before, death)


@on_a_validator
def test_a_real_validator_may_die_while_its_nodes_settle(tmp_path: Path) -> None:
    with mortal_world(tmp_path / "mortal", "provider-1", "client-1", backend="validator") as world:
        before, made = rehearsed(world)
        for death in (
            Death("client-1", "after", 4, ("chain",)),
            Death("provider-1", "after", made // 2, ("chain",)),
        ):
            before, _died = die_once(world, before, death)
        before = die_late(world, before, made, "before", "chain")
        die_late(world, before, made, "after", "provider-1", "chain")
