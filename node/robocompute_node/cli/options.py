"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from robocompute_node.logs import LEVELS

DEFAULT_DATA: Final = "~/.robocompute"


def _expand(_context: click.Context, _parameter: click.Parameter, value: str) -> Path:
    return Path(value).expanduser().absolute()


data_option = click.option(
    "--data",
    metavar="DIR",
    default=DEFAULT_DATA,
    envvar="ROBOCOMPUTE_HOME",
    show_default=True,
    show_envvar=True,
    callback=_expand,
    help="The node's data folder.",
)


def _expand_or_inherit(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Path | None:
    return context.find_object(Path) if value is None else _expand(context, parameter, value)


inner_data_option = click.option(
    "--data",
    metavar="DIR",
    default=None,
    callback=_expand_or_inherit,
    help="The node's data folder; may also stand before the subcommand.",
)
"""For commands of a group that has ``data_option`` and keeps its value as the context's object."""
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
log_level_option = click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Least important level that is logged to stderr.",
)
