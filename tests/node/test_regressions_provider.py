"""Faults of a provider that were found once: each test fails where its mend is taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import SMALL, FakeNode, World, fake_world

from robocompute_node.executor.fake import Pause, Say
from robocompute_protocol import codec
from robocompute_protocol.causes import Cause
from robocompute_protocol.messages import Quote, QuoteRequest, Receipt
from robocompute_protocol.money import Millis
from robocompute_protocol.steps import StopOrdered
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.executor.port import JobOrder, Progress
    from robocompute_protocol.identifiers import ChannelId
    from robocompute_protocol.messages import Manifest
    from robocompute_settlement.port import ChannelView

MOST_OF_IT = 60 << 20
"""Of the 65 MiB that a quote for 64 MiB of disk lets its client upload."""


async def pair(world: World) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(script=lambda _: (Say("hello"), Pause(1_000)))
    client = await world.client()
    await world.start(provider)
    await world.start(client)
    return client, provider


async def test_a_job_that_is_paid_for_lets_its_client_upload_the_next_one(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        peer = client.key.node_key
        request = QuoteRequest(
            requirements=SMALL,
            payer=client.wallet,
            mint=client.config.chain.mint,
            wall_ms=Millis(1_000),
        )
        assert isinstance(provider.desk.quote(peer, request), Quote)
        assert provider.desk.may_store(peer, MOST_OF_IT)
        assert not provider.desk.may_store(peer, MOST_OF_IT)
        await trio.sleep(30)  # the quote's hold on the slot is over
        task = await client.until_ended(await client.submit("run"))
        assert task.exit_code == 0
        assert provider.desk.may_store(peer, MOST_OF_IT)


async def test_an_order_that_nobody_follows_up_is_declined_after_a_restart_and_keeps_no_slot(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)

        async def not_yet(
            channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
        ) -> ChannelView | None:
            await trio.lowlevel.checkpoint()
            return None

        async def wait(channel: ChannelId, *, timeout_s: float) -> ChannelView:
            await trio.sleep(timeout_s)
            raise AssertionError("killed before")

        provider.chain.channel = not_yet
        provider.chain.wait_for_channel = wait
        await client.submit("run")
        while not provider.lettings.running():  # noqa: ASYNC110 - the other node's
            await trio.sleep(0.1)
        await client.kill()
        await provider.kill()
        await world.start(provider)
        assert provider.lettings.summary()["slots_taken"] == 0
        assert len(provider.lettings.running()) == 1
        await trio.sleep(70)
        assert provider.lettings.running() == ()


async def test_a_job_that_was_stopped_before_it_began_is_not_begun_by_a_restart(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        real = provider.executor.prepare

        async def slow(order: JobOrder, upload: Manifest, progress: Progress) -> None:
            await trio.sleep(5)
            await real(order, upload, progress)

        provider.executor.prepare = slow
        await client.submit("run")
        while not provider.lettings.running():  # noqa: ASYNC110 - the other node's
            await trio.sleep(0.1)
        (letting,) = provider.lettings.running()
        agreement = letting.state.agreement
        await client.kill()
        provider.lettings.apply(
            agreement, StopOrdered(cause=Cause.CANCELLED, detail="by the owner")
        )
        await provider.kill()
        await trio.sleep(60)  # what was prepaid is over
        await world.start(provider)
        await trio.sleep(3)
        ended = provider.lettings.get(agreement)
        assert ended is not None
        assert ended.state.receipt is not None
        receipt = codec.decode(Receipt, ended.state.receipt.body, limit=100_000)
        assert receipt.cause is Cause.CANCELLED
        assert receipt.output_records == 0
