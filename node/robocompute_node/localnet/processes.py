"""Child processes that outlive their parent, and are ended by exactly who they are.

A process is known by its pid and the moment it started, so a pid that was given to another program
since is never touched.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP_S: Final = 15.0
"""An ordered stop is given this long before the process is killed."""
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process that was started here. ``born`` is its start time in clock ticks since boot."""

    name: str
    pid: int
    born: int
    log: str

    def running(self) -> bool:
        """Whether it is this very process, and not yet a zombie."""
        return _born(self.pid) == self.born

    def last_line(self) -> str:
        """What its log ends with: why it went, as it said itself."""
        try:
            lines = Path(self.log).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""


def start(name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> Started:
    """Start ``command`` in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        command[0],
        list(command),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
    born = _born(pid)
    return Started(name=name, pid=pid, born=born if born is not None else 0, log=str(log))


def stop(process: Started, *, patience_s: float = STOP_S) -> bool:
    """End ``process``: SIGTERM, and SIGKILL when it takes longer than ``patience_s``.

    Returns whether it ended by itself. Nothing happens to one that is gone already.
    """
    if not process.running():
        reap(process)
        return True
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not process.running():
            return True
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended = _wait(process, handle, patience_s)
        if not ended:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _wait(process, handle, patience_s)
    except ProcessLookupError:
        return True
    else:
        return ended
    finally:
        os.close(handle)
        reap(process)


async def ended(process: Started) -> None:
    """Return when ``process`` is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.running():
            await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)
        reap(process)


def reap(process: Started) -> None:
    """Collect the exit status of an own child that ended, so that it leaves no zombie."""
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return


def _wait(process: Started, handle: int, patience_s: float) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + patience_s
    while process.running():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poller.poll(min(left, POLL_S) * 1_000)
    return True


def _born(pid: int) -> int | None:
    """The process's start time, or None when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])
