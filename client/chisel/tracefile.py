"""Where traces go, what they are called, and the few lines a job prints about them."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

VOLUME: Final = "/volume"
"""The job's folder that comes home. ``CHISEL_VOLUME`` moves it, for tests and other backends."""
LOUD_CALLS: Final = 5
"""Calls of one name that are announced: a function called in a loop must not drown the output."""
NAME_CHARACTERS: Final = 100
"""A file name's longest part: file systems allow 255 bytes, and a number and .json are added."""

_UNSAFE = re.compile(r"[^\w.-]+")


def sanitised(name: str) -> str:
    """A file name that resembles ``name``: never empty, hidden, or anywhere else."""
    return _UNSAFE.sub("_", name).lstrip(".-")[:NAME_CHARACTERS] or "trace"


def trace_folder(environment: Mapping[str, str]) -> TraceFolder | None:
    """The folder of this job's traces; None when there is no job."""
    job = environment.get("CHISEL_JOB_ID")
    if not job:
        return None
    app = environment.get("CHISEL_BACKEND_APP_NAME") or "app"
    volume = Path(environment.get("CHISEL_VOLUME") or VOLUME)
    path = volume / sanitised(app) / sanitised(job) / "traces"
    with _FOLDERS_LOCK:
        return _FOLDERS.setdefault(path, TraceFolder(path))


class TraceFolder:
    """Names and writes trace files. Threads and processes may share one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._calls: dict[str, int] = {}

    def next_number(self, name: str) -> int:
        """The number of this call among those of that name: 1, 2, and so on."""
        key = sanitised(name)
        with self._lock:
            number = self._calls.get(key, 0) + 1
            self._calls[key] = number
        return number

    def write(self, name: str, number: int, save: Callable[[Path], None]) -> Path:
        """Let ``save`` write a file and give it its name: whole, and never over another's.

        Raises: OSError.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        stem = sanitised(name)
        partial = self.path / f".{stem}-{number}.{os.getpid()}.{threading.get_ident()}.json"
        try:
            save(partial)
            while True:
                path = self.path / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
                try:
                    path.hardlink_to(partial)
                except FileExistsError:
                    number += 1
                else:
                    return path
        finally:
            partial.unlink(missing_ok=True)

    def say_started(self, name: str, number: int) -> None:
        if number <= LOUD_CALLS:
            announce(f"🔍 Tracing {name}" + (f" (call {number})" if number > 1 else ""))

    def say_written(
        self, name: str, number: int, path: Path, top: Iterable[tuple[str, int, float]]
    ) -> None:
        if number > LOUD_CALLS:
            return
        rows = list(top)
        if number == 1 and rows:
            announce(f"⚡ {name}: where the time went")
            for label, calls, milliseconds in rows:
                announce(f"   {milliseconds:10.2f} ms  {calls:7d} x  {label}")
        announce(f"💾 Trace saved: {path}")
        if number == LOUD_CALLS:
            announce(f"   (further traces of {name} are written without a word)")


def write_chrome_trace(path: Path, events: list[dict[str, Any]], notes: dict[str, Any]) -> None:
    """Write events in the form that Perfetto and chrome://tracing open."""
    document = {"traceEvents": events, "displayTimeUnit": "ms", "metadata": notes}
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def announce(line: str) -> None:
    """Say something on stderr: a job's stdout is its own. Nothing there to write to is no error."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError, UnicodeError):
        return


_FOLDERS: Final[dict[Path, TraceFolder]] = {}
_FOLDERS_LOCK: Final = threading.Lock()
