"""Reads a stranger's pip requirements: what to install, what is left out, what is refused.

Only names from the provider's own package index are installed. Index options are left out and said
so; paths, URLs and editable installs are refused, because they would let an upload choose what the
provider's network is asked for.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.executor.port import PrepareFailed
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

PROVIDED: Final = frozenset({"chisel", "aspara"})
"""Every sandbox has these already."""
_MAX_DEPTH: Final = 8
_MAX_LINES: Final = 10_000
_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)(?:\s+|=|(?=[^\s-]))(.+)")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PROVIDED_URL = re.compile(r"(?:/|egg=)(?:chisel|aspara)(?:\.git)?(?:[@#&].*)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a requirements file comes to."""

    install: tuple[str, ...]
    constraints: tuple[str, ...]
    left_out: tuple[str, ...]
    """Lines that have no effect here, for the person to see."""


NOTHING: Final = Wanted(install=(), constraints=(), left_out=())


def canonical(name: str) -> str:
    """Return a distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse(line: str, why: str) -> PrepareFailed:
    return PrepareFailed(
        f"the requirement {line!r} cannot be installed here: {why}", cause=Cause.ENVIRONMENT_FAILED
    )


def name_of(line: str) -> str:
    """Return the canonical name at the start of a requirement line."""
    match = _NAME.match(line)
    return canonical(match[0]) if match else ""


def read(path: str, load: Callable[[str], str]) -> Wanted:
    """Read ``path`` and what it includes; ``load`` returns the text of a file of the upload.

    Raises:
        PrepareFailed: a line is refused, or an included file is not there.
    """
    install: dict[str, None] = {}
    constraints: dict[str, None] = {}
    left_out: dict[str, None] = {}

    def take(path: str, into: dict[str, None], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _refuse(path, "files include one another too deeply")
        for line in _logical_lines(load(path)):
            include = _INCLUDE.fullmatch(line)
            if include:
                kind = constraints if line.startswith(("-c", "--c")) else into
                take(
                    posixpath.normpath(posixpath.join(posixpath.dirname(path), include[1])),
                    kind,
                    depth + 1,
                )
            elif line.startswith(("-e", "--editable")):
                if _PROVIDED_URL.search(line):
                    left_out[line] = None
                    continue
                raise _refuse(line, "editable installs build code; upload the package's files")
            elif line.startswith("-") or name_of(line) in PROVIDED or _PROVIDED_URL.search(line):
                left_out[line] = None
            elif (
                "://" in line or " @ " in line or line.startswith((".", "/")) or not name_of(line)
            ):
                raise _refuse(line, "only packages of the provider's index are, by name")
            else:
                into[line] = None
            if len(install) + len(constraints) + len(left_out) > _MAX_LINES:
                raise _refuse(path, f"it has more than {_MAX_LINES:,} lines")

    take(posixpath.normpath(path), install, 0)
    return Wanted(install=tuple(install), constraints=tuple(constraints), left_out=tuple(left_out))


def _logical_lines(text: str) -> list[str]:
    joined = re.sub(r"\\\r?\n", " ", text.removeprefix("\ufeff"))
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]
