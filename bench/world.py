"""A local world to measure in: embedded chain, one provider, one client, on free ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peer import free_ports

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

ROOT: Final = Path(__file__).parents[1]
NODE_COMMAND: Final = str(ROOT / ".venv/bin/robocompute-node")
UP_LIMIT_S: Final = 120.0
"""Starting a world takes seconds; this long means that it hangs."""
CLIENT: Final = "client-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running local world, as its client sees it."""

    home: Path
    """The client node's data folder."""
    url: str
    api_key: str

    def environment(self) -> dict[str, str]:
        """Return the variables by which chisel finds the client node."""
        return {
            **os.environ,
            "ROBOCOMPUTE_HOME": str(self.home),
            "CHISEL_BACKEND_URL": self.url,
            "CHISEL_API_KEY": self.api_key,
        }

    def stages(self, begin_ns: int, *, first_line_ms: float) -> dict[str, float]:
        """Return how many ms each stage of the newest task lasted, up to the first line shown.

        ``begin_ns`` is when the command's process was started. "chisel" is the time from there
        until the node had the task: the interpreter's start, packing, and one request; "output" is
        the way of the line from the provider's log to the terminal, with the program's own start.
        """
        task = self._get("/api/v1/tasks?limit=1")["tasks"][0]
        begin = begin_ns / 1e6
        marks = [("chisel", begin), ("accepted", _ms(task["created_at"]))]
        for event in self._events(task["task_id"]):
            if event["kind"] == "stage" and event["stage"] not in {name for name, _ in marks}:
                marks.append((event["stage"], _ms(event["at"])))
            if event["kind"] == "output":
                marks.append(("output", event["at_ns"] / 1e6))
                break
        ends = [at for _, at in marks[1:]] + [begin + first_line_ms]
        return {
            name: round(max(0.0, end - at), 1) for (name, at), end in zip(marks, ends, strict=True)
        }

    def _get(self, path: str) -> Any:
        with self._open(path) as answer:
            return json.load(answer)

    def _events(self, task_id: str) -> Iterator[dict[str, Any]]:
        with self._open(f"/api/v1/tasks/{task_id}/stream?after=0") as answer:
            kind = ""
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield {**json.loads(line.removeprefix("data: ")), "kind": kind}

    def _open(self, path: str) -> Any:
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {self.api_key}"}
        )
        return urllib.request.urlopen(request, timeout=30)

    @classmethod
    @contextmanager
    def up(cls) -> Generator[World]:
        """Start the world of localnet.toml in a temporary folder, and stop it at the end."""
        folder = Path(tempfile.mkdtemp(prefix="rc-bench-world-"))
        plan = folder / "localnet.toml"
        plan.write_text(_on_free_ports((ROOT / "localnet.toml").read_text()))
        place = folder / "world"
        try:
            _node("localnet", "up", "--detach", "--config", str(plan), "--dir", str(place))
            home = place / CLIENT
            url = json.loads((home / "api.json").read_text())["url"]
            yield cls(home=home, url=url, api_key=(home / "api_key").read_text().strip())
        finally:
            _node("localnet", "down", "--dir", str(place))
            shutil.rmtree(folder, ignore_errors=True)


def _on_free_ports(plan: str) -> str:
    """Return ``plan`` with every port a free one, and the program named by its whole path."""
    names = re.findall(r"^\w+_port\b", plan, flags=re.MULTILINE)
    ports = iter(free_ports(len(names)))
    plan = re.sub(
        r"^(\w+_port)\s*=\s*\d+", lambda m: f"{m[1]} = {next(ports)}", plan, flags=re.MULTILINE
    )
    return re.sub(
        r'^binary\s*=\s*"([^"]*)"',
        lambda m: f"binary = {json.dumps(str(ROOT / m[1]))}",
        plan,
        flags=re.MULTILINE,
    )


def _node(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        [NODE_COMMAND, *arguments], env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=UP_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(
            f"robocompute-node {' '.join(arguments)} ended with status {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )


def _ms(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp() * 1_000
