"""A node's settings as a file: ``config.toml`` read, written with comments, and documented.

An unknown key is an error: a misspelt setting must not silently mean its default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any

from robocompute_node.config import CONFIG_NAME, SECTIONS, NodeConfig
from robocompute_node.settings import ABOUT, About
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """One setting as the documentation shows it."""

    section: str
    key: str
    default: str | None
    """As TOML; None: not set, or where ``required`` there is none."""
    required: bool
    bound: str
    doc: str

    def row(self) -> str:
        """Return the setting's row in the table of docs/node.md."""
        default = "must be set" if self.required else "not set"
        if self.default is not None:
            default = f"`{self.default}`"
        return f"| `[{self.section}] {self.key}` | {default} | {self.bound} | {self.doc} |"


def documented() -> Iterator[SettingLine]:
    """Every setting, in file order."""
    for section, kind in SECTIONS.items():
        for item in fields(kind):
            explained = _about(item)
            required = item.default is MISSING
            unset = required or item.default is None
            yield SettingLine(
                section=section,
                key=item.name,
                default=None if unset else explained.kind.show(item.default),
                required=required,
                bound=explained.kind.bound,
                doc=explained.doc,
            )


def load_config(data_dir: Path) -> NodeConfig:
    """Read the settings of the node in ``data_dir``.

    Raises:
        ConfigError: no such node, not TOML (with the line), an unknown key (with the nearest known
            one), or a value out of bounds. One line, with the next step.
    """
    path = data_dir / CONFIG_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no node in {data_dir}: make one with `robocompute-node init --data {data_dir}`",
            details={"path": str(path)},
        ) from None
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be read ({exc.strerror}): check its owner and mode"
        ) from exc
    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{path} is not TOML: {exc}. Correct that place, or move the file away and run "
            f"`robocompute-node init --data {data_dir}` for a fresh one",
            details={"path": str(path)},
        ) from None
    return parse_config(document, data_dir=data_dir, source=str(path))


def parse_config(document: Mapping[str, object], *, data_dir: Path, source: str) -> NodeConfig:
    """Turn a parsed file into settings; ``source`` names it in errors.

    Raises:
        ConfigError: as ``load_config``.
    """
    sections: dict[str, object] = {}
    for name in document:
        if name not in SECTIONS:
            raise ConfigError(f"{source}: no such section [{name}]{_nearest(name, SECTIONS)}")
    for name, kind in SECTIONS.items():
        table = document.get(name, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {name} must be a section: write [{name}]")
        sections[name] = _read_section(name, kind, table, source)  # pyright: ignore[reportUnknownArgumentType]
    return NodeConfig(data_dir=data_dir, **sections)  # type: ignore[arg-type]


def _read_section(
    section: str, kind: type[Any], table: Mapping[str, object], source: str
) -> object:
    known = {item.name: item for item in fields(kind)}
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                f"{source}: no such setting {key} in [{section}]{_nearest(key, known)}",
                details={"section": section, "key": key},
            )
        explained = _about(known[key])
        try:
            values[key] = explained.kind.read(value)
        except ValueError as exc:
            raise ConfigError(
                f"{source}: {key} in [{section}] {exc}, not {value!r}",
                details={"section": section, "key": key},
            ) from None
    for key, item in known.items():
        if item.default is MISSING and key not in values:
            raise ConfigError(
                f"{source}: {key} in [{section}] is not set: {_about(item).doc}",
                details={"section": section, "key": key},
            )
    return kind(**values)


def config_text(values: Mapping[str, Mapping[str, object]]) -> str:
    """Write a commented file with ``values`` (section → key → value as in NodeConfig).

    All other settings stand there as comments, with their defaults.
    """
    lines = ["# A RoboCompute node's settings. Lines that begin with # are the defaults.", ""]
    for section, kind in SECTIONS.items():
        chosen = values.get(section, {})
        lines += [f"[{section}]"]
        for item in fields(kind):
            explained = _about(item)
            lines += [f"# {line}" for line in _wrapped(explained.doc)]
            if item.name in chosen:
                lines.append(f"{item.name} = {explained.kind.show(chosen[item.name])}")
            elif item.default is MISSING:
                lines.append(f"# {item.name} must be set: {explained.kind.bound}")
            elif item.default is None:
                lines.append(f"# {item.name} is not set")
            else:
                lines.append(f"# {item.name} = {explained.kind.show(item.default)}")
        lines.append("")
    return "\n".join(lines)


def _about(item: Field[Any]) -> About:
    explained = item.metadata[ABOUT]
    assert isinstance(explained, About)
    return explained


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": there are {', '.join(known)}"


def _wrapped(doc: str) -> list[str]:
    lines: list[str] = [""]
    for word in doc.split():
        if len(lines[-1]) + len(word) > 95:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines
