"""The offer book full of 50,000 offers: memory, what taking one costs, look-up, and a flood.

One core, no network, no signatures: only the book and the ranking that every task asks for.

    .venv/bin/python bench/book.py [--offers 50000] [--lookups 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import population
from robocompute_node.core.matching import rank
from robocompute_node.core.offer_book import OfferBook, Verdict
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from robocompute_protocol.messages import Offer

NOW: Final = Millis(1_800_000_000_000)
CANDIDATES: Final = 32
"""As many as a task's search ranks."""


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def timed(act: Callable[[], object], times: int) -> list[float]:
    """Core seconds of each of ``times`` calls, smallest first."""
    found: list[float] = []
    for _ in range(times):
        start = time.thread_time()
        act()
        found.append(time.thread_time() - start)
    return sorted(found)


def spread(tries: list[float]) -> dict[str, float]:
    """Median and 99th of a hundred, in microseconds."""
    return {
        "p50 us": round(tries[len(tries) // 2] * 1e6, 1),
        "p99 us": round(tries[len(tries) * 99 // 100] * 1e6, 1),
    }


def fill(book: OfferBook, offers: Iterable[Offer], now: Millis) -> float:
    """Take all of them; core seconds of one."""
    letters = [(offer, population.sealed(offer)) for offer in offers]
    start = time.thread_time()
    for offer, signed in letters:
        book.take(offer, signed, now)
    return (time.thread_time() - start) / max(1, len(letters))


def measure(count: int, lookups: int) -> dict[str, Any]:
    """Fill a book, look up, announce all again, and flood it."""
    random = Random(5)
    staked = {population.key_of(f"provider-{number}") for number in range(0, count, 2)}
    results: dict[str, Any] = {"offers": count}
    gc.collect()
    before = resident_mib()
    book = OfferBook(capacity=count, backed=lambda offer: offer.provider in staked)
    offers = [
        population.invent_offer(
            random, f"provider-{number}", Millis(NOW - random.randrange(60_000))
        )
        for number in range(count)
    ]
    results["take new us"] = round(fill(book, offers, NOW) * 1e6, 1)
    gc.collect()
    results["memory MiB"] = round(resident_mib() - before, 1)
    results["held"] = len(book)

    def look_up() -> None:
        wanted, price = population.invent_task(random)
        found = book.fitting(
            wanted, mint=population.MINT, max_price=price, now=NOW, at_most=CANDIDATES
        )
        rank(
            (entry.offer for entry in found),
            wanted,
            max_price=price,
            mint=population.MINT,
            now=NOW,
        )

    results["look-up"] = spread(timed(look_up, lookups))

    later = Millis(NOW + 60_000)
    results["take renewed us"] = round(
        fill(book, (population.renewed(offer, later) for offer in offers), later) * 1e6, 1
    )

    strangers = [
        population.invent_offer(random, f"stranger-{number}", later)
        for number in range(count // 2)
    ]
    taken = refused = 0
    letters = [(offer, population.sealed(offer)) for offer in strangers]
    start = time.thread_time()
    for offer, signed in letters:
        if book.take(offer, signed, later) is Verdict.NEW:
            taken += 1
        else:
            refused += 1
    spent = time.thread_time() - start
    results["flood of strangers"] = {
        "taken": taken,
        "refused": refused,
        "us": round(spent / len(letters) * 1e6, 1),
    }
    newcomers = [
        population.invent_offer(random, f"newcomer-{number}", later)
        for number in range(count // 4)
    ]
    staked.update(offer.provider for offer in newcomers)
    results["newcomers with stake us"] = round(fill(book, newcomers, later) * 1e6, 1)
    still = sum(book.get(o.provider, o.resource_class, later) is not None for o in offers)
    results["evicted by them"] = count - still
    results["look-up after"] = spread(timed(look_up, lookups))
    return results


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--offers", type=int, default=50_000)
    parser.add_argument("--lookups", type=int, default=2_000)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    load_before = os.getloadavg()[0]
    results = measure(options.offers, options.lookups)
    report = {
        "command": " ".join(["bench/book.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "results": results,
    }
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
