"""A client's and a provider's services together: jobs that go well, and the money they move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from fake_world import USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Pause, Say
from robocompute_node.services.channels import ChannelPhase
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import AgreementId, to_base58
from robocompute_protocol.leases import overlaps
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    NeverLeased,
    Order,
    QuoteRequest,
)
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.receipts import sign_never_leased
from robocompute_protocol.terms import agreement_id, open_terms

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream


async def pair(world: World, **client_settings: Any) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(
        script=lambda task: (
            Say("hello"),
            Pause(int(task.argv[-1])),
            Append("volume/out", b"x" * 9),
        )
    )
    client = await world.client(**client_settings)
    await world.start(provider)
    await world.start(client)
    return client, provider


async def test_a_job_completes_and_both_ledgers_say_the_same(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        task_id = await client.submit("run", "2500", files=[("main.py", b"print()")])
        task = await client.until_ended(task_id)
        assert (task.status, task.cause, task.exit_code) == (TaskStatus.COMPLETED, Cause.EXITED, 0)
        assert client.printed(task_id) == ["hello"]
        assert [f.path for f in client.api.artifacts(task_id).files] == ["volume/out"]
        payee = world.check_agreed(client, provider)
        assert task.cost == payee.ledger.owed
        assert 2_500 <= payee.ledger.owed <= 3_000
        assert client.channel_with(provider).ledger.cumulative == 10_000


async def test_the_next_job_uses_the_credit_of_the_last_one_first(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        costs: list[int] = []
        for _ in range(3):
            task = await client.until_ended(await client.submit("run", "1000"))
            assert task.status is TaskStatus.COMPLETED
            costs.append(task.cost or 0)
        world.check_agreed(client, provider)
        assert client.channel_with(provider).ledger.cumulative == 10_000 + costs[0] + costs[1]


@pytest.mark.parametrize("horizon_s", [4.0, 10.0, 60.0, 250.0, 900.0])
async def test_a_job_is_never_prepaid_further_than_its_horizon_and_never_freezes(
    horizon_s: float, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, horizon_s=horizon_s)
        job_ms = int(max(100_000, horizon_s * 3_000))
        task_id = await client.submit("run", str(job_ms))
        await client.until_stage(task_id, "running")
        ahead: list[int] = []
        while client.api.task(task_id).ended_ms is None:
            ahead += [
                record.state.prepaid_ms - provider.lettings.elapsed(record)
                for record in provider.lettings.running()
            ]
            await trio.sleep(0.5)
        assert max(ahead) <= horizon_s * 1_000 + 1_000
        task = client.api.task(task_id)
        assert task.status is TaskStatus.COMPLETED
        receipt = await client.api.receipt(task_id)
        assert receipt is not None
        assert receipt["frozen_ms"] == 0
        payee = world.check_agreed(client, provider)
        assert job_ms <= payee.ledger.owed <= job_ms + 1_500


async def test_a_channel_is_topped_up_when_a_job_outgrows_its_deposit(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, channel_deposit=MicroUnits(50_000))
        task = await client.until_ended(await client.submit("run", "300000"))
        assert task.status is TaskStatus.COMPLETED
        assert [each.name for each in world.chain.sent].count("top_up") >= 4
        assert len(client.channels.all()) == 1
        world.check_agreed(client, provider)


async def test_two_jobs_on_one_channel_that_top_up_at_once_keep_one_ledger(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(90_000),), slots=3)
        client = await world.client(channel_deposit=MicroUnits(20_000))
        await world.start(provider)
        await world.start(client)
        tasks = [await client.submit("run", str(n)) for n in range(3)]
        for task_id in tasks:
            assert (await client.until_ended(task_id)).status is TaskStatus.COMPLETED
        world.check_agreed(client, provider)


async def test_a_job_waits_for_a_busy_provider_until_the_last_signed_tick_is_over(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        first, provider = await pair(world)
        second = await world.start(await world.client("second"))
        one = await first.submit("run", "12000")
        await first.until_stage(one, "running")
        two = await second.submit("run", "1000")
        await second.until_stage(two, "matching")
        assert (await first.until_ended(one)).status is TaskStatus.COMPLETED
        assert (await second.until_ended(two)).status is TaskStatus.COMPLETED
        agreements = [
            bytes.fromhex(n.api.task(t).agreement or "") for n, t in ((first, one), (second, two))
        ]
        ticks = [provider.lettings.get(AgreementId(a)) for a in agreements]
        signed = [letting.tick for letting in ticks if letting is not None and letting.tick]
        assert len(signed) == 2
        assert not overlaps(*signed)
        world.check_agreed(first, provider)
        world.check_agreed(second, provider)


async def test_the_cheaper_provider_that_refuses_the_order_is_left_out_and_another_runs_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        picky = await world.start(await world.provider("picky", price_per_hour=MicroUnits(1_000)))
        orders = 0

        async def serve(stream: FrameStream) -> None:
            nonlocal orders
            while (request := await hear_or_end(stream, AgreementMessage)) is not None:
                match request:
                    case QuoteRequest():
                        await say(stream, picky.desk.quote(stream.peer, request))
                    case Order():
                        orders += 1
                        terms = open_terms(request.terms)
                        signed = sign_never_leased(
                            picky.key, agreement=agreement_id(terms), channel=terms.channel
                        )
                        await say(stream, NeverLeased(statement=signed))
                    case _:
                        raise AssertionError(request)

        picky.network.serve(PROTOCOL_AGREEMENT, serve)
        await trio.sleep(1)
        task_id = await client.submit("run", "1000")
        task = await client.until_ended(task_id)
        assert task.status is TaskStatus.COMPLETED
        assert task.provider == to_base58(provider.key.node_key)
        assert orders == 1
        world.check_agreed(client, provider)
        left_out = client.channel_with(picky).ledger
        assert (left_out.open, left_out.credit) == ((), left_out.cumulative)


async def test_links_that_break_all_the_time_lose_and_double_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    said = [
        step
        for n in range(40)
        for step in (Say(f"{n}"), Append("volume/aspara/r.jsonl", b"%d\n" % n), Pause(700))
    ]
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: said))
        client = await world.start(await world.client())
        task_id = await client.submit("run")

        async def cut() -> None:
            for pause in (0.3, 0.9, 1.7, 2.9) * 10:
                await trio.sleep(pause)
                world.hub.cut(client.key.node_key, provider.key.node_key)
                world.introduce(client.network)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            task = await client.until_ended(task_id)
            nursery.cancel_scope.cancel()
        assert task.status is TaskStatus.COMPLETED
        assert client.printed(task_id) == [f"{n}" for n in range(40)]
        metrics = (client.config.aspara_dir / "r.jsonl").read_bytes()
        assert metrics == b"".join(b"%d\n" % n for n in range(40))
        world.check_agreed(client, provider)


async def test_a_client_that_is_lost_owes_what_it_prepaid_and_finds_everything_when_it_returns(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        task_id = await client.submit("run", "600000")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        await client.kill()
        await trio.sleep(120)
        assert provider.lettings.running() == ()
        agreement = AgreementId(bytes.fromhex(client.api.task(task_id).agreement or ""))
        letting = provider.lettings.get(agreement)
        assert letting is not None
        owed = letting.state.prepaid_ms  # a micro-unit a millisecond
        assert owed >= 40_000
        await world.start(client)
        task = await client.until_ended(task_id)
        assert (task.status, task.cause, task.cost) == (TaskStatus.FAILED, Cause.CLIENT_LOST, owed)
        assert client.printed(task_id) == ["hello"]
        world.check_agreed(client, provider)


async def test_a_provider_that_is_lost_is_given_up_and_its_money_is_credit_when_it_returns(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        task_id = await client.submit("run", "600000")
        await client.until_stage(task_id, "running")
        await trio.sleep(20)
        await provider.kill()
        began = trio.current_time()
        task = await client.until_ended(task_id)
        assert 28 <= trio.current_time() - began <= 34
        assert (task.status, task.cause, task.cost) == (TaskStatus.FAILED, Cause.PROVIDER_LOST, 0)
        assert task.prepaid > 0
        assert "comes back as credit" in task.message
        assert client.channel_with(provider).ledger.credit == 0
        await trio.sleep(100)
        await world.start(provider)
        await trio.sleep(30)
        payee = world.check_agreed(client, provider)
        assert payee.ledger.owed == 0
        ledger = client.channel_with(provider).ledger
        assert ledger.credit == ledger.cumulative > 0
        assert "came back" in client.api.task(task_id).message


async def test_a_closing_channel_ends_the_job_and_is_settled(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        task_id = await client.submit("run", "6000000")
        await client.until_stage(task_id, "running")
        await trio.sleep(40)
        channel = client.channel_with(provider).channel
        await client.channels.request_close(channel)
        task = await client.until_ended(task_id)
        assert (task.status, task.cause) == (TaskStatus.FAILED, Cause.CHANNEL_CLOSED)
        await trio.sleep(30)
        view = await client.chain.channel(channel)
        assert view is not None
        assert view.settled == task.cost == provider.earnings.get(channel).settled  # type: ignore[union-attr]
        before = await client.chain.balance(client.wallet, USDC)
        await trio.sleep(700)
        after = await client.chain.balance(client.wallet, USDC)
        assert before is not None
        assert after is not None
        assert after.available - before.available == view.deposit - view.settled
        assert client.channel_with(provider).phase is ChannelPhase.CLOSED
        world.check_money()
