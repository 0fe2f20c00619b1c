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
    from pathlib import Path

pytestmark = pytest.mark.world


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

    Returns the books and the number of one of its last commits: how many there are depends a
    little on how long the job took.
    """
    before = world.check(world.money(), world.one_job(None))
    made = world.commits()["provider-1"]
    before = world.check(before, world.one_job(None))
    return before, max(1, world.commits()["provider-1"] - made - 2)


@pytest.mark.timeout(300)
def test_a_settlement_that_nobody_saw_land_is_neither_lost_nor_paid_twice(
    tmp_path: Path,
) -> None:
    with mortal_world(tmp_path / "mortal", "chain", "provider-1") as world:
        before, late = rehearsed(world)
        deaths = (
            # The channel is there by now: the chain's next commit is the settlement.
            Death("chain", "after", 1, ("provider-1", "chain")),
            # The provider's last ones say that the settlement was seen to land.
            Death("provider-1", "before", late, ("provider-1",)),
        )
        for death in deaths:
            before, died = die_once(world, before, death)
            assert died, f"nobody died at: {death}"


def sweep(world: MortalWorld, at: str, moment: str, *victims: str) -> int:
    """Die at every commit that ``at`` makes for one job; at how many somebody died."""
    before = world.money()
    made = world.commits()[at]
    before = world.check(before, world.one_job(None))
    reached = 0
    for commit in range(1, world.commits()[at] - made + 1):
        before, died = die_once(world, before, Death(at, moment, commit, victims))
        reached += died
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


@pytest.mark.chain
@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.skipif(
    "ROBOCOMPUTE_VALIDATOR" not in os.environ, reason="ROBOCOMPUTE_VALIDATOR names no validator"
)
def test_nodes_on_a_real_validator_may_die_around_their_settlement(tmp_path: Path) -> None:
    with mortal_world(tmp_path / "mortal", "provider-1", "client-1", backend="validator") as world:
        before, late = rehearsed(world)
        for death in (
            Death("provider-1", "before", late, ("provider-1",)),
            Death("provider-1", "after", late, ("provider-1",)),
            Death("provider-1", "after", late // 2, ("provider-1",)),
            Death("client-1", "before", 4, ("client-1",)),
        ):
            before, _died = die_once(world, before, death)
        assert world.deaths["provider-1"] >= 2
