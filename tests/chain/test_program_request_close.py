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


def test_it_starts_the_challenge_time(world: World, channel: Channel) -> None:
    result = world.ok(world.request_close(channel), signers=(channel.payer.key,))
    record = world.read_channel(channel.address)
    assert (record.state, record.close_at) == (2, NOW + 3_600)
    assert world.events(result)[0] == (
        "CloseRequested",
        {
            "channel": channel.address,
            "payee": channel.payee.address,
            "close_at": NOW + 3_600,
        },
    )


def test_only_the_first_request_counts(world: World, channel: Channel) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    for later in (NOW + 5, NOW + 10_000):
        world.set_time(later)
        result = world.ok(world.request_close(channel), signers=(channel.payer.key,))
        assert world.events(result) == []
        assert world.read_channel(channel.address).close_at == NOW + 3_600


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


def test_the_payer_must_sign(world: World, channel: Channel) -> None:
    call = world.request_close(channel)
    metas = [type(one)(one.pubkey, False, one.is_writable) for one in call.accounts]
    assert world.refusal(type(call)(call.program_id, call.data, metas)) == "MissingSignature"
