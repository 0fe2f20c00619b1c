"""Makes the fake node importable, and gives each test one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_node import API_KEY, FakeNode

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('hello')\n")
    return folder


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(node: FakeNode, project: Path, tmp_path: Path) -> Iterator[Start]:
    """Start the real command, as a process of its own, against the fake node."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, cwd: Path = project, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "chisel.cli", *words],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path / "home"),
                "PYTHONPATH": f"{ROOT / 'client'}",
                "PYTHONWARNINGS": "error",
                "CHISEL_BACKEND_URL": node.url,
                "CHISEL_API_KEY": API_KEY,
                **environment,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def chisel(start: Start) -> Run:
    """Run the real command to its end."""

    def run(*words: str, **options: str) -> subprocess.CompletedProcess[bytes]:
        process = start(*words, **options)
        stdout, stderr = process.communicate(timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    return run
