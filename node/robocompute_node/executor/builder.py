"""Runs uv in a sandbox, to fill an environment with packages.

That sandbox has no network: uv reaches the package index through a proxy (``egress``), which knows
the index's hosts and otherwise the public internet alone, never this machine or what is around it.
Only wheels are installed (``--only-binary :all:``), so no code of a package runs while it builds.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor import package_index
from robocompute_node.executor.egress import Egress
from robocompute_node.executor.filelock import locked
from robocompute_node.executor.folder import JobFolder, remove_tree
from robocompute_node.executor.log import RecordReader
from robocompute_node.executor.runtime import BASE
from robocompute_node.executor.spawn import AlreadySupervised, Spawner, SpawnFailed
from robocompute_node.executor.spec import Bind, Limits, Spec, write_durably
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from robocompute_node.executor.port import Progress
    from robocompute_node.executor.runtime import BaseRuntime

BUILDER_UID: Final = 199_999
"""The host user that builds, under a root daemon: none of the jobs' users."""
_WALL: Final = Millis(1_800_000)
_SPARE: Final = Millis(60_000)
_MEMORY_BYTES: Final = 8 << 30
_DISK_BYTES: Final = 64 << 30
_PIDS: Final = 1_024
_OUTPUT_RATE: Final = 1 << 20
_LOG_BYTES: Final = 16 << 20
_WORDS: Final = 40
"""The last lines of a failed build that are told."""
_UV: Final = "/env/uv"
TOOLS: Final = "/build"
_CACHE: Final = "/cache"
_WAY_OUT: Final = "/way-out"
_SOCKET: Final = "egress.sock"
_PROXY_PORT: Final = 3128
"""Of the sandbox's own loopback, which nothing else shares."""
_FORWARDER: Final = Path(__file__).with_name("forwarder.py")
_OWN_CACHE: Final = ".uv-cache"
"""uv's cache while the base is added to: inside it, since links go no further than one mount. What
comes this way comes once, and torch kept twice would be 5 GB for nothing."""


class BuildFailed(Exception):
    """uv's own words."""


