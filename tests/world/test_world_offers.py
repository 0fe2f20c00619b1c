"""The book of offers as its owner sees it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from whole_world import NODE, PRICE, wait_until

from robocompute_protocol.money import format_amount, parse_amount

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world


def test_offers_are_listed_with_age_price_and_stake_and_filtered(calm: WholeWorld) -> None:
    wait_until("a staked offer", lambda: any(each["staked"] for each in calm.sdk().offers()))

    def listed(*options: str) -> str:
        command = [*NODE, "offers", "--data", str(calm.data("client-1")), *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def offers(*options: str) -> list[dict[str, Any]]:
        return json.loads(listed("--json", *options))["offers"]

    price = format_amount(parse_amount(str(PRICE)))
    for options in ((), ("--class", "cpu"), ("--max-price", price), ("--staked", "--gpus", "1")):
        (offer,) = offers(*options)
        assert (offer["price_per_hour"], offer["resource_class"]) == (price, "cpu")
        assert 0 <= offer["age_s"] < 600
    for options in (("--class", "h100"), ("--max-price", "0.01"), ("--gpus", "9")):
        assert offers(*options) == []
    shown = listed()
    assert all(word in shown for word in ("age_s", "staked", price))
    assert "None of the 1 offers" in listed("--gpus", "9")
