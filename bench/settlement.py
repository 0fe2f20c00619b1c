"""What settlement costs: compute units, lamports, vouchers a second, settlements a second.

Five figures, each beside what it is compared with in the same run: the program's instructions and
an SPL token transfer in LiteSVM; vouchers promised, stored, signed, verified and stored again on
one core; vouchers that a provider's pay desk takes of many clients at once; settlements by the
adapter against one token transfer for each payment, on the embedded chain and, where
``ROBOCOMPUTE_VALIDATOR`` names one or it is on the path, on solana-test-validator.

    .venv/bin/python bench/settlement.py [--runs 5] [--only units,rates,vouchers,paying] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import settlement_paying
import settlement_rates
import settlement_units
import settlement_vouchers

ROOT: Final = Path(__file__).parents[1]
PARTS: Final = ("units", "rates", "vouchers", "paying")
"""Vouchers last: they keep this process on one core."""
AT_ONCE: Final = (1, 8, 32)
ROUNDS: Final = 6


def measure(parts: list[str], runs: int, folder: Path) -> dict[str, Any]:
    """Measure each part, one after another."""
    results: dict[str, Any] = {}
    if "units" in parts:
        results["units"] = settlement_units.measure()
    if "rates" in parts:
        plan = settlement_rates.Plan(at_once=AT_ONCE, runs=runs, rounds=ROUNDS)
        results["rates"] = settlement_rates.measure(folder, plan)
    if "vouchers" in parts:
        results["vouchers"] = settlement_vouchers.measure(folder, runs=runs)
    if "paying" in parts:
        results["paying"] = settlement_paying.measure(folder, runs=runs)
    return results


def table(results: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    every = {
        "units": settlement_units.lines,
        "rates": settlement_rates.lines,
        "vouchers": settlement_vouchers.lines,
        "paying": settlement_paying.lines,
    }
    return [line for part, told in results.items() for line in every[part](told)]


def main() -> None:
    """Measure, print the tables and the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on a real disk")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    options.folder.mkdir(exist_ok=True)
    load_before = os.getloadavg()[0]
    results = measure(options.only.split(","), options.runs, options.folder)
    report = {
        "command": " ".join(["bench/settlement.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "results": results,
    }
    print("\n".join(table(results)))
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
