"""An owner takes what an alarm tells as it is: it is over for good, and more of it is a new one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import USDC, FakeNode, World, fake_world

from robocompute_node.api.port import InvalidRequest, TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.services.accounts import Accounts
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.fake import FakeSettlement

if TYPE_CHECKING:
    from pathlib import Path

A_DAY_AND_MORE = 100_000


async def a_day_later(*nodes: FakeNode) -> None:
    """Let a day pass with these nodes off: running ones look at this and that every second."""
    for node in nodes:
        await node.kill()
    await trio.sleep(A_DAY_AND_MORE)
    for node in nodes:
        await node.world.start(node)
        await node.reconciler.compare()


async def pair(world: World) -> tuple[FakeNode, FakeNode]:
    """A provider and a client between whom a job ran and was settled, and whose books agree."""
    provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),), slots=2))
    node = await world.start(await world.client("client", close_lost_after_s=1e9))
    task = await node.until_ended(await node.submit("run"))
    assert task.status is TaskStatus.COMPLETED
    await provider.settler.settle_everything()
    await node.reconciler.compare()
    return provider, node


def kinds(node: FakeNode) -> list[str]:
    return [alarm.kind for alarm in node.reconciler.alarms()]


def lose(world: World, node: FakeNode, amount: int) -> None:
    """Take money out of a node's balance as nobody can: no event tells of it."""
    balances = world.chain.ledger.balances
    there = balances[node.wallet, USDC]
    balances[node.wallet, USDC] = replace(there, available=MicroUnits(there.available - amount))


def settle_more(world: World, node: FakeNode, provider: FakeNode, amount: int) -> str:
    """Let the chain say that more was claimed of a channel than its node knows; return its name."""
    channel = node.channel_with(provider).channel
    views = world.chain.ledger.channels
    settled = MicroUnits(node.channels.get(channel).ledger.cumulative + amount)
    views[channel] = replace(views[channel], settled=settled)
    return to_base58(channel)


async def test_a_channel_whose_alarm_is_accepted_is_used_again_until_more_of_it_is_gone(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        name = settle_more(world, client, provider, 500)
        channel = client.channel_with(provider).channel
        await client.reconciler.compare()
        (told,) = client.reconciler.summary()
        assert await client.money.accept_alarms(name) == {"accepted": [told]}
        assert client.channels.alarm_on(channel) is None
        await client.reconciler.compare()
        await client.kill()
        await world.start(client)
        await client.reconciler.compare()
        assert kinds(client) == []
        settle_more(world, client, provider, 501)
        await client.reconciler.compare()
        assert kinds(client) == ["settled_more"]


async def test_money_that_is_missing_is_not_forgotten_until_its_owner_accepts_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        lose(world, client, 5)
        await client.reconciler.compare()
        assert kinds(client) == ["balance_low"]
        wallet = FakeSettlement(world.chain, client.wallet)
        world.chain.found(client.wallet, lamports=0, tokens=MicroUnits(1_000))
        await wallet.deposit_wallet(mint=USDC, amount=MicroUnits(1_000))
        await a_day_later(provider, client)
        assert kinds(client) == ["balance_low"]  # what came in does not make up for it
        await client.money.accept_alarms("balance_low")
        await client.reconciler.compare()
        await client.kill()
        await world.start(client)
        await client.reconciler.compare()
        assert kinds(client) == []
        lose(world, client, 1)  # the base is what was accepted: a unit less is another alarm
        await client.reconciler.compare()
        assert kinds(client) == ["balance_low"]


async def test_a_slash_stands_until_its_owner_accepts_it_and_the_next_is_told_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        await provider.reconciler.compare()
        stakes = world.chain.ledger.stakes
        (stake,) = stakes
        for _ in range(2):
            stakes[stake] = replace(stakes[stake], slashed=MicroUnits(stakes[stake].slashed + 7))
            await provider.reconciler.compare()
            await a_day_later(provider, client)
            assert kinds(provider) == ["slashed"]
            await provider.money.accept_alarms("slashed")
            await provider.reconciler.compare()
            assert kinds(provider) == []


async def test_an_alarm_is_accepted_while_the_node_is_off_and_what_is_none_is_refused(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        name = settle_more(world, client, provider, 500)
        with pytest.raises(InvalidRequest, match="no alarm"):
            await client.money.accept_alarms("balance_low")
        with pytest.raises(InvalidRequest):
            await client.money.accept_alarms("something else")
        await client.reconciler.compare()
        off = Accounts(
            client.store, client.chain, world.clock, client.wallet, client.config,
            client.channels, None,
        )  # fmt: skip
        told = await off.channels()
        assert told["alarms"] == client.reconciler.summary()
        await off.accept_alarms(name)
        assert (await off.channels())["alarms"] == []
        await client.kill()
        await world.start(client)
        await client.reconciler.compare()
        assert kinds(client) == []
