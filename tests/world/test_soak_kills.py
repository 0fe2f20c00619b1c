"""Minutes of jobs while chain, provider and client are killed at random, and a balance at the end.

    make soak                                ten minutes
    SOAK_MINUTES=3 SOAK_SEED=42 make soak    three, with the kills and jobs of an earlier run
    SOAK_BACKEND=validator make soak         on solana-test-validator, which is not killed itself

The provider settles and closes channels now and then, and the client's store is lost at the end.
What happens follows from the seed, which a run prints; when it happens depends on the machine.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import time
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from whole_world import LONG_HORIZON_S, NODE, WholeWorld, found_world, wait_until

from robocompute import RoboComputeError
from robocompute_protocol.money import parse_amount

if TYPE_CHECKING:
    from pathlib import Path

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
SEED = int(os.environ.get("SOAK_SEED") or secrets.randbits(32))
BACKEND = os.environ.get("SOAK_BACKEND", "embedded")
PROCESSES = ("chain", "provider-1", "client-1") if BACKEND == "embedded" else (
    "provider-1", "client-1",
)  # fmt: skip
"""In the order in which they are started again."""
OWNER_S = 150.0
"""An owner's command gives a transaction up after 120 s."""
MAX_WAITING = 6
"""Unfinished tasks; there is one slot, so more would only wait longer."""
MAX_OUTAGE_S = 4.0
"""With the seconds that a start takes, well within the horizon: jobs are to survive it."""
ALL_ENDED_S = 300.0
COUNTS = b"""
import sys, time
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(0.1)
sys.exit(int(sys.argv[2]))
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job was asked to do."""

    lines: int
    exit_code: int


@dataclass(kw_only=True)
class Soak:
    """One run: what was done so far, and what comes next."""

    world: WholeWorld
    chance: random.Random
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    cancelled: set[str] = field(default_factory=set[str])
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROCESSES, 0))
    refused: list[str] = field(default_factory=list[str])
    closed: int = 0

    def step(self) -> None:
        """Do one thing to the world; everything runs again when it returns."""
        actions = ("submit", "cancel", "kill", "settle", "close")
        action = self.chance.choices(actions, weights=(10, 2, 4, 1, 1))[0]
        if action == "submit":
            self.submit()
        elif action == "cancel":
            self.cancel()
        elif action == "settle":
            self.owner("provider-1", "earnings", "settle")
        elif action == "close":
            self.close_channels()
        else:
            self.kill_some()
        time.sleep(self.chance.uniform(0, 2))

    def submit(self) -> None:
        job = Job(
            lines=self.chance.choice((1, 5, 20, 60)), exit_code=self.chance.choice((0, 0, 3))
        )
        sdk = self.world.sdk()
        if len(unfinished(self.world, self.jobs)) >= MAX_WAITING:
            return
        file = {"path": "job.py", "size": len(COUNTS), "chunks": [sha256(COUNTS).hexdigest()]}
        try:
            sdk.blobs.put(iter([COUNTS]))
            task = sdk.tasks.create(
                name="soak",
                type="cpu",
                command=["python", "job.py", str(job.lines), str(job.exit_code)],
                upload={"files": [file]},
                wait=True,
            )
        except RoboComputeError as exc:  # the chain is away: said, and nothing was begun
            self.refused.append(f"{exc.code}: {exc}")
        else:
            self.jobs[task.task_id] = job

    def cancel(self) -> None:
        waiting = sorted(unfinished(self.world, self.jobs))
        if waiting:
            task_id = self.chance.choice(waiting)
            self.world.sdk().tasks.cancel(task_id)
            self.cancelled.add(task_id)

    def owner(self, name: str, *words: str) -> bool:
        """Give a command on the command line, as a node's owner would; whether it was done."""
        command = [*NODE, *words, "--data", str(self.world.data(name))]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=OWNER_S, check=False
        )
        if done.returncode != 0:
            self.refused.append(done.stderr.strip())
        return done.returncode == 0

    def close_channels(self) -> None:
        """Let the provider settle and close its channels; it refuses while jobs are paid on them."""
        listed = self.world.sdk("provider-1").node()["provider"]["earnings"]["settlements"]
        for channel in listed:
            self.closed += self.owner("provider-1", "channels", "close", channel, "--yes")

    def kill_some(self) -> None:
        """End some processes, perhaps work without them, and start them again."""
        many = min(len(PROCESSES), self.chance.choice((1, 1, 2, 3)))
        victims = self.chance.sample(PROCESSES, many)
        for name in victims:
            self.kills[name] += 1
            if self.chance.random() < 0.7:
                self.world.kill(name)
            else:
                self.world.terminate(name)
        if "client-1" not in victims and self.chance.random() < 0.5:
            self.submit()
        time.sleep(self.chance.uniform(0, MAX_OUTAGE_S))
        for name in PROCESSES:
            if name in victims:
                self.world.start(name)


