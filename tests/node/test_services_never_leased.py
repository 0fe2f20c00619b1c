"""Statements that something will never be leased: kept while the order could come again, bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import USDC, fake_world
from msgspec.structs import replace

from robocompute_node.executor.fake import Pause
from robocompute_node.services import never_leased
from robocompute_node.services.conversation import hear, say
from robocompute_protocol import terms as rules
from robocompute_protocol.identifiers import ChannelId, NodeKey, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    CancelRequest,
    NeverLeased,
    Order,
    Refused,
    Terms,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.vouchers import PayerLedger, sign_voucher

if TYPE_CHECKING:
    from pathlib import Path

    from fake_world import FakeNode

    from robocompute_protocol.messages import Message


def terms_of(client: FakeNode, provider: FakeNode, number: int, channel: ChannelId) -> Terms:
    return Terms(
        task=digest(b"a task"),
        payer=client.wallet,
        payer_node=client.key.node_key,
        payee=provider.wallet,
        payee_node=provider.key.node_key,
        stake=provider.chain.stake_address(provider.wallet, USDC),
        mint=USDC,
        channel=channel,
        nonce=number.to_bytes(16),
        slots=1,
        price_per_hour=provider.config.provider.price_per_hour,
        horizon_ms=Millis(30_000),
        first_tick_ms=Millis(2_000),
        start_deadline_ms=Millis(60_000),
    )


async def cancel(client: FakeNode, provider: FakeNode, terms: Terms) -> Message:
    request = CancelRequest(
        agreement=rules.agreement_id(terms), terms=rules.sign_terms(client.key, terms)
    )
    async with client.network.open(provider.key.node_key, PROTOCOL_AGREEMENT) as stream:
        await say(stream, request)
        return await hear(stream, AgreementMessage, timeout_s=30)


def grow_old(book: never_leased.NeverLeased) -> None:
    """Let a month pass over all statements, which is longer than a node of this world stands idle."""
    records = book._records  # pyright: ignore[reportPrivateUsage]
    for name, record in list(records.items()):
        old = Millis(record.since_ms - never_leased.KEPT_MS - 1)
        records[name] = replace(record, since_ms=old)


async def test_a_statement_outlives_restarts_and_is_the_same_each_time(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        terms = terms_of(client, provider, 1, ChannelId(bytes(32)))
        first = await cancel(client, provider, terms)
        assert isinstance(first, NeverLeased)
        await provider.kill()
        await world.start(provider)
        assert await cancel(client, provider, terms) == first


async def test_one_client_cannot_make_a_provider_remember_without_end(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        other = await world.start(await world.client("other"))
        answers = [
            await cancel(client, provider, terms_of(client, provider, n, ChannelId(bytes(32))))
            for n in range(never_leased.MAX_NEVER_A_PEER + 2)
        ]
        assert [type(answer) for answer in answers[:-2]] == [NeverLeased] * (len(answers) - 2)
        refused = answers[-1]
        assert isinstance(refused, Refused)
        assert refused.code == "too_many_declined"
        theirs = terms_of(other, provider, 1, ChannelId(bytes(32)))
        assert isinstance(await cancel(other, provider, theirs), NeverLeased)
        ran = await client.until_ended(await client.submit("run", wait=True))
        assert ran.exit_code == 0  # who is at the bound can still rent


async def test_a_statement_is_forgotten_only_once_its_channel_is_gone_for_good(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        channel = client.channel_with(provider).channel
        await provider.settler.settle_everything()
        await trio.sleep(30)
        there = terms_of(client, provider, 1, channel)
        gone = terms_of(client, provider, 2, ChannelId(bytes(32)))
        await cancel(client, provider, there)
        await cancel(client, provider, gone)
        book = provider.lettings.never
        grow_old(book)
        await book.forget(provider.chain)
        assert book.get(rules.agreement_id(there)) is not None
        assert book.get(rules.agreement_id(gone)) is None
        assert book.has_room(NodeKey(bytes(32)), ChannelId(bytes(32)))


async def test_channels_that_stay_open_do_not_keep_others_from_being_forgotten(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        book, chain = provider.lettings.never, client.chain
        for nonce in range(never_leased.LOOKS_AT_ONCE):
            await chain.open_channel(
                payer=client.wallet, payee=provider.wallet, mint=USDC, nonce=nonce,
                voucher_key=client.key.node_key, deposit=MicroUnits(1), challenge_s=600,
            )  # fmt: skip
            channel = chain.channel_address(client.wallet, provider.wallet, USDC, nonce)
            await cancel(client, provider, terms_of(client, provider, nonce, channel))
        await trio.sleep(30)
        gone = [
            terms_of(client, provider, 1_000 + n, ChannelId(bytes([n]) * 32)) for n in (0, 255)
        ]
        for terms in gone:
            await cancel(client, provider, terms)
        grow_old(book)
        await book.forget(provider.chain)
        await book.forget(provider.chain)
        assert [book.get(rules.agreement_id(terms)) for terms in gone] == [None, None]
        there = terms_of(
            client, provider, 0, chain.channel_address(client.wallet, provider.wallet, USDC, 0)
        )
        assert book.get(rules.agreement_id(there)) is not None


async def test_a_statement_is_forgotten_once_its_client_took_back_what_it_promised(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        terms = terms_of(client, provider, 1, client.channel_with(provider).channel)
        await cancel(client, provider, terms)
        name, book = rules.agreement_id(terms), provider.lettings.never
        await trio.sleep(3 * never_leased.FORGET_SECONDS)
        assert book.get(name) is not None  # its order could be carried by the next voucher
        await client.until_ended(await client.submit("run"))
        await trio.sleep(never_leased.FORGET_SECONDS + 1)
        assert book.get(name) is None
        await provider.kill()
        await world.start(provider)
        assert provider.lettings.never.get(name) is None


async def test_an_order_on_a_channel_that_nobody_saw_is_refused_and_not_remembered(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        nowhere = ChannelId(bytes(32))
        terms = terms_of(client, provider, 1, nowhere)
        name = rules.agreement_id(terms)
        _, voucher = PayerLedger(channel=nowhere).allocate(name, MicroUnits(1))
        order = Order(
            terms=rules.sign_terms(client.key, terms),
            task=b"another task",
            voucher=sign_voucher(client.key, voucher),
        )
        async with client.network.open(provider.key.node_key, PROTOCOL_AGREEMENT) as stream:
            await say(stream, order)
            answer = await hear(stream, AgreementMessage, timeout_s=30)
        assert isinstance(answer, Refused)
        assert provider.lettings.never.get(name) is None
        assert isinstance(await cancel(client, provider, terms), NeverLeased)
