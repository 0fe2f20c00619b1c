"""What a run was asked for: flags before the command, saved answers, and defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_TIMEOUT: Final = 3600
"""Seconds a job may run unless it asks for more: what a forgotten job can cost is bounded."""

_GPU = re.compile(r"([A-Za-z][A-Za-z0-9 _-]*)(?::([1-9][0-9]?))?")
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DURATION = re.compile(r"([0-9]+)(s|m|h|d)?")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class UsageError(Exception):
    """The command line or the saved answers make no sense; the text says what does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything a run can be told. None: not said, so the default or a person decides."""

    app_name: str | None = None
    upload_dir: str | None = None
    requirements: str | None = None
    """Path below the upload folder; "" for none although requirements.txt is there."""
    gpu: str | None = None
    max_price: str | None = None
    timeout: int | None = None
    """Seconds."""
    env: tuple[tuple[str, str], ...] = ()
    provider: str | None = None
    wait: bool = False
    yes: bool = False
    out: str = "chisel-out"
    json: bool = False
    detach: bool = False
    preview: bool = False
    verbose: bool = False
    interactive: bool = False

    def over(self, saved: Options) -> Options:
        """These options where they say something, the saved ones where they do not."""
        defaults = Options()
        merged = {
            f.name: getattr(saved, f.name)
            for f in fields(self)
            if getattr(self, f.name) == getattr(defaults, f.name)
        }
        own_env = dict(self.env)
        merged["env"] = tuple({**dict(saved.env), **own_env}.items())
        return replace(self, **merged)


_VALUED: Final = {
    "--app-name": "app_name",
    "-a": "app_name",
    "--upload-dir": "upload_dir",
    "-d": "upload_dir",
    "--requirements": "requirements",
    "-r": "requirements",
    "--gpu": "gpu",
    "-g": "gpu",
    "--max-price": "max_price",
    "--timeout": "timeout",
    "--env": "env",
    "-e": "env",
    "--provider": "provider",
    "--out": "out",
    "-o": "out",
}
_SWITCHES: Final = {
    "--wait": "wait",
    "--yes": "yes",
    "-y": "yes",
    "--json": "json",
    "--detach": "detach",
    "--preview": "preview",
    "-p": "preview",
    "--verbose": "verbose",
    "--interactive": "interactive",
    "-i": "interactive",
}
_SAVED: Final = frozenset(
    {
        "app_name", "upload_dir", "requirements", "gpu", "max_price", "timeout", "env",
        "provider", "out",
    }
)  # fmt: skip


def parse(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Split flags from the command: the first word that is no flag begins it, and is left alone.

    Raises:
        UsageError: an unknown flag, or one without its value.
    """
    said: dict[str, Any] = {}
    env: list[tuple[str, str]] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag in _SWITCHES and not equals:
            said[_SWITCHES[flag]] = True
            continue
        if flag not in _VALUED:
            raise UsageError(f"unknown flag {word}: `chisel --help` lists them")
        if not equals:
            if not rest:
                raise UsageError(f"{flag} needs a value")
            value = rest.pop(0)
        name = _VALUED[flag]
        if name == "env":
            env.append(_env(value))
        else:
            said[name] = _checked(name, value)
    return Options(**said, env=tuple(dict(env).items())), rest


def saved_answers(folder: Path) -> Options:
    """Answers from ``chisel.toml``, or ``[tool.chisel]`` in ``pyproject.toml``, of one folder.

    Raises:
        UsageError: the file cannot be read, or says something unknown.
    """
    for name in ("chisel.toml", "pyproject.toml"):
        path = folder / name
        if not path.is_file():
            continue
        import tomllib

        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        table: Any = document if name == "chisel.toml" else document.get("tool", {}).get("chisel")
        if table is None:
            continue
        return _of_table(path, table)
    return Options()


def _of_table(path: Path, table: Any) -> Options:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: [tool.chisel] is not a table")
    said: dict[str, Any] = {}
    entries: dict[str, Any] = table  # pyright: ignore[reportUnknownVariableType]
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in _SAVED:
            raise UsageError(
                f"{path}: unknown setting {key!r}; known: {', '.join(sorted(_SAVED))}"
            )
        if name == "env":
            if not isinstance(value, dict):
                raise UsageError(f"{path}: env is a table of names and values")
            pairs: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
            said["env"] = tuple((k, str(v)) for k, v in pairs.items())
        else:
            said[name] = _checked(name, str(value))
    return Options(**said)


def _checked(name: str, value: str) -> Any:
    if name == "gpu":
        return gpu(value)
    if name == "timeout":
        match = _DURATION.fullmatch(value)
        if match is None or int(match[1]) == 0:
            raise UsageError(f"{value!r} is not a time limit: seconds, or like 30m, 2h, 1d")
        return int(match[1]) * _SECONDS[match[2] or ""]
    if name == "max_price" and _AMOUNT.fullmatch(value) is None:
        raise UsageError(f"{value!r} is not a price: a decimal per hour, like 2.50")
    if name == "app_name" and not value.strip():
        raise UsageError("App name is required!")
    return value


def gpu(value: str) -> str:
    """A GPU as tasks name it: ``""`` for none, a bare number for that many A100-80GB.

    Raises:
        UsageError: it is neither a number nor like H100 or H100:2.
    """
    value = value.strip()
    if value.lower() in ("", "cpu", "none", "0"):
        return ""
    if value.isdigit():
        value = f"A100-80GB:{int(value)}"
    match = _GPU.fullmatch(value)
    if match is None:
        raise UsageError(f"{value!r} is not a GPU: a number, or a model like H100 or A100-80GB:2")
    return f"{match[1]}:{match[2] or 1}"


def _env(text: str) -> tuple[str, str]:
    import os

    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(f"{text!r} is not an environment variable: NAME=VALUE")
    if equals:
        return name, value
    if name not in os.environ:
        raise UsageError(f"--env {name}: it is not set here, so say {name}=VALUE")
    return name, os.environ[name]
