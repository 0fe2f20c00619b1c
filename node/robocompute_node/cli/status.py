"""``status`` and ``offers``: what the running node is, sees and does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from robocompute_node.rest_client import RestClient


def _client(data: Path) -> RestClient:
    from robocompute_node.config_file import load_config
    from robocompute_node.rest_client import RestClient

    return RestClient.of(load_config(data))


@click.command("status")
@data_option
@json_option
@click.option("--check", is_flag=True, help="Exit with 1 where an alarm stands.")
def status_command(data: Path, as_json: bool, check: bool) -> int:
    """Show the running node of DIR: itself, peers, offers, chain, balances and jobs.

    While the chain does not answer, the balances are missing and "chain" says what is waited for.
    """
    client = _client(data)
    node = client.get("/node")
    _say_status(client, node, as_json=as_json)
    return 1 if check and node["alarms"] else 0


def _say_status(client: RestClient, node: dict[str, Any], *, as_json: bool) -> None:
    answer: dict[str, Any] = {
        "url": client.url,
        "node": node,
        "wallet": {} if node["chain"]["waits_for"] else client.get("/wallet/balance"),
        "offers": client.get("/offers")["offers"],
        "tasks": client.get("/tasks?limit=10")["tasks"],
    }
    if as_json:
        say_json(answer)
        return
    for alarm in node["alarms"]:
        say(f"ALARM {alarm['kind']} {_cell(alarm['channel'])}: {alarm['text']}")
    say(f"Node at {client.url}")
    network = {**node["network"], "neighbours": len(node["network"].get("neighbours", ()))}
    shown = {**node, "network": network}
    say_table([[f"  {key}", _cell(value)] for key, value in shown.items()])
    say("Wallet")
    say_table([[f"  {key}", _cell(value)] for key, value in answer["wallet"].items()])
    say(f"Offers: {len(answer['offers'])}")
    _say_offers(answer["offers"])
    say(f"Latest jobs: {len(answer['tasks'])}")
    _say_tasks(answer["tasks"])


@click.command("offers")
@data_option
@json_option
def offers_command(data: Path, as_json: bool) -> None:
    """Show the live offers that the node of DIR has heard of, with their age."""
    offers = _client(data).get("/offers")["offers"]
    if as_json:
        say_json({"offers": offers})
    elif offers:
        _say_offers(offers)
    else:
        say(
            "No offers yet: the node has met no provider. `robocompute-node status` shows its peers."
        )


def _say_offers(offers: list[dict[str, Any]]) -> None:
    if not offers:
        return
    columns = list(dict.fromkeys(key for offer in offers for key in offer))
    shown = [key for key in columns if any(_cell(offer.get(key)) for offer in offers)][:9]
    say_table([[_cell(offer.get(key)) for key in shown] for offer in offers], head=shown)


def _say_tasks(tasks: list[dict[str, Any]]) -> None:
    if not tasks:
        return
    shown = ["task_id", "name", "status", "stage", "cost", "exit_code", "cause", "message"]
    say_table([[_cell(task.get(key)) for key in shown] for task in tasks], head=shown)


def _cell(value: object) -> str:
    """Write a JSON value in one cell."""
    if value is None:
        return ""
    if isinstance(value, list):
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return ", ".join(_cell(item) for item in items)
    if isinstance(value, dict):
        pairs: Mapping[object, object] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        return ", ".join(f"{key} {_cell(item)}" for key, item in pairs.items())
    return str(value)