def unfinished(world: WholeWorld, jobs: dict[str, Job]) -> set[str]:
    listed = world.sdk().tasks.list(limit=1_000)
    return {task.task_id for task in listed if not task["ended_at"]} & jobs.keys()


def output_of(world: WholeWorld, task_id: str) -> list[str]:
    events = world.sdk().tasks.events(task_id)
    return [
        event.data["text"]
        for event in events
        if event.kind == "output" and event.data["stream"] == "stdout"
    ]


def objection_to(world: WholeWorld, task: dict[str, Any], job: Job, *, cancelled: bool) -> str:
    """What is wrong with a task that ended; empty when nothing is."""
    if not task["cause"] and not task["error"]:
        return "ended without a cause"
    if task["cause"] == "cancelled" and not cancelled:
        return "cancelled by nobody"
    if task["cause"] == "exited":
        if task["exit_code"] != job.exit_code:
            return f"exit code {task['exit_code']} instead of {job.exit_code}"
        lines = [line.rstrip("\n") for line in output_of(world, task["task_id"])]
        if lines != [f"line {number}" for number in range(job.lines)]:
            return f"{len(lines)} lines instead of {job.lines}"
    return ""


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 1_200)
def test_whatever_is_killed_every_job_ends_and_every_unit_is_accounted_for(
    tmp_path: Path,
) -> None:
    print(f"soak: {MINUTES:g} minutes, SOAK_SEED={SEED}")
    with found_world(tmp_path / "soak", horizon_s=LONG_HORIZON_S, backend=BACKEND) as world:
        wealth = {name: world.wealth(name) for name in ("client-1", "provider-1")}
        soak = Soak(world=world, chance=random.Random(SEED))
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            soak.step()
        print(f"soak: {len(soak.jobs)} jobs, kills {soak.kills}, closed {soak.closed}")
        print(f"soak: refused {soak.refused}")
        wait_until(
            "the end of every task",
            lambda: not unfinished(world, soak.jobs),
            within_s=ALL_ENDED_S,
        )
        world.slots_free()
        tasks = {task_id: world.sdk().tasks.get(task_id) for task_id in soak.jobs}
        causes = sorted(str(task["cause"] or task["error"]) for task in tasks.values())
        print("soak:", {cause: causes.count(cause) for cause in causes})
        wrong = {
            task_id: (objection, task)
            for task_id, task in tasks.items()
            if (
                objection := objection_to(
                    world, task, soak.jobs[task_id], cancelled=task_id in soak.cancelled
                )
            )
        }
        assert not wrong
        assert soak.jobs

        earnings = world.settled()
        spent = sum(parse_amount(str(task["cost"])) for task in tasks.values())
        books = world.books()
        assert books.surplus == 0
        assert not earnings["refused"]
        alarms = {name: world.sdk(name).node()["alarms"] for name in wealth}
        assert not any(alarms.values()), alarms
        assert parse_amount(earnings["earned"]) == spent
        assert wealth["client-1"] - world.wealth("client-1") == spent
        assert world.wealth("provider-1") - wealth["provider-1"] == spent - books.fees_owed
        assert Decimal(earnings["settled"]) == Decimal(earnings["earned"])
        wait_until("the end of every supervisor", lambda: not world.supervisors())

        owned = world.wealth("client-1")
        assert world.terminate("client-1")
        assert soak.owner("client-1", "chain", "recover", "--force"), soak.refused
        world.start("client-1")
        assert world.wealth("client-1") == owned
