"""``payout``: earned money out of the settlement program, to wherever its owner wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robocompute_node.cli.money import (
    ADDRESS,
    AMOUNT,
    MovesMoney,
    currency_option,
    unsigned_option,
    yes_option,
)
from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.wallet import pay_out

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.identifiers import Address
    from robocompute_protocol.money import MicroUnits


@click.command("payout", cls=MovesMoney)
@click.argument("amount", type=AMOUNT, required=False)
@click.option("--all", "everything", is_flag=True, help="All that is free.")
@click.option(
    "--to",
    type=ADDRESS,
    metavar="ADDRESS",
    required=True,
    help="A wallet, whose token account is made where it has none, or a token account itself.",
)
@currency_option
@yes_option
@unsigned_option
@data_option
@json_option
def payout_command(
    data: Path,
    amount: MicroUnits | None,
    everything: bool,
    to: Address,
    currency: str,
    yes: bool,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Pay AMOUNT, or all that is free, out of the settlement program to any address.

    Earnings are free once they are settled: `robocompute-node earnings settle` does that now.
    """
    if (amount is None) != everything:
        raise click.UsageError("name one: an AMOUNT, or --all")
    pay_out(data, amount, to, currency, yes=yes, unsigned=unsigned, as_json=as_json)
