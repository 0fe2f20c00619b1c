"""``init``: make a node's folder, keys and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json

if TYPE_CHECKING:
    from pathlib import Path

ROLES = ("client", "provider")


@click.command("init")
@data_option
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(ROLES),
    default=("client",),
    show_default=True,
    help="What the node is for; may be given twice.",
)
@click.option("--program-id", metavar="ADDRESS", help="The settlement program.")
@click.option("--mint", metavar="ADDRESS", help="The mint jobs are paid in.")
@click.option("--rpc-url", metavar="URL", help="Solana JSON-RPC.")
@click.option("--ws-url", metavar="URL", help="Solana websocket.")
@click.option(
    "--wallet",
    metavar="ADDRESS",
    help="A wallet whose secret stays elsewhere: none is made here, and what moves its money is "
    "signed there.",
)
@click.option("--bootstrap", multiple=True, metavar="MULTIADDR", help="A node to meet first.")
@json_option
def init_command(
    data: Path,
    roles: tuple[str, ...],
    program_id: str | None,
    mint: str | None,
    rpc_url: str | None,
    ws_url: str | None,
    wallet: str | None,
    bootstrap: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a node in DIR: settings, two keys and an API key.

    What is there already is kept as it is: keys are never overwritten, so running this again only
    adds what is missing.
    """
    from robocompute_node.founding import found_node
    from robocompute_protocol.identifiers import to_base58

    if wallet is not None:
        _check_wallet(wallet)

    chain = {
        "rpc_url": rpc_url, "ws_url": ws_url, "program_id": program_id, "mint": mint,
        "wallet": wallet,
    }  # fmt: skip
    document: dict[str, dict[str, object]] = {
        "node": {"roles": list(dict.fromkeys(roles))},
        "p2p": {"bootstrap": list(bootstrap)},
        "chain": {key: value for key, value in chain.items() if value is not None},
    }
    founded = found_node(data, document)
    answer = {
        "data": str(data),
        "node_key": to_base58(founded.node_key.public),
        "wallet_address": to_base58(founded.wallet_address),
        "made": [path.name for path in founded.made],
    }
    if wallet not in (None, answer["wallet_address"]):
        answer["kept"] = (
            f"the wallet is {answer['wallet_address']} still, and not {wallet}: to change it, edit "
            f"wallet in [chain] of {founded.config.path}"
        )
    if as_json:
        say_json(answer)
        return
    say(f"Node in {data}: {', '.join(founded.config.node.roles)}")
    say(f"  node key  {answer['node_key']}")
    say(f"  wallet    {answer['wallet_address']}")
    made = answer["made"]
    say(f"  made      {', '.join(made) if made else 'nothing: everything was there already'}")
    if "kept" in answer:
        say(f"! {answer['kept']}")
    if founded.config.wallet_path.exists():
        say(f"Back up {founded.config.wallet_path}: it is the money. Then:")
    else:
        say("The wallet's secret is not here: its commands take --unsigned FILE. Then:")
    say(f"  robocompute-node doctor --data {data}    what this machine lacks")
    if founded.config.is_provider:
        say(f"  robocompute-node stake register --data {data}    and a stake: docs/money.md")
    say(f"  robocompute-node run --data {data}")


def _check_wallet(text: str) -> None:
    from robocompute_protocol.identifiers import address_from_base58
    from robocompute_settlement.addresses import has_a_key

    try:
        held = has_a_key(address_from_base58(text))
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--wallet") from None
    if not held:
        raise click.BadParameter(
            f"{text} is no wallet: no key can exist for it", param_hint="--wallet"
        )
