"""``robocompute-node status`` of a node whose books and chain differ."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio
from fake_world import USDC, fake_world

from robocompute_node.api.server import serve
from robocompute_node.cli.main import run_command
from robocompute_node.founding import found_node
from robocompute_protocol.money import MicroUnits

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_status_with_check_exits_with_1_while_an_alarm_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = found_node(tmp_path / "data", {"api": {"port": 0}}).config

    async def typed(*words: str) -> tuple[int, str]:
        command = ["status", *words, "--data", str(config.data_dir)]
        status = await trio.to_thread.run_sync(run_command, command)
        out, err = capsys.readouterr()
        assert err == ""
        return status, out

    async with fake_world(tmp_path) as world, trio.open_nursery() as nursery:
        node = await world.start(await world.client())
        await nursery.start(partial(serve, node.api, config))
        await node.reconciler.compare()
        status, out = await typed("--check")
        assert (status, "ALARM" in out) == (0, False)
        balances = world.chain.ledger.balances
        there = balances[node.wallet, USDC]
        balances[node.wallet, USDC] = replace(there, available=MicroUnits(there.available - 5))
        await node.reconciler.compare()
        status, out = await typed("--check")
        assert (status, "ALARM balance_low" in out) == (1, True)
        assert (await typed("--check", "--json"))[0] == 1
        status, out = await typed()
        assert (status, "ALARM balance_low" in out) == (0, True)
        nursery.cancel_scope.cancel()
