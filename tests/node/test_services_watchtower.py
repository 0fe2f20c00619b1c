"""Vouchers left with another node: settled there when their payer closes and their payee is gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio
from fake_world import USDC, FakeNode, World, fake_world
from msgspec.structs import replace as changed

from robocompute_node.api.port import TaskStatus
from robocompute_node.config import WatchtowerSettings
from robocompute_node.executor.fake import Pause
from robocompute_node.services import voucher_deposits, watchtower
from robocompute_node.services.conversation import hear, say
from robocompute_protocol.errors import ChainBusy
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, NodeKey
from robocompute_protocol.messages import PROTOCOL_TOWER, Held, Leave, Refused, TowerMessage
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import PayerLedger, sign_voucher

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.messages import Message, SignedVoucher
    from robocompute_settlement.port import ChannelView, SettleClaim


async def tower_of(world: World, *, least: int = 0) -> FakeNode:
    tower = await world.client("tower")
    settings = WatchtowerSettings(serve=True, min_claim=MicroUnits(least))
    tower.config = replace(tower.config, watchtower=settings)
    return await world.start(tower)


async def earned(
    world: World, tower: FakeNode, *, challenge_s: int = 600
) -> tuple[FakeNode, FakeNode]:
    """A provider that leaves its vouchers with ``tower``, and a client that ran a job on it."""
    provider = await world.provider(script=lambda _: (Pause(1_000),))
    provider.config = replace(
        provider.config, watchtower=WatchtowerSettings(of=(tower.key.node_key,))
    )
    await world.start(provider)
    client = await world.start(await world.client(challenge_s=challenge_s))
    task = await client.until_ended(await client.submit("run"))
    assert task.status is TaskStatus.COMPLETED
    await trio.sleep(30)
    return provider, client


async def leave(node: FakeNode, tower: FakeNode, *messages: Leave) -> Message:
    async with node.network.open(tower.key.node_key, PROTOCOL_TOWER) as stream:
        answer: Message | None = None
        for message in messages:
            await say(stream, message)
            answer = await hear(stream, TowerMessage, timeout_s=30)
    assert answer is not None
    return answer


async def test_a_tower_settles_for_a_provider_that_is_dead_for_good(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        assert tower.tower.held() == 1
        owed = provider.earnings.all()[0].ledger.owed
        before = world.chain.ledger.balances[provider.wallet, USDC].available
        await provider.kill()  # and never started again
        await tower.kill()
        await world.start(tower)
        channel = client.channel_with(provider).channel
        await client.channels.request_close(channel)
        await trio.sleep(1_000)
        assert channel not in world.chain.ledger.channels
        there = world.chain.ledger.balances[provider.wallet, USDC].available
        fee = -(-owed // 100)
        assert there == before + owed - fee
        assert tower.tower.held() == 0
        world.check_money()


async def test_a_higher_claim_that_is_left_while_the_chain_is_asked_is_not_forgotten(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        (record,) = provider.earnings.all()
        name, first = record.channel, record.ledger.claimable
        ask = tower.chain.channel

        async def slowly(channel: ChannelId, **options: Any) -> ChannelView | None:
            """The answer of an endpoint that takes its time: it tells what was true before."""
            tower.chain.channel = ask
            await provider.settler.settle_everything()
            view = await ask(channel, **options)
            await client.until_ended(await client.submit("run"))
            await trio.sleep(30)
            return view

        tower.chain.channel = slowly
        await trio.sleep(110)
        newest = provider.earnings.all()[0].ledger.claimable
        assert newest > first
        kept = tower.store.get(watchtower.HELD, name)
        assert kept is not None
        assert kept.claim == newest
        assert tower.tower.held() == 1


async def test_a_channel_that_the_chain_does_not_tell_of_keeps_no_other_from_being_settled(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        second = await world.start(await world.client("second"))
        await second.until_ended(await second.submit("run"))
        await trio.sleep(30)
        assert tower.tower.held() == 2
        dark, closing = (node.channel_with(provider).channel for node in (client, second))
        ask = tower.chain.channel

        async def blind(channel: ChannelId, **options: Any) -> ChannelView | None:
            if channel == dark:
                raise ChainBusy("no answer about this one")
            return await ask(channel, **options)

        tower.chain.channel = blind
        (owed,) = [each.ledger.claimable for each in provider.earnings.all() if each.channel == closing]  # fmt: skip
        await provider.kill()
        await second.channels.request_close(closing)
        await trio.sleep(120)
        assert world.chain.ledger.channels[closing].settled == owed
        assert world.chain.ledger.channels[dark].settled == 0


async def test_channels_that_close_are_looked_at_first_and_settled_before_the_round_is_over(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        others = [await world.start(await world.client(f"client{n}")) for n in range(3)]
        for other in others:
            await other.until_ended(await other.submit("run"))
        await trio.sleep(30)
        nodes = [client, *others]
        channels = [node.channel_with(provider).channel for node in nodes]
        await provider.kill()
        seen: list[object] = []
        ask = tower.chain.channel

        async def slowly(channel: ChannelId, **options: Any) -> ChannelView | None:
            seen.append(channel)
            await trio.sleep(3)
            return await ask(channel, **options)

        async def refuse(claims: tuple[SettleClaim, ...]) -> NoReturn:
            seen.append([claim.channel for claim in claims])
            raise ChainBusy("not now")

        tower.chain.settle = refuse
        tower.chain.channel = slowly
        for number in (3, 1):
            await nodes[number].channels.request_close(channels[number])
            await trio.sleep(100)
        await trio.sleep(100)
        ending = [channels[3], channels[1]]
        assert seen.count(ending) >= 2
        last = len(seen) - 1 - seen[::-1].index(ending)
        assert seen[last - 2 : last] == ending


async def test_one_refused_voucher_keeps_no_other_from_its_tower(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        first: list[ChannelId] = []
        ask = tower.chain.channel

        async def forgetful(channel: ChannelId, **options: Any) -> ChannelView | None:
            first[:] = first or [channel]
            return None if channel in first else await ask(channel, **options)

        tower.chain.channel = forgetful
        provider, _ = await earned(world, tower)
        assert tower.tower.held() == 0
        second = await world.start(await world.client("second"))
        await second.until_ended(await second.submit("run"))
        await trio.sleep(30)
        assert provider.earnings.all()[0].channel == first[0]
        assert tower.tower.held() == 1
        tower.chain.channel = ask
        await trio.sleep(voucher_deposits.AWAY_SECONDS + 30)
        assert tower.tower.held() == 2


@pytest.mark.parametrize("away", [True, False])
async def test_a_tower_that_lost_its_store_is_given_the_vouchers_anew(
    away: bool, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower, challenge_s=86_400)
        name = client.channel_with(provider).channel
        if away:
            await tower.kill()
            shutil.rmtree(tower.folder / "store")
            second = await world.start(await world.client("second"))
            await second.until_ended(await second.submit("run"))
            await trio.sleep(30)
            await world.start(tower)
            await trio.sleep(2 * voucher_deposits.AWAY_SECONDS)
            assert tower.tower.held() == 2
        else:
            tower.tower._forget(name)  # pyright: ignore[reportPrivateUsage]
            await trio.sleep(60)
            assert tower.tower.held() == 0
            await trio.sleep(voucher_deposits.BELIEVED_SECONDS)
            assert tower.tower.held() == 1
        kept = tower.store.get(watchtower.HELD, name)
        (record,) = [each for each in provider.earnings.all() if each.channel == name]
        assert kept is not None
        assert kept.claim == record.ledger.claimable


async def test_a_tower_does_not_settle_for_a_channel_that_stays_open(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        signer = Address(tower.key.node_key)
        lamports = world.chain.ledger.lamports[signer]
        await trio.sleep(100)
        await client.until_ended(await client.submit("run"))
        await trio.sleep(30)
        assert tower.tower.held() == 1
        await provider.settler.settle_everything()
        await trio.sleep(100)
        assert tower.tower.held() == 0  # what is settled need not be kept
        assert world.chain.ledger.lamports[signer] == lamports


def other_voucher(client: FakeNode, channel: ChannelId, amount: int) -> SignedVoucher:
    agreement = AgreementId(bytes(32))
    _, voucher = PayerLedger(channel=channel).allocate(agreement, MicroUnits(amount))
    return sign_voucher(client.key, voucher)


async def test_a_tower_stores_nothing_that_the_chain_would_not_take(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        stranger = await world.start(await world.client("stranger"))
        record = provider.earnings.all()[0]
        voucher, claim = record.ledger.voucher, record.ledger.claimable
        assert voucher is not None
        deposit = world.chain.ledger.channels[record.channel].deposit
        bad = [
            (Leave(voucher=changed(voucher, cumulative=MicroUnits(voucher.cumulative + 9)),
                   claim=MicroUnits(claim + 9)), "bad_signature"),
            (Leave(voucher=other_voucher(stranger, record.channel, claim + 5),
                   claim=MicroUnits(claim + 5)), "bad_signature"),
            (Leave(voucher=other_voucher(client, record.channel, claim + 5),
                   claim=MicroUnits(claim + 6)), "tower_nothing_due"),
            (Leave(voucher=other_voucher(client, record.channel, deposit + 1),
                   claim=MicroUnits(deposit + 1)), "tower_nothing_due"),
            (Leave(voucher=other_voucher(client, ChannelId(bytes(32)), 5),
                   claim=MicroUnits(5)), "tower_unknown_channel"),
        ]  # fmt: skip
        for message, code in bad:
            answer = await leave(stranger, tower, message)
            assert isinstance(answer, Refused)
            assert answer.code == code
        assert tower.tower.held() == 1
        lower = await leave(stranger, tower, Leave(voucher=voucher, claim=MicroUnits(1)))
        assert lower == Held(channel=record.channel, claim=claim)


async def test_a_tower_is_not_filled_by_one_peer(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        tower = await tower_of(world)
        provider, client = await earned(world, tower)
        record = provider.earnings.all()[0]
        voucher = record.ledger.voucher
        assert voucher is not None
        many = [Leave(voucher=voucher, claim=MicroUnits(1))] * (watchtower.LEAVES_A_MINUTE + 1)
        answer = await leave(client, tower, *many)
        assert isinstance(answer, Refused)
        assert answer.code == "tower_busy"
        full = tower.tower._held  # pyright: ignore[reportPrivateUsage]
        mine = full[record.channel]
        peer = NodeKey(bytes([7]) * 32)
        for number in range(watchtower.MAX_HELD_A_PEER):
            full[ChannelId(number.to_bytes(32))] = changed(mine, peer=peer)
        has_room = tower.tower._has_room  # pyright: ignore[reportPrivateUsage]
        assert not has_room(peer)
        assert has_room(client.key.node_key)
        for number in range(watchtower.MAX_HELD):
            full[ChannelId((number + 1_000).to_bytes(32))] = changed(
                mine, peer=NodeKey(number.to_bytes(32))
            )
        assert not has_room(client.key.node_key)
        full.clear()
