"""A node starts, adopts, pays out and answers while the chain is out, and catches up after it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause, Say
from robocompute_node.services.channels import ChannelPhase
from robocompute_protocol.money import Millis
from robocompute_settlement.clusters import MAINNET

if TYPE_CHECKING:
    from pathlib import Path


def cut(*nodes: FakeNode, out: bool = True) -> None:
    for node in nodes:
        node.reach.out = out


async def working(world: World, *, pause_ms: int) -> tuple[FakeNode, FakeNode, str]:
    provider = await world.start(
        await world.provider(script=lambda _: (Say("hello"), Pause(pause_ms), Say("done")))
    )
    client = await world.start(await world.client(close_lost_after_s=2_000.0))
    task_id = await client.submit("run")
    await client.until_stage(task_id, "running")
    await trio.sleep(40)
    return provider, client, task_id


async def test_both_nodes_restart_without_the_chain_and_a_running_job_is_finished_and_paid(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client, task_id = await working(world, pause_ms=120_000)
        cut(provider, client)
        await provider.kill()
        await client.kill()
        await trio.sleep(2)
        await world.start(provider)
        await world.start(client)
        told = client.api.node_status()
        assert "chain" in str(told["chain"])
        assert "no answer" in str(told["chain"])
        assert "no answer" in str(provider.offering.summary()["not_letting"])
        assert provider.lettings.summary()["slots_taken"] == 1
        task = await client.until_ended(task_id)
        assert task.status is TaskStatus.COMPLETED
        assert client.printed(task_id) == ["hello", "done"]
        assert provider.earnings.due() != ()
        cut(provider, client, out=False)
        await trio.sleep(400)
        assert provider.offering.summary()["not_letting"] is None
        assert client.program.waits_for == ""
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed == task.cost
        again = await client.until_ended(await client.submit("run", wait=True))
        assert again.status is TaskStatus.COMPLETED


async def test_a_job_asked_for_while_the_chain_is_out_runs_once_it_is_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        cut(provider)
        await provider.kill()
        await world.start(provider)
        waiting = await client.submit("run", wait=True)
        await trio.sleep(100)
        assert client.api.task(waiting).started_ms is None
        cut(provider, out=False)
        task = await client.until_ended(waiting, within_s=120)
        assert task.status is TaskStatus.COMPLETED


async def test_an_idle_channel_is_closed_and_its_rest_is_back_whatever_restarts_in_between(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(
            await world.client(close_idle_after_s=1_000.0, close_lost_after_s=100_000.0)
        )
        await client.until_ended(await client.submit("run"))
        channel = client.channel_with(provider).channel
        for _ in range(5):  # a restart makes no channel young again
            await trio.sleep(190)
            assert client.channels.get(channel).phase is ChannelPhase.OPEN
            await client.kill()
            await world.start(client)
        seen = set[ChannelPhase]()
        for _ in range(60):
            await trio.sleep(20)
            seen.add(client.channels.get(channel).phase)
            await client.kill()
            cut(client, out=len(seen) % 2 == 0)
            await world.start(client)
            cut(client, out=False)
        assert client.channels.get(channel).phase is ChannelPhase.CLOSED
        assert channel not in world.chain.ledger.channels
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0
        world.check_money()


async def test_unsafe_settings_stop_new_leases_and_nothing_else(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        safe = replace(world.chain.settings, unbond_s=30 * 86_400, min_challenge_s=86_400)
        provider, client, task_id = await working(world, pause_ms=120_000)
        world.genesis = MAINNET  # and its admin's times are days too short
        await trio.sleep(40)
        assert "unbond" in str(provider.offering.summary()["not_letting"])
        assert "unbond" in str(client.api.node_status()["chain"])
        assert provider.offering.announced(Millis(1), ()) is None
        waiting = await client.submit("run", wait=True)
        assert (await client.until_ended(task_id)).status is TaskStatus.COMPLETED
        channel = client.channel_with(provider).channel
        await client.channels.request_close(channel)
        await trio.sleep(1_000)
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0
        assert channel not in world.chain.ledger.channels
        assert client.api.task(waiting).started_ms is None
        told = client.tasks.log(waiting).read(after=0, limit=1_000)
        assert "nothing is rented" in str(told[-1].data)
        assert world.chain.ledger.channels == {}
        world.chain.settings = safe
        await trio.sleep(40)
        assert provider.offering.summary()["not_letting"] is None
        assert "unbond" not in str(client.api.node_status()["chain"])
