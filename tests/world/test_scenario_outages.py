"""Fees that cannot be paid, and a chain that cannot be reached: nothing is lost or doubled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
from scene_chain import STRANGER
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from whole_world import wait_until

from robocompute_settlement.localworld import local_address

if TYPE_CHECKING:
    from scene_world import Scene

    from robocompute_protocol.identifiers import Address

pytestmark = [pytest.mark.world, pytest.mark.timeout(300)]

AWAY_S = 3.0
"""A quarter of the challenge time: six hours where it is a day."""
LINES = 60
"""A job of six seconds: it lives through what happens to the others."""
LEFT_LAMPORTS = 895_880
"""What an account without data may hold at least, and 5,000 more: no settlement's fee."""


def pay(scene: Scene, seed: bytes, to: Address, lamports: int) -> None:
    async def send() -> None:
        async with scene.chain.adapter(seed) as chain:
            source, target = Pubkey(chain.signer), Pubkey(to)
            asked = TransferParams(from_pubkey=source, to_pubkey=target, lamports=lamports)
            await chain.send(transfer(asked))

    trio.run(send)


def test_no_job_dies_of_a_chain_that_is_away_and_settlement_catches_up(scene: Scene) -> None:
    before, receipts = scene.settled(), scene.receipts()
    running = scene.order(LINES)
    scene.until_paid_on(running)
    with scene.chain.away():
        began = time.monotonic()
        turned_away = scene.ended(scene.order(3))
        assert turned_away["error"] == "PROVIDER_UNAVAILABLE"
        assert turned_away["cost"] == "0.000000"
        while time.monotonic() - began < AWAY_S:
            assert scene.task(running)["stage"] != "done"
            time.sleep(0.1)
    ended = scene.ended(running)
    assert (ended["cause"], ended["exit_code"]) == ("exited", 0)
    assert scene.said(running) == LINES
    scene.lets_again()
    scene.receipts_in()
    assert scene.settled() - before == scene.receipts() - receipts > 0
    assert scene.chain.books().surplus == 0


def test_a_provider_starts_while_the_chain_is_away_and_adopts_its_job(scene: Scene) -> None:
    running = scene.order(LINES)
    scene.until_paid_on(running)
    with scene.chain.away():
        scene.world.kill("provider-1")
        scene.world.start("provider-1")
    ended = scene.ended(running)
    assert (ended["cause"], ended["exit_code"]) == ("exited", 0), ended
    assert scene.said(running) == LINES
    scene.lets_again()
    scene.settled()
    assert scene.chain.books().surplus == 0


def test_a_provider_without_fees_says_so_and_settles_once_it_has_them(scene: Scene) -> None:
    key = scene.node_key("provider-1")
    before, receipts = scene.settled(), scene.receipts()
    taken = scene.chain.lamports(key.address) - LEFT_LAMPORTS - 5_500
    pay(scene, key.seed, local_address("stranger"), taken)
    assert scene.chain.lamports(key.address) < LEFT_LAMPORTS + 5_000
    tasks = [scene.order(5) for _ in range(2)]
    for task in tasks:
        assert scene.ended(task)["cause"] == "exited"

    def told() -> bool:
        return any("SOL" in why for why in scene.world.provider()["earnings"]["refused"])

    wait_until("words about the missing SOL", told)
    earnings = scene.world.provider()["earnings"]
    assert earnings["settled"] != earnings["earned"]
    pay(scene, STRANGER, key.address, taken)
    scene.receipts_in()
    assert scene.settled() - before == scene.receipts() - receipts > 0
    wait_until("nothing refused", lambda: not scene.world.provider()["earnings"]["refused"])
    assert scene.chain.books().surplus == 0
