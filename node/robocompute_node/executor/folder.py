"""A job's folder as the daemon sees it: is its supervisor alive, and how it ended.

Nothing here waits for a process of its own: a job that an earlier daemon started is the same.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import stat
import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from robocompute_node.executor import processes, segments
from robocompute_node.executor.cgroups import Group
from robocompute_node.executor.engine import Engine, EngineError
from robocompute_node.executor.port import JobExit, PortClosed
from robocompute_node.executor.spec import (
    CONTROL,
    EXIT,
    LOCK,
    LOG,
    SPEC,
    STATE,
    boot_id,
    write_durably,
)
from robocompute_node.executor.watch import FolderWatch
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

_ANSWER_BYTES: Final = 65_536
_ANSWER_S: Final = 5.0
"""A supervisor answers in under a millisecond; one that takes this long is stopped or swapped out."""
_INSIST_S: Final = 30.0
"""How long a supervisor that is there and does not answer is asked again: a machine that swaps
comes back within this, one that does not has lost the job anyway."""
_INSIST_PAUSE_S: Final = 0.05
_LOST: Final = "its supervisor was killed, or the machine went down"


class SupervisorGone(Exception):
    """Nobody answers on the control socket: the job has ended, or is lost."""


class JobFolder:
    """Paths and facts of one supervised run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / LOG
        self.spec = path / SPEC

    def exists(self) -> bool:
        return self.path.is_dir()

    def prepared(self) -> bool:
        return self.spec.exists()

    def begun(self) -> bool:
        """Whether a supervisor ever took this job."""
        return (self.path / STATE).exists()

    def supervised(self) -> bool:
        """Whether a supervisor holds the lock."""
        try:
            fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def lost(self) -> bool:
        """Whether it was started, has no recorded end, and nobody looks after it."""
        # The lock is read first: a supervisor writes the exit, then lets go.
        return self.begun() and not self.supervised() and self.read_exit() is None

    def state(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / STATE).read_text())
        except FileNotFoundError:
            return {}

    def read_exit(self) -> JobExit | None:
        """Return the recorded end, if there is one."""
        try:
            record = json.loads((self.path / EXIT).read_text())
        except FileNotFoundError:
            return None
        return JobExit(
            exit_code=record["exit_code"],
            cause=Cause(record["cause"]),
            detail=record["detail"],
            ran_ms=Millis(record["ran_ms"]),
            frozen_ms=Millis(record["frozen_ms"]),
            records=record["records"],
            output=Digest(bytes.fromhex(record["output"])),
        )

    def end_without_supervisor(self, cause: Cause, detail: str) -> JobExit:
        """Record the end of a job nobody looks after, over the output that is on disk.

        Repeating it is harmless. The caller has seen that no supervisor holds the lock.
        """
        found = self.read_exit()
        if found is not None:
            return found
        self._sweep()
        records, digest = _chain_on_disk(self.log)
        exit_ = JobExit(
            exit_code=None,
            cause=cause,
            detail=detail,
            ran_ms=Millis(0),
            frozen_ms=Millis(0),
            records=records,
            output=digest,
        )
        record = msgspec.to_builtins(exit_) | {"output": digest.hex()}
        write_durably(str(self.path / EXIT), json.dumps(record))
        return exit_

    def recover(self) -> JobExit:
        """Record that a job was lost."""
        return self.end_without_supervisor(Cause.UNKNOWN, _LOST)

    async def ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Send one request to the supervisor and return its answer.

        Raises:
            SupervisorGone: nobody is there, or it did not answer.
        """
        try:
            with trio.fail_after(_ANSWER_S):
                return await self._exchange(request)
        except (OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            raise SupervisorGone(str(exc)) from exc

    async def connect(self, port: int) -> trio.SocketStream:
        """Have the supervisor connect to a port inside the job's network.

        Raises:
            SupervisorGone: nobody is there, or it did not answer.
            PortClosed: nothing in the job listens there.
        """
        try:
            with trio.fail_after(_ANSWER_S):
                return await self._connect(port)
        except (OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            raise SupervisorGone(str(exc)) from exc

    async def _connect(self, port: int) -> trio.SocketStream:
        async with await self._control() as stream:
            request = {"op": "connect", "port": port}
            await stream.send_all(json.dumps(request).encode() + b"\n")
            space = socket.CMSG_SPACE(array("i", [0]).itemsize)
            data, beside, _, _ = await stream.socket.recvmsg(_ANSWER_BYTES, space)
        answer = json.loads(data)
        descriptors = array("i")
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: descriptors.itemsize])
        if not descriptors:
            raise PortClosed(str(answer.get("error", "the supervisor did not connect")))
        inside = socket.socket(fileno=descriptors[0])
        return trio.SocketStream(trio.socket.from_stdlib_socket(inside))

    async def insist(self, request: dict[str, object]) -> dict[str, Any]:
        """``ask``, again and again while somebody holds the job's lock, for half a minute.

        Raises:
            SupervisorGone: nobody is there, or it did not answer in all that time.
        """
        give_up = trio.current_time() + _INSIST_S
        while True:
            try:
                return await self.ask(request)
            except SupervisorGone:
                if trio.current_time() >= give_up or not self.supervised():
                    raise
            await trio.sleep(_INSIST_PAUSE_S)

    async def _exchange(self, request: dict[str, object]) -> dict[str, Any]:
        async with await self._control() as stream:
            await stream.send_all(json.dumps(request).encode() + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                data = await stream.receive_some(_ANSWER_BYTES)
                if not data:
                    raise ValueError("the supervisor closed the connection")
                received += data
        return json.loads(received)

    async def _control(self) -> trio.SocketStream:
        # Socket addresses hold 107 bytes; a descriptor's path is always short enough.
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return await trio.open_unix_socket(f"/proc/self/fd/{folder}/{CONTROL}")
        finally:
            os.close(folder)

    async def wait_until_unsupervised(self) -> None:
        """Return when no supervisor holds the lock."""
        while self.supervised():  # noqa: ASYNC110 (another process's lock, not an event of ours)
            await trio.sleep(0.005)

    async def stop_now(self) -> bool:
        """Ask the supervisor to end the job at once; False when there is none to ask."""
        request: dict[str, object] = {
            "op": "stop",
            "cause": Cause.PROVIDER_STOPPED.value,
            "detail": "removed",
            "grace_ms": 0,
        }
        try:
            await self.ask(request)
        except SupervisorGone:
            return False
        return True

    async def kill(self) -> None:
        """End whatever a supervisor, of this process or another, runs here. See ``Spawner.end``."""
        stopped = await self.stop_now()
        if not stopped and self.supervised() and (pid := self.state().get("supervisor")):
            os.kill(pid, signal.SIGKILL)
        await self.wait_until_unsupervised()
        if self.read_exit() is None:
            self._sweep()

    def _sweep(self) -> None:
        """End what a dead supervisor left: its cgroup, and bubblewrap if it had only just begun.

        bubblewrap dies with its supervisor, but for a moment at its start when it cannot yet.
        """
        state = self.state()
        if state.get("boot") != boot_id():
            return
        if "container" in state:
            self._sweep_container(state["socket"], state["container"])
            return
        Group(dict(state["groups"])).remove()
        if state["bwrap"]:
            processes.signal_all(processes.session(state["bwrap"]), signal.SIGKILL)

    def _sweep_container(self, socket: str, name: str) -> None:
        try:
            Engine(socket).remove(name)
        except EngineError as exc:
            log.warning("%s: its container may still be there: %s", self.path.name, exc)

    def delete(self) -> None:
        """Delete the folder, whatever modes the job gave its own folders."""
        remove_tree(self.path)


async def wait_for_end(folder: JobFolder, ended: Callable[[], bool]) -> None:
    """Return when ``ended`` holds, asked whenever the folder changes."""
    await trio.lowlevel.checkpoint()
    if ended():
        return
    watch = FolderWatch([folder.path])
    try:
        while not ended():
            await watch.changed()
    finally:
        watch.close()


def remove_tree(path: Path) -> None:
    """Delete a tree that somebody else filled. Links are removed, never followed."""

    def make_way(_function: object, failed: str, _info: object) -> None:
        parent = os.path.dirname(failed)
        for each in (parent, failed):
            mode = os.lstat(each).st_mode
            if stat.S_ISDIR(mode):
                os.chmod(each, 0o700)
        if os.path.isdir(failed) and not os.path.islink(failed):
            shutil.rmtree(failed)
        else:
            os.unlink(failed)

    if not path.exists():
        return
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=make_way)
    else:
        shutil.rmtree(path, onerror=make_way)


def _chain_on_disk(log: Path) -> tuple[int, Digest]:
    """Return how many records are on disk, and their chain."""
    digest = segments.EMPTY_CHAIN
    count = 0
    for first in segments.segment_numbers(str(log)):
        data = (log / segments.segment_name(first)).read_bytes()
        try:
            records, _ = segments.parse(data)
        except ValueError:
            break
        for stream, kind, sequence, _, payload in records:
            digest = segments.chain(
                digest, segments.STREAMS[stream], segments.KINDS[kind], sequence, payload
            )
            count = sequence + 1
    return count, Digest(digest)
