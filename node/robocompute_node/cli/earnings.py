"""``earnings``: what was earned, and how far it has come. The node may run or not."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.money import with_accounts, write_new
from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import counted, say, say_json, say_table
from robocompute_node.core.ledger_lines import (
    COLUMNS,
    GROUPS,
    earned_of,
    grouped,
    row_of,
    shown,
    within,
)

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


class DayType(click.ParamType[str]):
    """A day of the calendar as YYYY-MM-DD, which days in the books are compared with as text."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            day = date.fromisoformat(value)
        except ValueError:
            day = None
        if day is None or day.isoformat() != value:
            self.fail(f"{value!r} is not a date (like 2026-01-31)", param, ctx)
        return value


since_option = click.option(
    "--since", metavar="DATE", type=DayType(), help="From this day on (like 2026-01-31)."
)
until_option = click.option("--until", metavar="DATE", type=DayType(), help="Before this day.")


def days_of(since: str | None, until: str | None) -> tuple[str, str]:
    """Return the days that were asked for, as the books take them; empty where none was named."""
    if since is not None and until is not None and since >= until:
        raise click.BadParameter(
            f"{until} is not after --since {since}: it is the first day that is not shown",
            param_hint="--until",
        )
    return since or "", until or ""


def days_text(since: str, until: str) -> str:
    """Say which days a total is of."""
    if not since and not until:
        return "In all"
    words = [f"from {since} on"] if since else []
    return " ".join([*words, f"before {until}"] if until else words).capitalize()


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
    since: str | None,
    until: str | None,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Show what the node of DIR earned, from receipts and the chain; or settle it.

    Totals are of the days that are shown; credit is what is there now.
    """
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    days = days_of(since, until)
    told = with_accounts(data, _earnings)
    lines = within(told["lines"], *days)
    totals = {**told["totals"], **earned_of(lines)}
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
        say_json({**told, "totals": totals, "lines": lines, "groups": groups})
        return
    if csv_file is not None:
        say(f"{counted(len(lines), 'line')} in {csv_file}")
    say(f"Wallet {told['wallet_address']}, {told['currency']}")
    head = [by, "settled", "fees", "net", "not settled"]
    say_table([shown(total) for total in grouped(lines, by)], head=head)
    say(
        f"{days_text(*days)} {totals['earned']} earned: {totals['settled']} settled, less {totals['fees']} of "
        f"fees {totals['net']}; {totals['unsettled']} not settled yet"
    )
    say(f"Credit of clients, prepaid and not used now: {totals['credit']}")
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
        say(f"{counted(len(told['settled_channels']), 'channel')} settled")
        before, after = told["unsettled_before"], told["unsettled_after"]
        say(f"  not settled: {before} before, {after} now")
        before, after = told["available_before"], told["available_after"]
        say(f"  available, after fees: {before} before, {after} now")
    for transaction in told["transactions"]:
        say(f"  transaction {transaction}")
    for each in told["waiting"]:
        say(f"! {each['amount']} on {each['channel']} waits: {each['why']}")


async def _earnings(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.earnings())


async def _settle(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.settle())


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
