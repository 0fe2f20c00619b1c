"""A local world to measure in: embedded chain, one provider, one client, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ROOT: Final = Path(__file__).parents[1]
NODE_COMMAND: Final = str(ROOT / ".venv/bin/robocompute-node")
UP_LIMIT_S: Final = 120.0
"""Starting a world takes seconds; this long means that it hangs."""


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
                marks.append((event["stage"], float(event["at_ms"])))
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
        place = ("--dir", str(folder / "world"))
        try:
            told = json.loads(_localnet("up", *place, "--detach", "--free-ports", "--json"))
            node = next(node for node in told["nodes"] if "client" in node["roles"])
            key = Path(node["api_key_file"]).read_text().strip()
            yield cls(home=Path(node["data"]), url=node["url"], api_key=key)
        finally:
            _localnet("down", *place)
            shutil.rmtree(folder, ignore_errors=True)


def _localnet(*arguments: str) -> str:
    """Run ``robocompute-node localnet`` and return what it says on standard output."""
    done = subprocess.run(
        [NODE_COMMAND, "localnet", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=UP_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(
            f"localnet {' '.join(arguments)} ended with status {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


def _ms(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp() * 1_000
