"""Earned money on its way to the chain: when, how often, and what a chain that says no does to it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import trio
from fake_world import FAR_S, FUNDS, USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.fake import FakeSettlement
from robocompute_settlement.port import SettleClaim

if TYPE_CHECKING:
    from pathlib import Path


async def earn(world: World, provider: FakeNode, *names: str) -> list[FakeNode]:
    """Let one client for each name run a job of a second."""
    clients = [await world.start(await world.client(name)) for name in names]
    for client in clients:
        task = await client.until_ended(await client.submit("run", wait=True))
        assert task.status is TaskStatus.COMPLETED
    return clients


def settled(world: World) -> int:
    return [each.name for each in world.chain.sent].count("settle")


async def test_money_is_settled_once_a_channel_owes_enough_or_is_old_enough(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(
            script=lambda _: (Pause(1_000),), settle_above=MicroUnits(2_500), settle_after_s=100.0
        )
        await world.start(provider)
        (client,) = await earn(world, provider, "client")
        await trio.sleep(5)
        assert settled(world) == 0
        for _ in range(2):
            await client.until_ended(await client.submit("run"))
        await trio.sleep(5)
        assert settled(world) == 1
        await client.until_ended(await client.submit("run"))
        await trio.sleep(90)
        assert settled(world) == 1
        await trio.sleep(20)
        assert settled(world) == 2
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed


async def test_a_channel_that_nobody_uses_any_more_is_settled_and_closed_by_its_payees_policy(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(
            script=lambda _: (Pause(1_000),), close_idle_after_s=3_600.0, settle_after_s=10**6,
            slots=2,
        )  # fmt: skip
        await FakeSettlement(world.chain, provider.wallet).set_delegate_wallet(
            mint=USDC, delegate=provider.key.node_key, allowance=MicroUnits(0), expires_s=FAR_S
        )
        await world.start(provider)
        gone, stays = await earn(world, provider, "gone", "stays")
        await gone.kill()
        for _ in range(5):
            await trio.sleep(1_000)
            await stays.until_ended(await stays.submit("run"))
        views = world.chain.ledger.channels
        assert [view.payer for view in views.values()] == [stays.wallet]
        await trio.sleep(200)
        for record in provider.earnings.all():
            assert record.closed is (record.payer == gone.wallet)
            if record.closed:
                assert record.settled == record.ledger.owed > 0
        balance = world.chain.ledger.balances[gone.wallet, USDC]
        (left,) = [r for r in provider.earnings.all() if r.payer == gone.wallet]
        assert balance.available == FUNDS - left.settled
        world.check_money()


async def test_a_channel_is_closed_neither_while_a_job_runs_nor_without_the_owners_leave(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(
            script=lambda _: (Pause(7_200_000),), close_idle_after_s=60.0
        )
        await world.start(provider)
        client = await world.start(await world.client(horizon_s=3_000.0))
        await client.until_stage(await client.submit("run"), "running")
        for _ in range(20):
            await trio.sleep(100)
            assert len(provider.lettings.running()) == 1
        closes = [each.name for each in world.chain.sent].count("close_by_payee")
        assert closes == 0
        (record,) = provider.earnings.all()
        await client.kill()
        await trio.sleep(4_000)
        assert provider.lettings.running() == ()
        record = provider.earnings.get(record.channel)
        assert record is not None
        assert record.unsettled == 0
        assert not record.closed  # the node's key is not the wallet's delegate here
        assert record.channel in world.chain.ledger.channels


async def test_a_busy_chain_is_asked_again_until_it_settles(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tries = 0

        def busy(name: str) -> ChainError | None:
            nonlocal tries
            tries += name == "settle"
            return ChainBusy("no room") if name == "settle" and tries <= 5 else None

        world.chain.fault = busy
        provider = await world.provider(script=lambda _: (Pause(1_000),), settle_after_s=0.0)
        await world.start(provider)
        (client,) = await earn(world, provider, "client")
        await trio.sleep(60)
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0
        assert settled(world) == 1


async def test_a_refused_claim_is_set_aside_and_the_others_of_its_batch_go_on(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(
            script=lambda _: (Pause(1_000),), slots=4, settle_after_s=120.0
        )
        await world.start(provider)
        clients = await earn(world, provider, "a", "b", "c", "d")
        spoilt = clients[1].channel_with(provider).channel
        del world.chain.ledger.channels[spoilt]
        await trio.sleep(200)
        for client in clients:
            record = provider.earnings.get(client.channel_with(provider).channel)
            assert record is not None
            expected = 0 if record.channel == spoilt else record.ledger.owed
            assert record.settled == expected
        told = str(provider.settler.summary()["refused"])
        assert told.count("not there") == 1
        assert settled(world) <= 4


async def test_a_refusal_that_is_not_of_the_vouchers_making_is_told(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        world.chain.fault = lambda name: ChainRefused("paused") if name == "settle" else None
        provider = await world.provider(script=lambda _: (Pause(1_000),), settle_after_s=0.0)
        await world.start(provider)
        await earn(world, provider, "client")
        await trio.sleep(10)
        assert provider.settler.summary()["refused"] == ["paused"]


async def test_a_provider_without_sol_says_where_to_send_it_tries_ever_less_often_and_settles_then(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tried: list[float] = []

        def note(name: str) -> ChainError | None:
            if name == "settle":
                tried.append(trio.current_time())
            return None

        world.chain.fault = note
        provider = await world.provider(
            script=lambda _: (Pause(1_000),), settle_after_s=0.0, min_challenge_s=9_600
        )
        await world.start(provider)
        purse = Address(provider.key.node_key)
        sol, world.chain.ledger.lamports[purse] = world.chain.ledger.lamports[purse], 0
        (client,) = await earn(world, provider, "client")
        await trio.sleep(300)
        (said,) = cast("list[str]", provider.settler.summary()["refused"])
        assert said == f"the node's key has no SOL for the fee: send some to {to_base58(purse)}"
        pauses = [later - sooner for sooner, later in pairwise(tried)]
        assert [round(pause / 30) for pause in pauses] == [1, 2, 4]
        assert settled(world) == 0
        world.chain.ledger.lamports[purse] = sol
        await trio.sleep(300)
        assert provider.settler.summary()["refused"] == []
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0


async def test_four_channels_settle_in_two_transactions(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(1_000),), slots=4)
        await world.start(provider)
        clients = await earn(world, provider, "a", "b", "c", "d")
        await provider.settler.settle_everything()
        assert settled(world) == 2
        for client in clients:
            payee = world.check_agreed(client, provider)
            assert payee.settled == payee.ledger.owed > 0


async def test_what_was_earned_before_a_crash_is_settled_after_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(1_000),), settle_after_s=50.0)
        await world.start(provider)
        (client,) = await earn(world, provider, "client")
        await provider.kill()
        await trio.sleep(100)
        assert settled(world) == 0
        await world.start(provider)
        await trio.sleep(5)
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0
        await provider.kill()
        await world.start(provider)
        await trio.sleep(100)
        assert settled(world) == 1


def claim_of(provider: FakeNode, channel: ChannelId) -> SettleClaim:
    """What a watchtower of the provider's would settle."""
    record = provider.earnings.get(channel)
    assert record is not None
    assert record.ledger.voucher is not None
    return SettleClaim(
        channel=channel,
        payee=record.payee,
        mint=record.mint,
        voucher_key=record.voucher_key,
        voucher=record.ledger.voucher,
        claim=record.ledger.claimable,
    )


