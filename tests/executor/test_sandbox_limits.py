"""Jobs that take too much, and what stops them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from robocompute_node.executor import cgroups
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from conftest import Bench
    from robocompute_protocol.messages import Output

pytestmark = pytest.mark.sandbox

FORK_BOMB = """
import os, time
n = 0
try:
    while n < 5000:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except OSError as exc:
    print(exc)
print(n)
"""
HOG = """
import time
held = []
while True:
    held.append(bytearray(b"x") * (16 << 20)); print(len(held) * 16); time.sleep(0.02)
"""
FILL = """
import time
while True:
    with open("/volume/big", "ab") as file: file.write(b"x" * (4 << 20))
    time.sleep(0.01)
"""


def kernel_counts_memory() -> bool:
    group = cgroups.Group.create("rc-test-probe", memory_bytes=1 << 30, pids=10, cpu_cores=1)
    group.remove()
    return "memory" in group.limits


def numbers(records: list[Output]) -> list[int]:
    return [int(r.data) for r in records if r.stream == "stdout" and r.data.isdigit()]


async def test_a_fork_bomb_stays_in_its_box_and_ends(bench: Bench):
    end, records = await bench.run(("python", "-c", FORK_BOMB))
    assert end.exit_code == 0
    assert 0 < numbers(records)[-1] < 128


async def test_a_job_over_its_memory_is_ended_for_that(bench: Bench):
    end, records = await bench.run(("python", "-c", HOG), memory_mib=200)
    assert (end.exit_code, end.cause) == (137, Cause.MEMORY)
    assert "200 MiB" in end.detail
    # Counted four times a second where the kernel does not.
    assert numbers(records)[-1] <= (200 if kernel_counts_memory() else 800)


@pytest.mark.skipif(not kernel_counts_memory(), reason="needs a cgroup")
async def test_a_job_whose_child_ran_out_of_memory_may_go_on(bench: Bench):
    code = f"""
import subprocess, sys
assert subprocess.run([sys.executable, "-c", {HOG!r}], stdout=subprocess.DEVNULL).returncode == -9
"""
    end, _ = await bench.run(("python", "-c", code), memory_mib=200)
    assert (end.exit_code, end.cause) == (0, Cause.EXITED)


async def test_memory_file_systems_are_part_of_the_memory(bench: Bench):
    code = """
try:
    with open("/dev/shm/x", "wb") as file:
        while True: file.write(b"x" * (1 << 20))
except OSError as exc:
    print(exc.errno)
"""
    end, records = await bench.run(("python", "-c", code), memory_mib=128)
    assert (end.exit_code, records[0].data) == (0, b"28")


async def test_a_job_over_its_disk_is_ended_for_that(bench: Bench):
    job_id = await bench.begin(("python", "-c", FILL), disk_mib=32)
    end, _ = await bench.finish(job_id)
    assert end.exit_code != 0
    assert (end.cause, end.detail) == (Cause.DISK, "used more disk space than the 32 MiB agreed")
    written = bench.data / "jobs" / job_id / "volume" / "big"
    assert written.stat().st_size <= 48 << 20


async def test_many_small_files_are_disk_space_too(bench: Bench):
    code = """
import itertools, time
for n in itertools.count():
    with open(f"/job/{n}", "wb") as file: file.write(b"x" * (1 << 20))
    time.sleep(0.01)
"""
    end, _ = await bench.run(("python", "-c", code), disk_mib=16)
    assert (end.exit_code, end.cause) == (137, Cause.DISK)


async def test_the_time_limit_ends_a_job(bench: Bench):
    end, _ = await bench.run(("sleep", "600"), wall_ms=300)
    assert (end.exit_code, end.cause) == (143, Cause.WALL_TIME)
    assert end.ran_ms >= 300


async def test_a_flood_of_output_is_slowed_and_loses_nothing(bench: Bench):
    code = """
import sys
line = b"x" * 999 + b"\\n"
for n in range(3000): sys.stdout.buffer.write(line)
"""
    end, records = await bench.run(("python", "-c", code), output_rate=1 << 20)
    assert end.exit_code == 0
    content = b"".join(record.data + b"\n" * (record.kind == "line") for record in records)
    assert len(content) == 3_000_000
    assert end.ran_ms >= 1_500


async def test_usage_is_measured_where_the_work_is_done(bench: Bench):
    code = """
import time
held = bytearray(b"x") * (64 << 20)
end = time.process_time() + 0.4
while time.process_time() < end: pass
print("done"); time.sleep(60)
"""
    job_id = await bench.begin(("python", "-c", code))
    await bench.said(job_id, b"done")
    usage = await anext(bench.executor.usage(job_id))
    assert usage.cpu_ms >= 350
    assert usage.memory_bytes >= 60 << 20
    assert usage.peak_memory_bytes >= usage.memory_bytes


def test_without_a_cgroup_the_caller_knows_that_it_must_count_itself():
    group = cgroups.Group({})
    assert group.pids() is None
    assert group.freeze(True) is False
    assert group.memory_bytes() is None
    assert group.cpu_ms() is None
    assert group.remove()
