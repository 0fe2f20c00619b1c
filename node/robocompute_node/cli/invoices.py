"""``invoices``: what each rented agreement came to, and which transactions paid it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.earnings import (
    csv_of,
    csv_option,
    days_of,
    days_text,
    say_gaps,
    since_option,
    until_option,
)
from robocompute_node.cli.money import with_accounts, write_new
from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import counted, say, say_json, say_table
from robocompute_node.core.ledger_lines import invoiced_of, invoices_within

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.config import NodeConfig


@click.command("invoices")
@since_option
@until_option
@csv_option
@click.option(
    "--out", metavar="FILE", type=click.Path(dir_okay=False), help="Write them as JSON to FILE."
)
@data_option
@json_option
def invoices_command(
    data: Path,
    since: str | None,
    until: str | None,
    csv_file: Path | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Show one invoice for each agreement that the node of DIR rented by.

    Totals are of the days that are shown; credit is what is there now.
    """
    from pathlib import Path

    days = days_of(since, until)
    told = with_accounts(data, _invoices)
    chosen = invoices_within(told["invoices"], *days)
    lines = [{**invoice, **line} for invoice in chosen for line in invoice["lines"]]
    totals = {**told["totals"], "invoiced": invoiced_of(chosen)}
    told |= {"totals": totals, "invoices": chosen}
    if csv_file is not None:
        write_new(csv_file, csv_of(lines, told["currency"]))
    if out is not None:
        write_new(Path(out), json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
    if as_json:
        say_json(told)
        return
    if csv_file is not None:
        say(f"{counted(len(lines), 'line')} in {csv_file}")
    if out is not None:
        say(f"{counted(len(chosen), 'invoice')} in {out}")
    say(f"Wallet {told['wallet_address']}, {told['currency']}")
    head = ["ended", "task", "provider", "cause", "amount", "settled", "not settled"]
    rows = [
        [
            str(each["ended_at"] or ""),
            str(each["job"] or "(no receipt here)"),
            str(each["provider"]),
            str(each["cause"] or ""),
            each["amount"],
            each["settled"],
            each["unsettled"],
        ]
        for each in chosen
    ]
    say_table(rows, head=head)
    say(f"{days_text(*days)} {totals['invoiced']}; credit that the next jobs use first: "
        f"{totals['credit']}")  # fmt: skip
    say_gaps(told)


async def _invoices(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.invoices())
