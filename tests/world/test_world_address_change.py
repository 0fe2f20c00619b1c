"""A provider whose address changes while it has work: the job goes on, its log is whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from whole_world import free_port

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

COUNTS = """
import time
for number in range(150):
    print("line", number, flush=True)
    time.sleep(0.1)
"""


def move(world: WholeWorld, port: int) -> int:
    """Kill the provider and start it again at another port; return the one it had.

    Nobody names the client to it: it was told once where its client can be dialled, tried that,
    and goes there by itself.
    """
    config = world.data("provider-1") / "config.toml"
    text = config.read_text()
    found = re.search(r'(?m)^listen = \["/ip4/127\.0\.0\.1/tcp/(\d+)"\]$', text)
    assert found is not None
    text = text.replace(found[0], found[0].replace(found[1], str(port)))
    text = re.sub(r"(?m)^bootstrap = .*$", "bootstrap = []", text)
    world.kill("provider-1")
    config.write_text(text)
    world.start("provider-1")
    return int(found[1])


def test_a_job_goes_on_though_its_provider_is_suddenly_somewhere_else(rough: WholeWorld) -> None:
    running = rough.chisel(rough.job_folder(COUNTS), "python", "job.py")
    rough.paid_on()
    running.saw(b"line 10\n")
    before = move(rough, free_port())
    running.saw(b"line 80\n")
    move(rough, before)
    ran = running.end()
    assert ran.status == 0, ran.stderr
    assert ran.stdout == b"".join(b"line %d\n" % number for number in range(150))
    assert rough.newest_task()["cause"] == "exited"
    rough.settled()
    assert rough.books().surplus == 0
