"""What a supervised program runs in, as its supervisor handles it. Standard library only.

A box is made before the program starts and removed after its end. ``launch`` gives a child of the
supervisor whose end is the program's end, and whose status is the program's.
"""

from __future__ import annotations

import signal

from robocompute_node.executor import processes
from robocompute_node.executor.cgroups import Group
from robocompute_node.executor.launch import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from robocompute_node.executor.spec import Spec


class Box:
    """One program's confinement: started, watched and ended as a whole."""

    def __init__(self) -> None:
        self.child = 0
        """The supervisor's own child."""
        self.init: int | None = None
        """The program's process 1, as this host numbers it; None until it is known."""
        self.enforced: set[str] = set()
        """Limits that others keep ("memory", "pids"); the supervisor counts the rest itself."""

    def launch(self, *, stdout: int, stderr: int, status: int, started: int) -> None:
        """Start the program; ``status`` tells its process 1, ``started`` that it is next."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Return the program's processes."""
        raise NotImplementedError

    def terminate(self) -> None:
        """Ask the program to end."""
        raise NotImplementedError

    def kill(self) -> None:
        """End everything inside. May be repeated."""
        raise NotImplementedError

    def sweep(self) -> None:
        """End what outlives the program: its child has been waited for, and its number is free."""
        raise NotImplementedError

    def freeze(self, frozen: bool) -> None:
        """Stop everything inside, or let it go on."""
        raise NotImplementedError

    def cpu_ms(self) -> int:
        """Return the CPU time of everything that ever ran inside."""
        raise NotImplementedError

    def memory_bytes(self) -> int:
        """Return the memory in use."""
        raise NotImplementedError

    def out_of_memory(self) -> bool:
        """Whether something inside was killed for its memory."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what another process needs to end what is inside when the supervisor is gone."""
        raise NotImplementedError

    def remove(self) -> None:
        """End what is left inside, and take the box away."""
        raise NotImplementedError


class Bubblewrap(Box):
    """A sandbox of bubblewrap's, in a cgroup where one can be had."""

    def __init__(self, spec: Spec, name: str) -> None:
        super().__init__()
        self._spec = spec
        self._group = Group.create(
            name,
            memory_bytes=spec.limits.memory_bytes,
            pids=spec.limits.pids,
            cpu_cores=spec.limits.cpu_cores,
        )
        self.enforced = self._group.limits

    def launch(self, *, stdout: int, stderr: int, status: int, started: int) -> None:
        self.child = launch(
            self._spec, self._group, stdout=stdout, stderr=stderr, status=status, started=started
        )

    def pids(self) -> list[int]:
        """Return the program's processes, without bubblewrap's own two."""
        inside = self._group.pids()
        if inside is None:
            inside = processes.tree(self.init)
        return [pid for pid in inside if pid not in (self.child, self.init)]

    def terminate(self) -> None:
        processes.signal_all(self.pids(), signal.SIGTERM)

    def kill(self) -> None:
        """End everything: process 1 of the namespace takes all others with it."""
        processes.signal_all(self._group.pids() or processes.tree(self.init), signal.SIGKILL)
        processes.signal_all([self.child if self.init is None else self.init], signal.SIGKILL)

    def sweep(self) -> None:
        processes.signal_all(self._group.pids() or [], signal.SIGKILL)

    def freeze(self, frozen: bool) -> None:
        if not self._group.freeze(frozen):
            number = signal.SIGSTOP if frozen else signal.SIGCONT
            processes.signal_all(self.pids(), number)

    def cpu_ms(self) -> int:
        known = self._group.cpu_ms()
        return processes.cpu_ms(self.pids()) if known is None else known

    def memory_bytes(self) -> int:
        known = self._group.memory_bytes()
        return processes.resident_bytes(self.pids()) if known is None else known

    def out_of_memory(self) -> bool:
        return self._group.out_of_memory()

    def state(self) -> dict[str, Any]:
        return {"bwrap": self.child, "groups": self._group.folders}

    def remove(self) -> None:
        self._group.remove()
