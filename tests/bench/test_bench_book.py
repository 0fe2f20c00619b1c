"""A small run of the book's benchmark: full, flooded by strangers, and still the same offers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_a_full_book_keeps_its_offers_in_a_flood_of_strangers(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    subprocess.run(
        [sys.executable, BENCH / "book.py", "--offers", "400", "--lookups", "50", "--json", path],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = json.loads(path.read_text())["results"]
    assert found["held"] == 400
    assert found["flood of strangers"]["taken"] == 0
    assert found["evicted by them"] == 100
