"""The base runtime: the interpreter and packages that every job finds, at /env/base.

A virtual environment below the node's data folder, made from the daemon's own interpreter. It is
only ever entered inside sandboxes, where it lies at /env/base, so that is the path its scripts know.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robocompute_node.executor.requirements import canonical, name_of
from robocompute_node.executor.spec import Bind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASE: Final = "/env/base"
PARTS: Final = "/env/parts"
"""Where ``chisel`` and ``aspara`` lie in every sandbox."""
_REQUESTED: Final = "robocompute.json"
"""In the environment's folder: the packages that ``runtime add`` was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The Python that jobs run: the one this daemon runs."""

    executable: Path
    prefix: Path
    version: str
    """As in ``python3.11``: "3.11"."""
    full_version: str

    @classmethod
    def of_this_process(cls) -> Interpreter:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return cls(
            executable=Path(os.path.realpath(Path(sys.base_prefix, "bin", f"python{version}"))),
            prefix=Path(os.path.realpath(sys.base_prefix)),
            version=version,
            full_version=sys.version.split()[0],
        )

    def binds(self) -> list[Bind]:
        """Return what a sandbox must show for it to run; nothing if /usr has it all."""
        if self.prefix == Path("/usr") or Path("/usr") in self.prefix.parents:
            return []
        return [Bind(str(self.prefix), str(self.prefix))]

    @property
    def site_packages(self) -> str:
        """Below an environment of its."""
        return f"lib/python{self.version}/site-packages"


def make_venv(path: Path, interpreter: Interpreter, *, pth: Mapping[str, str]) -> None:
    """Make an empty virtual environment in the new folder ``path``: no process, no pip.

    ``pth`` are path configuration files by name.
    """
    (path / "bin").mkdir(parents=True)
    site = path / interpreter.site_packages
    site.mkdir(parents=True)
    for name in ("python", "python3", f"python{interpreter.version}"):
        (path / "bin" / name).symlink_to(interpreter.executable)
    (path / "pyvenv.cfg").write_text(
        f"home = {interpreter.executable.parent}\n"
        "include-system-site-packages = false\n"
        f"version = {interpreter.full_version}\n"
    )
    for name, text in pth.items():
        (site / name).write_text(text)


@dataclass(frozen=True, slots=True)
class BaseRuntime:
    """The base runtime in ``path``."""

    path: Path
    interpreter: Interpreter

    def ensure(self) -> None:
        """Make it, empty, if it is not there."""
        if (self.path / "pyvenv.cfg").exists():
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        # For `python -I`, which ignores PYTHONPATH.
        make_venv(partial, self.interpreter, pth={"robocompute_parts.pth": f"{PARTS}\n"})
        partial.rename(self.path)

    @property
    def site_packages(self) -> Path:
        return self.path / self.interpreter.site_packages

    def packages(self) -> dict[str, str]:
        """Return the versions of all it holds, by canonical name."""
        found: dict[str, str] = {}
        for entry in os.scandir(self.site_packages):
            if entry.name.endswith(".dist-info"):
                name, _, version = entry.name.removesuffix(".dist-info").partition("-")
                found[canonical(name)] = version
        return found

    def fingerprint(self) -> str:
        """Return what changes whenever an environment on top of it must be built anew."""
        facts = [self.interpreter.full_version, sysconfig.get_platform(), self.packages()]
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def requested(self) -> tuple[str, ...]:
        """Return the packages it was asked to have, by canonical name."""
        try:
            return tuple(json.loads((self.path / _REQUESTED).read_text()))
        except FileNotFoundError:
            return ()

    def remember(self, packages: Sequence[str]) -> None:
        """Note that these requirements were installed by request."""
        names = sorted({*self.requested(), *(name_of(package) for package in packages)})
        partial = self.path / f".{_REQUESTED}"
        partial.write_text(json.dumps(names))
        partial.rename(self.path / _REQUESTED)

    def offered(self) -> tuple[str, ...]:
        """Return what an offer says of it: ("python3.11", "torch")."""
        there = self.packages()
        names = (name for name in self.requested() if name in there)
        return (f"python{self.interpreter.version}", *names)

    def binds(self) -> list[Bind]:
        """Return what a sandbox must show for jobs to use it."""
        return [*self.interpreter.binds(), Bind(str(self.path), BASE)]
