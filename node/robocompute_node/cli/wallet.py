"""``wallet``: the owner's money, with the wallet's own key. The node need not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from robocompute_node.purse import Purse
    from robocompute_settlement.port import Sent

CURRENCIES = ("USDC", "USDT")
currency_option = click.option(
    "--currency", type=click.Choice(CURRENCIES), default="USDC", show_default=True
)


@click.group("wallet", invoke_without_command=True)
@data_option
@json_option
@click.pass_context
def wallet_command(context: click.Context, data: Path, as_json: bool) -> None:
    """Show what the wallet of DIR holds; or move it."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    shown = _with_purse(data, _describe)
    if as_json:
        say_json(shown)
        return
    say(f"Wallet {shown['wallet_address']}")
    rows = [
        [
            h["currency"],
            h["in_wallet"],
            h["available"],
            h["staked"],
            h["fees_owed"],
            h["allowance"],
        ]
        for h in shown["holdings"]
    ]
    head = ["", "in wallet", "in program", "staked", "fees owed", "node may lock"]
    say_table(rows, head=head)
    for name, sol in shown["sol"].items():
        say(f"SOL of the {name}: {sol}")


@wallet_command.command("deposit")
@click.argument("amount")
@currency_option
@inner_data_option
@json_option
def deposit(data: Path, amount: str, currency: str, as_json: bool) -> None:
    """Move AMOUNT from the wallet into the settlement program, where jobs are paid from."""
    units = _amount(amount)
    sent = _with_purse(data, lambda purse: purse.deposit(currency, units))
    _say_sent(sent, f"{amount} {currency} deposited", as_json=as_json)


@wallet_command.command("withdraw")
@click.argument("amount")
@click.option("--to", metavar="ADDRESS", help="Another wallet. Default: this one.")
@currency_option
@inner_data_option
@json_option
def withdraw(data: Path, amount: str, to: str | None, currency: str, as_json: bool) -> None:
    """Pay AMOUNT out of the settlement program."""
    from robocompute_protocol.identifiers import address_from_base58

    units = _amount(amount)
    try:
        target = None if to is None else address_from_base58(to)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--to") from None
    sent = _with_purse(data, lambda purse: purse.withdraw(currency, units, target or purse.wallet))
    _say_sent(sent, f"{amount} {currency} withdrawn to {to or 'the wallet'}", as_json=as_json)


@wallet_command.command("delegate")
@click.option("--allowance", default="100.00", show_default=True, help="Most it may lock in all.")
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 3_650))
@currency_option
@inner_data_option
@json_option
def delegate(data: Path, allowance: str, days: int, currency: str, as_json: bool) -> None:
    """Let the node's key open payment channels. It can never withdraw."""
    import time

    units = _amount(allowance)
    now_s = int(time.time())  # noqa: TID251  the command reads the clock once
    sent = _with_purse(data, lambda purse: purse.delegate(currency, units, now_s=now_s, days=days))
    text = f"the node's key may lock up to {allowance} {currency} for {days} days"
    _say_sent(sent, text, as_json=as_json)


def _with_purse(data: Path, act: Callable[[Purse], Awaitable[Any]]) -> Any:
    import trio

    from robocompute_node.chain_probe import require_chain
    from robocompute_node.config_file import load_config
    from robocompute_node.purse import open_purse

    async def acted() -> Any:
        config = load_config(data)
        await require_chain(config)
        async with open_purse(config) as purse:
            return await act(purse)

    return trio.run(acted)


async def _describe(purse: Purse) -> dict[str, Any]:
    from robocompute_protocol.identifiers import to_base58
    from robocompute_protocol.money import format_amount

    return {
        "wallet_address": to_base58(purse.wallet),
        "sol": await purse.sol(),
        "holdings": [
            {
                "currency": held.symbol,
                "in_wallet": format_amount(held.in_wallet),
                "available": format_amount(held.available),
                "staked": format_amount(held.staked),
                "fees_owed": format_amount(held.fees_owed),
                "allowance": format_amount(held.allowance),
                "delegate": to_base58(held.delegate),
            }
            for held in await purse.holdings()
        ],
    }


def _amount(text: str) -> Any:
    from robocompute_protocol.money import parse_amount

    try:
        return parse_amount(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _say_sent(sent: Sent, text: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"signature": sent.signature, "slot": sent.slot})
    else:
        say(f"{text}; transaction {sent.signature}")
