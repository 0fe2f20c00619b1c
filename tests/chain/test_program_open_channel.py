from __future__ import annotations

import pytest
from settlement_layouts import DAY, NOW, SYSTEM, U64, ed25519_instruction
from settlement_world import Channel, User, World
from solders.keypair import Keypair
from solders.pubkey import Pubkey

PAYEE = Keypair().pubkey()
KEY = Keypair().pubkey()


def test_nonces_are_used_in_order_and_once(world: World) -> None:
    payer = world.depositor(100)
    for nonce in (1, U64):
        call = world.open_channel(payer, PAYEE, KEY, nonce=nonce, deposit=1)
        assert world.refusal(call, signers=(payer.key,)) == "WrongNonce"
    for nonce in (0, 1):
        call = world.open_channel(payer, PAYEE, KEY, nonce=nonce, deposit=1)
        world.ok(call, signers=(payer.key,))
        assert world.refusal(call, signers=(payer.key,)) == "WrongNonce"


def test_a_closed_channel_cannot_be_revived(world: World) -> None:
    payer, payee = world.depositor(), world.depositor()
    channel = world.channel(payer, payee)
    world.ok(world.close_by_payee(channel), signers=(payee.key,))
    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=channel.nonce)
    assert world.refusal(call, signers=(payer.key,)) == "WrongNonce"


def test_a_prefunded_channel_address_is_no_obstacle(world: World) -> None:
    payer = world.depositor(100)
    for nonce, lamports in enumerate((900_000, 10**9)):
        address = world.channel_address(payer.address, PAYEE, nonce)
        world.svm.airdrop(address, lamports)
        call = world.open_channel(payer, PAYEE, KEY, nonce=nonce, deposit=1)
        world.ok(call, signers=(payer.key,))
        assert world.read_channel(address).deposit == 1


def delegated(world: World, allowance: int, expires: int) -> tuple[User, User]:
    payer, node = world.depositor(1_000), world.user()
    call = world.set_delegate(payer, node.address, allowance, expires)
    world.ok(call, signers=(payer.key,))
    return payer, node


def test_a_delegate_opens_and_pays_the_rent_within_its_allowance(world: World) -> None:
    payer, node = delegated(world, 100, NOW + 1)
    for nonce, (deposit, left) in enumerate(((60, 40), (40, 0))):
        call = world.open_channel(
            payer, PAYEE, KEY, nonce=nonce, deposit=deposit, authority=node.address,
            rent_payer=node.address,
        )  # fmt: skip
        world.ok(call, signers=(node.key,))
        assert world.read_balance(payer.address).allowance == left
    call = world.open_channel(
        payer, PAYEE, KEY, nonce=2, deposit=1, authority=node.address, rent_payer=node.address
    )
    assert world.refusal(call, signers=(node.key,)) == "AllowanceExceeded"
    call = world.open_channel(payer, PAYEE, KEY, nonce=2, deposit=1)
    world.ok(call, signers=(payer.key,))


def test_a_delegation_ends_at_its_time(world: World) -> None:
    payer, node = delegated(world, 100, NOW + 10)
    call = world.open_channel(
        payer, PAYEE, KEY, deposit=1, authority=node.address, rent_payer=node.address
    )
    world.set_time(NOW + 10)
    assert world.refusal(call, signers=(node.key,)) == "DelegationExpired"
    world.set_time(NOW + 9)
    world.ok(call, signers=(node.key,))


def test_an_allowance_is_no_money(world: World) -> None:
    payer, node = delegated(world, U64, NOW + 10)
    call = world.open_channel(
        payer, PAYEE, KEY, deposit=1_001, authority=node.address, rent_payer=node.address
    )
    assert world.refusal(call, signers=(node.key,)) == "InsufficientFunds"


@pytest.mark.parametrize("challenge_s", [0, 59, 30 * DAY + 1, U64])
def test_challenge_times_outside_the_range_are_refused(world: World, challenge_s: int) -> None:
    payer = world.depositor()
    call = world.open_channel(payer, PAYEE, KEY, challenge_s=challenge_s)
    assert world.refusal(call, signers=(payer.key,)) == "ChallengeOutOfRange"


def test_no_channel_without_money_or_with_too_much(world: World) -> None:
    payer = world.depositor(10)
    for deposit, error in (
        (0, "ZeroAmount"),
        (11, "InsufficientFunds"),
        (U64, "InsufficientFunds"),
    ):
        call = world.open_channel(payer, PAYEE, KEY, deposit=deposit)
        assert world.refusal(call, signers=(payer.key,)) == error


def test_zero_keys_are_refused(world: World) -> None:
    payer = world.depositor()
    for payee, key in ((SYSTEM, KEY), (PAYEE, SYSTEM)):
        call = world.open_channel(payer, payee, key)
        assert world.refusal(call, signers=(payer.key,)) == "ZeroKey"


def test_a_pause_stops_new_channels(world: World) -> None:
    payer = world.depositor()
    world.pause()
    call = world.open_channel(payer, PAYEE, KEY)
    assert world.refusal(call, signers=(payer.key,)) == "Paused"


def test_a_channel_lies_at_its_own_address_only(world: World) -> None:
    payer = world.depositor()
    others = (
        world.channel_address(payer.address, PAYEE, 1),
        world.channel_address(payer.address, PAYEE, 0, world.mints[1]),
        Pubkey.new_unique(),
        world.balance_address(payer.address),
    )
    for other in others:
        call = world.open_channel(payer, PAYEE, KEY, channel=other)
        assert world.refusal(call, signers=(payer.key,)) == "WrongAddress"


def test_a_later_fee_does_not_reach_an_open_channel(world: World) -> None:
    payer, payee = world.depositor(), world.depositor()
    channel = world.channel(payer, payee)
    world.ok(world.update_config(fee_bps=500), signers=(world.admin,))
    world.settled(channel, 10_000)
    assert world.read_channel(channel.address).fee_taken == 250
    assert world.read_channel(world.channel(payer, payee).address).fee_bps == 500


def test_one_may_pay_oneself_and_nothing_is_made_of_it(world: World) -> None:
    user = world.depositor(1_000_000)
    key = Keypair()
    call = world.open_channel(user, user.address, key.pubkey(), deposit=400_000)
    world.ok(call, signers=(user.key,))
    address = world.channel_address(user.address, user.address, 0)
    channel = Channel(address, user, user, key, 0)
    world.ok(ed25519_instruction(world.voucher(channel, 300_000)), world.settle(channel))
    world.ok(world.close_by_payee(channel), signers=(user.key,))
    balance = world.read_balance(user.address)
    assert (balance.available, balance.fees_owed) == (992_500, 7_500)
