"""``status`` and ``offers``: what the running node is, sees and does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from robocompute_node.cli.money import LIMIT
from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table
from robocompute_protocol.limits import MAX_SLOTS
from robocompute_protocol.messages import CLASSES
from robocompute_protocol.money import parse_amount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from robocompute_node.rest_client import RestClient
    from robocompute_protocol.money import MicroUnits


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
    say_table([[f"  {key}", _cell(value) or "none"] for key, value in shown.items()])
    say("Wallet")
    say_table([[f"  {key}", _cell(value)] for key, value in answer["wallet"].items()])
    say(f"Offers: {len(answer['offers'])}")
    _say_offers(answer["offers"])
    say(f"Latest jobs: {len(answer['tasks'])}")
    _say_tasks(answer["tasks"])


@click.command("offers")
@data_option
@json_option
@click.option(
    "--class", "resource_class", type=click.Choice(CLASSES), help="Only offers of this class."
)
@click.option("--gpus", type=click.IntRange(0, MAX_SLOTS), default=0, help="With so many slots.")
@click.option("--max-price", type=LIMIT, help="At most, for an hour of one slot.")
@click.option("--staked", is_flag=True, help="Only those with a stake behind all their slots.")
def offers_command(
    data: Path,
    as_json: bool,
    resource_class: str | None,
    gpus: int,
    max_price: MicroUnits | None,
    staked: bool,
) -> None:
    """Show the live offers that the node of DIR has heard of, with their age.

    Whether one can be had now, only its provider's answer to a job tells.
    """
    wanted = "" if resource_class is None else f"?resource_class={resource_class}"
    heard = _client(data).get(f"/offers{wanted}")["offers"]
    offers = [
        offer
        for offer in heard
        if offer["slots"] >= gpus
        and (offer["staked"] or not staked)
        and (max_price is None or parse_amount(offer["price_per_hour"]) <= max_price)
    ]
    if as_json:
        say_json({"offers": offers})
    elif offers:
        _say_offers(offers)
    elif heard:
        say(f"None of the {len(heard)} offers is like that.")
    else:
        say(
            "No offers yet: the node has met no provider. `robocompute-node status` shows its peers."
        )


OFFER_COLUMNS: Final = (
    "provider", "resource_class", "model", "slots", "price_per_hour", "age_s", "staked",
    "gpu_memory_mib", "cpu_cores", "memory_mib", "location",
)  # fmt: skip
"""What a person chooses by; ``--json`` has the rest."""


def _say_offers(offers: list[dict[str, Any]]) -> None:
    if offers:
        rows = [[_cell(offer.get(key)) for key in OFFER_COLUMNS] for offer in offers]
        say_table(rows, head=list(OFFER_COLUMNS))


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
        shown = [(key, _cell(item)) for key, item in pairs.items()]
        return ", ".join(f"{key} {text}" for key, text in shown if text)
    return str(value)
