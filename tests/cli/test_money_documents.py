"""docs/money.md names every money command, and every option that it alone has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from robocompute_node.cli.main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (Path(__file__).parents[2] / "docs" / "money.md").read_text()
MONEY = ("wallet", "channels", "stake", "earnings", "payout", "invoices")
EVERYWHERE = {"--data", "--json", "--currency", "--yes", "--unsigned", "--help"}
"""Explained once, at the top."""


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call it."""
    yield name, command
    if isinstance(command, click.Group):
        for word, below in command.commands.items():
            yield from commands(f"{name} {word}", below)


def money_commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in MONEY:
        module = importlib.import_module(COMMANDS[name])
        found += commands(name, getattr(module, f"{name}_command"))
    return found


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*each, id=each[0]) for each in money_commands()]
)
def test_every_money_command_and_option_is_in_the_guide(
    words: str, command: click.Command
) -> None:
    if words != "wallet delegate":  # a group that does nothing by itself
        rows = [line for line in TEXT.splitlines() if f"`robocompute-node {words}" in line]
        assert rows, words
    text = "\n".join(line for line in TEXT.splitlines() if words in line)
    for option in command.params:
        for name in option.opts:
            if name.startswith("--") and name not in EVERYWHERE:
                assert name in text, f"{words} {name}"


def test_every_command_in_the_guide_exists() -> None:
    known = {words for words, _ in money_commands()} | {"init", "run", "chain recover"}
    named = re.findall(r"robocompute-node ([a-z -]+?)(?= [A-Z`\[-]|`|\n| #| +$)", TEXT)
    assert named
    for words in named:
        found = words.strip()
        while found and found not in known:
            found = found.rpartition(" ")[0]
        assert found, words
