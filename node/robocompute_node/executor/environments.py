"""Environments of jobs: one per set of requirements, built once, shared read-only.

Each is a virtual environment on top of the base runtime, whose packages it does not install again.
It is built in a sandbox of its own (``builder``), at the path it has in the jobs' sandboxes, and
stays until others need its room (``shelf``).
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from robocompute_node.executor.builder import TOOLS, Builder, BuildFailed
from robocompute_node.executor.filelock import locked
from robocompute_node.executor.folder import remove_tree
from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.requirements import name_of
from robocompute_node.executor.runtime import BASE, make_venv
from robocompute_node.executor.shelf import Shelf
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from pathlib import Path

    from robocompute_node.executor.port import Progress
    from robocompute_node.executor.requirements import Wanted
    from robocompute_node.executor.runtime import BaseRuntime

log = logging.getLogger(__name__)

JOB: Final = "/env/job"
"""Where a job's own environment lies in its sandbox."""
_FORMAT: Final = 1
"""Part of every key: raised when environments are laid out differently."""
_ROOM_LOCK_S: Final = 1.0
"""Nobody holds the lock of an unused environment for longer, unless it is being built anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """All environments of this node, in ``root``; uv's cache is kept among them."""

    root: Path
    builder: Builder
    room_bytes: int
    """For all of them; the longest unused go first, and what a job uses stays."""
    in_use: Callable[[], frozenset[str]]
    """The names of environments that jobs on this machine were prepared with."""
    _pins: Counter[str] = field(default_factory=Counter[str], init=False)
    """Those that jobs being prepared will use."""
    _builds: Counter[str] = field(default_factory=Counter[str], init=False)

    @property
    def _base(self) -> BaseRuntime:
        return self.builder.base

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.root, self.room_bytes)

    def key(self, wanted: Wanted) -> str:
        """Return the name of the environment that these requirements come to."""
        facts = (
            _FORMAT,
            sorted(wanted.install),
            sorted(wanted.constraints),
            self._base.fingerprint(),
        )
        return sha256(msgspec.json.encode(facts)).hexdigest()[:32]

    @contextlib.asynccontextmanager
    async def found_or_built(
        self, wanted: Wanted, progress: Progress
    ) -> AsyncGenerator[Path | None]:
        """Hold the folder to show at ``JOB``; None when the base has all that is wanted.

        Inside the block it is not removed; afterwards ``in_use`` must name it to keep it. Cancelling
        a build ends it; whoever waits for the same one then builds it.

        Raises:
            PrepareFailed: it cannot be built.
        """
        for line in wanted.left_out:
            await progress("environment", f"left out: {line}")
        if not wanted.install:
            yield None
            return
        key = self.key(wanted)
        self._pins[key] += 1
        try:
            yield await self._find_or_build(key, wanted, progress)
        finally:
            self._pins[key] -= 1

    async def _find_or_build(self, key: str, wanted: Wanted, progress: Progress) -> Path:
        path, shelf = self.root / key, self._shelf
        self.root.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            async with locked(shelf.lock(key)):
                if not path.exists():
                    await self._build(path, wanted, progress)
                    await trio.to_thread.run_sync(shelf.note_built, key)
            await self._make_room()
        shelf.note_use(key)
        return path

    async def _make_room(self) -> None:
        """Remove what no longer fits. Another process's build is never waited for."""
        shelf = self._shelf
        used = self.in_use() | frozenset(+self._pins)
        for key in await trio.to_thread.run_sync(shelf.surplus, used):
            with trio.move_on_after(_ROOM_LOCK_S):
                async with locked(shelf.lock(key)):
                    # Asked again, without a pause: a job may have come for it.
                    if not self._pins[key] and key not in self.in_use():
                        log.info("environment %s is removed to make room", key)
                        shelf.remove(key)
        if not +self._builds:
            shelf.empty_cache(self.builder.cache)

    async def _build(self, path: Path, wanted: Wanted, progress: Progress) -> None:
        self._builds[path.name] += 1
        try:
            await self._build_anew(path, wanted, progress)
        finally:
            self._builds[path.name] -= 1

    async def _build_anew(self, path: Path, wanted: Wanted, progress: Progress) -> None:
        partial = path.with_name(f"{path.name}.new")
        remove_tree(partial)
        site = f"{BASE}/{self._base.interpreter.site_packages}\n"
        make_venv(partial, self._base.interpreter, pth={"robocompute_base.pth": site})
        files = {"requirements.txt": "\n".join(wanted.install) + "\n"}
        arguments = ["-r", f"{TOOLS}/requirements.txt"]
        if wanted.constraints:
            files["constraints.txt"] = "\n".join(wanted.constraints) + "\n"
            arguments += ["-c", f"{TOOLS}/constraints.txt"]
        owned = self._base.packages()
        if owned:
            # Never installed again: a second torch would be gigabytes, and not the one for this GPU.
            nowhere = (f"{name} ; sys_platform == 'never'\n" for name in sorted(owned))
            files["overrides.txt"] = "".join(nowhere)
            arguments += ["--overrides", f"{TOOLS}/overrides.txt"]
            await self._say_what_the_base_has(wanted, owned, progress)
        await progress("environment", "Installing collected packages…")
        try:
            await self.builder.install(partial, JOB, arguments, files, progress)
        except BuildFailed as exc:
            remove_tree(partial)
            raise PrepareFailed(
                f"the requirements could not be installed:\n{exc}", cause=Cause.ENVIRONMENT_FAILED
            ) from exc
        except BaseException:
            remove_tree(partial)
            raise
        partial.rename(path)

    async def _say_what_the_base_has(
        self, wanted: Wanted, owned: Mapping[str, str], progress: Progress
    ) -> None:
        for name in sorted({name_of(line) for line in wanted.install} & owned.keys()):
            await progress("environment", f"{name} {owned[name]} is in the base runtime already")
