"""The embedded chain as a process: its clients, its durability, and what it does under faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from settlement_chains import ChainWorld, Person, deposit

from robocompute_protocol.errors import ChainBusy, ChainRefused
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.port import Commitment
from robocompute_settlement.subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable

AMOUNT = MicroUnits(1_000)


def available(world: ChainWorld, person: Person) -> int:
    async def read() -> int:
        async with world.adapter(person) as wallet:
            balance = await wallet.balance(person.address, world.usdc)
            return 0 if balance is None else balance.available

    return trio.run(read)


# --- durability ----------------------------------------------------------------------------------


def test_a_killed_chain_comes_back_with_everything_it_confirmed(own_world: ChainWorld) -> None:
    world, people = own_world, [own_world.person() for _ in range(5)]
    signatures = [deposit(world, person, 100 + i) for i, person in enumerate(people)]
    genesis = world.call("getGenesisHash")["result"]
    slot = world.call("getSlot", {"commitment": "confirmed"})["result"]
    world.kill()
    world.start_embedded()
    assert world.call("getGenesisHash")["result"] == genesis
    assert world.call("getSlot", {"commitment": "confirmed"})["result"] >= slot
    assert [available(world, person) for person in people] == [100, 101, 102, 103, 104]
    statuses = world.call("getSignatureStatuses", signatures)["result"]["value"]
    assert all(status is not None and status["err"] is None for status in statuses)
    assert world.call("getTransaction", signatures[0], {"commitment": "confirmed"})["result"]
    assert deposit(world, people[0], 7)
    assert available(world, people[0]) == 107


def test_killing_the_chain_between_writes_loses_none_that_was_answered(
    own_world: ChainWorld,
) -> None:
    world, person = own_world, own_world.person()
    total = 0
    for round_ in range(3):
        for _ in range(4):
            deposit(world, person, 1 + round_)
            total += 1 + round_
        world.kill()
        world.start_embedded()
        assert available(world, person) == total


def test_finality_is_remembered_over_a_restart(own_world: ChainWorld) -> None:
    world, person = own_world, own_world.person()
    world.call("embeddedSkip", 60)
    deposit(world, person)
    world.kill()
    world.start_embedded()

    async def at(commitment: Commitment) -> bool:
        async with world.adapter(person) as wallet:
            return await wallet.balance(person.address, world.usdc, at=commitment) is not None

    assert trio.run(at, Commitment.CONFIRMED)
    assert not trio.run(at, Commitment.FINALIZED)
    world.call("embeddedSkip", 14)
    assert trio.run(at, Commitment.FINALIZED)


# --- faults and the adapter ----------------------------------------------------------------------


async def test_a_chain_that_is_down_is_busy_at_once_and_says_where(own_world: ChainWorld) -> None:
    world, person = own_world, own_world.person()
    async with world.adapter(person) as wallet:
        await wallet.connect()
        world.stop()
        with trio.fail_after(5):
            with pytest.raises(ChainBusy, match=f"127.0.0.1:{world.rpc_port} cannot be reached"):
                await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
            with pytest.raises(ChainBusy, match="cannot be reached"):
                await wallet.balance(person.address, world.usdc)
        world.start_embedded()
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == AMOUNT


async def test_a_dropped_transaction_is_sent_again_and_paid_once(own_world: ChainWorld) -> None:
    world, person = own_world, own_world.person()
    world.call("embeddedFaults", {"drop": 1})
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == AMOUNT
        assert len(await wallet.signatures(person.address)) == 1


async def test_a_transaction_that_expired_unseen_is_signed_anew_and_paid_once(
    own_world: ChainWorld, nursery: trio.Nursery
) -> None:
    world, person = own_world, own_world.person()
    world.call("embeddedFaults", {"drop": 1})
    async with world.adapter(person) as wallet:
        await wallet.connect()

        async def let_it_expire() -> None:
            await until(lambda: world.call("embeddedFaultsLeft")["result"]["drop"] == 0)
            world.call("embeddedSkip", 80)

        nursery.start_soon(let_it_expire)
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == AMOUNT
        assert len(await wallet.signatures(person.address)) == 1


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it is another process that changes
        await trio.sleep(0.01)


async def test_a_stale_blockhash_is_replaced(own_world: ChainWorld) -> None:
    world, person = own_world, own_world.person()
    world.call("embeddedFaults", {"expire_blockhashes": 2})
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        assert len(await wallet.signatures(person.address)) == 1


async def test_a_rollback_takes_back_what_was_not_final(own_world: ChainWorld) -> None:
    world, person = own_world, own_world.person()
    world.call("embeddedSkip", 60)
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        world.call("embeddedSkip", 20)
        sent = await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(5))
        assert world.call("embeddedRollback", 32)["result"] == 1
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == AMOUNT
        status = world.call("getSignatureStatuses", [sent.signature])["result"]["value"][0]
        assert status is None
        await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(6))
        world.kill()
        world.start_embedded()
        balance = await wallet.balance(person.address, world.usdc)
        assert balance is not None
        assert balance.available == AMOUNT + 6


async def test_a_frozen_token_account_is_refused_and_a_donation_is_no_alarm(
    own_world: ChainWorld,
) -> None:
    world, person = own_world, own_world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        vault = wallet.addresses.vault(world.usdc)
        world.call("embeddedDonate", to_base58(vault), {"tokens": 1})
        assert await wallet.vault_tokens(world.usdc) == AMOUNT + 1
        await wallet.withdraw_wallet(
            mint=world.usdc, amount=MicroUnits(1), destination=person.address
        )
        world.call("embeddedFreeze", to_base58(vault))
        with pytest.raises(ChainRefused):
            await wallet.withdraw_wallet(
                mint=world.usdc, amount=MicroUnits(1), destination=person.address
            )
        world.call("embeddedFreeze", to_base58(vault), False)
        await wallet.withdraw_wallet(
            mint=world.usdc, amount=MicroUnits(1), destination=person.address
        )


# --- subscriptions -------------------------------------------------------------------------------


async def test_a_subscription_tells_of_a_change_and_outlives_a_restart(
    own_world: ChainWorld, nursery: trio.Nursery
) -> None:
    world, person = own_world, own_world.person()
    subscriptions = Subscriptions((world.ws_url,))
    nursery.start_soon(subscriptions.run)
    async with world.adapter(person) as wallet:
        with subscriptions.account(person.address) as watch:
            await until(lambda: watch.remote is not None)
            await watch.changed()  # the wake-up that every new subscription begins with
            await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
            with trio.fail_after(1.5):  # polling would take longer
                await watch.changed()
            world.kill()
            await until(lambda: watch.remote is None)
            world.start_embedded()
            await until(lambda: watch.remote is not None)
            await watch.changed()
            await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
            with trio.fail_after(1.5):
                await watch.changed()
    nursery.cancel_scope.cancel()