async def test_a_program_that_refused_is_asked_again_in_time_once_the_payer_closes(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        refused = ChainRefused("the program is paused", number=6017)
        world.chain.fault = lambda name: refused if name == "settle" else None
        provider = await world.provider(script=lambda _: (Pause(1_000),), settle_after_s=0.0)
        await world.start(provider)
        (client,) = await earn(world, provider, "client")
        await trio.sleep(10)
        channel = client.channel_with(provider).channel
        assert settled(world) == 0
        await client.channels.request_close(channel)
        await trio.sleep(300)  # half of the challenge time
        world.chain.fault = lambda _: None
        await trio.sleep(700)
        assert channel not in world.chain.ledger.channels
        (record,) = provider.earnings.all()
        assert record.settled == record.ledger.owed > 0
        world.check_money()


async def test_a_settlement_that_somebody_else_made_while_it_was_refused_ends_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        (client,) = await earn(world, provider, "client")
        claim = claim_of(provider, client.channel_with(provider).channel)
        world.chain.delay = lambda: 5.0
        world.chain.fault = lambda name: ChainRefused("no fee") if name == "settle" else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.settler.settle_everything)
            await trio.sleep(6)  # refused, and the node asks whether its key has SOL
            world.chain.fault = lambda _: None
            world.chain.delay = lambda: 0.0
            await client.chain.settle((claim,))
            await trio.sleep(1)
            assert provider.earnings.due() == ()
        await trio.sleep(10)
        assert provider.settler.summary()["refused"] == []
        assert settled(world) == 1
        task = await client.until_ended(await client.submit("run"))
        assert task.status is TaskStatus.COMPLETED
        world.check_agreed(client, provider)


