"""A provider that only says "wait", a chain that says never, and results that come late."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Pause, Say
from robocompute_node.services.channels import ChannelPhase
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import ChainError, ChainRefused
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_JOB,
    AgreementMessage,
    QuoteRequest,
    Waiting,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from robocompute_node.p2p.port import FrameStream


async def pair(world: World, *, pause_ms: int = 40_000) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(
        script=lambda _: (
            Say("hello"),
            Pause(pause_ms),
            Say("done"),
            Append("volume/out", b"result"),
        )
    )
    client = await world.client(close_lost_after_s=1_500.0)
    await world.start(provider)
    await world.start(client)
    return client, provider


def only_waits(provider: FakeNode) -> None:
    """From now on orders and cancels are answered by "wait", for ever."""

    async def serve(stream: FrameStream) -> None:
        while (request := await hear_or_end(stream, AgreementMessage)) is not None:
            if isinstance(request, QuoteRequest):
                await say(stream, provider.desk.quote(stream.peer, request))
                continue
            while True:
                await say(stream, Waiting(reason="stopping"))
                await trio.sleep(5)

    async def mute(_stream: FrameStream) -> None:
        await trio.sleep_forever()

    provider.network.serve(PROTOCOL_AGREEMENT, serve)
    provider.network.serve(PROTOCOL_JOB, mute)


async def test_an_order_that_is_only_told_to_wait_is_written_off_and_its_money_comes_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        only_waits(provider)
        await trio.sleep(1)
        task_id = await client.submit("run")
        task = await client.until_ended(task_id, within_s=400)
        assert (task.status, task.cause) == (TaskStatus.FAILED, Cause.PROVIDER_LOST)
        assert task.prepaid > 0
        assert "not used" in task.message
        channel = client.channel_with(provider).channel
        await trio.sleep(2_500)  # its provider answers, but it is of no use: the channel is closed
        assert client.channels.get(channel).phase is ChannelPhase.CLOSED
        world.check_money()


async def test_a_cancel_that_is_only_told_to_wait_ends_all_the_same(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=10**7)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        only_waits(provider)
        world.hub.cut(client.key.node_key, provider.key.node_key)
        world.introduce(client.network)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=400)
        assert task.cause is Cause.PROVIDER_LOST
        assert task.prepaid > 0


async def test_what_the_chain_refuses_for_good_fails_the_task_with_its_words_and_is_not_repeated(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _ = await pair(world)
        asked = 0

        def never(name: str) -> ChainError | None:
            nonlocal asked
            asked += name == "open_channel"
            return (
                ChainRefused("no such delegate", number=6008) if name == "open_channel" else None
            )

        world.chain.fault = never
        await trio.sleep(1)
        task = await client.until_ended(await client.submit("run", wait=True), within_s=60)
        assert (task.error, task.message) == ("chain_refused", "no such delegate")
        assert asked == 1


async def test_a_paused_program_is_waited_for(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _ = await pair(world, pause_ms=1_000)
        world.chain.fault = lambda name: (
            ChainRefused("paused", number=6017) if name == "open_channel" else None
        )
        await trio.sleep(1)
        task_id = await client.submit("run", wait=True)
        await client.until_stage(task_id, "funding")
        await trio.sleep(60)
        assert client.api.task(task_id).ended_ms is None  # asking anew, time and again
        world.chain.fault = lambda _name: None
        task = await client.until_ended(task_id, within_s=60)
        assert task.status is TaskStatus.COMPLETED


async def test_results_and_output_of_a_lost_provider_are_fetched_when_it_comes_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=25_000)
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        await provider.kill()  # the job goes on without it, and ends well
        task = await client.until_ended(task_id)
        assert task.cause is Cause.PROVIDER_LOST
        assert client.printed(task_id) == ["hello"]
        assert client.api.artifacts(task_id).files == ()
        await client.kill()
        await trio.sleep(200)
        await world.start(client)  # a restart forgets none of it
        await world.start(provider)
        await trio.sleep(60)
        late = client.api.task(task_id)
        assert "its results are here now" in late.message
        assert client.printed(task_id) == ["hello", "done"]
        assert [file.path for file in client.api.artifacts(task_id).files] == ["volume/out"]
        world.check_agreed(client, provider)


async def test_output_that_is_not_what_the_receipt_says_is_told(
    tmp_path: Path, autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=1_000)
        real = provider.executor.records

        async def altered(job_id: str, *, start: int):  # noqa: ANN202
            async for record in real(job_id, start=start):
                yield msgspec.structs.replace(record, data=record.data.upper())

        provider.executor.records = altered
        task_id = await client.submit("run")
        task = await client.until_ended(task_id)
        assert client.printed(task_id) == ["HELLO", "DONE"]
        assert task.status is TaskStatus.COMPLETED
        assert "its output is not what the provider's receipt says it was" in task.message
        assert "its output is not" in caplog.text


async def test_honest_output_of_any_bytes_is_as_its_receipt_says(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _ = await pair(world, pause_ms=1_000)
        await trio.sleep(1)
        task = await client.until_ended(await client.submit("run"))
        assert "output" not in task.message


async def test_a_provider_that_wants_money_locked_for_longer_than_allowed_gets_none(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await world.start(await world.provider(min_challenge_s=601))
        wary = await world.start(await world.client("wary", max_challenge_s=600))
        calm = await world.start(await world.client("calm", max_challenge_s=601))
        refused = await wary.until_ended(await wary.submit("run"))
        assert refused.status is TaskStatus.FAILED
        assert re.search(r"601 s.*600 s .*\[client\] max_challenge_s", refused.message)
        assert wary.channels.all() == ()
        task = await calm.until_ended(await calm.submit("run"))
        assert task.status is TaskStatus.COMPLETED
        assert calm.channels.all()[0].challenge_s == 601


async def test_a_task_whose_client_was_restarted_waits_until_the_market_was_met_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client = await world.start(await world.client())
        provider = await world.provider()
        task_id = await client.submit()
        await client.kill()
        await trio.sleep(20)
        await world.start(client)
        await trio.sleep(2)
        await world.start(provider)
        assert (await client.until_ended(task_id)).cause == Cause.EXITED
