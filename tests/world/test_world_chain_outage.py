"""A chain that goes away while a job runs, and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

COUNTS = """
import time
for number in range(60):
    print("line", number, flush=True)
    time.sleep(0.1)
"""


def test_a_job_outlives_the_chain_and_is_settled_when_it_is_back(rough: WholeWorld) -> None:
    ran, _ = rough.run("print('a channel is open')")
    assert ran.status == 0, ran.stderr
    rough.settled()
    wealth = rough.wealth("client-1")
    running = rough.chisel(rough.job_folder(COUNTS), "python", "job.py")
    running.saw(b"line 5\n")
    rough.kill("chain")
    ran = running.end()
    assert ran.status == 0, ran.stderr
    assert ran.stdout == b"".join(b"line %d\n" % number for number in range(60))
    rough.start("chain")
    rough.settled()
    paid = wealth - rough.wealth("client-1")
    assert paid > 0
    assert rough.books().surplus == 0
