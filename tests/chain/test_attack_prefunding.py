"""Attacks on addresses before their accounts exist: everybody can work them out and pay to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from attack_books import fund, refused
from settlement_layouts import SYSTEM, TOKEN
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from collections.abc import Callable

    from settlement_world import World
    from solders.instruction import Instruction


@dataclass(frozen=True)
class Birth:
    """An account the program is about to create."""

    address: Pubkey
    call: Instruction
    signers: tuple[Keypair, ...]
    size: int


def of_init(world: World, address: Pubkey, size: int) -> Birth:
    call = world.instruction("init_config", world.init_accounts(), **world.init_arguments())
    return Birth(address, call, (world.upgrade_authority,), size)


def config(world: World) -> Birth:
    return of_init(world, world.config, 232)


def first_vault(world: World) -> Birth:
    return of_init(world, world.vault(world.mints[0]), 165)


def second_vault(world: World) -> Birth:
    return of_init(world, world.vault(world.mints[1]), 165)


def balance(world: World) -> Birth:
    world.init_config()
    user = world.user()
    address = world.balance_address(user.address)
    return Birth(address, world.deposit(user, 5), (user.key,), 152)


def treasury_balance(world: World) -> Birth:
    world.init_config()
    user = world.depositor(0)
    call = world.sweep_fees(world.balance_address(user.address))
    return Birth(world.balance_address(world.treasury.pubkey()), call, (), 152)


def stake(world: World) -> Birth:
    world.init_config()
    user = world.user()
    call = world.register(user, Keypair().pubkey())
    return Birth(world.stake_address(user.address), call, (user.key,), 216)


def channel(world: World) -> Birth:
    world.init_config()
    payer, payee = world.depositor(), world.depositor(0)
    call = world.open_channel(payer, payee.address, Keypair().pubkey())
    address = world.channel_address(payer.address, payee.address, 0)
    return Birth(address, call, (payer.key,), 248)


BIRTHS = [config, first_vault, second_vault, balance, treasury_balance, stake, channel]
NAMES = [one.__name__ for one in BIRTHS]


@pytest.mark.parametrize("birth", BIRTHS, ids=NAMES)
@pytest.mark.parametrize("beyond", [None, -1, 0, 1, 10**9], ids=str)
def test_lamports_sent_beforehand_are_topped_up_and_nothing_else(
    bare_world: World, birth: Callable[[World], Birth], beyond: int | None
) -> None:
    world = bare_world
    one = birth(world)
    rent = world.svm.minimum_balance_for_rent_exemption(one.size)
    before = 1 if beyond is None else rent + beyond
    fund(world, one.address, before)
    world.ok(one.call, signers=one.signers)
    account = world.svm.get_account(one.address)
    assert account is not None
    assert (len(account.data), account.lamports) == (one.size, max(before, rent))
    assert account.owner in (world.program, TOKEN)


@pytest.mark.parametrize("birth", BIRTHS, ids=NAMES)
def test_without_them_the_rent_is_exactly_what_the_chain_asks(
    bare_world: World, birth: Callable[[World], Birth]
) -> None:
    one = birth(bare_world)
    bare_world.ok(one.call, signers=one.signers)
    rent = bare_world.svm.minimum_balance_for_rent_exemption(one.size)
    assert bare_world.lamports(one.address) == rent


@pytest.mark.parametrize("birth", BIRTHS, ids=NAMES)
@pytest.mark.parametrize(
    ("owner", "data"),
    [
        ("system", "zeroes"),
        ("system", "a record"),
        ("token program", "nothing"),
        ("token program", "zeroes"),
        ("stranger's program", "nothing"),
        ("stranger's program", "a record"),
    ],
)
def test_an_address_that_holds_anything_else_is_not_taken_over(
    bare_world: World, birth: Callable[[World], Birth], owner: str, data: str
) -> None:
    """No key signs for these addresses, so this cannot come about; the program checks all the same."""
    world = bare_world
    one = birth(world)
    whose = {"system": SYSTEM, "token program": TOKEN}.get(owner, Pubkey.new_unique())
    filled = {"nothing": b"", "zeroes": bytes(one.size)}.get(data, b"\2\1" + bytes(one.size - 2))
    world.put(one.address, filled, whose)
    assert refused(world, one.call, signers=one.signers) == "AlreadyExists"


@pytest.mark.parametrize("birth", [balance, treasury_balance, stake, channel])
def test_an_empty_account_of_the_program_itself_is_no_record(
    bare_world: World, birth: Callable[[World], Birth]
) -> None:
    world = bare_world
    one = birth(world)
    for data in (b"", bytes(one.size - 1), bytes(one.size), bytes(one.size + 1)):
        world.put(one.address, data, world.program)
        assert refused(world, one.call, signers=one.signers) in (
            "WrongAccountKind",
            "AlreadyExists",
        )


@pytest.mark.parametrize("birth", [balance, treasury_balance, stake, channel])
def test_what_was_created_is_not_created_again(
    bare_world: World, birth: Callable[[World], Birth]
) -> None:
    world = bare_world
    one = birth(world)
    world.ok(one.call, signers=one.signers)
    first = world.data(one.address)
    again = world.send(one.call, signers=one.signers)
    if birth in (stake, channel):
        assert "Failed" in type(again).__name__
        assert world.data(one.address) == first
    else:
        now = world.data(one.address)
        assert now is not None
        assert first is not None
        assert now[:104] == first[:104]


def test_whoever_pays_the_rent_must_have_it(bare_world: World) -> None:
    world = bare_world
    world.init_config()
    poor = world.user()
    fund(world, poor.address, 1_000_000)
    call = world.deposit(poor, 5)
    assert refused(world, call, signers=(poor.key,)) == "Custom(1)"
