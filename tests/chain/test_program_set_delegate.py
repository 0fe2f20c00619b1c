from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import NOW, SYSTEM
from solders.keypair import Keypair

if TYPE_CHECKING:
    from settlement_world import World


def test_a_delegation_is_set_replaced_and_ended(world: World) -> None:
    user, first, second = world.depositor(), Keypair().pubkey(), Keypair().pubkey()
    for key, allowance, expires in ((first, 5, NOW + 1), (second, 2**64 - 1, -1), (SYSTEM, 0, 0)):
        result = world.ok(world.set_delegate(user, key, allowance, expires), signers=(user.key,))
        balance = world.read_balance(user.address)
        assert balance.delegate == key
        assert (balance.allowance, balance.delegate_expires) == (allowance, expires)
        name, values = world.events(result)[0]
        assert (name, values["delegate"], values["allowance"]) == ("DelegateSet", key, allowance)


def test_neither_a_stranger_nor_the_delegate_may(world: World) -> None:
    user, delegate = world.depositor(), world.depositor()
    world.ok(world.set_delegate(user, delegate.address), signers=(user.key,))
    accounts = {"owner": delegate.address, "balance": world.balance_address(user.address)}
    call = world.instruction(
        "set_delegate", accounts, delegate=delegate.address, allowance=10**12, expires=NOW + 10
    )
    assert world.refusal(call, signers=(delegate.key,)) == "NotAuthorized"


def test_a_stake_is_no_balance(world: World) -> None:
    user = world.depositor()
    world.ok(world.register(user, Keypair().pubkey()), signers=(user.key,))
    accounts = {"owner": user.address, "balance": world.stake_address(user.address)}
    call = world.instruction("set_delegate", accounts, delegate=SYSTEM, allowance=0, expires=0)
    assert world.refusal(call, signers=(user.key,)) == "WrongAccountKind"
