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
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
log_level_option = click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Least important level that is logged to stderr.",
)
