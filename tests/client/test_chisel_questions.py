from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fake_node import API_KEY

if TYPE_CHECKING:
    from fake_node import FakeNode

ROOT = Path(__file__).parents[2]


def on_a_terminal(node: FakeNode, folder: Path, answers: list[str], *words: str) -> str:
    """Run the command with a terminal on all three streams; answer each question in turn."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chisel.cli", *words],
        cwd=folder,
        stdin=child,
        stdout=child,
        stderr=child,
        env={
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT / "client"),
            "CHISEL_BACKEND_URL": node.url,
            "CHISEL_API_KEY": API_KEY,
        },
    )
    os.close(child)
    shown = b""
    left = list(answers)
    while True:
        try:
            data = os.read(parent, 65_536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not data:
            break
        shown += data
        if left and shown.endswith(b": "):
            os.write(parent, left.pop(0).encode() + b"\n")
    os.close(parent)
    assert process.wait(timeout=30) == 0
    assert left == []
    return shown.decode()


def test_a_person_is_asked_once_and_the_answers_are_kept(node: FakeNode, project: Path) -> None:
    (project / "needs.txt").write_text("")
    answers = ["my app", "", "needs.txt", "nonsense!", "2", "y"]
    shown = on_a_terminal(node, project, answers, "python", "train.py")
    assert "📝 App name" in shown
    assert "❌ 'nonsense!' is not a GPU" in shown
    assert "done, exit code 0" in shown
    asked = node.only_task().asked
    assert (asked["name"], asked["gpu"]) == ("my app", "A100-80GB:2")
    assert asked["requirements_file"] == "needs.txt"
    again = on_a_terminal(node, project, [], "python", "train.py")
    assert "App name" not in again
    assert [task.asked["gpu"] for task in node.tasks.values()] == ["A100-80GB:2"] * 2


def test_yes_asks_nothing_and_enter_takes_the_defaults(node: FakeNode, project: Path) -> None:
    assert "App name" not in on_a_terminal(node, project, [], "--yes", "python", "train.py")
    on_a_terminal(node, project, ["", "", "", "", ""], "python", "train.py")
    first, second = node.tasks.values()
    assert first.asked["upload"]["files"][0]["path"] == "train.py"
    assert (first.asked["name"], first.asked["gpu"]) == ("train", None)
    assert (second.asked["name"], second.asked["gpu"]) == ("train", None)
