"""What a person sees of a job that goes its way, and of one that cannot begin."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from whole_world import PRICE, wait_until

from robocompute_protocol.money import format_amount

if TYPE_CHECKING:
    from pathlib import Path

    from whole_world import WholeWorld

pytestmark = pytest.mark.world

BOTH_STREAMS = """
import os, sys
from pathlib import Path
from chisel import capture_trace

@capture_trace(trace_name="square")
def square(number):
    return number * number

assert square(3) == 9
sys.stdout.buffer.write(b"no end of line, then bytes: \\xff\\x00\\rredrawn\\ttab")
sys.stdout.flush()
sys.stderr.write("unmade \\u2764 on the other one\\n")
Path("kept.txt").write_text("work")
Path("/volume/also.bin").write_bytes(bytes(range(256)))
sys.exit(3)
"""
ARGUMENTS = """
import json, sys
print(json.dumps(sys.argv[1:], ensure_ascii=False))
"""
METRICS = """
import time
import aspara
aspara.init(project="live", name="seen-while-it-runs")
for step in range(600):
    aspara.log({"loss": 1 / (step + 1)}, step=step)
    if step == 0:
        print("logged", flush=True)
    time.sleep(0.05)
"""
SLOW = """
import time
print("began", flush=True)
time.sleep(60)
print("never printed")
"""


def result_folder(folder: Path) -> Path:
    (only,) = (folder / "chisel-out").iterdir()
    return only


def test_streams_come_apart_byte_for_byte_and_the_exit_code_is_the_jobs(
    calm: WholeWorld,
) -> None:
    ran, folder = calm.run(BOTH_STREAMS)
    assert ran.status == 3, ran.stderr
    assert ran.stdout == b"no end of line, then bytes: \xff\x00\rredrawn\ttab"
    assert "unmade \u2764 on the other one" in ran.stderr.splitlines()
    assert "exit code 3" in ran.stderr.splitlines()[-1]
    out = result_folder(folder)
    assert (out / "work" / "kept.txt").read_text() == "work"
    assert (out / "volume" / "also.bin").read_bytes() == bytes(range(256))
    (trace,) = (out / "traces").glob("square*.json")
    assert json.loads(trace.read_text())["traceEvents"]


def test_the_receipt_says_what_the_time_cost_and_the_balances_agree(calm: WholeWorld) -> None:
    calm.settled()
    client, provider = calm.wealth("client-1"), calm.wealth("provider-1")
    fees = calm.books().fees_owed
    ran, folder = calm.run("print('paid')")
    assert ran.status == 0, ran.stderr
    receipt: dict[str, Any] = json.loads((result_folder(folder) / "receipt.json").read_text())
    metered = max(1_000, receipt["metered_ms"])
    units = -(-int(PRICE * 1_000_000) * metered // 3_600_000)
    assert receipt["amount"] == format_amount(units)
    assert receipt["exit_code"] == 0
    assert Decimal(receipt["amount"]) <= Decimal(receipt["prepaid"])
    calm.settled()
    paid = client - calm.wealth("client-1")
    fee = calm.books().fees_owed - fees
    assert paid == units
    assert calm.wealth("provider-1") - provider + fee == units
    assert calm.books().surplus == 0


def test_arguments_arrive_as_they_were_typed(calm: WholeWorld) -> None:
    arguments = [
        "two words",
        'a "quoted" one',
        "it's",
        "",
        "--flag=-x",
        "$HOME `id` *",
        "\U0001f642 ü",
    ]
    ran, _ = calm.run(ARGUMENTS, *arguments)
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.stdout) == arguments


def test_metrics_are_in_the_clients_folder_while_the_job_runs(calm: WholeWorld) -> None:
    running = calm.chisel(calm.job_folder(METRICS), "python", "job.py")
    running.saw(b"logged\n")

    def losses() -> list[str]:
        files = (calm.data("client-1") / "aspara").rglob("*.jsonl")
        return [line for file in files for line in file.read_text().splitlines() if "loss" in line]

    wait_until("the first metrics", losses)
    assert running.process.poll() is None
    running.interrupt()
    assert running.end().status == 130


@pytest.mark.parametrize(
    ("flags", "unmet"),
    [(("--gpu", "H100"), "class h100"), (("--max-price", "0.000001"), "0.000001")],
)
def test_a_requirement_that_nobody_meets_is_named_at_once(
    calm: WholeWorld, flags: tuple[str, ...], unmet: str
) -> None:
    ran = calm.chisel(calm.job_folder("print(1)"), *flags, "python", "job.py").end()
    assert ran.status == 69
    assert unmet in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not ran.stdout


def test_a_job_that_nobody_takes_waits_when_asked_until_it_is_interrupted(
    calm: WholeWorld,
) -> None:
    before = {task.task_id for task in calm.sdk().tasks.list()}
    flags = ("--wait", "--max-price", "0.000001", "--verbose")
    running = calm.chisel(calm.job_folder("print(1)"), *flags, "python", "job.py")

    def waits() -> bool:
        mine = [task for task in calm.sdk().tasks.list() if task.task_id not in before]
        return any(
            task.stage == "matching" and "0.000001" in str(task.stage_detail) for task in mine
        )

    wait_until("a task that waits and says why", waits)
    assert running.process.poll() is None
    running.interrupt()
    ran = running.end()
    assert ran.status == 130
    assert calm.newest_task()["status"] == "cancelled"
    assert "cost 0.000000" in ran.stderr


def test_without_funds_the_amounts_and_the_command_to_deposit_are_told(calm: WholeWorld) -> None:
    folder = calm.job_folder("print(1)")
    ran = calm.chisel(folder, "python", "job.py", client="client-2").end()
    assert ran.status == 73
    (line,) = ran.stderr.splitlines()
    assert "0.020000 USDC needed" in line
    assert "0.010000 available" in line
    assert "robocompute-node wallet deposit 0.010000" in line
    assert not calm.sdk("client-2").tasks.list()


def test_a_script_outside_of_the_upload_folder_is_refused_in_the_known_words(
    calm: WholeWorld,
) -> None:
    outside = calm.job_folder("print(1)", "outside.py") / "outside.py"
    folder = calm.job_folder("print(1)")
    ran = calm.chisel(folder, "--upload-dir", ".", "python", str(outside)).end()
    assert ran.status == 1
    assert f"Script {outside} is not inside upload_dir {folder}" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_an_interrupt_ends_a_running_job_and_tells_what_it_cost(calm: WholeWorld) -> None:
    running = calm.chisel(calm.job_folder(SLOW), "python", "job.py")
    running.saw(b"began\n")
    running.interrupt()
    ran = running.end()
    assert ran.status == 130
    assert ran.stdout == b"began\n"
    task = calm.newest_task()
    assert (task["status"], task["cause"], task["ended_by"]) == (
        "cancelled",
        "cancelled",
        "client",
    )
    assert f"cost {task['cost']}" in ran.stderr
    assert Decimal(task["cost"]) > 0
    calm.slots_free()
    assert not calm.supervisors()


def test_an_interrupt_before_the_job_runs_leaves_the_slot_free(calm: WholeWorld) -> None:
    running = calm.chisel(calm.job_folder(SLOW), "--verbose", "python", "job.py")
    running.said("chisel: task ")
    running.interrupt()
    ran = running.end()
    assert ran.status == 130
    task = calm.newest_task()
    assert task["status"] == "cancelled"
    assert f"cost {task['cost']}" in ran.stderr
    calm.slots_free()
    assert not calm.supervisors()
