"""One experiment: its metrics, parameters, results, tags and files."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from aspara.config import Config, Summary
from aspara.exceptions import NotYetAvailableError, RunAlreadyExistsError
from aspara.messages import say
from aspara.names import (
    generated_run_name,
    require_artifact_name,
    require_project_name,
    require_run_name,
)
from aspara.storage import RunFiles, data_folder, note_project
from aspara.values import json_ready, metric_line, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

CATEGORIES: Final = ("code", "model", "config", "data", "other")
BACKENDS: Final = ("jsonl", "polars")
NAME_ATTEMPTS: Final = 100
"""Names tried for a run nobody named: 196,000 are possible in a project."""


class Run:
    """A run on this machine's disk. Usable from several threads, and as a context manager.

    A record is on disk, in the sense that killing the process cannot lose it, when ``log`` returns.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        dir: str | os.PathLike[str] | None = None,
        tracker_uri: str | None = None,
        storage_backend: str | None = None,
        project_tags: Sequence[str] | None = None,
        resume: bool = False,
        *,
        environment: Mapping[str, str] = os.environ,
        now_ms: Callable[[], int] = lambda: time_ns() // 1_000_000,
    ) -> None:
        self._backend = _backend(storage_backend, environment)
        if tracker_uri is not None:
            raise NotYetAvailableError(
                "tracker_uri is not available in this version: leave it out, and the run is kept "
                "in the data directory of this machine"
            )
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._project = require_project_name("default" if project is None else project)
        self._data = data_folder(dir, environment)
        if name is None:
            name = self._free_name()
        self._name = require_run_name(name)
        self._files = RunFiles(self._data, self._project, self._name)
        resumed = self._files.exist()
        if resumed and not resume:
            raise RunAlreadyExistsError(self._name, self._project)
        meta = self._files.read_meta() if resumed else {}
        self._files.open()
        note_project(self._data, self._project, _texts(project_tags), now_ms())
        self._id: str = meta.get("run_id") or secrets.token_hex(8)
        self._tags: list[str] = list(meta.get("tags", [])) if tags is None else _texts(tags)
        self._notes: str = meta.get("notes", "") if notes is None else notes
        self._params: dict[str, Any] = meta.get("params", {})
        self._artifacts: list[dict[str, Any]] = meta.get("artifacts", [])
        self._start_time: int = meta.get("start_time") or now_ms()
        self._config = Config({**meta.get("config", {}), **(config or {})}, self._save)
        self._summary = Summary(meta.get("summary", {}), self._save)
        self._exit_code: int | None = None
        self._finish_time: int | None = None
        self._finished = False
        last = self._files.last_step() if resumed else None
        self._current_step = 0 if last is None else last + 1
        self._save()
        say(
            f"Run '{self._name}' initialized in project '{self._project}'"
            + (" (resumed)" if resumed else "")
        )
        say(f"Data directory: {self._data}")
        say(f"Writing metrics to: {self._files.metrics}")
        say("View results with: aspara dashboard")

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return self._name

    @property
    def project(self) -> str:
        return self._project

    @property
    def tags(self) -> list[str]:
        return list(self._tags)

    @property
    def notes(self) -> str:
        return self._notes

    @property
    def config(self) -> Config:
        return self._config

    @property
    def summary(self) -> Summary:
        return self._summary

    @property
    def backend(self) -> str:
        return self._backend

    def log(
        self,
        data: Mapping[str, Any],
        step: int | None = None,
        commit: bool = True,
        timestamp: str | float | datetime | None = None,
    ) -> None:
        """Record metrics at ``step``, or at the current one; ``commit`` moves on to the next.

        Raises:
            RuntimeError: the run is finished.
            ValueError: a name, value, step or timestamp is not one. Nothing was recorded.
        """
        with self._lock:
            if self._finished:
                raise RuntimeError("Cannot log to a finished run")
            at = self._current_step if step is None else _step(step)
            when = self._now_ms() if timestamp is None else milliseconds(timestamp)
            self._files.append(metric_line(data, step=at, timestamp=when))
            self._current_step = at + 1 if commit else at

    def finish(self, exit_code: int = 0, quiet: bool = False, flush_timeout: float = 30.0) -> None:
        """End the run; a second time does nothing."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            self._exit_code = exit_code
            self._finish_time = self._now_ms()
            self._save()
            self._files.close()
        if not quiet:
            say(f"Run '{self._name}' finished with exit code {exit_code}")

    def flush(self, timeout: float = 30.0) -> int:
        """How many records still wait to be sent: none ever do, as every one is written at once."""
        return 0

    def log_artifact(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        description: str | None = None,
        category: str | None = None,
    ) -> None:
        """Keep a copy of a file. The same name again replaces it.

        Raises:
            ValueError: no such file, or a wrong name or category.
            RuntimeError: the run is finished.
        """
        if not os.fspath(file_path):
            raise ValueError("File path cannot be empty")
        source = Path(file_path)
        if not source.exists():
            raise ValueError(f"File does not exist: {file_path}")
        if not source.is_file():
            raise ValueError(f"Path is not a file: {file_path}")
        stored = require_artifact_name(source.name if name is None else name)
        if category is not None and category not in CATEGORIES:
            raise ValueError(
                f"Invalid category: {category}. Must be one of: {', '.join(CATEGORIES)}"
            )
        with self._lock:
            if self._finished:
                raise RuntimeError("Cannot modify a finished run")
            self._files.artifacts.mkdir(parents=True, exist_ok=True)
            partial = self._files.artifacts / f".{secrets.token_hex(8)}.part"
            try:
                shutil.copyfile(source, partial)
                target = self._files.artifacts / stored
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            entry: dict[str, Any] = {
                "name": stored,
                "original_path": str(source.absolute()),
                "stored_path": f"artifacts/{stored}",
                "file_size": target.stat().st_size,
                "timestamp": self._now_ms(),
            }
            if description is not None:
                entry["description"] = description
            if category is not None:
                entry["category"] = category
            self._artifacts = [known for known in self._artifacts if known["name"] != stored]
            self._artifacts.append(entry)
            self._save()

    def set_tags(self, tags: Sequence[str]) -> None:
        """Replace the tags. Raises: RuntimeError when the run is finished."""
        with self._lock:
            if self._finished:
                raise RuntimeError("Cannot modify a finished run")
            self._tags = _texts(tags)
            self._save()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(exit_code=0 if kind is None else 1, quiet=True)

    def _save(self) -> None:
        with self._lock:
            status = "wip"
            if self._finished:
                status = "completed" if self._exit_code == 0 else "failed"
            self._files.write_meta(
                {
                    "run_id": self._id,
                    "tags": self._tags,
                    "notes": self._notes,
                    "params": self._params,
                    "config": json_ready(self._config.to_dict()),
                    "artifacts": self._artifacts,
                    "summary": json_ready(self._summary.to_dict()),
                    "is_finished": self._finished,
                    "exit_code": self._exit_code,
                    "status": status,
                    "start_time": self._start_time,
                    "finish_time": self._finish_time,
                }
            )

    def _free_name(self) -> str:
        for _ in range(NAME_ATTEMPTS):
            name = generated_run_name()
            if not RunFiles(self._data, self._project, name).exist():
                return name
        return f"run-{secrets.token_hex(8)}"


def _backend(given: str | None, environment: Mapping[str, str]) -> str:
    stated = environment.get("ASPARA_STORAGE_BACKEND")
    origin = "ASPARA_STORAGE_BACKEND" if stated else "storage_backend"
    chosen = stated or given or "jsonl"
    if chosen not in BACKENDS:
        raise ValueError(
            f"Invalid {origin} value: {chosen!r}. Valid values are: {list(BACKENDS)!r}"
        )
    if chosen == "polars":
        raise NotYetAvailableError(
            "storage_backend 'polars' is not available in this version: use 'jsonl', the default"
        )
    return chosen


def _texts(values: Sequence[str] | None) -> list[str]:
    return [str(value) for value in values or ()]


def _step(step: int) -> int:
    with contextlib.suppress(TypeError):
        return int(step.__index__())
    raise ValueError(f"Invalid step: {step!r}. A step is a whole number")
