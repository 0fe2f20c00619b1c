"""Providers that vanish, come back, or are stopped while they have work."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from whole_world import HORIZON_S, PRICE, kill, processes_inside, wait_until

if TYPE_CHECKING:
    from whole_world import WholeWorld

    from conftest import Found

pytestmark = pytest.mark.world

COUNTS = """
import sys, time
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(0.1)
"""


def counted(lines: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(lines))


def test_a_provider_that_vanishes_costs_nothing_and_the_money_comes_back(found: Found) -> None:
    world = found(close_lost_after_s=HORIZON_S)
    wealth = world.wealth("client-1")
    running = world.chisel(world.job_folder(COUNTS), "python", "job.py", "600")
    running.saw(b"line 20\n")
    supervisors = world.supervisors()
    assert supervisors
    world.kill("provider-1")
    assert processes_inside(world.folder)
    for supervisor in supervisors:
        kill(supervisor)
    wait_until("the sandbox's end", lambda: not processes_inside(world.folder))
    ran = running.end()
    task = world.newest_task()
    assert ran.status == 75
    assert (task["cause"], task["ended_by"]) == ("provider_lost", "provider")
    told = ran.stderr
    assert "ended by the provider" in told
    assert "cost 0.000000" in told
    held = Decimal(task["prepaid"])
    assert f"{held} was signed to the provider and not used" in told
    assert 0 < held <= PRICE * 12 * HORIZON_S / 3_600

    def came_back() -> bool:
        balance = world.sdk().wallet.get_balance()
        return Decimal(balance["locked"]) == 0 and Decimal(balance["available"]) == 100

    wait_until("the channel's rest in the balance", came_back)
    assert world.wealth("client-1") == wealth
    world.start("provider-1")
    books = world.books()
    assert (books.surplus, books.channels, books.fees_owed) == (0, 0, 0)


def test_a_provider_that_is_killed_and_comes_back_goes_on_with_the_job(rough: WholeWorld) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "python", "job.py", "120")
    rough.paid_on()
    (supervisor,) = rough.supervisors()
    rough.kill("provider-1")
    assert supervisor.exists()
    rough.start("provider-1")
    ran = running.end()
    assert ran.status == 0, ran.stderr
    assert ran.stdout == counted(120)
    assert rough.newest_task()["cause"] == "exited"
    rough.settled()
    assert rough.books().surplus == 0


def test_a_provider_that_is_stopped_leaves_its_job_running_and_adopts_it(
    rough: WholeWorld,
) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "python", "job.py", "120")
    rough.paid_on()
    (supervisor,) = rough.supervisors()
    assert rough.terminate("provider-1")
    assert Path(f"/proc/{supervisor.name}").exists()
    rough.start("provider-1")
    ran = running.end()
    assert ran.status == 0, ran.stderr
    assert ran.stdout == counted(120)
    rough.slots_free()


def test_a_provider_that_is_stopped_idle_withdraws_its_offer_and_has_settled(
    rough: WholeWorld,
) -> None:
    ran, _ = rough.run("print('short')")
    assert ran.status == 0, ran.stderr
    wait_until("the offer", lambda: len(rough.sdk().offers()) == 1)
    assert rough.terminate("provider-1")
    wait_until("no offer", lambda: not rough.sdk().offers())
    rough.start("provider-1")
    earnings = rough.provider()["earnings"]
    assert Decimal(earnings["unsettled"]) == 0
    assert Decimal(earnings["earned"]) > 0
    wait_until("the offer again", lambda: len(rough.sdk().offers()) == 1)


def test_tasks_and_receipts_are_there_after_every_process_was_started_again(
    rough: WholeWorld,
) -> None:
    ran, _ = rough.run("print('kept')")
    assert ran.status == 0, ran.stderr
    rough.settled()
    tasks = rough.sdk().tasks.list()
    receipt = rough.sdk().tasks.receipt(tasks[0].task_id)
    assert receipt is not None
    for name in ("client-1", "provider-1", "chain"):
        assert rough.terminate(name)
    for name in ("chain", "provider-1", "client-1"):
        rough.start(name)
    again = rough.sdk().tasks.list()
    assert again == tasks
    assert rough.sdk().tasks.receipt(tasks[0].task_id) == receipt
    logs = rough.sdk().tasks.get_logs(tasks[0].task_id)
    assert isinstance(logs, dict)
    assert [line["message"] for line in logs["logs"]] == ["kept"]
    assert rough.books().surplus == 0
    wait_until("the offer", lambda: len(rough.sdk().offers()) == 1)


def test_a_provider_that_returns_too_late_gives_what_it_was_promised_back_as_credit(
    found: Found,
) -> None:
    world = found()
    wealth = world.wealth("client-1")
    running = world.chisel(world.job_folder(COUNTS), "python", "job.py", "600")
    running.saw(b"line 10\n")
    supervisors = world.supervisors()
    world.kill("provider-1")
    for supervisor in supervisors:
        kill(supervisor)
    assert running.end().status == 75
    lost = world.newest_task()
    held = Decimal(lost["prepaid"])
    assert held > 0
    world.start("provider-1")
    receipt = wait_until("the receipt", lambda: world.sdk().tasks.receipt(lost["task_id"]))
    assert (receipt.cause, Decimal(receipt.amount)) == ("unknown", 0)
    assert Decimal(receipt.channel["credit"]) == Decimal(receipt.channel["cumulative"])
    assert Decimal(receipt.channel["credit"]) == held
    again = world.sdk().tasks.get(lost["task_id"])
    assert "credit" in again["message"]
    ran, _ = world.run("print('on credit')")
    assert ran.stdout == b"on credit\n", ran.stderr
    paid = world.sdk().tasks.receipt(world.newest_task()["task_id"])
    assert paid is not None
    assert Decimal(paid.channel["cumulative"]) == held
    assert Decimal(paid.channel["credit"]) == held - Decimal(paid.amount)
    world.settled()
    assert wealth - world.wealth("client-1") == Decimal(paid.amount) * 1_000_000
    assert world.books().surplus == 0


def test_a_provider_killed_at_an_order_runs_it_once_or_charges_nothing(rough: WholeWorld) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "--verbose", "python", "job.py", "20")
    running.said("ordering")
    rough.kill("provider-1")
    rough.start("provider-1")
    ran = running.end()
    if ran.status == 75:  # it was away for longer than the first tick
        assert counted(20).startswith(ran.stdout)
        assert Decimal(rough.newest_task()["cost"]) == 0
    else:
        assert ran.status == 0, ran.stderr
        assert ran.stdout == counted(20)
    rough.settled()
    assert rough.books().surplus == 0


def test_a_provider_that_was_away_when_the_next_payment_was_due_bears_it(found: Found) -> None:
    world = found()
    wealth = world.wealth("client-1")
    running = world.chisel(world.job_folder(COUNTS), "python", "job.py", "600")
    running.saw(b"line 0\n")
    world.kill("provider-1")
    wait_until("the end of the unpaid job", lambda: not world.supervisors())
    world.start("provider-1")
    ran = running.end()
    assert ran.status == 75, ran.stderr
    task = world.newest_task()
    assert (task["cause"], task["ended_by"]) == ("provider_lost", "provider")
    receipt = wait_until("the receipt", lambda: world.sdk().tasks.receipt(task["task_id"]))
    assert (receipt.cause, Decimal(receipt.amount)) == ("provider_lost", 0)
    assert Decimal(world.provider()["earnings"]["earned"]) == 0
    assert world.wealth("client-1") == wealth
