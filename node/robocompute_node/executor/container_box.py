"""A container as the box of one job. Standard library only.

The supervisor's child attaches to the container, passes its output on, and ends with its status.
The container itself is the engine's: it is found again by its name, whoever is gone.
"""

from __future__ import annotations

import json
import os
import signal

from robocompute_node.executor import processes
from robocompute_node.executor.box import Box
from robocompute_node.executor.cgroups import Group, folders_of
from robocompute_node.executor.engine import Engine, EngineError
from robocompute_node.executor.launch import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from robocompute_node.executor.spec import ContainerSpec, Spec

_HANDLING_S = 5.0
"""A supervisor that handles its container may be kept from its log for this long."""
_SHM_SHARE = 2
"""The memory file systems may each hold this fraction of the job's memory, in whose cap they count."""
_NANO = 1_000_000_000
_FILE_SLACK = 16_777_216
_OOM = b"out of memory"


class Container(Box):
    """A container of a Docker-compatible engine."""

    def __init__(self, spec: Spec, container: ContainerSpec, name: str) -> None:
        super().__init__()
        self._spec = spec
        self._container = container
        self._name = name
        self._engine = Engine(container.socket)
        self._group = Group({})
        self._verdict = -1
        self.enforced = {"memory", "pids", "cpu"}

    def launch(self, *, stdout: int, stderr: int, status: int, started: int) -> None:
        self._verdict, verdict = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.child = os.fork()
        if self.child:
            os.close(verdict)
            return
        code = FAILED
        try:
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            _close_all_but(stdout, stderr, status, started, verdict)
            code, starved = self._run(stdout=stdout, stderr=stderr, status=status, started=started)
            if starved:
                os.write(verdict, _OOM)
        except BaseException as exc:  # noqa: BLE001 (a forked child may not return into its parent)
            os.write(stderr, f"the container could not be run: {exc}\n".encode())
        finally:
            os._exit(code)

    def _run(self, *, stdout: int, stderr: int, status: int, started: int) -> tuple[int, bool]:
        """Run the container to its end; return its status, and whether it ran out of memory."""
        self._create()
        pieces = self._engine.attach(self._name)
        next(pieces)
        self._engine.call("POST", f"/containers/{self._name}/start")
        known = self._engine.call("GET", f"/containers/{self._name}/json")
        self.init = process_here(int(known["State"]["Pid"]), str(known["Id"]))
        group = self._groups()
        os.write(status, json.dumps({"child-pid": self.init or 0}).encode() + b"\n")
        os.write(started, b"\n")
        for stream, data in pieces:
            left = memoryview(data)
            while left:
                left = left[os.write(stderr if stream == 2 else stdout, left) :]
        # At once: the engine takes the group away soon after the end, and not all say why it ended.
        starved = group.out_of_memory()
        # On no clock: it may have closed its output long before its end, which is the supervisor's.
        end = self._engine.call("POST", f"/containers/{self._name}/wait", timeout_s=None)
        known = self._engine.call("GET", f"/containers/{self._name}/json")
        return int(end["StatusCode"]), starved or bool(known["State"].get("OOMKilled"))

    def _create(self) -> None:
        # One of this name is what an earlier supervisor left when it died.
        self._engine.remove(self._name)
        self._engine.call(
            "POST", "/containers/create", query={"name": self._name}, body=self._request()
        )

    def _request(self) -> dict[str, Any]:
        spec, container, limits = self._spec, self._container, self._spec.limits
        share = limits.memory_bytes // _SHM_SHARE
        memory = f"size={share},mode=1777"
        shown = {bind.target for bind in spec.binds}
        host: dict[str, Any] = {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": limits.memory_bytes,
            "MemorySwap": limits.memory_bytes,
            "PidsLimit": limits.pids,
            "NanoCpus": limits.cpu_cores * _NANO,
            "ShmSize": share,
            "Tmpfs": {
                **{volume: memory for volume in container.volumes if volume not in shown},
                "/tmp": memory,  # noqa: S108 (inside)
                "/run": "size=65536,mode=0755",
            },
            "Ulimits": [
                {"Name": name, "Soft": value, "Hard": value}
                for name, value in (
                    ("nofile", container.most),
                    ("core", 0),
                    ("fsize", limits.disk_bytes + _FILE_SLACK),
                    ("nproc", min(limits.pids, container.most)),
                )
            ],
            "Binds": [
                f"{bind.source}:{bind.target}:{'rw' if bind.writable else 'ro'}"
                for bind in spec.binds
            ],
            # The supervisor's log is the log.
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "Init": container.init,
            "OomScoreAdj": 900,
        }
        if spec.gpus:
            host["DeviceRequests"] = [
                {"Driver": "nvidia", "DeviceIDs": spec.gpus, "Capabilities": [["gpu"]]}
            ]
        request: dict[str, Any] = {
            "Image": container.image,
            "Cmd": spec.argv,
            "Env": [f"{name}={value}" for name, value in spec.env.items()],
            "Labels": {"robocompute": self._name},
            "Hostname": "job",
            "NetworkDisabled": True,
            "HostConfig": host,
        }
        if spec.cwd:
            request["WorkingDir"] = spec.cwd
        if container.user:
            request["User"] = container.user
        return request

    # --- while it runs --------------------------------------------------------------------------

    def pids(self) -> list[int]:
        return processes.tree(self.init)

    def _handle(self, act: Callable[[], object]) -> bool:
        """Do something to the container; one that is gone, or not running, needs it no more."""
        try:
            act()
        except EngineError as exc:
            return exc.status != 0
        return True

    def _post(self, word: str, **query: str) -> bool:
        path = f"/containers/{self._name}/{word}"
        return self._handle(
            lambda: self._engine.call("POST", path, query=query, timeout_s=_HANDLING_S)
        )

    def terminate(self) -> None:
        if not self._post("kill", signal="TERM"):
            processes.signal_all(self.pids(), signal.SIGTERM)

    def kill(self) -> None:
        if self.init is None:
            # Created, perhaps, and not begun: without its child it never will.
            processes.signal_all([self.child], signal.SIGKILL)
        elif not self._post("kill", signal="KILL"):
            processes.signal_all(self.pids(), signal.SIGKILL)

    def sweep(self) -> None:
        """End the container, which goes on where only the child was killed."""
        self._post("kill", signal="KILL")

    def freeze(self, frozen: bool) -> None:
        if not self._post("pause" if frozen else "unpause"):
            processes.signal_all(self.pids(), signal.SIGSTOP if frozen else signal.SIGCONT)

    def _groups(self) -> Group:
        if not self._group.folders and self.init is not None:
            self._group = Group(folders_of(self.init))
        return self._group

    def cpu_ms(self) -> int:
        known = self._groups().cpu_ms()
        return processes.cpu_ms(self.pids()) if known is None else known

    def memory_bytes(self) -> int:
        known = self._groups().memory_bytes()
        return processes.resident_bytes(self.pids()) if known is None else known

    def out_of_memory(self) -> bool:
        try:
            return os.read(self._verdict, len(_OOM)) == _OOM
        except BlockingIOError:
            return False

    def state(self) -> dict[str, Any]:
        return {"container": self._name, "socket": self._container.socket}

    def remove(self) -> None:
        self._handle(lambda: self._engine.remove(self._name))


def process_here(pid: int, container: str) -> int | None:
    """Return a container's process 1 as this machine numbers it, or None where it has ended.

    Raises:
        EngineError: the number means another process here. What is done to it would hit that one.
    """
    if not pid:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            groups = file.read()
    except FileNotFoundError:
        return None
    if container not in groups:
        raise EngineError("the engine numbers processes as another machine, or a part of this one")
    return pid


def _close_all_but(*kept: int) -> None:
    """Close what was the supervisor's: above all its lock, which says that it is alive."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, *kept):
            try:
                os.close(int(name))
            except OSError:  # the one that listed them
                continue
