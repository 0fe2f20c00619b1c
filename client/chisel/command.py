"""The command itself: which script it runs, and how it reads seen from the upload folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAKES_VALUE: Final = frozenset({"-W", "-X", "--check-hash-based-pycs"})
"""Options of the interpreter whose value is the next word."""


def script_position(command: Sequence[str]) -> int | None:
    """Which word of a ``python`` command is the script; None where there is none (-m, -c, -)."""
    if not PurePath(command[0]).name.startswith("python"):
        return None
    position = 1
    while position < len(command):
        word = command[position]
        if word in _TAKES_VALUE:
            position += 2
        elif word == "--":
            return position + 1 if position + 1 < len(command) else None
        elif word.startswith("-"):
            if word == "-" or (not word.startswith("--") and word[-1:] in ("m", "c")):
                return None
            if not word.startswith("--") and word[1] in "mc":
                return None
            position += 1
        else:
            return position
    return None


def require_inside(script: Path, upload_dir: Path) -> None:
    """Refuse a script that would not be in the job's folder.

    Raises:
        AssertionError: it is not inside ``upload_dir``. Both paths are absolute.
    """
    if not script.resolve().is_relative_to(upload_dir.resolve()):
        raise AssertionError(f"Script {script} is not inside upload_dir {upload_dir}")


def as_seen_from(command: Sequence[str], upload_dir: Path, here: Path) -> list[str]:
    """The command as it runs in the upload folder. Only the script's own path may change.

    Raises:
        AssertionError: the script is not inside the upload folder.
        FileNotFoundError: there is no such script.
    """
    words = list(command)
    position = script_position(words)
    if position is None:
        return words
    written = words[position]
    script = Path(os.path.normpath(here / written))
    require_inside(script, upload_dir)
    if not script.exists():
        raise FileNotFoundError(f"there is no script {script}")
    if not Path(written).is_absolute() and here.resolve() == upload_dir.resolve():
        return words
    try:
        relative = script.relative_to(upload_dir)
    except ValueError:
        relative = script.resolve().relative_to(upload_dir.resolve())
    words[position] = relative.as_posix()
    return words


def default_app_name(command: Sequence[str], upload_dir: Path) -> str:
    """A name for the job nobody named: the script's stem, or the folder's name."""
    position = script_position(command)
    if position is not None:
        return PurePath(command[position]).stem
    return upload_dir.resolve().name or "app"
