"""What a chain or a provider must not take from a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fake_world import World, fake_world

from robocompute_node.executor.fake import Pause, Say
from robocompute_node.services.channels import ChannelPhase
from robocompute_protocol.errors import ChainBusy

if TYPE_CHECKING:
    from pathlib import Path

    import trio

    from robocompute_settlement.port import Sent


async def test_a_channel_that_opened_though_the_chain_said_busy_is_used_not_lost(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Say("hello"), Pause(1_000)))
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        real = client.chain.open_channel

        async def taken_but_busy(**asked: Any) -> Sent:
            await real(**asked)
            raise ChainBusy("no answer")

        client.chain.open_channel = taken_but_busy
        await client.until_ended(await client.submit("run"))
        assert len(world.chain.ledger.channels) == 1
        (record,) = client.channels.all()
        assert record.phase is ChannelPhase.OPEN
        assert _worlds_money_is_known(world, record.deposit)


def _worlds_money_is_known(world: World, deposit: int) -> bool:
    return sum(view.deposit for view in world.chain.ledger.channels.values()) == deposit
