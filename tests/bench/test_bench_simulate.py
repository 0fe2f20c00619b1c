"""A small run of the simulation: it ends, it finds machines among liars, and it repeats exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

BENCH = Path(__file__).parents[2] / "bench"
SMALL = ("--nodes", "200", "--sampled", "4", "--minutes", "4", "--tasks-per-client", "15")


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(*options: str, hash_seed: int = 1) -> dict[str, Any]:
        path = tmp_path / "figures.json"
        subprocess.run(
            [sys.executable, BENCH / "simulate.py", *SMALL, *options, "--json", path],
            check=True,
            stdout=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": str(hash_seed)},
        )
        return json.loads(path.read_text())["results"]

    return run


def test_two_hundred_nodes_find_machines_among_liars(
    simulate: Callable[..., dict[str, Any]],
) -> None:
    found = simulate()
    assert found["tasks"] == 60
    assert found["matched"] >= 40
    assert found["matched"] == found["orders by outcome"]["runs"]
    assert found["time to match ms"]["p50"] < 60_000
    lies = {"fake capacity", "refuses after the quote"} & set(found["orders by outcome"])
    assert lies, "among forty liars of two hundred nobody met one"


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    simulate: Callable[..., dict[str, Any]],
) -> None:
    first = simulate()
    assert simulate(hash_seed=2) == first
    assert simulate("--seed", "6")["digest"] != first["digest"]


def test_without_liars_and_other_demand_nearly_everybody_is_matched_at_once(
    simulate: Callable[..., dict[str, Any]],
) -> None:
    found = simulate("--liars", "0", "--busy", "0.01", "--leaves-per-hour", "0.001")
    assert found["failed because the offer was stale"]["it lied"] == 0
    assert found["unmatched"] <= 6, "only those that want what none of two hundred has"
    assert found["time to match ms"]["p50"] < 2_000
