"""A task is cancelled at each point of its way; a provider that never got the order says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import IgnoreTerm, Pause, Say
from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import ChainBusy
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_protocol.messages import PROTOCOL_AGREEMENT
from robocompute_settlement.fake import FakeChain, FakeSettlement
from robocompute_settlement.port import ChannelView, Commitment

if TYPE_CHECKING:
    from pathlib import Path


class LateChain(FakeSettlement):
    """A chain as a provider sees it whose confirmations are late."""

    def __init__(self, chain: FakeChain, node: FakeNode) -> None:
        super().__init__(chain, Address(node.key.node_key))
        self.shown = trio.Event()

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        found = await super().channel(channel, at=at)
        return found if self.shown.is_set() else None

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        await self.shown.wait()
        return await super().wait_for_channel(channel, timeout_s=timeout_s)


async def pair(world: World) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(script=lambda _: (Say("hello"), Pause(5_000)))
    client = await world.client()
    return client, provider


async def test_a_task_that_nobody_fits_is_cancelled_at_once_and_costs_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client = await world.start(await world.client())
        task_id = await client.submit("run", wait=True)
        await trio.sleep(20)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=2)
        assert (task.status, task.cost) == (TaskStatus.CANCELLED, 0)
        assert client.channels.all() == ()


async def test_an_order_that_waits_for_its_channel_is_cancelled_and_never_leased(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        late = provider.chain = LateChain(world.chain, provider)
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "ordering")
        await trio.sleep(3)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=10)
        assert (task.status, task.cost) == (TaskStatus.CANCELLED, 0)
        late.shown.set()
        await trio.sleep(60)
        assert provider.executor.jobs() == ()
        ledger = client.channel_with(provider).ledger
        assert (ledger.open, ledger.credit) == ((), ledger.cumulative)
        world.check_money()


async def test_an_order_taken_back_before_its_provider_gives_its_channel_up_harms_nobody(
    tmp_path: Path, autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        provider.chain = LateChain(world.chain, provider)

        async def in_vain(channel: ChannelId, *, timeout_s: float) -> ChannelView:
            await trio.sleep(timeout_s)
            raise ChainBusy("not confirmed")

        provider.chain.wait_for_channel = in_vain
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "ordering")
        await trio.sleep(3)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=10)
        assert (task.status, task.cost) == (TaskStatus.CANCELLED, 0)
        await trio.sleep(60)  # the provider gives up meanwhile, and goes on
        assert provider.lettings.running() == ()
        assert client.channel_with(provider).ledger.open == ()
        assert "AssertionError" not in caplog.text


@pytest.mark.parametrize("after_ms", [0, 100, 2_500, 4_999, 5_000, 5_001])
async def test_a_cancel_at_any_moment_of_a_job_leaves_both_sides_with_one_receipt(
    after_ms: int, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(after_ms / 1_000)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id)
        assert task.status in (TaskStatus.CANCELLED, TaskStatus.COMPLETED)
        assert client.printed(task_id) == ["hello"]
        payee = world.check_agreed(client, provider)
        assert task.cost == payee.ledger.owed <= 6_100


async def test_a_job_that_ignores_sigterm_is_paid_only_until_it_is_killed(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (IgnoreTerm(), Pause(3_600_000)))
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=10)
        assert task.cause is Cause.CANCELLED
        assert task.cost == world.check_agreed(client, provider).ledger.owed <= 26_000


async def test_a_provider_that_never_got_the_order_signs_that_it_never_will_lease_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await world.start(provider)
        serve = provider.desk.serve_agreement

        class Losing:
            """The provider's end of a stream, on which orders are lost with the link."""

            def __init__(self, stream: FrameStream) -> None:
                self._stream = stream
                self.peer = stream.peer
                self.send, self.close = stream.send, stream.close

            async def receive(self, *, timeout_s: float | None = None) -> bytes | None:
                frame = await self._stream.receive(timeout_s=timeout_s)
                if frame is not None and b"order" in frame[:32]:
                    raise PeerGone("the link broke with the order on it")
                return frame

        async def lose_orders(stream: FrameStream) -> None:
            await serve(Losing(stream))

        provider.network.serve(PROTOCOL_AGREEMENT, lose_orders)
        await world.start(client)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "ordering")
        await trio.sleep(2)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=5)
        assert (task.status, task.cost) == (TaskStatus.CANCELLED, 0)
        ledger = client.channel_with(provider).ledger
        assert (ledger.open, ledger.credit) == ((), ledger.cumulative)
