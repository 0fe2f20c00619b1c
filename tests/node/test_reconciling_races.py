"""Comparing while money moves, without history, and with strangers and thieves on the chain."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from fake_world import FUNDS, USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_protocol.errors import ChainBusy, ChainRefused
from robocompute_protocol.identifiers import AgreementId, NodeKey
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.fake import FakeSettlement
from robocompute_settlement.port import SettleClaim

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.errors import ChainError
    from robocompute_protocol.identifiers import Address


async def pair(world: World) -> tuple[FakeNode, FakeNode]:
    """A provider and a client that has not ordered yet."""
    provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),), slots=2))
    return provider, await world.start(await world.client("client"))


async def work(client: FakeNode) -> None:
    task = await client.until_ended(await client.submit("run"))
    assert task.status is TaskStatus.COMPLETED


def kinds(node: FakeNode) -> list[str]:
    return [alarm.kind for alarm in node.reconciler.alarms()]


async def open_channel(payer: FakeNode, payee: FakeNode, key: NodeKey, deposit: int) -> None:
    nonce = payer.world.chain.ledger.balances[payer.wallet, USDC].next_nonce
    await payer.chain.open_channel(
        payer=payer.wallet, payee=payee.wallet, mint=USDC, voucher_key=key, nonce=nonce,
        deposit=MicroUnits(deposit), challenge_s=600,
    )  # fmt: skip


async def test_a_comparison_while_a_channel_is_being_opened_makes_no_alarm_later(
    tmp_path: Path, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_world(tmp_path) as world:
        _, client = await pair(world)
        await client.reconciler.compare()
        really = client.chain.open_channel

        async def slowly(**asked: Any) -> object:
            await client.reconciler.compare()
            return await really(**asked)

        monkeypatch.setattr(client.chain, "open_channel", slowly)
        await work(client)
        await client.reconciler.compare()
        assert kinds(client) == []


async def test_a_channel_that_is_opened_while_the_chain_is_read_is_no_alarm(
    tmp_path: Path, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_world(tmp_path) as world:
        _, client = await pair(world)
        await client.reconciler.compare()
        really = client.chain.channels_of
        looks = 0

        async def busily(*asked: Any, **named: Any) -> object:
            nonlocal looks
            looks += 1
            if looks == 1:
                await work(client)
            return await really(*asked, **named)

        monkeypatch.setattr(client.chain, "channels_of", busily)
        await client.reconciler.compare()
        assert looks == 2  # the balance did not stand still: it looked again
        assert kinds(client) == []
        await client.reconciler.compare()
        assert kinds(client) == []


async def test_what_a_stranger_settles_to_us_with_its_own_voucher_is_no_alarm(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, stranger = await pair(world)
        await open_channel(stranger, provider, stranger.key.node_key, 10)
        (name,) = world.chain.ledger.channels
        _, voucher = PayerLedger(channel=name).allocate(AgreementId(bytes(32)), MicroUnits(1))
        claim = SettleClaim(
            channel=name, payee=provider.wallet, mint=USDC, voucher_key=stranger.key.node_key,
            voucher=sign_voucher(stranger.key, voucher), claim=MicroUnits(1),
        )  # fmt: skip
        await stranger.chain.settle((claim,))
        for _ in range(2):
            await provider.reconciler.compare()
            assert kinds(provider) == []
        (record,) = provider.earnings.all()
        assert record.settled == 1


async def test_a_thief_with_the_nodes_key_is_noticed_though_the_wallet_earns_meanwhile(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        wallet = FakeSettlement(world.chain, client.wallet)
        elsewhere, thief = NodeKey(bytes([4]) * 32), NodeKey(bytes([5]) * 32)
        await open_channel(client, provider, elsewhere, 1_000)  # before anybody looked
        await client.reconciler.compare()
        await open_channel(client, provider, thief, 1_000)
        world.chain.found(client.wallet, lamports=0, tokens=1_000)
        await wallet.deposit_wallet(mint=USDC, amount=MicroUnits(1_000))
        for _ in range(2):  # it stands, and is not taken for agreed
            await client.reconciler.compare()
            assert kinds(client) == ["foreign_channel"]
        (name,) = [n for n, v in world.chain.ledger.channels.items() if v.voucher_key == thief]
        del world.chain.ledger.channels[name]
        await client.reconciler.compare()
        assert kinds(client) == []


async def test_an_endpoint_without_history_is_done_without_and_said_once(
    tmp_path: Path,
    autojump_clock: trio.abc.Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await pair(world)
        wallet = FakeSettlement(world.chain, client.wallet)
        failure: ChainError = ChainRefused("Transaction history is not available from this node")

        async def forgotten(_address: Address, **_asked: object) -> tuple[str, ...]:
            raise failure

        monkeypatch.setattr(client.chain, "signatures", forgotten)
        monkeypatch.setattr(client.chain, "history", forgotten)
        await client.reconciler.compare()
        await wallet.withdraw_wallet(mint=USDC, amount=MicroUnits(7), destination=client.wallet)
        await client.reconciler.compare()
        assert kinds(client) == []  # who took it cannot be told
        await open_channel(client, provider, client.key.node_key, 10)
        await client.reconciler.compare()
        assert kinds(client) == ["unknown_channel"]  # this can
        assert caplog.text.count("history is not told here") == 1


async def test_what_left_the_balance_while_the_history_was_busy_is_asked_for_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_world(tmp_path) as world:
        _, client = await pair(world)
        await client.reconciler.compare()
        balances = world.chain.ledger.balances
        there = balances[client.wallet, USDC]
        balances[client.wallet, USDC] = replace(there, available=MicroUnits(FUNDS - 5))

        async def busy(_address: Address, **_asked: object) -> tuple[str, ...]:
            raise ChainBusy("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(client.chain, "history", busy)
            await client.reconciler.compare()
            assert kinds(client) == []
        await client.reconciler.compare()
        assert kinds(client) == ["balance_low"]


@pytest.mark.parametrize("seed", range(3))
async def test_honest_nodes_are_never_accused_however_slow_the_chain_and_often_they_compare(
    tmp_path: Path, autojump_clock: trio.abc.Clock, seed: int
) -> None:
    async with fake_world(tmp_path) as world, trio.open_nursery() as nursery:
        draw = random.Random(seed)
        providers = [
            await world.start(
                await world.provider(
                    name, script=lambda _: (Pause(6_000),), slots=1, min_challenge_s=60
                )
            )
            for name in ("one", "two")
        ]
        client = await world.start(
            await world.client(
                challenge_s=60, close_idle_after_s=60.0, channel_deposit=MicroUnits(12_000)
            )
        )
        world.chain.delay = lambda: draw.uniform(0.0, 0.4)
        accused: list[str] = []

        async def compare(node: FakeNode) -> None:
            while True:
                found = await node.reconciler.compare()
                accused.extend(each.kind for each in found if each.alarm)

        for node in (client, *providers):
            nursery.start_soon(compare, node)
        wallet = FakeSettlement(world.chain, client.wallet)
        for _ in range(3):
            tasks = [await client.submit("run", wait=True) for _ in range(2)]
            await wallet.withdraw_wallet(
                mint=USDC, amount=MicroUnits(7), destination=client.wallet
            )
            for task in tasks:
                assert (await client.until_ended(task)).status is TaskStatus.COMPLETED
            for provider in providers:
                await provider.settler.settle_everything()
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
        assert accused == []
        names = {each.name for each in world.chain.sent}
        assert names >= {"open_channel", "top_up", "settle", "finalize_close", "withdraw"}
        world.check_money()
