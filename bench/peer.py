"""The peer that dispatch is measured against: a ray head of one machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

RAY: Final = "ray[default]==2.60.0"
START_LIMIT_S: Final = 90.0
"""A head whose job server does not answer by then will not."""
DRAIN_LIMIT_S: Final = 40.0
"""ray drains for up to 30 s after SIGTERM."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class RayHead:
    """A running head on loopback."""

    ray: Path
    address: str

    def environment(self) -> dict[str, str]:
        return {**_environment(self.ray), "RAY_ADDRESS": self.address}

    @classmethod
    @contextmanager
    def up(cls, venv: Path) -> Generator[RayHead]:
        """Install ray into ``venv`` where it is not, start a head, and stop it at the end."""
        ray = _installed(venv)
        dashboard, client = free_ports(2)
        # Short, because unix socket paths under it must stay below 108 bytes.
        folder = Path(tempfile.mkdtemp(prefix="rcray-"))
        command = [
            str(ray), "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--port", "0",
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard),
            "--dashboard-agent-listen-port", "0", "--ray-client-server-port", str(client),
            # 0: any free port. The default range would collide with the ones above.
            "--min-worker-port", "0", "--max-worker-port", "0",
            "--temp-dir", str(folder),
        ]  # fmt: skip
        log = folder / "head.log"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, env=_environment(ray), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            try:
                address = f"http://127.0.0.1:{dashboard}"
                _await_answer(f"{address}/api/version", process, log)
                yield cls(ray=ray, address=address)
            finally:
                _stop(process)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _environment(ray: Path) -> dict[str, str]:
    # Jobs run `python`: ray's own, first on the path.
    path = f"{ray.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}


def _installed(venv: Path) -> Path:
    ray = venv / "bin/ray"
    stamp = venv / RAY.replace("[", "-").replace("]", "")
    if not stamp.exists():
        print(f"installing {RAY} into {venv}", file=sys.stderr, flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
        python = str(venv / "bin/python")
        subprocess.run([uv, "pip", "install", "-q", "--python", python, RAY], check=True)
        stamp.touch()
    return ray


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"ray's head did not start:\n{log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the head to stop; its session holds every process it started, and ends with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(DRAIN_LIMIT_S)
        except subprocess.TimeoutExpired:
            print("ray did not drain in time; killing its session", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
