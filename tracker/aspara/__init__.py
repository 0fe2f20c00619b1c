"""Track experiments: ``init`` a run, ``log`` its metrics, ``finish`` it.

The module-level functions speak of one current run at a time; ``Run`` objects can be used directly.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from aspara.config import Config, Summary
from aspara.run import Run

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__version__ = "0.1.0"
__all__ = ["Config", "Run", "Summary", "finish", "init", "log"]

_LOCK: Final = threading.RLock()
_current: Run | None = None


def init(
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
) -> Run:
    """Start a run and make it the current one; the one before is finished, without a word.

    A run that its program never finishes is finished when the program ends: as failed if an
    exception ended it.

    Raises:
        ValueError: a name or setting is not one; ``RunAlreadyExistsError`` is such an error.
        NotYetAvailableError: ``tracker_uri``, or the polars backend.
    """
    global _current
    with _LOCK:
        if _current is not None:
            _current.finish(quiet=True)
            _current = None
        _current = Run(
            project=project,
            name=name,
            config=config,
            tags=tags,
            notes=notes,
            dir=dir,
            tracker_uri=tracker_uri,
            storage_backend=storage_backend,
            project_tags=project_tags,
            resume=resume,
        )
        return _current


def log(
    data: Mapping[str, Any],
    step: int | None = None,
    commit: bool = True,
    timestamp: str | float | datetime | None = None,
) -> None:
    """Log metrics to the current run; see ``Run.log``. Raises: RuntimeError, ValueError."""
    run = _current
    if run is None:
        raise RuntimeError("No active run. Call aspara.init() first.")
    run.log(data, step=step, commit=commit, timestamp=timestamp)


def finish(exit_code: int = 0, quiet: bool = False) -> None:
    """Finish the current run; without one, nothing."""
    global _current
    with _LOCK:
        run, _current = _current, None
    if run is not None:
        run.finish(exit_code=exit_code, quiet=quiet)


def config() -> Config | None:
    """The current run's parameters."""
    run = _current
    return None if run is None else run.config


def _get_current_run() -> Run | None:  # pyright: ignore[reportUnusedFunction] - others call it
    return _current


def _finish_at_exit() -> None:
    failed = getattr(sys, "last_type", None) is not None
    finish(exit_code=1 if failed else 0, quiet=True)


atexit.register(_finish_at_exit)
