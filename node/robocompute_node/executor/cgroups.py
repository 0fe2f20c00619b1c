"""A cgroup for each job: v2 where it can be had, v1 controllers where not, else none.

Standard library only. The group holds the job's processes, never the supervisor, and lies below
the group of whoever makes it, as delegation asks.
"""

from __future__ import annotations

import os
import time

_CPU_PERIOD_US = 100_000
_V1 = ("memory", "pids", "cpu", "cpuacct", "freezer")
_DAEMON_LEAF = "robocompute-daemon"
_GONE_TRIES = 80
"""Times 25 ms: how long a dead group may take to empty before it is left behind."""


def _write(path: str, value: object) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _number_after(text: str, word: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == word:
            return int(value)
    return 0


def _mounts() -> tuple[dict[str, str], str | None]:
    """Return where the v1 controllers are mounted, and the v2 tree."""
    v1: dict[str, str] = {}
    v2 = None
    for line in _read("/proc/self/mounts").splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            v2 = where
        elif kind == "cgroup":
            for option in options.split(","):
                if option in _V1:
                    v1[option] = where
    return v1, v2


def _own(process: int | str = "self") -> dict[str, str]:
    """Return a process's path in each hierarchy; "" is v2."""
    paths: dict[str, str] = {}
    for line in _read(f"/proc/{process}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _home(mount: str, own: str) -> str:
    """Return the folder below which job groups are made."""
    path = mount + own.rstrip("/")
    return os.path.dirname(path) if os.path.basename(path) == _DAEMON_LEAF else path


def folders_of(pid: int) -> dict[str, str]:
    """Return the folders of a group that somebody else made for ``pid``: for ``Group`` to read.

    None where its numbers would not be the process's alone.
    """
    try:
        paths = _own(pid)
        own = _own()
    except OSError:
        return {}
    v1, v2 = _mounts()
    places = {"v2": (v2, "")} if v2 is not None else {}
    places |= {controller: (where, controller) for controller, where in v1.items()}
    found: dict[str, str] = {}
    for controller, (where, name) in places.items():
        path = paths.get(name, "/")
        if path not in ("/", own.get(name)) and os.path.isdir(f"{where}{path}"):
            found[controller] = f"{where}{path}"
    if "v2" in found and not os.path.exists(f"{found['v2']}/memory.current"):
        del found["v2"]
    return found


def delegate() -> bool:
    """Move this process into a leaf, so that v2 lets its group hand controllers to job groups.

    A v2 group may hold processes or share out controllers, not both. True when job groups can
    have v2 limits now; False changes nothing that matters and v1 or polling serve instead.
    """
    _, v2 = _mounts()
    own = _own().get("", "")
    if v2 is None or not own:
        return False
    home = _home(v2, own)
    try:
        if not {"memory", "pids"} <= set(_read(f"{home}/cgroup.controllers").split()):
            return False
        if {"memory", "pids"} <= set(_read(f"{home}/cgroup.subtree_control").split()):
            return True
        leaf = f"{home}/{_DAEMON_LEAF}"
        os.makedirs(leaf, exist_ok=True)
        _write(f"{leaf}/cgroup.procs", os.getpid())
        _write(f"{home}/cgroup.subtree_control", "+memory +pids +cpu")
    except OSError:
        return False
    return True


class Group:
    """The limits of one job. Everything here may be called when the job is gone."""

    __slots__ = ("folders", "limits")

    def __init__(self, folders: dict[str, str]) -> None:
        self.folders = folders
        """Controller (or "v2") to folder. Empty: the caller must poll, and stop by SIGSTOP."""
        self.limits: set[str] = set()
        """What the kernel enforces: "memory", "pids", "cpu"."""

    @classmethod
    def create(cls, name: str, *, memory_bytes: int, pids: int, cpu_cores: int) -> Group:
        """Make the best group to be had."""
        v1, v2 = _mounts()
        own = _own()
        if v2 is not None:
            group = cls._create_v2(
                _home(v2, own.get("", "/")), name, memory_bytes, pids, cpu_cores
            )
            if group is not None:
                return group
        group = cls({})
        settings = {
            "memory": [("memory.limit_in_bytes", memory_bytes)],
            "pids": [("pids.max", pids)],
            "cpu": [
                ("cpu.cfs_period_us", _CPU_PERIOD_US),
                ("cpu.cfs_quota_us", cpu_cores * _CPU_PERIOD_US),
            ],
        }
        for controller, where in v1.items():
            folder = f"{where}{own.get(controller, '/').rstrip('/')}/{name}"
            try:
                os.makedirs(folder, exist_ok=True)
                for file, value in settings.get(controller, ()):
                    _write(f"{folder}/{file}", value)
            except OSError:
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
                continue
            group.folders[controller] = folder
            if controller in settings:
                group.limits.add(controller)
        return group

    @classmethod
    def _create_v2(
        cls, home: str, name: str, memory_bytes: int, pids: int, cpu_cores: int
    ) -> Group | None:
        folder = f"{home}/{name}"
        try:
            if not {"memory", "pids"} <= set(_read(f"{home}/cgroup.subtree_control").split()):
                return None
            os.makedirs(folder, exist_ok=True)
            _write(f"{folder}/memory.max", memory_bytes)
            _write(f"{folder}/memory.oom.group", 1)
            _write(f"{folder}/pids.max", pids)
        except OSError:
            return None
        group = cls({"v2": folder})
        group.limits |= {"memory", "pids"}
        for file, value in (
            ("memory.swap.max", 0),
            ("cpu.max", f"{cpu_cores * _CPU_PERIOD_US} {_CPU_PERIOD_US}"),
        ):
            try:
                _write(f"{folder}/{file}", value)
            except OSError:
                continue
            if file == "cpu.max":
                group.limits.add("cpu")
        return group

    def join(self) -> None:
        """Put the calling process in.

        Raises:
            OSError: the group is gone.
        """
        for folder in self.folders.values():
            _write(f"{folder}/cgroup.procs", os.getpid())

    def pids(self) -> list[int] | None:
        """Return the processes inside; None when no group knows."""
        for controller in ("v2", "pids", "freezer", "memory"):
            if controller in self.folders:
                try:
                    text = _read(f"{self.folders[controller]}/cgroup.procs")
                except OSError:
                    return []
                return [int(word) for word in text.split() if word != "0"]
        return None

    def freeze(self, frozen: bool) -> bool:
        """Stop or resume everything inside at once; False when no freezer is to be had."""
        try:
            if "v2" in self.folders:
                _write(f"{self.folders['v2']}/cgroup.freeze", int(frozen))
            elif "freezer" in self.folders:
                word = "FROZEN" if frozen else "THAWED"
                _write(f"{self.folders['freezer']}/freezer.state", word)
            else:
                return False
        except OSError:
            return False
        return True

    def memory_bytes(self) -> int | None:
        """Return memory in use without page cache that could be dropped at once."""
        try:
            if "v2" in self.folders:
                folder = self.folders["v2"]
                used = int(_read(f"{folder}/memory.current"))
                return used - _number_after(_read(f"{folder}/memory.stat"), "inactive_file")
            if "memory" in self.folders:
                folder = self.folders["memory"]
                used = int(_read(f"{folder}/memory.usage_in_bytes"))
                return used - _number_after(_read(f"{folder}/memory.stat"), "total_inactive_file")
        except OSError:
            pass
        return None

    def cpu_ms(self) -> int | None:
        """Return CPU time of everything that ever ran inside."""
        try:
            if "v2" in self.folders:
                return _number_after(_read(f"{self.folders['v2']}/cpu.stat"), "usage_usec") // 1000
            if "cpuacct" in self.folders:
                return int(_read(f"{self.folders['cpuacct']}/cpuacct.usage")) // 1_000_000
        except OSError:
            pass
        return None

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something inside for its memory."""
        try:
            if "v2" in self.folders:
                return _number_after(_read(f"{self.folders['v2']}/memory.events"), "oom_kill") > 0
            if "memory" in self.folders:
                text = _read(f"{self.folders['memory']}/memory.oom_control")
                return _number_after(text, "oom_kill") > 0
        except OSError:
            pass
        return False

    def remove(self) -> bool:
        """Kill what is left inside and take the group away; True when nothing of it is left."""
        for _ in range(_GONE_TRIES):
            self.freeze(False)
            for pid in self.pids() or ():
                try:
                    os.kill(pid, 9)
                except OSError:
                    continue
            left: dict[str, str] = {}
            for controller, folder in self.folders.items():
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    continue
                except OSError:
                    left[controller] = folder
            self.folders = left
            if not left:
                return True
            time.sleep(0.025)
        return False
