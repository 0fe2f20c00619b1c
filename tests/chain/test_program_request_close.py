from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import NOW
from solders.keypair import Keypair

if TYPE_CHECKING:
    from settlement_world import Channel, World


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(100), world.depositor(0), deposit=40)


def test_the_payers_delegate_may(world: World, channel: Channel) -> None:
    node = Keypair()
    call = world.set_delegate(channel.payer, node.pubkey(), 0, NOW + 10)
    world.ok(call, signers=(channel.payer.key,))
    call = world.request_close(channel, authority=node.pubkey())
    world.set_time(NOW + 10)
    assert world.refusal(call, signers=(node,)) == "DelegationExpired"
    world.set_time(NOW + 9)
    world.ok(call, signers=(node,))


def test_nobody_else_may(world: World, channel: Channel) -> None:
    for other in (channel.payee, world.depositor()):
        call = world.request_close(channel, authority=other.address)
        assert world.refusal(call, signers=(other.key,)) == "NotAuthorized"
        own = world.balance_address(other.address)
        call = world.request_close(channel, authority=other.address, payer_balance=own)
        assert world.refusal(call, signers=(other.key,)) == "WrongBalance"
