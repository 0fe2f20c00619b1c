"""``peers``: who the running node is connected to, and whether it can be reached itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS: Final = ("peer", "found", "by", "dialled_by", "address")
REACH: Final[Mapping[str, str]] = {
    "direct": "Other nodes can dial this one.",
    "not": "Other nodes cannot dial this one.",
    "unknown": "Whether other nodes can dial this one is not known yet: none outside has tried.",
}


@click.command("peers")
@data_option
@json_option
def peers_command(data: Path, as_json: bool) -> None:
    """Show the nodes that the node of DIR is connected to, how each was found, and how it is reached."""
    from robocompute_node.config_file import load_config
    from robocompute_node.rest_client import RestClient

    network: dict[str, Any] = RestClient.of(load_config(data)).get("/node")["network"]
    shown = {key: network[key] for key in ("reach", "relayed_by", "known", "neighbours")}
    if as_json:
        say_json(shown)
        return
    say(REACH[shown["reach"]])
    if shown["relayed_by"]:
        say(f"It is reached through {', '.join(shown['relayed_by'])}.")
    elif shown["reach"] == "not":
        say("Nor has it a relay yet: forward its port and set [p2p] announce, or wait for one.")
    if not shown["neighbours"]:
        say("No peers: set [p2p] bootstrap, or [p2p] lan where others are in the same network.")
        return
    say(f"Peers: {len(shown['neighbours'])} connected, {shown['known']} heard of")
    say_table([[each[key] for key in COLUMNS] for each in shown["neighbours"]], head=list(COLUMNS))