def find_uv() -> Path | None:
    """Return the uv executable of this installation, or of the PATH."""
    beside = Path(sysconfig.get_path("scripts"), "uv")
    if beside.exists():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Installs packages for the base runtime ``base`` and for environments on top of it."""

    base: BaseRuntime
    bwrap: str
    spawner: Spawner
    environment: Mapping[str, str]
    """The daemon's own: where pip's and uv's settings are."""
    home: Path
    cache: Path
    """uv's, for environments."""

    async def add_to_base(self, packages: Sequence[str], progress: Progress) -> None:
        """Install packages into the base runtime. Environments made so far are built anew.

        Jobs that are running see the new packages appear.

        Raises:
            BuildFailed: uv's own words.
        """
        self.base.ensure()
        async with locked(self.base.path.with_name("base.lock")):
            files = {"requirements.txt": "\n".join(packages) + "\n"}
            arguments = ["-r", f"{TOOLS}/requirements.txt"]
            try:
                await self.install(self.base.path, BASE, arguments, files, progress)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(remove_tree, self.base.path / _OWN_CACHE)
            self.base.remember(packages)

    async def install(
        self,
        venv: Path,
        place: str,
        arguments: Sequence[str],
        files: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Run uv on the environment ``venv``, seen at ``place``.

        Cancelling it ends the build and leaves ``venv`` half filled.

        Raises:
            BuildFailed: uv's own words.
        """
        uv = find_uv()
        if uv is None:
            raise BuildFailed("uv is not installed on this provider")
        folder = JobFolder(venv.with_name(f"{venv.name}.build"))
        await self._clear(folder)
        tools, way_out = folder.path / "tools", folder.path / "way-out"
        tools.mkdir(parents=True)
        way_out.mkdir()
        for name, text in files.items():
            (tools / name).write_text(text)
        for_base = place == BASE
        cache = venv / _OWN_CACHE if for_base else self.cache
        cache.mkdir(parents=True, exist_ok=True)
        uid = BUILDER_UID if os.geteuid() == 0 else None
        if uid is not None:
            await trio.to_thread.run_sync(_give, venv, uid)
            os.chown(cache, uid, uid)
        index = package_index.configured(self.environment, self.home)
        binds = self.base.interpreter.binds() if for_base else self.base.binds()
        binds = [*binds, Bind(str(uv), _UV), Bind(str(venv), place, writable=True)]
        if not for_base:
            binds.append(Bind(str(cache), _CACHE, writable=True))
        (tools / _FORWARDER.name).write_bytes(_FORWARDER.read_bytes())
        binds += [Bind(str(tools), TOOLS), Bind(str(way_out), _WAY_OUT)]
        binds += [Bind(str(path), str(path)) for path in index.paths]
        spec = Spec(
            bwrap=self.bwrap,
            argv=[
                f"{place}/bin/python", "-IS", f"{TOOLS}/{_FORWARDER.name}",
                f"{_WAY_OUT}/{_SOCKET}", str(_PROXY_PORT),
                _UV, "pip", "install", "--python", f"{place}/bin/python",
                "--only-binary", ":all:", *arguments,
            ],
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": "/tmp",  # noqa: S108 (inside)
                "LANG": "C.UTF-8",
                "UV_CACHE_DIR": f"{place}/{_OWN_CACHE}" if for_base else _CACHE,
                "UV_NO_CONFIG": "1",
                "UV_NO_PROGRESS": "1",
                "UV_PYTHON_DOWNLOADS": "never",
                # A hard link would make a cache that stays part of the environment.
                "UV_LINK_MODE": "hardlink" if for_base else "copy",
                "ALL_PROXY": f"http://127.0.0.1:{_PROXY_PORT}",
                **index.env,
            },
            binds=binds,
            cwd="/tmp",  # noqa: S108 (inside)
            limits=Limits(
                wall_ms=_WALL,
                memory_bytes=_MEMORY_BYTES,
                cpu_cores=os.cpu_count() or 1,
                pids=_PIDS,
                disk_bytes=_DISK_BYTES,
                output_rate=_OUTPUT_RATE,
                log_bytes=_LOG_BYTES,
            ),
            measured=[str(venv)],
            uid=uid,
        )  # fmt: skip
        write_durably(str(folder.spec), spec.to_json())
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(Egress(index.way).serve, way_out / _SOCKET)
                fault = await self._watch(folder, progress)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._clear(folder)
        if fault is not None:
            raise BuildFailed(fault)

    async def _watch(self, folder: JobFolder, progress: Progress) -> str | None:
        """Run the build in ``folder`` to its end; return what went wrong."""
        try:
            await self.spawner.spawn(folder, prepaid=Millis(_WALL + _SPARE), reserve=Millis(0))
        except (SpawnFailed, AlreadySupervised) as exc:
            return f"the build sandbox failed: {exc}"

        def finished() -> bool:
            if folder.lost():
                folder.recover()
            return folder.read_exit() is not None

        words: list[str] = []
        async for record in RecordReader(folder, start=0, finished=finished):
            text = record.data.decode(errors="replace").rstrip()
            if text:
                words = [*words[-_WORDS:], text]
                await progress("environment", text)
        end = folder.read_exit()
        return None if end is not None and end.exit_code == 0 else "\n".join(words)

    async def _clear(self, folder: JobFolder) -> None:
        """Take away a build's folder, and the build, should it still be at work."""
        if folder.exists():
            await self.spawner.end(folder)
            await trio.to_thread.run_sync(folder.delete)


def _give(tree: Path, uid: int) -> None:
    """Make a tree a user's own; links themselves, never what they point to."""
    os.chown(tree, uid, uid, follow_symlinks=False)
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            os.chown(Path(folder, name), uid, uid, follow_symlinks=False)
