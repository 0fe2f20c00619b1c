"""What a supervisor is told: one JSON file, written before it starts. Standard library only.

Plain classes: dataclasses and typing would double the time a supervisor takes to start.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SPEC, STATE, EXIT, LOCK, CONTROL, LOG = (
    "spec.json",
    "state.json",
    "exit.json",
    "lock",
    "ctl.sock",
    "log",
)
"""The files of a job's folder that the daemon and the supervisor share."""
ERRORS = "supervisor.log"
"""Where a supervisor's own faults go: empty unless it has a bug."""


class Bind:
    """A host path shown inside the sandbox."""

    __slots__ = ("source", "target", "writable")

    def __init__(self, source: str, target: str, *, writable: bool = False) -> None:
        self.source = source
        self.target = target
        self.writable = writable


class Limits:
    """Caps on one job. Bytes and milliseconds."""

    __slots__ = (
        "cpu_cores",
        "disk_bytes",
        "log_bytes",
        "memory_bytes",
        "output_rate",
        "pids",
        "wall_ms",
    )

    def __init__(
        self,
        *,
        wall_ms: int,
        memory_bytes: int,
        cpu_cores: int,
        pids: int,
        disk_bytes: int,
        output_rate: int,
        log_bytes: int,
    ) -> None:
        self.wall_ms = wall_ms
        self.memory_bytes = memory_bytes
        self.cpu_cores = cpu_cores
        self.pids = pids
        self.disk_bytes = disk_bytes
        self.output_rate = output_rate
        self.log_bytes = log_bytes


class ContainerSpec:
    """The container that a job asks for, in place of a sandbox of this machine's own files."""

    __slots__ = ("image", "init", "most", "socket", "user", "volumes")

    def __init__(
        self,
        *,
        socket: str,
        image: str,
        user: str,
        most: int,
        init: bool,
        volumes: Sequence[str] = (),
    ) -> None:
        self.socket = socket
        """Of the engine."""
        self.image = image
        """By its digest: a name may mean another image tomorrow."""
        self.user = user
        """Inside, as the engine takes it: numbers."""
        self.most = most
        """Open files, and processes of one user, that the engine may allow."""
        self.init = init
        """Whether the engine's own process 1 starts the program: as process 1 itself it would not
        heed SIGTERM, and would have to bury the children of others."""
        self.volumes = list(volumes)
        """Folders inside that the image wants to write to: they are given memory, as /tmp is,
        because nobody would measure the disk that an engine gives them."""


class Spec:
    """One supervised run: a job, or the building of an environment."""

    __slots__ = (
        "argv",
        "binds",
        "bwrap",
        "container",
        "cwd",
        "env",
        "gpus",
        "limits",
        "measured",
        "uid",
    )

    def __init__(
        self,
        *,
        bwrap: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        binds: Sequence[Bind],
        cwd: str,
        limits: Limits,
        measured: Sequence[str],
        gpus: Sequence[str] = (),
        uid: int | None = None,
        container: ContainerSpec | None = None,
    ) -> None:
        self.bwrap = bwrap
        self.argv = list(argv)
        self.env = dict(env)
        self.binds = list(binds)
        self.cwd = cwd
        self.limits = limits
        self.measured = list(measured)
        """Folders whose size counts against ``limits.disk_bytes``."""
        self.gpus = list(gpus)
        self.uid = uid
        """The host user it runs as; None is the supervisor's own."""
        self.container = container

    def to_json(self) -> str:
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["binds"] = [[bind.source, bind.target, bind.writable] for bind in self.binds]
        fields["limits"] = {name: getattr(self.limits, name) for name in Limits.__slots__}
        if self.container is not None:
            names = ContainerSpec.__slots__
            fields["container"] = {name: getattr(self.container, name) for name in names}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields: dict[str, Any] = json.loads(text)
        binds = [Bind(source, target, writable=w) for source, target, w in fields.pop("binds")]
        container = fields.pop("container", None)
        return cls(
            binds=binds,
            limits=Limits(**fields.pop("limits")),
            container=None if container is None else ContainerSpec(**container),
            **fields,
        )


def boot_id() -> str:
    """Return what tells one boot of this machine from another: process ids mean nothing beyond."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def write_durably(path: str, text: str, *, sync: bool = True) -> None:
    """Replace a file at once; with ``sync`` the new text survives a power cut when this returns."""
    partial = path + ".tmp"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(text.encode())
        while left:
            left = left[os.write(fd, left) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(partial, path)
    if sync:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
