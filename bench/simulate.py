"""Ten thousand nodes on virtual time: how long a task looks for a machine among liars.

The same seed gives the same run, event for event (``digest``). What is real and what is modelled
stands in ``simulated_market.py``.

    .venv/bin/python bench/simulate.py [--nodes 10000] [--sampled 32] [--seed 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from simulated_market import World
from simulated_plan import Honesty, Plan, Tally


def percentile(sorted_values: list[int], share: float) -> int | None:
    """The value that ``share`` of them do not exceed, or None of none."""
    if not sorted_values:
        return None
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def figures(world: World, tally: Tally) -> dict[str, Any]:
    """What a run showed."""
    waits = sorted(tally.waits_ms)
    asked = tally.asked.total()
    stale = {
        "an honest one was full": tally.asked["busy"],
        "it had gone": tally.asked["gone"],
        "it lied": tally.asked[Honesty.STALE],
    }
    minutes = world.plan.minutes
    sent = sorted(client.sent for client in world.clients)
    heard = sorted(provider.heard for provider in world.providers)
    return {
        "tasks": tally.tasks,
        "matched": len(waits),
        "unmatched": tally.unmatched,
        "time to match ms": {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99)},
        "quote requests": asked,
        "failed because the offer was stale": {
            "share": round(sum(stale.values()) / max(1, asked), 4),
            **{why: round(count / max(1, asked), 4) for why, count in stale.items()},
        },
        "quote requests by outcome": dict(sorted(tally.asked.items())),
        "orders by outcome": dict(sorted(tally.ordered.items())),
        "messages a node": {
            "offers heard by gossip, a minute": round(tally.announcements / minutes, 1),
            "sent by a client, a task": round(sum(sent) / max(1, tally.tasks), 2),
            "asked of a provider, p99 of all": percentile(heard, 0.99),
        },
        "offers in a sampled book": [
            min(len(client.book) for client in world.clients),
            max(len(client.book) for client in world.clients),
        ],
        "offers taken by books": tally.taken,
        "digest": tally.trace.hexdigest()[:16],
    }


def simulate(plan: Plan) -> dict[str, Any]:
    """Run one world; the same plan gives the same figures."""
    world = World(plan, Random(plan.seed))
    return figures(world, world.run())


def main() -> None:
    """Simulate and print the figures as JSON."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, value in asdict(plan).items():
        kind = float if isinstance(value, float) else int
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=value)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = vars(parser.parse_args())
    path: Path | None = options.pop("json")

    load_before = os.getloadavg()[0]
    start, core = time.monotonic(), time.process_time()
    gc.disable()  # nothing here is a cycle, and walking ten million objects takes minutes
    results = simulate(Plan(**options))
    report = {
        "command": " ".join(["bench/simulate.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "plan": options,
        "wall s": round(time.monotonic() - start, 1),
        "core s": round(time.process_time() - core, 1),
        "memory MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "results": results,
    }
    print(json.dumps(report, indent=2))
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
