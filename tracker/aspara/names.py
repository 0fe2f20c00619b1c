"""Names of projects, runs and artifacts: which are allowed, and one for a run nobody named."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_NAME: Final = 200
"""Characters: a run's name plus ".meta.json" must fit a file name."""

_PROJECT = re.compile(r"[a-zA-Z0-9_-]+")
_RUN = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9_.-]*")
_ALLOWED = "Only alphanumeric characters, underscores, and hyphens are allowed."
_ADJECTIVES: Final = (
    "happy", "brave", "calm", "clever", "eager", "gentle", "jolly", "kind", "lively", "proud",
    "quick", "quiet", "swift", "wise",
)  # fmt: skip
_NOUNS: Final = (
    "falcon", "tiger", "eagle", "panda", "dolphin", "wolf", "otter", "hawk", "lynx", "fox",
    "heron", "bear", "raven", "whale",
)  # fmt: skip


def require_project_name(name: str) -> str:
    """Raises: ValueError."""
    if len(name) > MAX_NAME or _PROJECT.fullmatch(name) is None:
        raise ValueError(f"Invalid project name. {_ALLOWED}")
    return name


def require_run_name(name: str) -> str:
    """Dots are allowed inside (``lr0.01``), but not a name that another run's files have.

    Raises: ValueError.
    """
    if len(name) > MAX_NAME or _RUN.fullmatch(name) is None or name.endswith((".wal", ".meta")):
        raise ValueError(f"Invalid run name. {_ALLOWED}")
    return name


def require_artifact_name(name: str) -> str:
    """A plain file name, so that an artifact cannot land outside its run's folder.

    Raises: ValueError.
    """
    if not name:
        raise ValueError("Artifact name cannot be empty")
    if name in (".", "..") or any(mark in name for mark in "/\\\0") or len(name.encode()) > 255:
        raise ValueError(f"Invalid artifact name: {name!r}. It must be a plain file name")
    return name


def generated_run_name(choose: Callable[[Sequence[str]], str] = secrets.choice) -> str:
    """Like ``happy-falcon-42``: easy to say, and unlikely to be there already."""
    number = choose([str(value) for value in range(1, 1_000)])
    return f"{choose(_ADJECTIVES)}-{choose(_NOUNS)}-{number}"
