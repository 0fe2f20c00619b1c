"""Runs on disk: one line a record in ``{run}.jsonl``, everything else in ``{run}.meta.json``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

FORBIDDEN: Final = ("/", "/etc", "/sys", "/dev", "/bin", "/sbin", "/usr", "/var", "/boot", "/proc")
"""Folders that are never a data folder: a slip there would litter the system."""
TAIL_BYTES: Final = 1_048_576
"""How far back the last record of a resumed run is looked for: far more than any record."""


def data_folder(given: str | os.PathLike[str] | None, environment: Mapping[str, str]) -> Path:
    """``given``, else ASPARA_DATA_DIR, else $XDG_DATA_HOME/aspara, else ~/.local/share/aspara.

    Raises:
        ValueError: ASPARA_DATA_DIR names a system directory.
    """
    if given is not None:
        return Path(given).expanduser().absolute()
    if stated := environment.get("ASPARA_DATA_DIR"):
        path = Path(os.path.normpath(Path(stated).expanduser().absolute()))
        if str(path) in FORBIDDEN:
            raise ValueError(f"ASPARA_DATA_DIR cannot be set to system directory: {path}")
        return path
    if base := environment.get("XDG_DATA_HOME"):
        return Path(base) / "aspara"
    return Path.home() / ".local" / "share" / "aspara"


class RunFiles:
    """The files of one run. ``append`` is safe from several threads and processes."""

    def __init__(self, data: Path, project: str, run: str) -> None:
        self.folder = data / project
        self.metrics = self.folder / f"{run}.jsonl"
        self.meta = self.folder / f"{run}.meta.json"
        self.artifacts = self.folder / run / "artifacts"
        self._descriptor: int | None = None

    def exist(self) -> bool:
        return self.meta.exists() or self.metrics.exists()

    def open(self) -> None:
        """Make the folders and open the record file at its end. Raises: OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(self.metrics, flags, 0o600)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            # A machine that lost power in the middle of a line: keep it from spoiling the next.
            os.write(self._descriptor, b"\n")

    def append(self, line: bytes) -> None:
        """Add one whole line in one write: a reader, or a kill, never sees a half. Raises: OSError."""
        assert self._descriptor is not None
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.write(self._descriptor, b"\n")
            raise OSError(f"only {written} of {len(line)} bytes were written to {self.metrics}")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def last_step(self) -> int | None:
        """The highest step among the last records; None when there is none."""
        try:
            with self.metrics.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return None
        steps: list[int] = []
        for line in lines:
            try:
                record: Any = json.loads(line)
                steps.append(int(record["step"]))
            except (ValueError, TypeError, KeyError):
                continue
        return max(steps, default=None)

    def read_meta(self) -> dict[str, Any]:
        """What is known of the run; empty when nothing is. Raises: ValueError, OSError."""
        try:
            loaded: Any = json.loads(self.meta.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the run's meta file, whole or not at all. Raises: OSError."""
        replace_json(self.meta, meta)


def note_project(data: Path, project: str, tags: list[str] | None, now_ms: int) -> None:
    """Make or refresh a project's metadata. Raises: OSError."""
    path = data / project / "metadata.json"
    now = datetime.fromtimestamp(now_ms / 1_000, tz=UTC).isoformat()
    try:
        loaded: Any = json.loads(path.read_text(encoding="utf-8"))
        known = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    except (FileNotFoundError, ValueError):
        known = {}
    merged = list(dict.fromkeys([*known.get("tags", []), *(tags or [])]))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_json(
        path,
        {
            "notes": known.get("notes", ""),
            "tags": merged,
            "created_at": known.get("created_at", now),
            "updated_at": now,
        },
    )


def replace_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document for its owner only, whole or not at all. Raises: OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
