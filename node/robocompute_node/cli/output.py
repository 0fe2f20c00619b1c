"""What commands print: tables for people, JSON for programs, errors as one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def say(text: str = "") -> None:
    """Print a line of the command's answer."""
    click.echo(text)


def say_progress(text: str) -> None:
    """Print what is being waited for, apart from the answer."""
    click.echo(text, err=True)


def say_error(message: str) -> None:
    """Print a failure: always one line."""
    click.echo("robocompute-node: " + " ".join(message.split()), err=True)


def say_json(value: object) -> None:
    """Print the answer for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def counted(number: int, thing: str) -> str:
    """Return ``1 line`` or ``2 lines``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def say_table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = ()) -> None:
    """Print columns, as wide as their widest cell."""
    lines = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    if not lines:
        return
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
