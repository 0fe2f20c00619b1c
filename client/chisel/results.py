"""Bringing a task's results home, whatever names a provider gave them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute import RoboComputeClient


class UnsafePath(Exception):
    """A result's path leads out of its folder."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came home."""

    folder: Path
    files: tuple[Path, ...]
    traces: tuple[Path, ...]
    receipt: Path | None
    refused: tuple[str, ...] = ()


def pull(client: RoboComputeClient, task_id: str, out: Path) -> Pulled:
    """Fetch all results and the receipt of an ended task into ``out/<task_id>``.

    A file appears whole or not at all; pulling again replaces what is there. Traces are also put
    side by side in ``traces/``.

    Raises: RoboComputeError, OSError.
    """
    folder = out / PurePosixPath(task_id).name
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    traces: list[Path] = []
    refused: list[str] = []
    for entry in client.tasks.artifacts(task_id):
        path = str(entry["path"])
        try:
            target = place(folder, path)
        except UnsafePath:
            refused.append(path)
            continue
        _fetch(client, task_id, path, target, int(entry.get("mode", 0o644)))
        files.append(target)
        if is_trace(path):
            traces.append(_beside(folder / "traces", target))
    receipt = client.tasks.receipt(task_id)
    receipt_path = None
    if receipt is not None:
        receipt_path = folder / "receipt.json"
        _replace(receipt_path, json.dumps(receipt, indent=2, ensure_ascii=False).encode() + b"\n")
    return Pulled(folder, tuple(files), tuple(traces), receipt_path, tuple(refused))


def place(folder: Path, path: str) -> Path:
    """Where ``path`` goes below ``folder``; the folders in between exist afterwards.

    Raises:
        UnsafePath: it is absolute, climbs, or one of those folders is a link.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise UnsafePath(path)
    target = folder
    for part in parts[:-1]:
        target /= part
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UnsafePath(path)
        target.mkdir(exist_ok=True)
    target /= parts[-1]
    if target.is_symlink() or target.is_dir():
        raise UnsafePath(path)
    return target


def is_trace(path: str) -> bool:
    """Whether it is ``volume/<app>/<job>/traces/<name>.json``."""
    parts = path.split("/")
    return (
        len(parts) == 5
        and parts[0] == "volume"
        and parts[3] == "traces"
        and path.endswith(".json")
    )


def _fetch(client: RoboComputeClient, task_id: str, path: str, target: Path, mode: int) -> None:
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            client.tasks.download(task_id, path, file.write)
        partial.chmod((mode & 0o755) | 0o600)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _beside(folder: Path, trace: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / trace.name
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        target.hardlink_to(trace)
        return target
    shutil.copyfile(trace, target)
    return target


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


def described(pulled: Pulled) -> Iterable[str]:
    """Lines for a person."""
    count = len(pulled.files)
    yield f"{count} result file{'' if count == 1 else 's'} in {pulled.folder}"
    for trace in pulled.traces:
        yield f"trace {trace}"
    for path in pulled.refused:
        yield f"refused {path!r}: it leads out of the folder"
