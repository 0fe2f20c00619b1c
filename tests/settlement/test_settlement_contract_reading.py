"""What is read of many accounts and transactions: the contract, held against each chain there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from settlement_chains import TOKENS, ChainWorld
from settlement_pair import CHANNEL_DEPOSIT, Pair, fee_of

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import allocation_root
from robocompute_settlement import events
from robocompute_settlement.localworld import local_address
from robocompute_settlement.port import Attempt, Commitment, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from robocompute_protocol.identifiers import Digest
    from robocompute_settlement.port import Changed, SettleClaim

PATIENCE_S = 120.0


async def test_the_chains_time_is_the_programs_and_goes_on(pair: Pair) -> None:
    first = await pair.wallet.time_s()
    assert first <= pair.world.now_s() <= first + PATIENCE_S
    await pair.world.pass_time(5)
    later = await pair.wallet.time_s()
    assert later >= first + 5
    channel = await pair.open()
    await pair.wallet.request_close(channel)
    closing = await pair.wallet.channel(channel.channel)
    assert closing is not None
    asked = closing.close_at_s - channel.challenge_s
    assert later <= asked <= await pair.wallet.time_s()


async def test_all_channels_of_a_payer_or_payee_are_found(pair: Pair) -> None:
    mint = pair.world.usdc
    assert await pair.wallet.channels_of(pair.client.address) == ()
    opened = [await pair.open(0), await pair.open(1)]
    await pair.wallet.open_channel(
        payer=pair.client.address, payee=pair.node.address, mint=mint,
        voucher_key=pair.client.node_key, nonce=2, deposit=MicroUnits(5), challenge_s=60,
    )  # fmt: skip
    paid = await pair.payee.channels_of(pair.client.address)
    assert len(paid) == 3
    assert [each.channel for each in paid] == sorted(each.channel for each in paid)
    received = await pair.payee.channels_of(pair.provider.address, mint=mint)
    assert sorted(received, key=lambda each: each.nonce) == opened
    assert await pair.payee.channels_of(pair.provider.address, mint=pair.world.plan.mints[1]) == ()
    await pair.payee.close_by_payee(opened[0])
    assert await pair.payee.channels_of(pair.provider.address) == (opened[1],)


async def test_channels_that_are_not_final_are_not_listed_as_final(pair: Pair) -> None:
    await pair.open()
    assert len(await pair.wallet.channels_of(pair.client.address)) == 1
    assert await pair.wallet.channels_of(pair.client.address, at=Commitment.FINALIZED) == ()


async def test_the_history_of_a_channel_tells_every_unit(pair: Pair) -> None:
    channel = await pair.open()
    await pair.delegate.top_up(channel=channel, amount=MicroUnits(500))
    claim = pair.claim(channel.channel, 9_000, 7_000)
    await pair.payee.settle((claim,))
    sent = await pair.payee.close_by_payee(channel)
    address = local_address("anybody")
    assert await pair.wallet.history(address) == ()
    records = await pair.wallet.history(Address(channel.channel))
    told = [event for record in records for event in record.events]
    opened, topped, settled, closed = told
    assert isinstance(opened, events.ChannelOpened)
    assert (opened.payer, opened.deposit) == (pair.client.address, CHANNEL_DEPOSIT)
    assert isinstance(topped, events.ToppedUp)
    assert (topped.amount, topped.deposit) == (500, CHANNEL_DEPOSIT + 500)
    assert isinstance(settled, events.Settled)
    assert (settled.settled, settled.fee) == (7_000, fee_of(7_000))
    assert settled.paid == 7_000 - fee_of(7_000)
    assert settled.alloc_root == _root_after(claim)
    assert isinstance(closed, events.ChannelClosed)
    assert closed.refunded == CHANNEL_DEPOSIT + 500 - 7_000
    assert all(each.complete for each in records)
    assert records[-1].signature == sent.signature
    assert [each.slot for each in records] == sorted(each.slot for each in records)


def _root_after(claim: SettleClaim) -> Digest:
    voucher = claim.voucher
    return allocation_root(voucher.sequence, voucher.closed, voucher.open)


async def test_a_history_goes_on_from_where_it_was_left(world: ChainWorld) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        await wallet.connect()
        account = wallet.balance_address(person.address, world.usdc)
        sent = [
            (await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(n))).signature
            for n in (1, 2, 3)
        ]
        found = [each.signature for each in await wallet.history(account)]
        assert found == sent
        assert [e.signature for e in await wallet.history(account, until=sent[0])] == sent[1:]
        assert [e.signature for e in await wallet.history(account, limit=2)] == sent[:2]
        rest = await wallet.history(account, until=sent[1], limit=2)
        assert [each.signature for each in rest] == sent[2:]
        (deposited,) = rest[0].events
        assert deposited == events.Deposited(
            owner=person.address, mint=world.usdc, amount=MicroUnits(3), available=MicroUnits(6)
        )
        assert await wallet.history(account, until=sent[2]) == ()
        assert await wallet.history(account, at=Commitment.FINALIZED) == ()
        if world.name != "validator":
            await world.pass_time(14)
            final = await wallet.history(account, at=Commitment.FINALIZED)
            assert [each.signature for each in final] == sent


async def test_a_refused_write_is_in_no_history(world: ChainWorld) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(1))
        with pytest.raises(ChainRefused, match="does not cover"):
            await wallet.withdraw_wallet(
                mint=world.usdc, amount=MicroUnits(2), destination=person.address
            )
        account = wallet.balance_address(person.address, world.usdc)
        assert len(await wallet.history(account)) == 1


async def test_whoever_watches_hears_of_each_address_and_of_changes(
    pair: Pair, nursery: trio.Nursery
) -> None:
    channel = await pair.open()
    nursery.start_soon(pair.payee.run)
    mine = pair.payee.balance_address(pair.provider.address, pair.world.usdc)
    watched = (Address(channel.channel), mine)
    with trio.fail_after(40):
        async with pair.payee.watch(watched) as news:
            # At first each counts as changed; then only what changes.
            await _hear(news, set(watched))
            sent = await pair.delegate.top_up(channel=channel, amount=MicroUnits(1))
            while True:
                heard = await anext(news)
                if heard.address == channel.channel and heard.slot >= sent.slot:
                    break
            after = await pair.payee.channel(channel.channel)
            assert after is not None
            assert after.deposit == CHANNEL_DEPOSIT + 1
    nursery.cancel_scope.cancel()


async def _hear(news: AsyncIterator[Changed], wanted: set[Address]) -> None:
    while wanted:
        wanted.discard((await anext(news)).address)


async def test_an_error_of_whoever_watches_comes_out_as_it_is(world: ChainWorld) -> None:
    class OurOwnError(Exception):
        pass

    person = world.person()
    async with world.adapter(person) as wallet:
        await wallet.connect()
        with pytest.raises(OurOwnError):
            async with wallet.watch((person.address,)):
                raise OurOwnError


async def test_the_outcome_of_what_was_sent_is_known_and_of_what_never_was(
    world: ChainWorld,
) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        sent = await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(4))
        landed = Attempt(sent.signature, 2**62)
        assert await wallet.outcome(landed) is Outcome.LANDED
        with trio.fail_after(PATIENCE_S):
            # Until a chain that began a moment ago has final blocks enough.
            while (found := await wallet.outcome(Attempt("1" * 64, 0))) is Outcome.PENDING:  # noqa: ASYNC110 - another process, and nothing to wait on
                await trio.sleep(0.2)
        assert found is Outcome.NEVER
        assert await wallet.token_balance(person.address, world.usdc) == TOKENS - 4
