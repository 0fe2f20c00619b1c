"""``chisel jobs``, ``status``, ``logs``, ``cancel`` and ``pull``: after and beside a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from chisel import outcome
from chisel.options import Options, UsageError
from chisel.results import described, pull
from chisel.terminal import STDOUT, Terminal, write_all
from robocompute import RoboComputeClient

LOG_PAGE: Final = 1_000
"""Records asked for at a time: a node answers with no more than it can hold at once."""


def jobs(client: RoboComputeClient, words: Sequence[str], options: Options) -> int:
    """List the node's tasks, newest first."""
    if words:
        raise UsageError("chisel jobs takes no arguments")
    tasks = client.tasks.list()
    if options.json:
        _print(json.dumps(tasks, ensure_ascii=False))
        return 0
    if not tasks:
        _print("no jobs yet")
        return 0
    _print(f"{'TASK':32}  {'STATUS':9}  {'EXIT':>4}  {'COST':>10}  CREATED               NAME")
    for task in tasks:
        code = "" if task["exit_code"] is None else str(task["exit_code"])
        created = str(task["created_at"])[:19]
        cost = str(task["cost"] or "")
        row = f"{task['task_id']}  {task['status']:9}  {code:>4}  {cost:>10}  {created:20}"
        _print(f"{row}  {task['name']}")
    return 0


def status(client: RoboComputeClient, words: Sequence[str], options: Options) -> int:
    """One task as it is now."""
    task = client.tasks.get(_one(words, "status"))
    if options.json:
        _print(json.dumps(task, ensure_ascii=False))
        return 0
    for name, value in task.items():
        if value not in (None, "", []):
            shown = " ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
            _print(f"{name:15} {shown}")
    return 0


def logs(client: RoboComputeClient, words: Sequence[str], options: Options) -> int:
    """All output so far, each stream on its own; ``-f`` follows to the end."""
    names = [word for word in words if word not in ("-f", "--follow")]
    task_id = _one(names, "logs")
    terminal = Terminal(chatty=False)
    if len(names) != len(words):
        for event in client.tasks.events(task_id):
            if event.kind == "output":
                terminal.output(event.data)
        return 0
    start = 0
    while True:
        answer = client.tasks.get_logs(task_id, lines=LOG_PAGE, start=start)
        assert isinstance(answer, dict)
        records = answer["logs"]
        for record in records:
            if options.json:
                _print(json.dumps(record, ensure_ascii=False))
            else:
                terminal.output(record)
        if not records or int(records[-1]["sequence"]) < start:
            return 0
        start = int(records[-1]["sequence"]) + 1


def cancel(client: RoboComputeClient, words: Sequence[str], options: Options) -> int:
    """Ask for a task's end."""
    task = client.tasks.cancel(_one(words, "cancel"))
    if options.json:
        _print(json.dumps(task, ensure_ascii=False))
    else:
        asked = (
            "" if task["ended_at"] else ", and was asked to end: `chisel status` shows when it has"
        )
        _print(f"{task['task_id']} is {task['status']}{asked}")
    return 0


def fetch(client: RoboComputeClient, words: Sequence[str], options: Options) -> int:
    """Fetch results and receipt of an ended task."""
    task = client.tasks.get(_one(words, "pull"))
    pulled = pull(client, str(task["task_id"]), Path(options.out))
    for line in described(pulled):
        _print(line)
    if pulled.receipt is None:
        _print("no receipt yet" if task["ended_at"] is None else "no receipt")
    elif task["ended_at"] is not None:
        _print(outcome.summary(task))
    return 0


Word = Callable[[RoboComputeClient, Sequence[str], Options], int]

WORDS: Final[dict[str, Word]] = {
    "jobs": jobs,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "pull": fetch,
}


def _one(words: Sequence[str], word: str) -> str:
    if len(words) != 1 or words[0].startswith("-"):
        raise UsageError(f"chisel {word} takes one task id: `chisel jobs` lists them")
    return words[0]


def _print(line: str) -> None:
    write_all(STDOUT, line.encode(errors="replace") + b"\n")
