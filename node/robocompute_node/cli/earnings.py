"""``earnings``: what was earned, and how far it has come. The node may run or not."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.money import with_accounts, write_new
from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table
from robocompute_node.core.ledger_lines import COLUMNS, GROUPS, date_of, grouped, row_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.config import NodeConfig

csv_option = click.option(
    "--csv",
    "csv_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write every line with its evidence to FILE, for taxes and bookkeeping.",
)
since_option = click.option(
    "--since", metavar="DATE", default="", help="From this day on (like 2026-01-31)."
)
until_option = click.option("--until", metavar="DATE", default="", help="Before this day.")


@click.group("earnings", invoke_without_command=True)
@data_option
@click.option("--by", type=click.Choice(GROUPS), default="day", show_default=True)
@since_option
@until_option
@csv_option
@json_option
@click.pass_context
def earnings_command(
    context: click.Context,
    data: Path,
    by: str,
    since: str,
    until: str,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Show what the node of DIR earned, from receipts and the chain; or settle it."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    told = with_accounts(data, _earnings)
    lines = within(told["lines"], since, until)
    if csv_file is not None:
        write_new(csv_file, csv_of(lines, told["currency"]))
    if as_json:
        groups = [
            {
                "group": total.group,
                "lines": total.lines,
                "settled": shown(total)[1],
                "fees": shown(total)[2],
                "net": shown(total)[3],
                "unsettled": shown(total)[4],
            }
            for total in grouped(lines, by)
        ]
        say_json({**told, "lines": lines, "groups": groups})
        return
    if csv_file is not None:
        say(f"{len(lines)} lines in {csv_file}")
    say(f"Wallet {told['wallet_address']}, {told['currency']}")
    head = [by, "settled", "fees", "net", "not settled"]
    say_table([shown(total) for total in grouped(lines, by)], head=head)
    totals = told["totals"]
    say(
        f"In all {totals['earned']} earned: {totals['settled']} settled, less {totals['fees']} of "
        f"fees {totals['net']}; {totals['unsettled']} not settled yet"
    )
    say(f"Credit of clients, prepaid and not used: {totals['credit']}")
    say_gaps(told)


@earnings_command.command("settle")
@inner_data_option
@json_option
def settle(data: Path, as_json: bool) -> None:
    """Settle all that is owed now, whatever it is worth."""
    told = with_accounts(data, _settle)
    if as_json:
        say_json(told)
        return
    if not told["settled_channels"] and not told["waiting"]:
        say("Nothing waits: all that is owed is settled.")
    elif told["settled_channels"]:
        say(f"{len(told['settled_channels'])} channels settled")
    for transaction in told["transactions"]:
        say(f"  transaction {transaction}")
    for each in told["waiting"]:
        say(f"! {each['channel']} waits: {each['why']}")


async def _earnings(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.earnings())


async def _settle(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.settle())


def within(lines: Iterable[Mapping[str, Any]], since: str, until: str) -> list[Mapping[str, Any]]:
    """Return the lines of some days; ISO dates are in order as text."""
    return [
        line for line in lines if date_of(line) >= since and (not until or date_of(line) < until)
    ]


def csv_of(lines: Iterable[Mapping[str, Any]], currency: str) -> bytes:
    """Return an export: a head, and a row a line."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(row_of(line, currency) for line in lines)
    return text.getvalue().encode()


def say_gaps(told: Mapping[str, Any]) -> None:
    """Say where these books cannot be trusted to be whole."""
    if told["history_whole"]:
        return
    say("! The chain's history here is not whole, so lines are missing:")
    for each in told["differences"]:
        say(f"!   {each['where']}: {each['journal']} by its events, {each['chain']} on the chain")
    say("!   set rpc_url to an endpoint that keeps the whole history")
