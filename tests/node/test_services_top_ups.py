"""A deposit is raised once for each wish, whatever dies or stays silent while it is raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from cuttable import CuttableSettlement, FullDisk, PowerCut
from fake_world import FakeNode, World, fake_world

from robocompute_node.services.top_ups import TOP_UPS
from robocompute_protocol.errors import ChainBusy, ChainUnknown, StoreError
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.port import Attempt, ChannelView, Outcome, Sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from robocompute_settlement.fake_chain import FakeChain

MORE = MicroUnits(30_000)
DEPOSIT = MicroUnits(20_000)


class SlowChain(CuttableSettlement):
    """A chain that takes a top-up without saying so, late, or not at all."""

    def __init__(self, chain: FakeChain, signer: Address) -> None:
        super().__init__(chain, signer)
        self.after_sending: Callable[[Attempt], None] = lambda _attempt: None
        """Called when a top-up landed, before anybody is told."""
        self.loses = False
        """The next top-up is signed and sent, and not in a block yet."""
        self.pending: list[tuple[Attempt, ChannelView, MicroUnits]] = []
        self.came: list[Attempt] = []
        """Those of ``pending`` that landed in the end."""

    async def top_up(
        self, *, channel: ChannelView, amount: MicroUnits,
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        if self.loses:
            self.loses = False
            attempt = Attempt(f"on its way {len(self.pending)}", 1)
            assert journal is not None
            journal(attempt)
            self.pending.append((attempt, channel, amount))
            raise ChainUnknown("no answer", signature=attempt.signature, last_valid_height=1)
        sent = await super().top_up(channel=channel, amount=amount, journal=journal)
        self.after_sending(Attempt(sent.signature, 0))
        return sent

    async def outcome(self, attempt: Attempt) -> Outcome:
        self._reach()
        if any(each == attempt for each, _, _ in self.pending):
            return Outcome.PENDING
        return Outcome.LANDED if attempt in self.came else await super().outcome(attempt)

    async def take_pending(self) -> None:
        """What was on its way lands."""
        while self.pending:
            attempt, channel, amount = self.pending.pop()
            await super().top_up(channel=channel, amount=amount)
            self.came.append(attempt)


async def paying(world: World) -> tuple[FakeNode, SlowChain, ChannelId]:
    """A running client with an open channel of ``DEPOSIT``, and its way to the chain."""
    provider = await world.start(await world.provider())
    client = await world.client(channel_deposit=DEPOSIT)
    client.reach = chain = SlowChain(world.chain, Address(client.key.node_key))
    client.chain = chain
    await world.start(client)
    record = await client.channels.ensure(
        provider.wallet, provider.key.node_key, needed=DEPOSIT, min_challenge_s=1
    )
    assert record.deposit == DEPOSIT
    return client, chain, record.channel


def top_ups(world: World) -> int:
    return [each.name for each in world.chain.sent].count("top_up")


async def test_a_top_up_that_landed_unheard_is_not_made_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, chain, channel = await paying(world)

        def silent(attempt: Attempt) -> None:
            raise ChainUnknown(
                "no answer",
                signature=attempt.signature,
                last_valid_height=attempt.last_valid_height,
            )

        chain.after_sending = silent
        with pytest.raises(ChainUnknown):
            await client.channels.cover(channel, MORE)
        chain.after_sending = lambda _attempt: None
        assert client.channels.get(channel).deposit == DEPOSIT
        await client.channels.cover(channel, MORE)
        assert client.channels.get(channel).deposit == world.chain.ledger.channels[channel].deposit
        assert client.channels.get(channel).spare >= MORE
        assert top_ups(world) == 1
        assert client.store.all(TOP_UPS) == []


async def test_a_process_that_dies_between_sending_and_the_answer_tops_up_once(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, chain, channel = await paying(world)

        def die(_attempt: Attempt) -> None:
            raise PowerCut

        chain.after_sending = die
        with pytest.raises(PowerCut):
            await client.channels.cover(channel, MORE)
        await client.kill()
        chain.after_sending = lambda _attempt: None
        await world.start(client)
        await trio.sleep(10)
        assert client.store.all(TOP_UPS) == []
        assert client.channels.get(channel).spare >= MORE  # learnt without being asked
        await client.channels.cover(channel, MORE)
        assert top_ups(world) == 1


async def test_a_restarted_process_waits_for_what_it_had_sent_and_then_sends_nothing_more(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, chain, channel = await paying(world)
        chain.loses = True
        with pytest.raises(ChainUnknown):
            await client.channels.cover(channel, MORE)
        await client.kill()
        await world.start(client)
        await trio.sleep(10)
        assert len(client.store.all(TOP_UPS)) == 1
        with pytest.raises(ChainBusy, match="may still arrive"):
            await client.channels.cover(channel, MORE)
        assert top_ups(world) == 0
        await chain.take_pending()
        await client.channels.cover(channel, MORE)
        assert world.chain.ledger.channels[channel].deposit == client.channels.get(channel).deposit
        assert top_ups(world) == 1


async def test_one_that_can_never_land_any_more_is_made_again_once(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, chain, channel = await paying(world)
        chain.loses = True
        with pytest.raises(ChainUnknown):
            await client.channels.cover(channel, MORE)
        with pytest.raises(ChainBusy, match="may still arrive"):
            await client.channels.cover(channel, MORE)
        chain.pending.clear()  # its last height is past
        await client.channels.cover(channel, MORE)
        assert top_ups(world) == 1
        assert client.channels.get(channel).spare >= MORE


async def test_a_chain_that_cannot_tell_is_asked_again_before_anything_is_sent(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, chain, channel = await paying(world)
        chain.loses = True
        with pytest.raises(ChainUnknown):
            await client.channels.cover(channel, MORE)
        chain.pending.clear()
        chain.out = True
        with pytest.raises(ChainBusy):
            await client.channels.cover(channel, MORE)
        assert len(client.store.all(TOP_UPS)) == 1
        assert top_ups(world) == 0


async def test_a_top_up_that_the_disk_does_not_take_is_not_sent(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _, channel = await paying(world)
        disk = FullDisk(client.store)
        with pytest.raises(StoreError):
            await client.channels.cover(channel, MORE)
        disk.emptied()
        assert top_ups(world) == 0
        await client.channels.cover(channel, MORE)
        assert top_ups(world) == 1
