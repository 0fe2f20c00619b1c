"""A provider whose clock is off the chain's lets nothing new, says so, and begins again by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import SMALL, USDC, FakeNode, fake_world

from robocompute_node.executor.fake import Pause
from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.messages import Quote, QuoteRequest, Refused
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from pathlib import Path


def asked(client: FakeNode, provider: FakeNode) -> Quote | Refused:
    request = QuoteRequest(
        requirements=SMALL, payer=client.wallet, mint=USDC, wall_ms=Millis(60_000)
    )
    return provider.desk.quote(client.key.node_key, request)


async def test_a_provider_whose_clock_is_ahead_refuses_with_the_cause_and_what_runs_goes_on(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(
            await world.provider(script=lambda _: (Pause(3_600_000),), slots=2)
        )
        client = await world.start(await world.client())
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        assert isinstance(asked(client, provider), Quote)
        right = world.chain.now_s
        world.chain.now_s = lambda: right() - 45
        await trio.sleep(61)
        refused = asked(client, provider)
        assert isinstance(refused, Refused)
        assert refused.code == "clock_off"
        assert "45 s ahead of the chain's" in refused.message
        assert provider.offering.summary()["not_letting"] == refused.message
        assert provider.offering.offer() is None
        (letting,) = provider.lettings.running()
        assert letting.state.phase is ProviderPhase.LEASED
        assert letting.state.prepaid_ms > provider.lettings.elapsed(letting)
        world.chain.now_s = right
        await trio.sleep(61)
        assert isinstance(asked(client, provider), Quote)


async def test_a_chain_that_stands_still_stops_no_provider(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider())
        client = await world.start(await world.client())
        stood = world.chain.now_s()
        world.chain.now_s = lambda: stood
        for _ in range(100):
            await trio.sleep(7)
            assert isinstance(asked(client, provider), Quote)
