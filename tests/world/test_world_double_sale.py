"""One slot sold to two clients at once, by a real node, on the embedded chain: it costs the stake."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from whole_world import found_world, wait_until

from robocompute_node.chain_link import chain_link
from robocompute_node.config_file import load_config
from robocompute_node.keys import load_key
from robocompute_protocol.identifiers import Address
from robocompute_protocol.money import parse_amount
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

CHEAT = (sys.executable, str(Path(__file__).with_name("cheating_node.py")))
LONG = "import time\nprint('began', flush=True)\ntime.sleep(600)\n"


def reward(world: WholeWorld, name: str) -> int:
    """What the node's own key has been paid on chain: a reporter's share, and nothing else."""

    async def ask() -> int:
        config = load_config(world.data(name))
        key = load_key(config.node_key_path)
        async with SolanaSettlement(
            **chain_link(config.chain), ws_urls=config.chain.ws_url, signer_seed=key.seed
        ) as chain:
            owner = Address(SigningKey(key.seed).node_key)
            balance = await chain.balance(owner, config.chain.mint)
            return 0 if balance is None else balance.available

    return trio.run(ask)


@pytest.mark.timeout(300)
def test_a_card_sold_twice_at_once_costs_its_seller_and_pays_who_told(tmp_path: Path) -> None:
    with found_world(tmp_path / "cheated", pauper=True, second_deposit="10.00") as world:
        before = parse_amount(str(world.sdk("provider-1").wallet.get_balance()["staked"]))
        assert before > 0
        world.terminate("provider-1")
        world.start("provider-1", under=CHEAT)
        victims = ("client-1", "client-2")
        for name in victims:
            wait_until("the offer", lambda name=name: world.sdk(name).offers())
        jobs = [
            world.chisel(world.job_folder(LONG), "python", "job.py", client=name)
            for name in victims
        ]
        for job in jobs:
            job.saw(b"began")  # both run, in the one slot there is

        def slashed() -> int:
            staked = world.sdk("provider-1").wallet.get_balance()["staked"]
            return before - parse_amount(str(staked))

        lost = wait_until("a slashed stake", slashed)
        world.kill("provider-1")  # it would go on cheating
        for job in jobs:
            job.kill()
        assert lost >= before // 5
        told = sum(reward(world, name) for name in victims)
        assert told >= before // 50
        assert world.books().surplus == 0
        assert any("sold one slot twice" in world.log(name) for name in victims)
        wait_until("the end of what was prepaid", lambda: not world.supervisors())
