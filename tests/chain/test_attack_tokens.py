"""Attacks with tokens: other programs' mints and accounts, frozen accounts, odd sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attack_books import booked, refused, seen
from settlement_layouts import SYSTEM, TOKEN, TOKEN_2022, mint_data, token_data
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import User, World

FROZEN = "Custom(17)"
EXTENDED_MINT = (83, 165, 166, 170, 202, 234, 278, 355, 450)
"""Token-2022 pads a mint to an account's 165 bytes, then comes its kind and the extensions."""
EXTENDED_ACCOUNT = (164, 166, 170, 171, 175, 178, 182, 355)
MULTISIG = 355
STATE = 108
"""Where a token account says whether it is initialized (1) or frozen (2)."""


@pytest.fixture
def user(world: World) -> User:
    return world.depositor(1_000)


def freeze(world: World, account: Pubkey, *, thaw: bool = False) -> None:
    data = bytearray(world.data(account) or b"")
    data[STATE] = 1 if thaw else 2
    world.put(account, bytes(data), TOKEN)


def spare(world: World, user: User, **changes: int) -> Pubkey:
    """Another token account of a user."""
    address = Pubkey.new_unique()
    world.put(address, token_data(world.mint, user.address, 50, **changes), TOKEN)
    return address


@pytest.mark.parametrize("which", ["mint0", "mint1"])
@pytest.mark.parametrize("size", [82, *EXTENDED_MINT])
def test_no_deployment_is_made_for_a_token_2022_mint_of_any_size(
    bare_world: World, which: str, size: int
) -> None:
    world = bare_world
    mint = world.mints[which == "mint1"]
    world.put(mint, mint_data().ljust(size, b"\1"), TOKEN_2022)
    call = world.instruction("init_config", world.init_accounts(), **world.init_arguments())
    assert refused(world, call, signers=(world.upgrade_authority,)) == "WrongMint"


@pytest.mark.parametrize("which", ["mint0", "mint1"])
@pytest.mark.parametrize("size", [0, 81, *EXTENDED_MINT])
def test_a_mint_of_the_classic_program_has_exactly_a_mints_size(
    bare_world: World, which: str, size: int
) -> None:
    world = bare_world
    world.put(world.mints[which == "mint1"], mint_data()[:size].ljust(size, b"\0"), TOKEN)
    call = world.instruction("init_config", world.init_accounts(), **world.init_arguments())
    assert refused(world, call, signers=(world.upgrade_authority,)) == "WrongMint"


@pytest.mark.parametrize("decimals", [0, 5, 7, 9, 255])
def test_a_mint_of_other_decimals_is_refused_at_the_beginning_and_later(
    bare_world: World, decimals: int
) -> None:
    world = bare_world
    world.put(world.mints[1], mint_data(decimals), TOKEN)
    call = world.instruction("init_config", world.init_accounts(), **world.init_arguments())
    assert refused(world, call, signers=(world.upgrade_authority,)) == "WrongMint"
    world.put(world.mints[1], mint_data(), TOKEN)
    world.init_config()
    user = world.depositor(1_000)
    world.put(world.mint, mint_data(decimals), TOKEN)
    assert refused(world, world.deposit(user, 1), signers=(user.key,)) == "WrongMint"
    # 18: the token program's own check of a transfer's decimals.
    assert refused(world, world.withdraw(user, 1), signers=(user.key,)) == "Custom(18)"


@pytest.mark.parametrize("size", [165, *EXTENDED_ACCOUNT])
@pytest.mark.parametrize("owner", [TOKEN_2022, SYSTEM, None], ids=["2022", "system", "stranger"])
def test_token_accounts_of_other_programs_neither_pay_in_nor_are_paid(
    world: World, user: User, size: int, owner: Pubkey | None
) -> None:
    other = Pubkey.new_unique()
    data = token_data(world.mint, user.address, 50)[:size].ljust(size, b"\2")
    world.put(other, data, owner or Pubkey.new_unique())
    for call in (world.deposit(user, 1, source=other), world.withdraw(user, 1, destination=other)):
        assert refused(world, call, signers=(user.key,)) == "WrongTokenAccount"


