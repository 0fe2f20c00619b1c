from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import NOW, TOKEN, TOKEN_2022, U64, token_data
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World


def test_no_more_than_what_is_available(world: World) -> None:
    user, _ = world.depositor(5), world.depositor(100)
    for amount in (6, U64):
        call = world.withdraw(user, amount)
        assert world.refusal(call, signers=(user.key,)) == "InsufficientFunds"
    assert world.refusal(world.withdraw(user, 0), signers=(user.key,)) == "ZeroAmount"


def test_a_delegate_never_withdraws(world: World) -> None:
    user, delegate = world.depositor(5), Keypair()
    world.ok(world.set_delegate(user, delegate.pubkey(), U64, NOW + 10), signers=(user.key,))
    call = world.withdraw(user, 5, owner=delegate.pubkey())
    assert world.refusal(call, signers=(delegate,)) == "WrongBalance"


def test_the_vault_cannot_pay_itself_or_into_another_mint(world: World) -> None:
    user, other, newer = world.depositor(5), Pubkey.new_unique(), Pubkey.new_unique()
    world.put(other, token_data(world.mints[1], user.address, 0), TOKEN)
    world.put(newer, token_data(world.mint, user.address, 0), TOKEN_2022)
    for destination in (world.vault(), other, newer):
        call = world.withdraw(user, 5, destination=destination)
        assert world.refusal(call, signers=(user.key,)) == "WrongTokenAccount"


def test_money_of_one_mint_is_not_paid_in_another(world: World) -> None:
    user, second = world.depositor(5), world.mints[1]
    tokens = Pubkey.new_unique()
    world.put(tokens, token_data(second, user.address, 0), TOKEN)
    world.put(world.vault(second), token_data(second, world.vault_authority, 50), TOKEN)
    call = world.withdraw(user, 5, mint=second, vault=world.vault(second), destination=tokens)
    assert world.refusal(call, signers=(user.key,)) == "WrongBalance"


def test_only_the_vault_pays(world: World) -> None:
    user, other = world.depositor(5), Pubkey.new_unique()
    world.put(other, token_data(world.mint, world.vault_authority, 100), TOKEN)
    call = world.withdraw(user, 5, vault=other)
    assert world.refusal(call, signers=(user.key,)) == "WrongAddress"


def test_a_frozen_vault_leaves_the_balance_as_it_was(world: World) -> None:
    user = world.depositor(5)
    world.put(world.vault(), token_data(world.mint, world.vault_authority, 5, state=2), TOKEN)
    assert world.refusal(world.withdraw(user, 5), signers=(user.key,)) == "Custom(17)"
    assert world.read_balance(user.address).available == 5
    world.put(world.vault(), token_data(world.mint, world.vault_authority, 5), TOKEN)
    world.ok(world.withdraw(user, 5), signers=(user.key,))
