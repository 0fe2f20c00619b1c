"""A task's event log: consecutive numbers, whole entries, readers that miss and double nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from robocompute_node.events import TaskLog

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import sys
from pathlib import Path
from robocompute_node.events import TaskLog
log = TaskLog(Path(sys.argv[1]))
for number in range(log.next_output, 10**9):
    log.append("output", {"sequence": number, "text": "x" * (number % 5_000)})
    print(number, flush=True)
"""


def output(sequence: int) -> tuple[str, dict[str, object]]:
    return "output", {"sequence": sequence, "text": f"{sequence}"}


def test_entries_are_numbered_from_one_across_reopening(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log")
    assert [event.number for event in log.extend([output(0), output(1)])] == [1, 2]
    log.close()
    log.close()
    log = TaskLog(tmp_path / "log")
    assert (log.count, log.next_output, log.ended) == (2, 2, False)
    assert log.append("ended", {}).number == 3
    assert log.ended
    log.close()
    log = TaskLog(tmp_path / "log")
    assert log.ended
    assert [event.number for event in log.read(after=1, limit=10)] == [2, 3]
    log.close()


@pytest.mark.parametrize("torn", range(1, 30))
def test_a_torn_last_entry_is_cut_off(torn: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = TaskLog(path)
    log.append(*output(0))
    whole = path.stat().st_size
    log.append(*output(1))
    log.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(max(whole, size - torn))
    log = TaskLog(path)
    assert (log.count, log.next_output) == (1, 1)
    assert path.stat().st_size == whole
    log.append(*output(1))
    log.close()
    log = TaskLog(path)
    assert [event.data["sequence"] for event in log.read(after=0, limit=9)] == [0, 1]
    log.close()


@pytest.mark.parametrize("damage", [b"\x00" * 700, b"\xff" * 700, b"\x00\x00\x00\x05abcde"])
def test_a_tail_that_is_no_entry_is_cut_off(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = TaskLog(path)
    log.append(*output(0))
    log.close()
    with path.open("ab") as file:
        file.write(damage)
    log = TaskLog(path)
    assert log.count == 1
    assert log.append(*output(1)).number == 2
    log.close()


def test_a_killed_writer_leaves_consecutive_whole_entries(tmp_path: Path) -> None:
    told = -1
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "log")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(50):
            assert int(process.stdout.readline()) == told + 1
            told += 1
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines(keepends=True)
        process.wait(30)
        process.stdout.close()
        log = TaskLog(tmp_path / "log")
        assert log.next_output > told + sum(line.endswith("\n") for line in lines) - 1
        events = log.read(after=0, limit=10**6)
        assert [event.data["sequence"] for event in events] == list(range(log.next_output))
        told = log.next_output - 1
        log.close()


async def test_followers_resume_by_number_and_end_with_the_task(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log")
    log.extend([output(n) for n in range(600)])
    seen: dict[int, list[int]] = {0: [], 598: [], 600: []}

    async def follow(after: int) -> None:
        async with aclosing(log.follow(after=after)) as events:
            async for event in events:
                seen[after].append(event.number)

    async with trio.open_nursery() as nursery:
        for after in seen:
            nursery.start_soon(follow, after)
        await trio.testing.wait_all_tasks_blocked()
        assert log.readers == 3
        log.append(*output(600))
        await trio.testing.wait_all_tasks_blocked()
        log.append("ended", {})
    assert seen == {after: list(range(after + 1, 603)) for after in seen}
    assert log.readers == 0
    late: list[int] = []
    async with aclosing(log.follow(after=602)) as events:
        late += [event.number async for event in events]
    assert late == []
    log.close()


def test_the_newest_and_the_asked_for_outputs_are_found(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log")
    log.append("stage", {"stage": "running"})
    log.extend([output(n) for n in range(10)])
    log.append("stage", {"stage": "collecting"})
    assert [event.data["sequence"] for event in log.last_outputs(3)] == [7, 8, 9]
    assert [event.data["sequence"] for event in log.outputs_from(4, 2)] == [4, 5]
    assert log.outputs_from(10, 2) == []
    log.close()
