"""Clients that vanish, and clients that come back in time."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from whole_world import wait_until

if TYPE_CHECKING:
    from whole_world import WholeWorld

    from conftest import Found

pytestmark = pytest.mark.world

COUNTS = """
import sys, time
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(0.1)
sys.exit(5)
"""


def test_a_client_that_comes_back_in_time_misses_no_line(rough: WholeWorld) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "python", "job.py", "120")
    rough.paid_on()
    rough.kill("client-1")
    rough.start("client-1")
    ran = running.end()
    assert ran.stdout == b"".join(b"line %d\n" % number for number in range(120))
    assert ran.status == 5, ran.stderr
    task = rough.newest_task()
    assert (task["cause"], task["exit_code"]) == ("exited", 5)
    rough.slots_free()
    rough.settled()
    assert rough.books().surplus == 0


def test_a_client_that_vanishes_has_its_job_frozen_then_ended_and_pays_what_it_signed(
    found: Found,
) -> None:
    world = found()
    before = world.provider()["earnings"]
    running = world.chisel(world.job_folder(COUNTS), "python", "job.py", "600")
    running.saw(b"line 10\n")
    world.kill("client-1")
    wait_until(
        "the job frozen in its reserve",
        lambda: [job["stage"] for job in world.provider()["jobs"]] == ["frozen"],
    )
    (job,) = world.provider()["jobs"]
    world.slots_free()
    wait_until("the end of the supervisor", lambda: not world.supervisors())
    running.kill()
    after = world.settled()
    prepaid = Decimal(36) * job["prepaid_ms"] / 3_600_000
    earned = Decimal(after["earned"]) - Decimal(before["earned"])
    assert earned == prepaid
    assert Decimal(after["settled"]) == Decimal(after["earned"])
    world.start("client-1")
    wait_until("the end of the task", lambda: world.newest_task()["ended_at"])
    task = world.newest_task()
    assert task["cause"] == "client_lost"
    assert Decimal(task["cost"]) == earned
    assert world.books().surplus == 0


def test_a_client_killed_as_soon_as_it_took_a_task_runs_it_once(rough: WholeWorld) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "--verbose", "python", "job.py", "10")
    running.said("chisel: task ")
    rough.kill("client-1")
    rough.start("client-1")
    ran = running.end()
    assert ran.status == 5, ran.stderr
    assert ran.stdout == b"".join(b"line %d\n" % number for number in range(10))
    rough.slots_free()
    rough.settled()
    assert rough.books().surplus == 0
