"""The money commands on real nodes: running, stopped, and with their store lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from whole_world import NODE, WholeWorld, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.world
COMMAND_S = 60.0


def typed(world: WholeWorld, name: str, *words: str) -> Any:
    """Type a command at a node's machine; return what it answers in JSON."""
    done = subprocess.run(
        [*NODE, *words, "--data", str(world.data(name)), "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def worked(world: WholeWorld) -> Decimal:
    """Run a job; return what it cost."""
    ran, _ = world.run("print('worked')")
    assert ran.status == 0, ran.stderr
    cost = world.newest_task()["cost"]
    assert cost is not None
    return Decimal(cost)


@pytest.mark.timeout(300)
def test_books_are_the_same_over_rest_and_of_the_store_and_survive_its_loss(
    found: Callable[[], WholeWorld],
) -> None:
    world = found()
    costs = worked(world) + worked(world)
    typed(world, "provider-1", "earnings", "settle")
    running = [
        typed(world, "client-1", "invoices"),
        typed(world, "client-1", "channels"),
        typed(world, "provider-1", "earnings"),
        typed(world, "provider-1", "channels"),
    ]
    assert Decimal(running[0]["totals"]["invoiced"]) == costs
    assert Decimal(running[2]["totals"]["settled"]) == costs
    assert running[0]["history_whole"] is running[2]["history_whole"] is True
    assert world.terminate("client-1")
    assert world.terminate("provider-1")
    stopped = [
        typed(world, "client-1", "invoices"),
        typed(world, "client-1", "channels"),
        typed(world, "provider-1", "earnings"),
        typed(world, "provider-1", "channels"),
    ]
    assert stopped == running
    (channel,) = [each["channel"] for each in stopped[1]["channels"]]
    # The client's store is lost; what the chain and the provider know is enough to go on.
    shutil.rmtree(world.data("client-1") / "store")
    told = typed(world, "client-1", "chain", "recover")
    assert [each["channel"] for each in told["channels"]] == [channel]
    assert sum(Decimal(each["amount"]) for each in told["settlements"]) == costs
    world.start("provider-1")
    world.start("client-1")
    wait_until("an offer", lambda: world.sdk().offers())
    costs += worked(world)
    typed(world, "provider-1", "earnings", "settle")
    after = typed(world, "client-1", "invoices")
    assert Decimal(after["totals"]["invoiced"]) == costs
    assert {each["channel"] for each in after["invoices"]} == {channel}
    earned = typed(world, "provider-1", "earnings")
    assert Decimal(earned["totals"]["settled"]) == costs
    assert world.books().surplus == 0
