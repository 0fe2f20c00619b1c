from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import SYSTEM, TOKEN, TOKEN_2022, U64, mint_data, token_data
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World


def test_deposits_add_up(world: World) -> None:
    user = world.depositor(3)
    world.ok(world.deposit(user, 4), signers=(user.key,))
    assert world.read_balance(user.address).available == 7


def test_a_prefunded_balance_address_is_no_obstacle(world: World) -> None:
    for lamports in (1_000_000, 10**9):
        user = world.user()
        address = world.balance_address(user.address)
        world.svm.airdrop(address, lamports)
        world.ok(world.deposit(user, 5), signers=(user.key,))
        assert world.read_balance(user.address).available == 5


def test_more_than_there_is_cannot_be_deposited(world: World) -> None:
    user = world.user(tokens=10)
    assert world.refusal(world.deposit(user, 11), signers=(user.key,)) == "Custom(1)"
    assert world.refusal(world.deposit(user, U64), signers=(user.key,)) == "Custom(1)"


def test_a_mint_that_is_not_accepted_is_refused(world: World) -> None:
    user, mint = world.user(), Pubkey.new_unique()
    world.put(mint, mint_data(), TOKEN)
    vault = world.vault(mint)
    world.put(vault, token_data(mint, world.vault_authority, 0), TOKEN)
    call = world.deposit(user, 1, mint=mint, vault=vault)
    assert world.refusal(call, signers=(user.key,)) == "WrongMint"
    call = world.deposit(user, 1, mint=SYSTEM)
    assert world.refusal(call, signers=(user.key,)) == "WrongMint"


def test_a_mint_that_moved_to_token_2022_is_refused(world: World) -> None:
    user = world.user()
    world.put(world.mint, mint_data(), TOKEN_2022)
    assert world.refusal(world.deposit(user, 1), signers=(user.key,)) == "WrongMint"


def test_another_token_account_of_the_vaults_authority_is_no_vault(world: World) -> None:
    user, other = world.user(), Pubkey.new_unique()
    world.put(other, token_data(world.mint, world.vault_authority, 0), TOKEN)
    call = world.deposit(user, 1, vault=other)
    assert world.refusal(call, signers=(user.key,)) == "WrongAddress"
    call = world.deposit(user, 1, vault=world.vault(world.mints[1]))
    assert world.refusal(call, signers=(user.key,)) == "WrongAddress"


@pytest.mark.parametrize("of", ["the vault", "another mint", "Token-2022"])
def test_a_source_must_be_another_token_account_of_the_mint(world: World, of: str) -> None:
    user, source = world.user(), Pubkey.new_unique()
    if of == "the vault":
        source = world.vault()
    elif of == "another mint":
        world.put(source, token_data(world.mints[1], user.address, 10), TOKEN)
    else:
        world.put(source, token_data(world.mint, user.address, 10), TOKEN_2022)
    call = world.deposit(user, 1, source=source)
    assert world.refusal(call, signers=(user.key,)) == "WrongTokenAccount"


def test_a_frozen_vault_takes_nothing(world: World) -> None:
    user = world.user()
    world.put(world.vault(), token_data(world.mint, world.vault_authority, 0, state=2), TOKEN)
    assert world.refusal(world.deposit(user, 1), signers=(user.key,)) == "Custom(17)"
