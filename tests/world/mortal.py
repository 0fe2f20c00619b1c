"""Runs a module whose process dies, by SIGKILL, at a commit of its store that a test chose.

    python mortal.py CONTROL -m robocompute_node run --data DIR

CONTROL is a file of eight-byte numbers that both sides keep mapped, see ``Control``: the process
counts its commits there, and a test that runs at the same time says at which of them who is to
die. Nothing of the product knows of it: what is counted are LMDB's own write transactions.
"""

from __future__ import annotations

import mmap
import os
import runpy
import signal
import struct
import sys
from pathlib import Path
from typing import Any, Final

import lmdb

NEVER: Final = 0
BEFORE: Final = 1
"""All is done but the commit: what the process was about to say is not on disk."""
AFTER: Final = 2
"""The commit is on disk, and nothing was said of it."""
NUMBERS: Final = 5
_U64: Final = struct.Struct("<Q")


class Control:
    """The mapped file: commits, and at which one, before or after it, which processes die."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), NUMBERS * _U64.size)

    def get(self, place: int) -> int:
        return int(_U64.unpack_from(self._map, place * _U64.size)[0])

    def put(self, place: int, value: int) -> None:
        _U64.pack_into(self._map, place * _U64.size, value)

    @property
    def commits(self) -> int:
        """Write transactions that were begun to be committed since the process started."""
        return self.get(0)

    def arm(self, moment: int, *, ahead: int, victims: tuple[int, ...]) -> None:
        """Let ``victims`` die at the commit that is ``ahead`` of the last one."""
        self.put(1, NEVER)
        self.put(2, self.commits + ahead)
        for place, victim in enumerate((*victims, 0)[:2]):
            self.put(3 + place, victim)
        self.put(1, moment)

    def disarm(self) -> None:
        """Let nobody die."""
        self.put(1, NEVER)

    def count(self) -> None:
        """Count one commit."""
        self.put(0, self.commits + 1)

    def strike(self, moment: int) -> None:
        """Kill whoever is to die now; usually this very process."""
        if self.get(1) != moment or self.commits != self.get(2):
            return
        self.put(1, NEVER)
        victims = [victim for place in (3, 4) if (victim := self.get(place))]
        # This process last: it kills nobody afterwards.
        for victim in sorted(victims, key=os.getpid().__eq__):
            os.kill(victim, signal.SIGKILL)


class Commit:
    """A write transaction of LMDB, with a moment before and one after its commit."""

    def __init__(self, real: Any, control: Control) -> None:
        self._real = real
        self._control = control

    def __enter__(self) -> Any:
        return self._real.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if kind is None:
            self._control.count()
            self._control.strike(BEFORE)
        answer = self._real.__exit__(kind, error, trace)
        if kind is None:
            self._control.strike(AFTER)
        return answer


class MortalEnvironment:
    """An LMDB environment whose commits are counted."""

    def __init__(self, real: Any, control: Control) -> None:
        self._real = real
        self._control = control

    def begin(self, *arguments: Any, **options: Any) -> Any:
        transaction = self._real.begin(*arguments, **options)
        return Commit(transaction, self._control) if options.get("write") else transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def main() -> None:
    """Run the module that the command line names, as ``python -m`` would."""
    control = Control(Path(sys.argv[1]))
    real_open = lmdb.open

    def mortal_open(*arguments: Any, **options: Any) -> MortalEnvironment:
        return MortalEnvironment(real_open(*arguments, **options), control)

    setattr(lmdb, "open", mortal_open)  # noqa: B010 - a function of another library, on purpose
    sys.argv = sys.argv[3:]
    # As with ``python -m``, this script's own folder is no place to import from.
    sys.path.pop(0)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