@pytest.mark.parametrize("size", [0, 1, 82, *EXTENDED_ACCOUNT])
def test_a_token_account_has_exactly_a_token_accounts_size(
    world: World, user: User, size: int
) -> None:
    other = Pubkey.new_unique()
    data = token_data(world.mint, user.address, 50)[:size].ljust(size, b"\1")
    world.put(other, data, TOKEN)
    for call in (world.deposit(user, 1, source=other), world.withdraw(user, 1, destination=other)):
        assert refused(world, call, signers=(user.key,)) == "WrongTokenAccount"


def test_a_mint_a_multisig_and_a_record_of_ours_are_no_token_accounts(
    world: World, user: User
) -> None:
    multisig = Pubkey.new_unique()
    world.put(multisig, b"\1\1\1" + bytes(MULTISIG - 3), TOKEN)
    for other in (world.mint, multisig, world.config, world.balance_address(user.address)):
        for call in (
            world.deposit(user, 1, source=other),
            world.withdraw(user, 1, destination=other),
        ):
            answer = refused(world, call, signers=(user.key,))
            assert answer in ("WrongTokenAccount", "WrongBalance") or "Borrow" in answer


def test_an_account_the_token_program_has_not_begun_is_refused_by_it(
    world: World, user: User
) -> None:
    empty = spare(world, user, state=0)
    for call in (world.deposit(user, 1, source=empty), world.withdraw(user, 1, destination=empty)):
        assert (
            refused(world, call, signers=(user.key,))
            == "InstructionErrorFieldless.UninitializedAccount"
        )


@pytest.mark.parametrize("owner", [TOKEN_2022, SYSTEM, None], ids=["2022", "system", "stranger"])
def test_a_mint_that_changed_hands_takes_nothing_in_and_locks_nobody_in(
    world: World, user: User, owner: Pubkey | None
) -> None:
    world.put(world.mint, mint_data(), owner or Pubkey.new_unique())
    assert refused(world, world.deposit(user, 1), signers=(user.key,)) == "WrongMint"
    world.ok(world.withdraw(user, 1_000), signers=(user.key,))
    assert world.tokens(user.tokens) == 10**9


@pytest.mark.parametrize("name", ["deposit", "withdraw"])
def test_only_the_classic_token_program_is_ever_called(
    world: World, user: User, name: str
) -> None:
    """Whatever stands in the list as token program: the call goes to the classic one."""
    make = {"deposit": world.deposit, "withdraw": world.withdraw}[name]
    for program in (TOKEN_2022, SYSTEM, world.program):
        call = make(user, 1, token_program=program)
        assert "MissingAccount" in refused(world, call, signers=(user.key,))
        also = AccountMeta(TOKEN, False, False)
        both = Instruction(call.program_id, bytes(call.data), [*call.accounts, also])
        before = world.tokens(world.vault())
        world.ok(both, signers=(user.key,))
        assert abs(world.tokens(world.vault()) - before) == 1


def test_a_frozen_source_pays_nothing_in_and_everybody_else_goes_on(
    world: World, user: User
) -> None:
    freeze(world, user.tokens)
    assert refused(world, world.deposit(user, 1), signers=(user.key,)) == FROZEN
    other = world.depositor(5)
    assert world.read_balance(other.address).available == 5
    world.ok(world.withdraw(user, 1, destination=spare(world, user)), signers=(user.key,))


def test_a_frozen_destination_costs_nothing_and_any_other_account_can_be_paid(
    world: World, user: User
) -> None:
    freeze(world, user.tokens)
    assert refused(world, world.withdraw(user, 1_000), signers=(user.key,)) == FROZEN
    assert world.read_balance(user.address).available == 1_000
    other = spare(world, user)
    world.ok(world.withdraw(user, 1_000, destination=other), signers=(user.key,))
    assert world.tokens(other) == 1_050


