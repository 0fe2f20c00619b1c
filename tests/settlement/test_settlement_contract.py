"""What every chain behind ``port.Settlement`` must do, held against each chain there is."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from settlement_chains import FEE_BPS, LAMPORTS, TOKENS, ChainWorld, Person
from settlement_pair import ALLOWANCE, CHANNEL_DEPOSIT, DEPOSIT, Pair, fee_of

from robocompute_protocol.errors import ChainBusy, ChainRefused, StoreError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.localworld import TREASURY, local_address, local_seed
from robocompute_settlement.port import Attempt, ChannelView, Commitment, Outcome, SettleClaim
from robocompute_settlement.solana import SolanaSettlement


async def test_a_deposit_moves_tokens_from_the_wallet_into_the_vault(world: ChainWorld) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        assert await wallet.balance(person.address, world.usdc) is None
        before = await wallet.vault_tokens(world.usdc)
        sent = await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(2_500_000))
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == 2_500_000
        assert balance.owner == person.address
        assert await wallet.token_balance(person.address, world.usdc) == TOKENS - 2_500_000
        assert await wallet.vault_tokens(world.usdc) == before + 2_500_000
        assert (await wallet.signatures(person.address, limit=1)) == (sent.signature,)
        assert await wallet.lamports(person.address) < LAMPORTS


async def test_a_withdrawal_pays_a_wallet_that_never_held_the_token(world: ChainWorld) -> None:
    person, stranger = world.person(), local_address("stranger-without-token-account")
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(1_000))
        await wallet.withdraw_wallet(mint=world.usdc, amount=MicroUnits(400), destination=stranger)
        await wallet.withdraw_wallet(
            mint=world.usdc, amount=MicroUnits(600), destination=person.address
        )
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == 0
        assert await wallet.token_balance(stranger, world.usdc) == 400
        assert await wallet.token_balance(person.address, world.usdc) == TOKENS - 400


async def test_more_than_the_wallet_holds_is_refused_and_nothing_changes(
    world: ChainWorld,
) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        with pytest.raises(ChainRefused, match="does not hold that many tokens"):
            await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(TOKENS + 1))
        assert await wallet.balance(person.address, world.usdc) is None
        assert await wallet.token_balance(person.address, world.usdc) == TOKENS


async def test_more_than_the_balance_is_not_withdrawn(world: ChainWorld) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(5))
        with pytest.raises(ChainRefused, match="does not cover") as refused:
            await wallet.withdraw_wallet(
                mint=world.usdc, amount=MicroUnits(6), destination=person.address
            )
        assert refused.value.number == 6011


async def test_a_signer_without_sol_is_told_so(world: ChainWorld) -> None:
    async with world.adapter(Person(local_seed("pauper"))) as wallet:
        with pytest.raises(ChainRefused, match="no SOL"):
            await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(1))


async def test_a_delegate_opens_a_channel_at_the_address_known_beforehand(pair: Pair) -> None:
    channel = await pair.open(challenge_s=77)
    assert channel.payer == pair.client.address
    assert channel.payee == pair.provider.address
    assert channel.voucher_key == pair.node.node_key
    assert channel.rent_payer == pair.node.address
    assert (channel.deposit, channel.settled, channel.challenge_s) == (CHANNEL_DEPOSIT, 0, 77)
    assert channel.fee_bps == FEE_BPS
    assert not channel.closing
    balance = await pair.wallet.balance(pair.client.address, pair.world.usdc)
    assert balance is not None
    assert balance.available == DEPOSIT - CHANNEL_DEPOSIT
    assert balance.allowance == ALLOWANCE - CHANNEL_DEPOSIT
    assert balance.next_nonce == 1


async def test_an_owner_opens_a_channel_without_a_delegate(world: ChainWorld) -> None:
    person, payee = world.person(), world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(100))
        await wallet.open_channel(
            payer=person.address, payee=payee.address, mint=world.usdc,
            voucher_key=person.node_key, nonce=0, deposit=MicroUnits(60), challenge_s=60,
        )  # fmt: skip
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == 40


async def test_a_delegate_stays_within_its_allowance(pair: Pair) -> None:
    with pytest.raises(ChainRefused, match="allowance") as refused:
        await pair.delegate.open_channel(
            payer=pair.client.address, payee=pair.provider.address, mint=pair.world.usdc,
            voucher_key=pair.node.node_key, nonce=0, deposit=MicroUnits(ALLOWANCE + 1),
            challenge_s=60,
        )  # fmt: skip
    assert refused.value.number == 6010


async def test_a_delegation_that_ended_opens_nothing(pair: Pair) -> None:
    await pair.wallet.set_delegate_wallet(
        mint=pair.world.usdc, delegate=pair.node.node_key, allowance=ALLOWANCE, expires_s=1
    )
    with pytest.raises(ChainRefused, match="delegation has ended") as refused:
        await pair.open()
    assert refused.value.number == 6009


async def test_a_stranger_opens_nothing_with_anothers_money(pair: Pair) -> None:
    with pytest.raises(ChainRefused) as refused:
        await pair.payee.open_channel(
            payer=pair.client.address, payee=pair.provider.address, mint=pair.world.usdc,
            voucher_key=pair.node.node_key, nonce=0, deposit=MicroUnits(1), challenge_s=60,
        )  # fmt: skip
    assert refused.value.number == 6008


async def test_a_nonce_opens_one_channel_only(pair: Pair) -> None:
    await pair.open()
    with pytest.raises(ChainRefused, match="read the balance") as refused:
        await pair.open()
    assert refused.value.number == 6018
    assert (await pair.open(1)).nonce == 1


async def test_a_challenge_shorter_than_the_program_allows_is_refused(pair: Pair) -> None:
    with pytest.raises(ChainRefused) as refused:
        await pair.open(challenge_s=1)
    assert refused.value.number == 6019


async def test_whoever_waits_for_a_channel_gets_it_once_it_is_confirmed(
    pair: Pair, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pair.payee.run)
    await pair.payee.connect()
    address = pair.payee.channel_address(
        pair.client.address, pair.provider.address, pair.world.usdc, 0
    )
    found: list[ChannelView] = []

    async def wait() -> None:
        found.append(await pair.payee.wait_for_channel(address, timeout_s=30))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        opened = await pair.open()
    assert found == [opened]
    nursery.cancel_scope.cancel()


async def test_waiting_for_a_channel_ends_in_time(pair: Pair) -> None:
    with pytest.raises(ChainBusy, match="not confirmed within"):
        await pair.payee.wait_for_channel(ChannelId(bytes(range(32))), timeout_s=0.3)


async def test_a_top_up_raises_the_deposit(pair: Pair) -> None:
    channel = await pair.open()
    await pair.delegate.top_up(channel=channel, amount=MicroUnits(123))
    after = await pair.wallet.channel(channel.channel)
    assert after is not None
    assert after.deposit == CHANNEL_DEPOSIT + 123
    assert await pair.available(pair.client) == DEPOSIT - CHANNEL_DEPOSIT - 123


async def test_a_top_up_is_noted_before_it_is_sent_and_its_outcome_can_be_asked(
    pair: Pair,
) -> None:
    channel = await pair.open()
    noted: list[Attempt] = []

    def forget(_attempt: Attempt) -> None:
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        await pair.delegate.top_up(channel=channel, amount=MicroUnits(7), journal=forget)
    sent = await pair.delegate.top_up(
        channel=channel, amount=MicroUnits(123), journal=noted.append
    )
    assert noted[-1].signature == sent.signature
    assert await pair.delegate.outcome(noted[-1]) is Outcome.LANDED
    after = await pair.wallet.channel(channel.channel)
    assert after is not None
    assert after.deposit == CHANNEL_DEPOSIT + 123


async def test_a_claim_is_settled_less_the_fee(pair: Pair) -> None:
    channel = await pair.open()
    await pair.payee.settle((pair.claim(channel.channel, 5_000, 3_333),))
    after = await pair.wallet.channel(channel.channel)
    assert after is not None
    assert (after.settled, after.fee_taken) == (3_333, fee_of(3_333))
    assert after.alloc_root != bytes(32)
    balance = await pair.wallet.balance(pair.provider.address, pair.world.usdc)
    assert balance is not None
    assert balance.available == 3_333 - fee_of(3_333)
    assert balance.fees_owed == fee_of(3_333)


async def test_three_claims_fit_into_one_transaction(pair: Pair) -> None:
    channels = [await pair.open(nonce) for nonce in range(3)]
    claims = [pair.claim(each.channel, 9_000, 8_000 + i) for i, each in enumerate(channels)]
    await pair.payee.settle(tuple(claims))
    settled = [await pair.wallet.channel(each.channel) for each in channels]
    assert [each.settled for each in settled if each] == [8_000, 8_001, 8_002]


async def test_four_claims_are_refused_before_anything_is_sent(pair: Pair) -> None:
    claim = pair.claim(ChannelId(bytes(32)), 1, 1)
    with pytest.raises(ChainRefused, match="1 to 3"):
        await pair.payee.settle((claim,) * 4)


async def test_settling_again_pays_nothing_again(pair: Pair) -> None:
    channel = await pair.open()
    claim = pair.claim(channel.channel, 5_000, 4_000)
    await pair.payee.settle((claim,))
    once = await pair.available(pair.provider)
    await pair.payee.settle((claim,))
    await pair.payee.settle((pair.claim(channel.channel, 3_000, 3_000),))
    assert await pair.available(pair.provider) == once


async def test_a_claim_never_exceeds_the_voucher_or_the_deposit(pair: Pair) -> None:
    channel = await pair.open()
    await pair.payee.settle((pair.claim(channel.channel, 700, 5_000),))
    after = await pair.wallet.channel(channel.channel)
    assert after is not None
    assert after.settled == 700
    await pair.payee.settle((pair.claim(channel.channel, 2**60, 2**60),))
    after = await pair.wallet.channel(channel.channel)
    assert after is not None
    assert after.settled == CHANNEL_DEPOSIT


async def test_anybody_may_bring_a_voucher_to_the_chain(pair: Pair) -> None:
    channel = await pair.open()
    await pair.delegate.settle((pair.claim(channel.channel, 50, 50),))
    assert await pair.available(pair.provider) == 50 - fee_of(50)


async def test_a_voucher_of_another_key_is_refused(pair: Pair) -> None:
    channel = await pair.open()
    claim = pair.claim(channel.channel, 5_000, 5_000)
    forged = sign_voucher(
        pair.provider.signing_key,
        PayerLedger(channel=channel.channel).allocate(AgreementId(bytes(32)), MicroUnits(5_000))[
            1
        ],
    )
    wrong_key = SettleClaim(
        channel=claim.channel, payee=claim.payee, mint=claim.mint,
        voucher_key=pair.provider.node_key, voucher=forged, claim=claim.claim,
    )  # fmt: skip
    with pytest.raises(ChainRefused, match="not one of this channel") as refused:
        await pair.payee.settle((wrong_key,))
    assert refused.value.number == 6025
    bad_signature = SettleClaim(
        channel=claim.channel, payee=claim.payee, mint=claim.mint,
        voucher_key=claim.voucher_key, voucher=forged, claim=claim.claim,
    )  # fmt: skip
    with pytest.raises(ChainRefused, match="signature is not valid"):
        await pair.payee.settle((bad_signature,))
    assert await pair.available(pair.provider) == 0


async def test_a_voucher_of_one_channel_settles_no_other(pair: Pair) -> None:
    first, second = await pair.open(0), await pair.open(1)
    voucher = pair.claim(first.channel, 5_000, 5_000).voucher
    replayed = SettleClaim(
        channel=second.channel, payee=pair.provider.address, mint=pair.world.usdc,
        voucher_key=pair.node.node_key, voucher=voucher, claim=MicroUnits(5_000),
    )  # fmt: skip
    with pytest.raises(ChainRefused) as refused:
        await pair.payee.settle((replayed,))
    assert refused.value.number == 6025


async def test_the_payee_closes_at_once_and_the_rest_goes_back(pair: Pair) -> None:
    channel = await pair.open()
    await pair.payee.settle((pair.claim(channel.channel, 1_000, 1_000),))
    rent_before = await pair.wallet.lamports(pair.node.address)
    await pair.payee.close_by_payee(channel)
    assert await pair.wallet.channel(channel.channel) is None
    assert await pair.available(pair.client) == DEPOSIT - 1_000
    assert await pair.wallet.lamports(pair.node.address) > rent_before


async def test_the_payer_closes_after_the_challenge_time(pair: Pair) -> None:
    channel = await pair.open(challenge_s=4)
    await pair.delegate.request_close(channel)
    closing = await pair.wallet.channel(channel.channel)
    assert closing is not None
    assert closing.closing
    with pytest.raises(ChainRefused, match="not over") as refused:
        await pair.delegate.finalize_close(channel)
    assert refused.value.number == 6022
    # The payee has the challenge time to settle what it holds.
    await pair.payee.settle((pair.claim(channel.channel, 2_000, 2_000),))
    with pytest.raises(ChainRefused) as refused:
        await pair.delegate.top_up(channel=channel, amount=MicroUnits(1))
    assert refused.value.number == 6020
    await pair.world.pass_time(5)
    await pair.payee.finalize_close(channel)
    assert await pair.wallet.channel(channel.channel) is None
    assert await pair.available(pair.client) == DEPOSIT - 2_000


async def test_a_provider_registers_and_stakes(pair: Pair) -> None:
    mint = pair.world.usdc
    stake = await pair.payee.stake_of(pair.provider.address, mint)
    assert stake is not None
    assert stake.node_key == pair.provider.node_key
    assert stake.stake == pair.payee.stake_address(pair.provider.address, mint)
    assert (stake.bonded, stake.unbonding) == (0, 0)
    await pair.payee.deposit_wallet(mint=mint, amount=MicroUnits(700))
    await pair.payee.stake_wallet(mint=mint, amount=MicroUnits(600))
    stake = await pair.payee.stake_of(pair.provider.address, mint)
    assert stake is not None
    assert stake.bonded == 600
    assert await pair.available(pair.provider) == 100
    with pytest.raises(ChainRefused, match="exists already") as refused:
        await pair.payee.register_wallet(mint=mint, node_key=pair.provider.node_key)
    assert refused.value.number == 6007
    assert await pair.wallet.stake_of(pair.client.address, mint) is None


async def test_fees_go_to_the_treasury_when_they_are_swept(pair: Pair) -> None:
    channel = await pair.open()
    await pair.payee.settle((pair.claim(channel.channel, 1_000_000, 1_000_000),))
    mint, treasury = pair.world.usdc, local_address(TREASURY)
    before = await pair.wallet.balance(treasury, mint)
    await pair.wallet.sweep_fees(mint=mint, owners=(pair.provider.address,))
    after = await pair.wallet.balance(treasury, mint)
    assert after is not None
    assert after.available == (before.available if before else 0) + fee_of(1_000_000)


async def test_every_unit_in_the_vault_is_somebodys(pair: Pair) -> None:
    mint, vault = pair.world.usdc, await pair.wallet.vault_tokens(pair.world.usdc)
    channel = await pair.open()
    await pair.payee.settle((pair.claim(channel.channel, 900, 900),))
    await pair.payee.close_by_payee(channel)
    provider = await pair.wallet.balance(pair.provider.address, mint)
    assert provider is not None
    assert provider.available + provider.fees_owed == 900
    assert await pair.available(pair.client) == DEPOSIT - 900
    assert await pair.wallet.vault_tokens(mint) == vault


async def test_config_says_what_the_world_was_founded_with(world: ChainWorld) -> None:
    async with world.adapter(world.person()) as anybody:
        config = await anybody.config()
        assert config.mints == world.plan.mints
        assert config.fee_bps == FEE_BPS
        assert config.treasury == local_address(TREASURY)
        assert config.admin == world.plan.faucet
        assert not config.paused
        assert config.domain == anybody.addresses.domain


async def test_another_chain_than_expected_is_refused(world: ChainWorld) -> None:
    if world.name == "fake":
        pytest.skip("about the RPC connection, which the fake has none of")
    async with world.adapter(world.person(), genesis_hash=Digest(bytes(32))) as lost:
        with pytest.raises(ChainRefused, match="is another one"):
            await lost.config()


async def test_a_program_that_is_not_there_is_named(world: ChainWorld) -> None:
    if world.name == "fake":
        pytest.skip("about the RPC connection, which the fake has none of")
    person = world.person()
    async with SolanaSettlement(
        rpc_urls=(world.rpc_url,), program_id=local_address("no-program"),
        signer_seed=person.seed,
    ) as lost:  # fmt: skip
        with pytest.raises(ChainRefused, match="has no Config"):
            await lost.config()


async def test_what_is_final_lags_behind_what_is_confirmed(world: ChainWorld) -> None:
    person = world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(9))
        address = (person.address, world.usdc)
        assert await wallet.balance(*address) is not None
        assert await wallet.balance(*address, at=Commitment.FINALIZED) is None
        if world.name in ("embedded", "fake"):
            await world.pass_time(14)
            final = await wallet.balance(*address, at=Commitment.FINALIZED)
            assert final is not None
            assert final.available == 9


async def test_many_writes_at_once_all_arrive(world: ChainWorld) -> None:
    people = [world.person() for _ in range(8)]

    async def deposit(person: Person) -> None:
        async with world.adapter(person) as wallet:
            for _ in range(3):
                await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(10))

    async with trio.open_nursery() as nursery:
        for person in people:
            nursery.start_soon(deposit, person)
    async with world.adapter(people[0]) as reader:
        for person in people:
            balance = await reader.balance(person.address, world.usdc)
            assert balance is not None
            assert balance.available == 30
