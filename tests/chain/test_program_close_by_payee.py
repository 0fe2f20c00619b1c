from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import NOW, ed25519_instruction
from solders.keypair import Keypair
from solders.system_program import TransferParams, transfer

if TYPE_CHECKING:
    from settlement_world import Channel, World


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(100), world.depositor(0), deposit=40)


def test_settling_and_closing_fit_one_transaction(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 40))
    world.ok(
        check, world.settle(channel), world.close_by_payee(channel), signers=(channel.payee.key,)
    )
    assert world.read_balance(channel.payee.address).available == 39
    assert world.read_balance(channel.payer.address).available == 60


def test_a_closed_channel_that_is_funded_again_is_nothing(world: World, channel: Channel) -> None:
    close = world.close_by_payee(channel)
    refund = transfer(
        TransferParams(
            from_pubkey=channel.payee.address, to_pubkey=channel.address, lamports=10**8
        )
    )
    again = world.close_by_payee(channel)
    answer = world.refusal(close, refund, again, signers=(channel.payee.key,))
    assert answer == "ForeignAccount"
    world.ok(close, refund, signers=(channel.payee.key,))
    assert not world.data(channel.address)
    account = world.svm.get_account(channel.address)
    assert account is not None
    assert account.owner == type(channel.address).default()
    assert world.refusal(again, signers=(channel.payee.key,)) == "ForeignAccount"


def test_the_payees_delegate_may(world: World, channel: Channel) -> None:
    node = Keypair()
    call = world.set_delegate(channel.payee, node.pubkey(), 0, NOW + 10)
    world.ok(call, signers=(channel.payee.key,))
    call = world.close_by_payee(channel, authority=node.pubkey())
    world.set_time(NOW + 10)
    assert world.refusal(call, signers=(node,)) == "DelegationExpired"
    world.set_time(NOW + 9)
    world.ok(call, signers=(node,))


def test_nobody_else_may_not_even_the_payer(world: World, channel: Channel) -> None:
    payer = channel.payer
    call = world.close_by_payee(channel, authority=payer.address)
    assert world.refusal(call, signers=(payer.key,)) == "NotAuthorized"
    own = world.balance_address(payer.address)
    call = world.close_by_payee(channel, authority=payer.address, payee_balance=own)
    assert world.refusal(call, signers=(payer.key,)) == "WrongBalance"


def test_a_closing_channel_can_be_closed_at_once(world: World, channel: Channel) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.ok(world.close_by_payee(channel), signers=(channel.payee.key,))
