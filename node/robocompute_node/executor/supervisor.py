"""Looks after one job from start to end, and outlives the daemon. Standard library only.

One thread, one selector. It alone writes the job's log and state; it holds the job's ``lock`` for
as long as it lives, answers on ``ctl.sock``, and writes ``exit.json`` last of all. It also holds
the lease, so a dead daemon gives nothing away: without an extension the job is frozen when only
its reserve is left, and ended when that is used up.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import time
from hashlib import sha256

from robocompute_node.executor import processes
from robocompute_node.executor.boxes import box_for
from robocompute_node.executor.doorway import answer_with_connection, network_of
from robocompute_node.executor.intake import Intake
from robocompute_node.executor.segments import NOTE, STDERR, STDOUT, SUPERVISOR, SegmentWriter
from robocompute_node.executor.spec import (
    CONTROL,
    EXIT,
    LOCK,
    LOG,
    SPEC,
    STATE,
    Spec,
    boot_id,
    write_durably,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_READ_BYTES = 65_536
_LOCK_PATIENCE_S = 1.0
"""Somebody may be trying the lock at the moment this process takes it."""
_POLL_S = 0.25
"""How often memory and processes are counted where no cgroup does it."""
_DISK_POLL_S = 0.25
_DISK_SHARE = 50
"""Counting files may take at most one part in this many of the time."""
_DRAIN_S = 2.0
"""How long output may be read on after the program's end, if something holds the pipe open."""
_BACKLOG = 16
_MAX_REQUEST = 65_536
_MAX_DOORS = 16
"""Connections into the job that are being made at one moment: each is a process of a few ms."""