async def test_a_refusal_of_what_is_due_no_more_is_not_kept(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        (client,) = await earn(world, provider, "client")
        await provider.settler.settle_everything()
        provider.earnings.refused(client.channel_with(provider).channel, "nothing to settle")
        assert provider.earnings.due() == ()


async def test_two_who_ask_for_a_settlement_at_once_pay_for_one(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        await earn(world, provider, "client")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.settler.settle_everything)
            nursery.start_soon(provider.settler.settle_everything)
        assert settled(world) == 1
        assert provider.settler.summary()["refused"] == []


async def test_an_owner_who_sent_the_fee_and_asks_again_is_not_made_to_wait(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        await earn(world, provider, "client")
        world.chain.fault = lambda name: (
            ChainRefused("no fee is there") if name == "settle" else None
        )
        told = await provider.money.settle()
        assert "no fee is there" in str(told["waiting"])
        world.chain.fault = lambda _: None
        told = await provider.money.settle()
        assert told["waiting"] == []
        assert len(list(told["transactions"])) == 1  # type: ignore[call-overload]


async def paid_by_another(world: World) -> FakeNode:
    """A provider that was away while somebody else settled for it and its payer closed."""
    provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
    (client,) = await earn(world, provider, "client")
    channel = client.channel_with(provider).channel
    claim = claim_of(provider, channel)
    await provider.kill()
    await client.chain.settle((claim,))
    await client.channels.request_close(channel)
    await trio.sleep(1_000)
    assert channel not in world.chain.ledger.channels
    return provider


async def test_money_that_somebody_else_settled_before_the_channel_closed_is_not_told_as_lost(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await paid_by_another(world)
        await world.start(provider)
        await trio.sleep(700)
        (record,) = provider.earnings.all()
        assert record.closed
        assert record.settled == record.ledger.owed > 0
        assert provider.earnings.due() == ()
        assert provider.reconciler.alarms() == ()


async def test_the_end_of_a_channel_is_asked_for_until_a_chain_tells_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await paid_by_another(world)
        kept, world.chain.sent = world.chain.sent, []
        await world.start(provider)
        await trio.sleep(700)
        (record,) = provider.earnings.all()
        assert record.closed
        assert record.settled == 0
        assert [alarm.kind for alarm in provider.reconciler.alarms()] == ["closed_unsettled"]
        assert world.chain.sent == []
        world.chain.sent = kept
        await trio.sleep(1_300)
        (record,) = provider.earnings.all()
        assert record.settled == record.ledger.owed > 0
        assert provider.reconciler.alarms() == ()
