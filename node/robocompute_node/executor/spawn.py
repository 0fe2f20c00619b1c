"""Starts supervisors, and forgets them: each lives in a session of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor.spec import ERRORS

if TYPE_CHECKING:
    from robocompute_node.executor.folder import JobFolder
    from robocompute_protocol.money import Millis

_SUPERVISE: Final = Path(__file__).with_name("supervise.py")
_READY_FD: Final = 3
_READY_BYTES: Final = 65_536
_ERROR_TAIL: Final = 2_000
_REAP_S: Final = 0.005
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
"""Of a supervisor, not of its job: it reads no variable, and its secrets would be the daemon's."""


class SpawnFailed(Exception):
    """The program was not started; the text is the sandbox's own words."""


class AlreadySupervised(Exception):
    """Another supervisor has this job, or had it."""


class Spawner:
    """Starts supervisors, and collects their exit statuses while this process is their parent."""

    def __init__(self) -> None:
        self._children: dict[int, Path] = {}

    async def spawn(self, folder: JobFolder, *, prepaid: Millis, reserve: Millis) -> None:
        """Return when the program of the spec in ``folder`` was started.

        Cancelling leaves the supervisor at work.

        Raises:
            SpawnFailed: it was not; its end is recorded if a supervisor got that far.
            AlreadySupervised: somebody else started this job.
        """
        self.reap()
        ready, ready_in = os.pipe2(os.O_CLOEXEC)
        try:
            self._children[self._exec(folder, ready_in, prepaid, reserve)] = folder.path
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(ready_in)
        received = b""
        async with trio.lowlevel.FdStream(ready) as stream:
            while not received.endswith(b"\n"):
                data = await stream.receive_some(_READY_BYTES)
                if not data:
                    break
                received += data
        if not received:
            errors = (folder.path / ERRORS).read_text(errors="replace")[-_ERROR_TAIL:].strip()
            if errors:
                raise SpawnFailed(errors)
            raise AlreadySupervised(folder.path.name)
        word = json.loads(received)
        if not word["started"]:
            raise SpawnFailed(word["detail"])

    def _exec(self, folder: JobFolder, ready: int, prepaid: Millis, reserve: Millis) -> int:
        python = os.path.realpath(
            Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        )
        errors = str(folder.path / ERRORS)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            python,
            [
                python, "-IS", str(_SUPERVISE), str(folder.path), str(int(prepaid)),
                str(int(reserve)), str(_READY_FD),
            ],
            _ENVIRONMENT,
            setsid=True,
            file_actions=[
                # Duplicated first: the descriptor may be one of those opened next.
                (os.POSIX_SPAWN_DUP2, ready, _READY_FD),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, errors, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )  # fmt: skip

    def reap(self) -> None:
        """Collect supervisors that are done. Never waits."""
        for pid in tuple(self._children):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                del self._children[pid]

    async def end(self, folder: JobFolder) -> None:
        """End whatever runs in ``folder``, at once, and return when it is gone.

        Also a supervisor that was spawned a moment ago and holds nothing yet by which a folder
        shows that it is looked after: it would otherwise come to life in whatever lies there next.
        """
        if not await folder.stop_now():
            for pid, path in self._children.items():
                if path == folder.path:
                    os.kill(pid, signal.SIGKILL)
        while True:
            self.reap()
            if folder.path not in self._children.values():
                break
            await trio.sleep(_REAP_S)
        await folder.kill()