class _Client:
    """One connection to the control socket."""

    __slots__ = ("received", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        sock.setblocking(False)


class Supervisor:
    """One run of one spec. ``run`` returns when the exit is recorded."""

    def __init__(
        self, spec: Spec, *, name: str, prepaid_ms: int, reserve_ms: int, ready: int
    ) -> None:
        self._spec = spec
        self._limits = spec.limits
        self._ready = ready
        self._began = time.monotonic()
        self._set_lease(prepaid_ms, reserve_ms)
        self._log = SegmentWriter(LOG, spec.limits.log_bytes)
        self._box = box_for(spec, name)
        self._selector = selectors.DefaultSelector()
        self._intake = Intake(self._log, self._selector, rate=spec.limits.output_rate)
        self._started_at: float | None = None
        self._wait_status: int | None = None
        self._exited_at = 0.0
        self._cause: str | None = None
        self._detail = ""
        self._kill_at: float | None = None
        self._frozen_at: float | None = None
        self._frozen_s = 0.0
        self._poll_at = self._began + _POLL_S
        self._disk_at = self._began + _DISK_POLL_S
        self._peak_bytes = 0
        self._status = b""
        self._network: int | None = None
        self._doors: set[int] = set()

    # --- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the program, see it through, record its end."""
        wakeup, wakeup_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _heed)
        signal.set_wakeup_fd(wakeup_in)
        self._write_state()
        listener = self._listen()
        self._watch(wakeup, lambda: self._on_signal(wakeup))
        self._watch(listener.fileno(), lambda: self._on_connection(listener))
        self._launch()
        while not self._over():
            timeout = max(0.0, self._next_moment() - time.monotonic())
            for key, _ in self._selector.select(timeout):
                key.data()
            self._tick(time.monotonic())
        self._finish()
        listener.close()

    def _watch(self, fd: int, react: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, react)

    def _listen(self) -> socket.socket:
        if os.path.exists(CONTROL):
            os.unlink(CONTROL)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(CONTROL)
        os.chmod(CONTROL, 0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def _launch(self) -> None:
        out, out_in = os.pipe2(os.O_CLOEXEC)
        err, err_in = os.pipe2(os.O_CLOEXEC)
        status, status_in = os.pipe2(os.O_CLOEXEC)
        started, started_in = os.pipe2(os.O_CLOEXEC)
        self._box.launch(stdout=out_in, stderr=err_in, status=status_in, started=started_in)
        self._write_state()
        for fd in (out_in, err_in, status_in, started_in):
            os.close(fd)
        self._intake.open(STDOUT, out)
        self._intake.open(STDERR, err)
        self._watch(status, lambda: self._on_status(status))
        self._watch(started, lambda: self._on_started(started))

    def _over(self) -> bool:
        if self._wait_status is None:
            return False
        return self._intake.ended() or time.monotonic() > self._exited_at + _DRAIN_S

    def _next_moment(self) -> float:
        moments = self._intake.due_at()
        if self._wait_status is not None:
            return min([*moments, self._exited_at + _DRAIN_S])
        moments.append(self._disk_at)
        if not {"memory", "pids"} <= self._box.enforced:
            moments.append(self._poll_at)
        if self._cause is None:
            moments.append(self._end_at)
            if self._frozen_at is None:
                moments.append(self._wall_at())
                if self._started_at is not None:
                    moments.append(self._freeze_at)
        if self._kill_at is not None:
            moments.append(self._kill_at)
        return min(moments)

    def _tick(self, now: float) -> None:
        """Do whatever has fallen due."""
        self._intake.tick(now, drain=self._wait_status is not None)
        self._log.flush()
        self._reap(now)
        if self._wait_status is not None:
            return
        self._check_limits(now)
        self._check_lease(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + 1
            self._box.kill()

    # --- the program ----------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._log.append(SUPERVISOR, NOTE, text.encode(), time.time_ns())
        self._log.flush()

    def _on_status(self, fd: int) -> None:
        """Read the first line only, from before the program runs: it could write the next.

        The pipe stays open, because bubblewrap itself writes to it once more at the end.
        """
        data = os.read(fd, 4096)
        self._status += data
        line, end, _ = self._status.partition(b"\n")
        if data and not end:
            return
        self._selector.unregister(fd)
        if end:
            self._box.init = int(json.loads(line)["child-pid"]) or None
            # Now, while it is certain whose number this is.
            self._network = None if self._box.init is None else network_of(self._box.init)
            self._write_state()

    def _on_started(self, fd: int) -> None:
        data = os.read(fd, 16)
        self._selector.unregister(fd)
        os.close(fd)
        if data:
            self._started_at = time.monotonic()
            self._write_state()
            self._say_ready({"started": True})

    def _say_ready(self, word: dict[str, Any]) -> None:
        if self._ready < 0:
            return
        try:
            os.write(self._ready, json.dumps(word).encode() + b"\n")
        except OSError:
            pass
        os.close(self._ready)
        self._ready = -1

    def _reap(self, now: float) -> None:
        for door in tuple(self._doors):
            if os.waitpid(door, os.WNOHANG)[0]:
                self._doors.discard(door)
        if self._wait_status is None:
            pid, status = os.waitpid(self._box.child, os.WNOHANG)
            if pid:
                self._wait_status = status
                self._exited_at = now
                self._thaw(now)
                self._box.sweep()

    def _end(self, cause: str, detail: str, *, grace_s: float) -> None:
        """Begin to end the job. The first cause stays; a later call may only shorten the grace."""
        now = time.monotonic()
        kill_at = now + grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if self._cause is not None or self._wait_status is not None:
            return
        self._cause, self._detail = cause, detail
        self._note(detail)
        self._thaw(now)
        if grace_s > 0:
            self._box.terminate()

    # --- limits and lease -----------------------------------------------------------------------

    def _check_limits(self, now: float) -> None:
        limits = self._limits
        if now >= self._wall_at() and self._frozen_at is None:
            self._end("wall_time", f"time limit of {limits.wall_ms // 1000} s reached", grace_s=5)
        if now >= self._poll_at and not {"memory", "pids"} <= self._box.enforced:
            self._poll_at = now + _POLL_S
            used = self._box.memory_bytes()
            self._peak_bytes = max(self._peak_bytes, used)
            if used > limits.memory_bytes and "memory" not in self._box.enforced:
                self._end("memory", _over("memory", limits.memory_bytes), grace_s=0)
        if now >= self._disk_at:
            used = self._disk_bytes()
            took = time.monotonic() - now
            self._disk_at = now + max(_DISK_POLL_S, took * _DISK_SHARE)
            if used > limits.disk_bytes:
                self._end("disk", _over("disk space", limits.disk_bytes), grace_s=0)

    def _disk_bytes(self) -> int:
        return processes.disk_bytes(self._spec.measured, stop_at=self._limits.disk_bytes)

    def _wall_at(self) -> float:
        began = self._began if self._started_at is None else self._started_at
        return began + self._frozen_s + self._limits.wall_ms / 1000

    def _set_lease(self, prepaid_ms: int, reserve_ms: int) -> None:
        self._end_at = time.monotonic() + prepaid_ms / 1000
        self._freeze_at = self._end_at - reserve_ms / 1000

    def _check_lease(self, now: float) -> None:
        if self._cause is not None:
            return
        if now >= self._end_at:
            self._end("client_lost", "the prepaid time is used up", grace_s=0)
        elif (
            now >= self._freeze_at and self._frozen_at is None and self._started_at is not None
        ):  # Not before the start: whoever waits for that would wait for the next payment.
            self._box.freeze(True)
            self._frozen_at = now
            self._note("frozen: waiting for the next payment")

    def _thaw(self, now: float) -> None:
        if self._frozen_at is None:
            return
        self._box.freeze(False)
        self._frozen_s += now - self._frozen_at
        self._frozen_at = None

    def _frozen_ms(self, now: float) -> int:
        since = now - self._frozen_at if self._frozen_at is not None else 0.0
        return int((self._frozen_s + since) * 1000)

    # --- talking to the daemon ------------------------------------------------------------------

    def _on_signal(self, fd: int) -> None:
        if signal.SIGTERM in os.read(fd, 512):
            self._end("provider_stopped", "the provider's machine is shutting down", grace_s=5)

    def _on_connection(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        client = _Client(sock)
        self._watch(sock.fileno(), lambda: self._on_request(client))

    def _on_request(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ_BYTES)
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > _MAX_REQUEST:
            self._selector.unregister(client.sock.fileno())
            client.sock.close()
            return
        *requests, client.received = client.received.split(b"\n")
        for request in requests:
            try:
                asked = json.loads(request)
                if asked["op"] == "connect" and self._open_door(client, int(asked["port"])):
                    continue
                answer = self._answer(asked)
            except (ValueError, KeyError, TypeError) as exc:
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            try:
                client.sock.send(json.dumps(answer).encode() + b"\n")
            except OSError:
                continue

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        match request["op"]:
            case "status":
                pass
            case "usage":
                return self._usage()
            case "extend":
                if self._cause is None:
                    self._set_lease(int(request["prepaid_ms"]), int(request["reserve_ms"]))
                    if now < self._freeze_at and self._frozen_at is not None:
                        self._thaw(now)
                        self._note("thawed")
            case "stop":
                grace_s = int(request["grace_ms"]) / 1000
                self._end(str(request["cause"]), str(request["detail"]), grace_s=grace_s)
            case "connect":
                return {"error": "no way into the job's network now"}
            case other:
                return {"error": f"unknown op {other!r}"}
        return {
            "next_sequence": self._log.sequence,
            "frozen": self._frozen_at is not None,
            "frozen_ms": self._frozen_ms(now),
            "started": self._started_at is not None,
        }

    def _open_door(self, client: _Client, port: int) -> bool:
        """Have somebody connect to a port of the job and answer; False where nobody can."""
        init, network = self._box.init, self._network
        over = self._wait_status is not None or self._cause is not None
        if over or init is None or network is None or len(self._doors) >= _MAX_DOORS:
            return False
        self._doors.add(answer_with_connection(client.sock, init, network, port))
        return True

    def _usage(self) -> dict[str, Any]:
        memory = self._box.memory_bytes()
        self._peak_bytes = max(self._peak_bytes, memory)
        return {
            "cpu_ms": self._box.cpu_ms(),
            "memory_bytes": memory,
            "peak_memory_bytes": self._peak_bytes,
        }

    def _write_state(self) -> None:
        state = {
            "supervisor": os.getpid(),
            "init": self._box.init,
            "boot": boot_id(),
            "enforced": sorted(self._box.enforced),
            "started": self._started_at is not None,
            **self._box.state(),
        }
        write_durably(STATE, json.dumps(state), sync=False)

    # --- the end --------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._intake.finish()
        if self._wait_status is None:
            raise RuntimeError("finished before its end")
        code = processes.shell_code(self._wait_status)
        if self._cause is None:
            self._cause, self._detail = self._say_why(code)
        elif self._started_at is None:
            code = None
        self._log.close()
        now = time.monotonic()
        self._box.remove()
        began = now if self._started_at is None else self._started_at
        frozen_ms = self._frozen_ms(now)
        record = {
            "exit_code": None if self._started_at is None else code,
            "cause": self._cause,
            "detail": self._detail,
            "ran_ms": max(0, int((self._exited_at - began) * 1000) - frozen_ms),
            "frozen_ms": frozen_ms,
            "records": self._log.sequence,
            "output": self._log.digest.hex(),
        }
        write_durably(EXIT, json.dumps(record))
        self._say_ready({"started": self._started_at is not None, "detail": self._detail})
        try:
            os.unlink(CONTROL)
        except FileNotFoundError:
            pass

    def _say_why(self, code: int) -> tuple[str, str]:
        if self._started_at is None:
            reason = self._intake.early_errors.decode(errors="replace").strip()
            return "sandbox_failed", reason or f"the sandbox ended with status {code}"
        if code != 0 and self._box.out_of_memory():
            return "memory", _over("memory", self._limits.memory_bytes)
        if code != 0 and self._disk_bytes() > self._limits.disk_bytes:
            return "disk", _over("disk space", self._limits.disk_bytes)
        if 128 < code < 128 + signal.NSIG:
            return "exited", f"ended by signal {code - 128}"
        return "exited", f"exit code {code}"


def _heed(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""


def _over(what: str, limit: int) -> str:
    return f"used more {what} than the {limit // (1 << 20)} MiB agreed"


def _take_lock() -> bool:
    """Take the job's lock for this process's life; False when another supervisor has it."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.005)
        else:
            return True


def main(arguments: list[str]) -> NoReturn:
    """Run the job in the folder named by the first argument; exit 0 when its end is recorded."""
    folder, prepaid_ms, reserve_ms, ready = arguments
    folder = os.path.abspath(folder)
    os.chdir(folder)
    os.set_inheritable(int(ready), False)
    # Whatever else the daemon's parents let through is not for jobs to hold.
    os.closerange(int(ready) + 1, os.sysconf("SC_OPEN_MAX"))
    if not _take_lock() or os.path.exists(EXIT):
        os._exit(3)
    with open(SPEC, encoding="utf-8") as file:
        spec = Spec.from_json(file.read())
    Supervisor(
        spec,
        name="rc-" + sha256(folder.encode()).hexdigest()[:16],
        prepaid_ms=int(prepaid_ms),
        reserve_ms=int(reserve_ms),
        ready=int(ready),
    ).run()
    os._exit(0)
