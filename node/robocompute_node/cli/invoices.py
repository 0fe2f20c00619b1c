"""``invoices``: what each rented agreement came to, and which transactions paid it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.earnings import (
    csv_of,
    csv_option,
    say_gaps,
    since_option,
    until_option,
    within,
)
from robocompute_node.cli.money import with_accounts, write_new
from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

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
    data: Path, since: str, until: str, csv_file: Path | None, out: str | None, as_json: bool
) -> None:
    """Show one invoice for each agreement that the node of DIR rented by."""
    from pathlib import Path

    told = with_accounts(data, _invoices)
    lines = within(
        [{**invoice, **line} for invoice in told["invoices"] for line in invoice["lines"]],
        since,
        until,
    )
    agreements = {(line["channel"], line["agreement"]) for line in lines}
    chosen = [
        each
        for each in told["invoices"]
        if (each["channel"], each["agreement"]) in agreements or not (since or until)
    ]
    told["invoices"] = chosen
    if csv_file is not None:
        write_new(csv_file, csv_of(lines, told["currency"]))
    if out is not None:
        write_new(Path(out), json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
    if as_json:
        say_json(told)
        return
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
    totals = told["totals"]
    say(f"In all {totals['invoiced']}; credit that the next jobs use first: {totals['credit']}")
    say_gaps(told)


async def _invoices(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.invoices())
