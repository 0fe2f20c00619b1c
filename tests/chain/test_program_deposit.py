from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import SYSTEM, TOKEN, TOKEN_2022, U64, mint_data, token_data
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World


def test_tokens_move_to_the_vault_and_the_balance_is_created(world: World) -> None:
    user = world.user()
    result = world.ok(world.deposit(user, 7_000_000), signers=(user.key,))
    balance = world.read_balance(user.address)
    assert (balance.owner, balance.mint, balance.delegate) == (user.address, world.mint, SYSTEM)
    assert (balance.available, balance.next_nonce, balance.fees_owed) == (7_000_000, 0, 0)
    assert world.tokens(world.vault()) == 7_000_000
    assert world.tokens(user.tokens) == 10**9 - 7_000_000
    assert world.events(result) == [
        (
            "Deposited",
            {
                "owner": user.address,
                "mint": world.mint,
                "amount": 7_000_000,
                "available": 7_000_000,
            },
        )
    ]


def test_deposits_add_up(world: World) -> None:
    user = world.depositor(3)
    world.ok(world.deposit(user, 4), signers=(user.key,))
    assert world.read_balance(user.address).available == 7


def test_a_deposit_of_nothing_creates_the_balance(world: World) -> None:
    user = world.depositor(0)
    assert world.read_balance(user.address).available == 0
    assert world.tokens(user.tokens) == 10**9


def test_a_prefunded_balance_address_is_no_obstacle(world: World) -> None:
    for lamports in (1_000_000, 10**9):
        user = world.user()
        address = world.balance_address(user.address)
        world.svm.airdrop(address, lamports)
        world.ok(world.deposit(user, 5), signers=(user.key,))
        assert world.read_balance(user.address).available == 5


def test_the_owner_must_sign(world: World) -> None:
    user = world.user()
    call = world.deposit(user, 1)
    metas = [type(one)(one.pubkey, False, one.is_writable) for one in call.accounts]
    call = type(call)(call.program_id, call.data, metas)
    assert world.refusal(call) == "MissingSignature"


def test_more_than_there_is_cannot_be_deposited(world: World) -> None:
    user = world.user(tokens=10)
    assert world.refusal(world.deposit(user, 11), signers=(user.key,)) == "Custom(1)"
    assert world.refusal(world.deposit(user, U64), signers=(user.key,)) == "Custom(1)"


def test_somebody_elses_tokens_cannot_be_deposited(world: World) -> None:
    user, victim = world.user(), world.user()
    call = world.deposit(user, 1, source=victim.tokens)
    assert world.refusal(call, signers=(user.key,)) == "Custom(4)"


def test_a_pause_stops_deposits(world: World) -> None:
    user = world.user()
    world.pause()
    assert world.refusal(world.deposit(user, 1), signers=(user.key,)) == "Paused"


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


def test_only_the_owners_own_balance_is_credited(world: World) -> None:
    user, other = world.depositor(), world.depositor()
    call = world.deposit(user, 1, balance=world.balance_address(other.address))
    assert world.refusal(call, signers=(user.key,)) == "WrongBalance"
    call = world.deposit(user, 1, balance=Keypair().pubkey())
    assert world.refusal(call, signers=(user.key,)) == "WrongAddress"
    call = world.deposit(user, 1, balance=world.config)
    assert world.refusal(call, signers=(user.key,)) == "WrongAccountKind"


def test_a_config_of_somebody_elses_program_is_refused(world: World) -> None:
    user, forged = world.user(), Pubkey.new_unique()
    data = world.data(world.config)
    assert data is not None
    world.put(forged, data, Pubkey.new_unique())
    call = world.deposit(user, 1, config=forged)
    assert world.refusal(call, signers=(user.key,)) == "ForeignAccount"
