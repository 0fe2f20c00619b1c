"""What a client, a restart or a chain that says no must not take from a provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from fake_world import SMALL, FakeNode, World, fake_world

from robocompute_node.executor.fake import Pause, Say
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import hear, say
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import ChainBusy, ChainRefused, RoboComputeError
from robocompute_protocol.identifiers import ChannelId, Digest, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    Manifest,
    Order,
    Quote,
    QuoteRequest,
    Receipt,
    Refused,
    TaskSpec,
    Terms,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.steps import StopOrdered
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.port import ChannelView, Commitment

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.services.lettings import LettingRecord

LONG = 100_000_000


async def pair(
    world: World, *, pause_ms: int = LONG, settle_after_s: float = 600.0
) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(
        script=lambda _: (Say("hello"), Pause(pause_ms)), settle_after_s=settle_after_s
    )
    client = await world.client()
    await world.start(provider)
    await world.start(client)
    return client, provider


def only(provider: FakeNode) -> LettingRecord:
    (record,) = provider.lettings._records.values()  # pyright: ignore[reportPrivateUsage]
    return record


def receipt_of(provider: FakeNode) -> Receipt:
    signed = only(provider).state.receipt
    assert signed is not None
    return codec.decode(Receipt, signed.body, limit=100_000)


async def test_an_order_with_a_bad_voucher_gives_its_slot_back_and_one_that_cannot_start_takes_none(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        manifest = client.blobs.put(codec.encode(Manifest(files=())))
        task = codec.encode(
            TaskSpec(
                app_name="a",
                argv=("x",),
                requirements=SMALL,
                upload=manifest,
                wall_ms=Millis(1_000),
            )
        )

        async def told(_sent: int, _wanted: int) -> None:
            await trio.lowlevel.checkpoint()

        async with client.network.open(provider.key.node_key, PROTOCOL_AGREEMENT) as stream:
            await say(
                stream,
                QuoteRequest(
                    requirements=SMALL,
                    payer=client.wallet,
                    mint=client.config.chain.mint,
                    wall_ms=Millis(1_000),
                ),
            )
            quote = await hear(stream, AgreementMessage, timeout_s=5)
            assert isinstance(quote, Quote)
        await client.exchange.push(provider.key.node_key, (manifest,), told=told)
        channel = (
            await client.channels.ensure(
                quote.payee,
                provider.key.node_key,
                needed=MicroUnits(10_000),
                min_challenge_s=600,
            )
        ).channel
        terms = Terms(
            task=digest(task),
            payer=client.wallet,
            payer_node=client.key.node_key,
            payee=quote.payee,
            payee_node=provider.key.node_key,
            stake=quote.stake,
            mint=quote.mint,
            channel=channel,
            nonce=bytes(16),
            slots=quote.slots,
            price_per_hour=quote.price_per_hour,
            horizon_ms=Millis(60_000),
            first_tick_ms=Millis(2_000),
            start_deadline_ms=Millis(60_000),
        )
        agreement = rules.agreement_id(terms)
        _, voucher = PayerLedger(channel=channel).allocate(agreement, MicroUnits(10_000))
        stranger = SigningKey(digest(b"a stranger"))
        order = Order(
            terms=rules.sign_terms(client.key, terms),
            task=task,
            voucher=sign_voucher(stranger, voucher),
        )
        async with client.network.open(provider.key.node_key, PROTOCOL_AGREEMENT) as stream:
            await say(stream, order)
            assert isinstance(await hear(stream, AgreementMessage, timeout_s=60), Refused)
        assert provider.lettings.get(agreement) is None
        assert provider.lettings.never.get(agreement) is not None
        assert provider.lettings.summary()["slots_taken"] == 0
        hurried = msgspec.structs.replace(terms, start_deadline_ms=Millis(0), nonce=b"n" * 16)
        order = msgspec.structs.replace(order, terms=rules.sign_terms(client.key, hurried))
        async with client.network.open(provider.key.node_key, PROTOCOL_AGREEMENT) as stream:
            await say(stream, order)
            answer = await hear(stream, AgreementMessage, timeout_s=5)
        assert isinstance(answer, Refused)
        assert answer.code == "start_deadline_short"


async def test_a_stop_that_a_restart_interrupted_is_given_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await client.until_stage(await client.submit("run"), "running")
        await client.kill()
        provider.lettings.apply(
            only(provider).state.agreement,
            StopOrdered(cause=Cause.CANCELLED, detail="by the owner"),
        )
        await provider.kill()
        await world.start(provider)
        await trio.sleep(8)
        assert receipt_of(provider).cause is Cause.CANCELLED


async def test_a_settlement_without_sol_for_its_fee_is_tried_again_when_there_is_some(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=1_000, settle_after_s=5.0)
        world.chain.fault = lambda name: ChainRefused("no SOL") if name == "settle" else None
        await client.until_ended(await client.submit("run"))
        await trio.sleep(20)
        assert provider.settler.summary()["refused"] == ["no SOL"]
        world.chain.fault = lambda _: None
        await trio.sleep(100)
        assert provider.settler.summary()["refused"] == []
        payee = world.check_agreed(client, provider)
        assert payee.settled == payee.ledger.owed > 0


async def test_a_channel_that_one_view_does_not_show_is_still_watched(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=1_000)
        await client.until_ended(await client.submit("run"))
        channel = client.channel_with(provider).channel
        real = provider.chain.channel

        async def behind(
            channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
        ) -> ChannelView | None:
            return None if at is Commitment.CONFIRMED else await real(channel, at=at)

        provider.chain.channel = behind
        await trio.sleep(200)
        provider.chain.channel = real
        await client.chain.request_close(world.chain.ledger.channels[channel])
        await trio.sleep(200)
        record = provider.earnings.get(channel)
        assert record is not None
        assert record.closing


async def test_a_restart_does_not_forgive_a_client_that_had_stopped_paying_before(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await client.until_stage(await client.submit("run"), "running")
        await trio.sleep(1_000)
        await client.kill()
        await trio.sleep(25)
        await provider.kill()
        await trio.sleep(8)
        await world.start(provider)
        await trio.sleep(5)
        receipt = receipt_of(provider)
        assert receipt.cause is Cause.CLIENT_LOST
        assert receipt.amount > 1_000_000


async def test_a_restart_while_collecting_does_not_forgive_an_end_that_was_seen(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        real = provider.executor.collect

        async def slow(job_id: str) -> tuple[Digest, Manifest]:
            await trio.sleep(20)
            return await real(job_id)

        provider.executor.collect = slow
        await client.until_stage(await client.submit("run"), "running")
        await trio.sleep(1_000)
        await client.kill()
        await trio.sleep(40)
        await provider.kill()
        await world.start(provider)
        await trio.sleep(60)
        receipt = receipt_of(provider)
        assert receipt.cause is Cause.CLIENT_LOST
        assert receipt.amount > 1_000_000


async def test_a_client_does_not_pay_for_time_that_ran_out_before_it_could_pay_more(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await client.until_stage(await client.submit("run"), "running")
        await trio.sleep(1_000)
        await provider.kill()
        await trio.sleep(60)
        await world.start(provider)
        await trio.sleep(5)
        receipt = receipt_of(provider)
        assert (receipt.cause, receipt.amount) == (Cause.PROVIDER_LOST, 0)


async def test_many_small_files_are_charged_by_their_bytes_and_a_new_quote_refills_nothing(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=1_000)
        request = QuoteRequest(
            requirements=SMALL,
            payer=client.wallet,
            mint=client.config.chain.mint,
            wall_ms=Millis(1_000),
        )
        assert isinstance(provider.desk.quote(client.key.node_key, request), Quote)
        small = tuple(client.blobs.put(b"%d" % number) for number in range(200))

        async def told(_sent: int, _wanted: int) -> None:
            await trio.lowlevel.checkpoint()

        await client.exchange.push(provider.key.node_key, small, told=told)
        assert provider.blobs.missing(small) == ()
        assert provider.desk.may_store(client.key.node_key, 60 << 20)
        assert isinstance(provider.desk.quote(client.key.node_key, request), Quote)
        assert not provider.desk.may_store(client.key.node_key, 60 << 20)
        big = tuple(client.blobs.put(bytes([number]) * (1 << 20)) for number in range(66))
        with pytest.raises((PeerGone, RoboComputeError)):
            await client.exchange.push(provider.key.node_key, big, told=told)
        assert 0 < len(provider.blobs.missing(big)) <= 62


async def test_a_provider_that_does_not_see_the_chain_signs_no_further_ticks(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await client.until_stage(await client.submit("run"), "running")
        await trio.sleep(60)
        record = client.channel_with(provider)

        async def unreachable(
            channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
        ) -> ChannelView | None:
            raise ChainBusy("no answer")

        provider.chain.channel = unreachable
        agreement = only(provider).state.agreement
        await trio.sleep(record.challenge_s * 3 // 4)
        ended = await provider.lettings.ended(agreement)
        assert ended is not None
        assert ended.state.cause is Cause.CLIENT_LOST
        assert provider.lettings.elapsed(ended) < record.challenge_s * 1_000
