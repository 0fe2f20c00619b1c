"""Stakes, slashing and administration: the port's contract, held against each chain there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from settlement_chains import SLASH_BPS, UNBOND_S, ChainWorld, Person
from settlement_pair import Pair, as_port

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address
from robocompute_protocol.money import MicroUnits
from robocompute_settlement import events
from robocompute_settlement.localworld import TREASURY, local_address

if TYPE_CHECKING:
    from robocompute_protocol.messages import LeaseTick
    from robocompute_settlement.port import ConfigView, StakeView

STAKE = 1_000_000
PENALTY = STAKE * SLASH_BPS // 10_000


async def stake_of(pair: Pair) -> StakeView:
    found = await pair.payee.stake_of(pair.provider.address, pair.world.usdc)
    assert found is not None
    return found


async def test_every_adapter_is_one_of_the_port(pair: Pair) -> None:
    for adapter in (pair.wallet, pair.delegate, pair.payee):
        assert as_port(adapter) is adapter


async def test_all_stakes_of_a_mint_are_listed(pair: Pair) -> None:
    mint = pair.world.usdc
    await pair.stake(STAKE)
    # Others of this world may have staked before.
    listed = await pair.payee.stakes(mint)
    assert [each for each in listed if each.owner == pair.provider.address] == [
        await stake_of(pair)
    ]
    assert {each.mint for each in listed} == {mint}
    other = await pair.payee.stakes(pair.world.plan.mints[1])
    assert pair.provider.address not in {each.owner for each in other}


async def test_a_stake_leaves_only_after_its_time(pair: Pair) -> None:
    mint = pair.world.usdc
    await pair.stake(STAKE)
    await pair.payee.unstake_wallet(mint=mint, amount=MicroUnits(300))
    first = await stake_of(pair)
    assert (first.bonded, first.unbonding) == (STAKE - 300, 300)
    assert pair.world.now_s() <= first.unbond_at_s <= pair.world.now_s() + UNBOND_S
    with pytest.raises(ChainRefused) as refused:
        await pair.payee.claim_unbonded_wallet(mint=mint)
    assert refused.value.number == 6033
    await pair.world.pass_time(UNBOND_S + 1)
    await pair.payee.claim_unbonded_wallet(mint=mint)
    after = await stake_of(pair)
    assert (after.bonded, after.unbonding, after.unbond_at_s) == (STAKE - 300, 0, 0)
    assert await pair.available(pair.provider) == 300
    with pytest.raises(ChainRefused) as refused:
        await pair.payee.claim_unbonded_wallet(mint=mint)
    assert refused.value.number == 6013


async def test_no_more_is_unstaked_than_is_bonded(pair: Pair) -> None:
    mint = pair.world.usdc
    await pair.stake(5)
    for amount, number in ((6, 6011), (0, 6013)):
        with pytest.raises(ChainRefused) as refused:
            await pair.payee.unstake_wallet(mint=mint, amount=MicroUnits(amount))
        assert refused.value.number == number
    with pytest.raises(ChainRefused) as refused:
        await pair.wallet.unstake_wallet(mint=mint, amount=MicroUnits(1))
    assert refused.value.number == 6004


async def test_a_key_is_changed_once_and_the_one_before_is_remembered(pair: Pair) -> None:
    mint, old = pair.world.usdc, pair.provider.node_key
    before = await stake_of(pair)
    assert (before.prev_key, before.rotated_at_s) == (bytes(32), 0)
    await pair.payee.rotate_key_wallet(mint=mint, node_key=pair.node.node_key)
    after = await stake_of(pair)
    assert (after.node_key, after.prev_key) == (pair.node.node_key, old)
    assert after.rotated_at_s > 0
    with pytest.raises(ChainRefused) as refused:
        await pair.payee.rotate_key_wallet(mint=mint, node_key=old)
    assert refused.value.number == 6034


async def test_a_slot_let_twice_costs_a_fifth_and_each_victim_gets_its_share(pair: Pair) -> None:
    world, mint, reporter = pair.world, pair.world.usdc, pair.world.person()
    await pair.stake(STAKE)
    stranger = world.person()
    now = world.now_s()
    leases = pair.lease(pair.client, now), pair.lease(stranger, now)
    had = await pair.available(pair.client)
    async with world.adapter(reporter) as anybody:
        assert await anybody.balance(reporter.address, mint) is None
        sent = await anybody.slash(stake=await stake_of(pair), first=leases[0], second=leases[1])
        (record,) = [
            each for each in await anybody.history((await stake_of(pair)).stake)
            if each.signature == sent.signature
        ]  # fmt: skip
    after = await stake_of(pair)
    assert (after.bonded, after.slashed) == (STAKE - PENALTY, PENALTY)
    assert after.watermark_s >= now
    assert await pair.available(reporter) == PENALTY // 10
    assert await pair.available(pair.client) == had + PENALTY // 5
    assert await pair.available(stranger) == 0
    (told,) = [each for each in record.events if isinstance(each, events.Slashed)]
    assert (told.to_first, told.to_second) == (PENALTY // 5, 0)
    assert told.to_treasury == PENALTY - PENALTY // 10 - PENALTY // 5
    assert told.from_bonded + told.from_unbonding == PENALTY
    with pytest.raises(ChainRefused) as refused:
        await pair.wallet.slash(stake=after, first=leases[0], second=leases[1])
    assert refused.value.number == 6031


async def test_leases_that_prove_nothing_cost_nothing(pair: Pair) -> None:
    await pair.stake(STAKE)
    stake, now = await stake_of(pair), pair.world.now_s()
    first = pair.lease(pair.client, now)
    same_payer = pair.lease(pair.client, now - 1)
    with pytest.raises(ChainRefused) as refused:
        await pair.wallet.slash(stake=stake, first=first, second=same_payer)
    assert refused.value.number == 6030
    other = pair.lease(pair.node, now)
    with pytest.raises(ChainRefused, match="not signed by a key of this stake"):
        await pair.wallet.slash(
            stake=stake, first=first, second=pair.lease(pair.node, now, signer=pair.node)
        )
    with pytest.raises(ChainRefused, match="not signed by a key of this stake"):
        await pair.wallet.slash(stake=stake, first=first, second=_longer(other))
    assert (await stake_of(pair)).bonded == STAKE


def _longer(lease: LeaseTick) -> LeaseTick:
    return msgspec.structs.replace(lease, end_s=lease.end_s + 1)


async def test_the_treasury_is_paid_though_nobody_made_its_balance(world: ChainWorld) -> None:
    async with world.adapter(world.person()) as anybody:
        await anybody.sweep_fees(mint=world.plan.mints[1], owners=())
        found = await anybody.balance(local_address(TREASURY), world.plan.mints[1])
        assert found is not None
        assert found.available == 0
        with pytest.raises(ChainRefused, match="up to 26"):
            await anybody.sweep_fees(
                mint=world.usdc, owners=tuple(local_address(f"o{n}") for n in range(27))
            )


# --- administration ------------------------------------------------------------------------------


def settings_of(config: ConfigView) -> dict[str, object]:
    names = ("treasury", "slot_stake", "unbond_s", "min_challenge_s", "fee_bps", "slash_bps")
    return {name: getattr(config, name) for name in names}


async def test_the_admin_changes_settings_and_nobody_else_does(world: ChainWorld) -> None:
    admin, person = Person(world.plan.faucet_seed), world.person()
    async with (
        world.adapter(person) as reader,
        world.administration(admin) as administration,
        world.administration(person) as usurper,
    ):
        before = await reader.config()
        changed = {**settings_of(before), "slot_stake": MicroUnits(77), "paused": True}
        await administration.update_config(**changed)
        assert await reader.config() == replace(before, slot_stake=MicroUnits(77), paused=True)
        with pytest.raises(ChainRefused) as refused:
            await reader.deposit_wallet(mint=world.usdc, amount=MicroUnits(1))
        assert refused.value.number == 6017
        await reader.deposit_wallet(mint=world.usdc, amount=MicroUnits(0))
        await administration.update_config(**settings_of(before), paused=False)
        assert await reader.config() == before
        with pytest.raises(ChainRefused) as refused:
            await usurper.update_config(**settings_of(before), paused=True)
        assert refused.value.number == 6008
        with pytest.raises(ChainRefused) as refused:
            await administration.update_config(
                **{**settings_of(before), "fee_bps": 501}, paused=False
            )
        assert refused.value.number == 6026


async def test_the_administration_is_handed_over_in_two_steps(world: ChainWorld) -> None:
    admin, heir, stranger = Person(world.plan.faucet_seed), world.person(), world.person()
    async with (
        world.adapter(heir) as reader,
        world.administration(admin) as old,
        world.administration(heir) as new,
        world.administration(stranger) as other,
    ):
        await old.propose_admin(heir.address)
        offered = await reader.config()
        assert (offered.admin, offered.pending_admin) == (admin.address, heir.address)
        with pytest.raises(ChainRefused) as refused:
            await other.accept_admin()
        assert refused.value.number == 6008
        await new.accept_admin()
        taken = await reader.config()
        assert (taken.admin, taken.pending_admin) == (heir.address, Address(bytes(32)))
        with pytest.raises(ChainRefused):
            await old.propose_admin(stranger.address)
        await new.propose_admin(admin.address)
        await old.accept_admin()
        assert (await reader.config()).admin == admin.address


# --- repetitions, as docs/settlement.md promises them --------------------------------------------


async def test_closing_twice_closes_once(pair: Pair) -> None:
    channel = await pair.open(challenge_s=30)
    await pair.delegate.request_close(channel)
    asked = await pair.wallet.channel(channel.channel)
    await pair.world.pass_time(2)
    await pair.delegate.request_close(channel)
    assert await pair.wallet.channel(channel.channel) == asked
    await pair.payee.close_by_payee(channel)
    had = await pair.available(pair.client)
    for again in (pair.payee.close_by_payee, pair.payee.finalize_close):
        with pytest.raises(ChainRefused) as refused:
            await again(channel)
        assert refused.value.number == 6004
    assert await pair.available(pair.client) == had
