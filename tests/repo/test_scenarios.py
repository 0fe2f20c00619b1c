"""The table of scenarios names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_that_the_table_of_scenarios_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", (TESTS / "README.md").read_text("utf-8"))
    defined = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(
            r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE
        )
    }
    assert named
    assert sorted(set(named) - defined) == []
