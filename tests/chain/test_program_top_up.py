from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import NOW, U64
from solders.keypair import Keypair

if TYPE_CHECKING:
    from settlement_world import World


def test_a_closing_channel_takes_no_more(world: World) -> None:
    payer, payee = world.depositor(100), world.depositor()
    channel = world.channel(payer, payee, deposit=10)
    world.ok(world.request_close(channel), signers=(payer.key,))
    assert world.refusal(world.top_up(channel, 1), signers=(payer.key,)) == "ChannelClosing"


def test_a_delegate_uses_its_allowance_up(world: World) -> None:
    payer, payee, node = world.depositor(100), world.depositor(), Keypair()
    channel = world.channel(payer, payee, deposit=10)
    call = world.set_delegate(payer, node.pubkey(), 20, NOW + 10)
    world.ok(call, signers=(payer.key,))
    call = world.top_up(channel, 20, authority=node.pubkey())
    world.ok(call, signers=(node,))
    call = world.top_up(channel, 1, authority=node.pubkey())
    assert world.refusal(call, signers=(node,)) == "AllowanceExceeded"
    world.set_time(NOW + 10)
    assert world.refusal(call, signers=(node,)) == "DelegationExpired"


def test_nobody_else_may_not_even_the_payee(world: World) -> None:
    payer, payee = world.depositor(100), world.depositor()
    channel = world.channel(payer, payee, deposit=10)
    call = world.top_up(channel, 1, authority=payee.address)
    assert world.refusal(call, signers=(payee.key,)) == "NotAuthorized"
    balance = world.balance_address(payee.address)
    call = world.top_up(channel, 1, authority=payee.address, payer_balance=balance)
    assert world.refusal(call, signers=(payee.key,)) == "WrongBalance"


def test_no_money_that_is_not_there(world: World) -> None:
    payer, payee = world.depositor(100), world.depositor()
    channel = world.channel(payer, payee, deposit=10)
    for amount, error in (
        (0, "ZeroAmount"),
        (91, "InsufficientFunds"),
        (U64, "InsufficientFunds"),
    ):
        assert world.refusal(world.top_up(channel, amount), signers=(payer.key,)) == error


def test_a_closed_channel_takes_nothing(world: World) -> None:
    payer, payee = world.depositor(100), world.depositor()
    channel = world.channel(payer, payee, deposit=10)
    world.ok(world.close_by_payee(channel), signers=(payee.key,))
    assert world.refusal(world.top_up(channel, 1), signers=(payer.key,)) == "ForeignAccount"
