"""A node holds its books against the chain, repairs them, and uses no channel that an alarm is on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FUNDS, USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.services.channels import ChannelPhase
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.fake import FakeSettlement

if TYPE_CHECKING:
    from pathlib import Path


async def pair(
    world: World, *, pause_ms: int = 1_000, **client: float
) -> tuple[FakeNode, FakeNode]:
    provider = await world.start(
        await world.provider(script=lambda _: (Pause(pause_ms),), slots=2)
    )
    node = await world.start(await world.client("client", **client))
    task = await node.until_ended(await node.submit("run"))
    assert task.status is TaskStatus.COMPLETED
    return provider, node


def kinds(node: FakeNode) -> list[str]:
    return [alarm.kind for alarm in node.reconciler.alarms()]


async def test_honest_nodes_that_work_settle_and_close_never_raise_an_alarm(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world, close_idle_after_s=3_000.0)
        for _ in range(3):
            await client.until_ended(await client.submit("run"))
            await trio.sleep(400)
            await provider.settler.settle_everything()
            assert (kinds(provider), kinds(client)) == ([], [])
        wallet = FakeSettlement(world.chain, client.wallet)
        await wallet.withdraw_wallet(mint=USDC, amount=MicroUnits(7), destination=client.wallet)
        await trio.sleep(7_200)
        assert (kinds(provider), kinds(client)) == ([], [])
        assert client.channels.all()[0].phase is ChannelPhase.CLOSED
        world.check_money()


async def test_a_settlement_by_somebody_else_is_learnt_and_not_paid_for_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        channel = client.channel_with(provider).channel
        (due,) = provider.earnings.due()
        claim = provider.settler._claim(provider.settler._record(channel))  # pyright: ignore[reportPrivateUsage]
        await client.chain.settle((claim,))
        await trio.sleep(700)
        assert provider.earnings.due() == ()
        record = provider.earnings.get(channel)
        assert record is not None
        assert record.settled == due.claim
        assert [each.name for each in world.chain.sent].count("settle") == 1


async def test_a_restored_provider_leases_nothing_on_a_channel_that_paid_more_than_it_knows(
    tmp_path: Path, autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world, pause_ms=20_000)
        await provider.kill()
        shutil.copytree(provider.folder / "store", tmp_path / "backup")
        await world.start(provider)
        for _ in range(3):  # until more is owed than the voucher in the backup promises
            await client.until_ended(await client.submit("run", wait=True))
        await provider.settler.settle_everything()
        await provider.kill()
        shutil.rmtree(provider.folder / "store")
        shutil.copytree(tmp_path / "backup", provider.folder / "store")
        await world.start(provider)
        await trio.sleep(340)
        assert kinds(provider) == ["settled_more"]
        assert "ALARM settled_more" in caplog.text
        (told,) = provider.reconciler.summary()
        assert "older copy" in str(told["text"])
        record = provider.earnings.all()[0]
        objection = provider.earnings.objection_to_use(record)
        assert objection is not None
        assert objection.code == "channel_alarm"
        await provider.kill()
        await world.start(provider)
        assert kinds(provider) == ["settled_more"]  # it stands through restarts


async def test_a_client_promises_nothing_on_a_channel_that_paid_more_than_it_signed_and_opens_another(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        channel = client.channel_with(provider).channel
        views = world.chain.ledger.channels
        forged = MicroUnits(views[channel].deposit)
        views[channel] = replace(views[channel], settled=forged)
        await client.reconciler.compare()
        assert kinds(client) == ["settled_more"]
        task = await client.until_ended(await client.submit("run"))
        assert task.status is TaskStatus.COMPLETED
        assert len(client.channels.all()) == 2
        views[channel] = replace(views[channel], settled=MicroUnits(0))
        await client.reconciler.compare()
        assert kinds(client) == []


async def test_a_channel_that_its_wallet_closes_elsewhere_is_noticed_with_the_next_order(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        old = client.channel_with(provider).channel
        wallet = FakeSettlement(world.chain, client.wallet)
        await wallet.request_close(world.chain.ledger.channels[old])
        task = await client.until_ended(await client.submit("run"), within_s=30)
        assert task.status is TaskStatus.COMPLETED
        phases = {record.channel: record.phase for record in client.channels.all()}
        assert phases.pop(old) is ChannelPhase.CLOSING
        assert list(phases.values()) == [ChannelPhase.OPEN]
        await trio.sleep(700)
        record = provider.earnings.get(old)
        assert record is not None
        assert record.settled == record.ledger.owed
        assert old not in world.chain.ledger.channels
        assert (kinds(provider), kinds(client)) == ([], [])
        world.check_money()


@pytest.mark.parametrize("spare", [True, False])
async def test_a_channel_that_was_closed_for_good_while_its_node_was_off_is_replaced(
    spare: bool, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world, channel_deposit=MicroUnits(10**7 if spare else 1))
        old = client.channel_with(provider).channel
        await client.kill()
        wallet = FakeSettlement(world.chain, client.wallet)
        await wallet.request_close(world.chain.ledger.channels[old])
        await trio.sleep(700)
        await wallet.finalize_close(world.chain.ledger.channels[old])
        await trio.sleep(60)
        await world.start(client)
        task = await client.until_ended(await client.submit("run"), within_s=60)
        assert task.status is TaskStatus.COMPLETED
        await trio.sleep(10)
        phases = {record.channel: record.phase for record in client.channels.all()}
        assert phases.pop(old) is ChannelPhase.CLOSED
        assert list(phases.values()) == [ChannelPhase.OPEN]
        assert (kinds(provider), kinds(client)) == ([], [])
        world.check_money()


async def test_a_channel_opened_with_our_key_elsewhere_is_an_alarm(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        nonce = world.chain.ledger.balances[client.wallet, USDC].next_nonce
        await client.chain.open_channel(
            payer=client.wallet,
            payee=provider.wallet,
            mint=USDC,
            voucher_key=client.key.node_key,
            nonce=nonce,
            deposit=MicroUnits(1_000),
            challenge_s=600,
        )
        await client.reconciler.compare()
        assert sorted(kinds(client)) == ["balance_low", "unknown_channel"]
        await provider.reconciler.compare()
        assert kinds(provider) == []
        assert len(provider.earnings.all()) == 2


async def test_money_that_vanishes_from_the_balance_is_an_alarm_and_what_the_wallet_takes_is_none(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        _, client = await pair(world)
        await client.reconciler.compare()
        wallet = FakeSettlement(world.chain, client.wallet)
        await wallet.withdraw_wallet(
            mint=USDC, amount=MicroUnits(FUNDS // 10), destination=client.wallet
        )
        await client.reconciler.compare()
        assert kinds(client) == []
        balances = world.chain.ledger.balances
        there = balances[client.wallet, USDC]
        balances[client.wallet, USDC] = replace(there, available=MicroUnits(there.available - 5))
        await client.reconciler.compare()
        assert kinds(client) == ["balance_low"]
        await client.kill()
        await world.start(client)
        await client.reconciler.compare()
        assert kinds(client) == ["balance_low"]
