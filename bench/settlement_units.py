"""What the program takes: compute units an instruction.

Measured on the committed program in LiteSVM, beside what a plain SPL token transfer takes there:
a design without channels would make one for each payment.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "chain"))

from settlement_layouts import TOKEN
from settlement_world import World
from solders.instruction import AccountMeta, Instruction
from test_settlement_compute import measure as instruction_units

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

AKASH_UNITS: Final = 250_000
"""Akash's own published compute budget of settling a lease; not run here."""


def transfer(source: Pubkey, destination: Pubkey, owner: Pubkey, amount: int) -> Instruction:
    """SPL Token's cheapest transfer, which looks at no mint."""
    accounts = [
        AccountMeta(source, False, True),
        AccountMeta(destination, False, True),
        AccountMeta(owner, True, False),
    ]
    return Instruction(TOKEN, struct.pack("<BQ", 3, amount), accounts)


def transfer_units() -> int:
    """Compute units of one token transfer between two wallets."""
    world = World()
    payer, payee = world.user(), world.user()
    call = transfer(payer.tokens, payee.tokens, payer.address, 5)
    return world.units(world.ok(call, signers=(payer.key,)))


def measure() -> dict[str, Any]:
    """JSON-ready figures. They are exact: there is nothing to repeat."""
    return {"units": instruction_units(), "transfer_units": transfer_units()}


def lines(told: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    settle, transferred = told["units"]["settle"], told["transfer_units"]
    rows = [f"| {name} | {units:,} |" for name, units in told["units"].items()]
    return [
        "\n| instruction | compute units |",
        "| --- | --- |",
        *rows,
        f"| SPL token transfer, the naive payment | {transferred:,} |",
        f"\nA settle takes 1/{transferred / settle:.1f} of a token transfer's units, and 1/"
        f"{AKASH_UNITS / settle:.0f} of the 250,000 that Akash publishes for a lease's settlement.",
    ]


if __name__ == "__main__":
    print("\n".join(lines(measure())))