def test_a_frozen_vault_stops_payouts_and_nothing_else_and_loses_nothing(world: World) -> None:
    payer, payee = world.depositor(1_000), world.depositor(0)
    channel = world.channel(payer, payee, deposit=400)
    freeze(world, world.vault())
    assert refused(world, world.deposit(payer, 1), signers=(payer.key,)) == FROZEN
    assert refused(world, world.withdraw(payer, 1), signers=(payer.key,)) == FROZEN
    world.settled(channel, 300)
    world.ok(world.top_up(channel, 50), signers=(payer.key,))
    second = world.channel(payer, payee, deposit=10)
    world.ok(world.close_by_payee(second), signers=(payee.key,))
    world.ok(world.close_by_payee(channel), signers=(payee.key,))
    world.ok(world.sweep_fees(world.balance_address(payee.address)))
    freeze(world, world.vault(), thaw=True)
    for user, amount in ((payer, 700), (payee, 292)):
        assert world.read_balance(user.address).available == amount
        world.ok(world.withdraw(user, amount), signers=(user.key,))
    assert world.tokens(world.vault()) == 8  # the treasury's fee


def test_one_frozen_vault_is_not_the_other_mints(world: World) -> None:
    user, mint = world.depositor(10), world.mints[1]
    freeze(world, world.vault())
    tokens = Pubkey.new_unique()
    world.put(tokens, token_data(mint, user.address, 10), TOKEN)
    there = {
        "mint": mint,
        "vault": world.vault(mint),
        "balance": world.balance_address(user.address, mint),
    }
    world.ok(world.deposit(user, 10, source=tokens, **there), signers=(user.key,))
    world.ok(world.withdraw(user, 10, destination=tokens, **there), signers=(user.key,))
    assert world.tokens(tokens) == 10


def test_tokens_someone_may_spend_for_their_owner_are_not_credited_to_the_owner_of_the_balance(
    world: World, user: User
) -> None:
    """The signer is who the token program lets spend: owner or delegate. It credits itself only."""
    victim = world.user(tokens=100)
    data = bytearray(world.data(victim.tokens) or b"")
    data[72:108] = b"\1\0\0\0" + bytes(user.address)
    data[121:129] = (30).to_bytes(8, "little")
    world.put(victim.tokens, bytes(data), TOKEN)
    call = world.deposit(user, 31, source=victim.tokens)
    assert refused(world, call, signers=(user.key,)) == "Custom(1)"
    world.ok(world.deposit(user, 30, source=victim.tokens), signers=(user.key,))
    assert world.read_balance(user.address).available == 1_030


def test_tokens_of_a_mint_nobody_accepts_reach_no_balance_whatever_vault_is_made_for_them(
    world: World, user: User
) -> None:
    mint, thief = Pubkey.new_unique(), Keypair()
    world.put(mint, mint_data(), TOKEN)
    world.put(world.vault(mint), token_data(mint, world.vault_authority, 10), TOKEN)
    source = Pubkey.new_unique()
    world.put(source, token_data(mint, user.address, 10), TOKEN)
    for balance in (
        world.balance_address(user.address, mint),
        world.balance_address(user.address),
    ):
        accounts = {"mint": mint, "vault": world.vault(mint), "balance": balance}
        call = world.deposit(user, 1, source=source, **accounts)
        assert refused(world, call, signers=(user.key,)) == "WrongMint"
        call = world.withdraw(user, 1, destination=source, **accounts)
        assert refused(world, call, signers=(user.key,)) == "WrongMint"
    call = world.register(
        user, thief.pubkey(), mint=mint, stake=world.stake_address(user.address, mint)
    )
    assert refused(world, call, signers=(user.key,)) == "WrongMint"


def test_a_donation_to_the_vault_is_a_surplus_and_nobodys_balance(
    world: World, user: User
) -> None:
    held = world.tokens(world.vault())
    world.put(world.vault(), token_data(world.mint, world.vault_authority, held + 7), TOKEN)
    assert booked(world, [user.address], [], world.mint) == held
    assert refused(world, world.withdraw(user, 1_001), signers=(user.key,)) == "InsufficientFunds"
    world.ok(world.withdraw(user, 1_000), signers=(user.key,))
    assert world.tokens(world.vault()) == 7


def test_nothing_of_ours_can_be_used_as_the_vaults_authority(world: World, user: User) -> None:
    before = seen(world, [world.vault(), world.balance_address(user.address)])
    for authority in (user.address, world.config, world.admin.pubkey(), world.vault()):
        call = world.withdraw(user, 1, vault_authority=authority)
        refused(world, call, signers=(user.key,))
    assert seen(world, before) == before
