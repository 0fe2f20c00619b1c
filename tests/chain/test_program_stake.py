from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import NOW, U64
from solders.keypair import Keypair

if TYPE_CHECKING:
    from settlement_world import User, World


@pytest.fixture
def owner(world: World) -> User:
    owner = world.depositor(100)
    world.ok(world.register(owner, Keypair().pubkey()), signers=(owner.key,))
    return owner


def test_no_money_that_is_not_there(world: World, owner: User) -> None:
    for amount, error in (
        (0, "ZeroAmount"),
        (101, "InsufficientFunds"),
        (U64, "InsufficientFunds"),
    ):
        assert world.refusal(world.stake(owner, amount), signers=(owner.key,)) == error


def test_a_delegate_does_not_stake(world: World, owner: User) -> None:
    node = Keypair()
    call = world.set_delegate(owner, node.pubkey(), U64, NOW + 10)
    world.ok(call, signers=(owner.key,))
    call = world.stake(owner, 1, owner=node.pubkey())
    assert world.refusal(call, signers=(node,)) == "NotAuthorized"


def test_without_registration_there_is_nothing_to_stake_on(world: World) -> None:
    user = world.depositor(100)
    assert world.refusal(world.stake(user, 1), signers=(user.key,)) == "ForeignAccount"
    call = world.stake(user, 1, stake=world.balance_address(user.address))
    assert world.refusal(call, signers=(user.key,)) == "WrongAccountKind"
