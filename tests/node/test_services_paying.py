"""Vouchers for more time: kept whatever is said to what they ask for, and many in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import FakeNode, fake_world

from robocompute_node.executor.fake import Pause
from robocompute_node.services.conversation import hear, say
from robocompute_node.services.earnings import EARNINGS
from robocompute_protocol import terms as rules
from robocompute_protocol.identifiers import AgreementId
from robocompute_protocol.messages import PROTOCOL_PAY, Extend, Leased, PayMessage, Refused
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.messages import Message

CLIENTS = 6


async def running(client: FakeNode, provider: FakeNode) -> AgreementId:
    """Start a job that does not end by itself, and return its agreement."""
    task_id = await client.submit("run", wait=True)
    await client.until_stage(task_id, "running")
    assert provider.lettings.running()
    return AgreementId(bytes.fromhex(client.api.task(task_id).agreement or ""))


def more_time(client: FakeNode, provider: FakeNode, agreement: AgreementId, ms: int) -> Extend:
    """Promise what pays for ``ms`` beyond what the lease has; the client's own voucher."""
    letting = provider.lettings.get(agreement)
    assert letting is not None
    prepaid = Millis(letting.state.prepaid_ms + ms)
    voucher = client.channels.promise(
        letting.terms.channel, agreement, rules.prepaid_amount(letting.terms, prepaid)
    )
    return Extend(agreement=agreement, prepaid_ms=prepaid, voucher=voucher)


async def pay(client: FakeNode, provider: FakeNode, request: Extend) -> Message:
    async with client.network.open(provider.key.node_key, PROTOCOL_PAY) as stream:
        await say(stream, request)
        return await hear(stream, PayMessage, timeout_s=60)


async def test_a_voucher_that_comes_during_an_alarm_is_kept_though_it_buys_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(3_600_000),)))
        client = await world.start(await world.client())
        agreement = await running(client, provider)
        await trio.sleep(12)
        client.network.drop_link(provider.key.node_key)
        provider.earnings.alarm_on = lambda _channel: "more was settled than is known"
        before = provider.lettings.get(agreement)
        assert before is not None
        request = more_time(client, provider, agreement, 1)
        for _ in range(2):
            refused = await pay(client, provider, request)
            assert isinstance(refused, Refused)
            assert refused.code == "channel_alarm"
            stored = provider.store.get(EARNINGS, before.terms.channel)
            assert stored is not None
            assert stored.ledger.voucher == request.voucher
            assert stored == provider.earnings.get(before.terms.channel)
        after = provider.lettings.get(agreement)
        assert after is not None
        assert after.state == before.state
        provider.earnings.alarm_on = lambda _channel: None
        leased = await pay(client, provider, request)
        assert isinstance(leased, Leased)
        assert leased.prepaid_ms == request.prepaid_ms


async def test_a_voucher_is_kept_while_the_chain_cannot_be_asked_whether_it_still_counts(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(3_600_000),)))
        client = await world.start(await world.client(challenge_s=600, horizon_s=1_800))
        agreement = await running(client, provider)
        await trio.sleep(60)  # the deposit is final, and half an hour is paid
        provider.reach.out = True
        await trio.sleep(310)  # longer than half the challenge time: the provider is blind
        letting = provider.lettings.get(agreement)
        assert letting is not None
        request = more_time(client, provider, agreement, 1)
        refused = await pay(client, provider, request)
        assert isinstance(refused, Refused)
        assert refused.code == "chain_busy"
        stored = provider.store.get(EARNINGS, letting.terms.channel)
        assert stored is not None
        assert stored.ledger.voucher == request.voucher


async def test_clients_that_pay_at_the_same_moment_share_a_commit_and_each_gets_its_tick(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(
            await world.provider(script=lambda _: (Pause(3_600_000),), slots=CLIENTS)
        )
        clients = [await world.start(await world.client(f"c{n}")) for n in range(CLIENTS)]
        agreements = [await running(client, provider) for client in clients]
        answers: list[Message] = []
        requests = [
            more_time(client, provider, agreement, 1)
            for client, agreement in zip(clients, agreements, strict=True)
        ]

        async def one(client: FakeNode, request: Extend) -> None:
            answers.append(await pay(client, provider, request))

        ticks, writes = provider.quiet.ticks, provider.store.writes
        async with trio.open_nursery() as nursery:
            for client, request in zip(clients, requests, strict=True):
                nursery.start_soon(one, client, request)
        assert provider.store.writes == writes + 1
        assert provider.quiet.ticks == ticks + CLIENTS
        leased = {answer.tick.agreement for answer in answers if isinstance(answer, Leased)}
        assert leased == set(agreements)
        for agreement, request in zip(agreements, requests, strict=True):
            letting = provider.lettings.get(agreement)
            assert letting is not None
            assert letting.state.prepaid_ms == request.prepaid_ms
            earning = provider.earnings.get(letting.terms.channel)
            assert earning is not None
            assert earning.ledger.voucher == request.voucher


async def test_two_jobs_on_one_channel_are_paid_at_once_and_neither_payment_is_lost(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(
            await world.provider(script=lambda _: (Pause(3_600_000),), slots=2)
        )
        client = await world.start(await world.client())
        agreements = [await running(client, provider) for _ in range(2)]
        requests = [more_time(client, provider, agreement, 1) for agreement in agreements]
        answers: list[Message] = []

        async def one(request: Extend) -> None:
            answers.append(await pay(client, provider, request))

        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(one, request)
        letting = provider.lettings.get(agreements[0])
        assert letting is not None
        earning = provider.earnings.get(letting.terms.channel)
        assert earning is not None
        newest = max((request.voucher for request in requests), key=lambda each: each.sequence)
        assert earning.ledger.voucher == newest
        assert earning == provider.store.get(EARNINGS, letting.terms.channel)
        assert any(isinstance(answer, Leased) for answer in answers)
