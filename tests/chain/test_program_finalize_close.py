from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from settlement_layouts import NOW

if TYPE_CHECKING:
    from settlement_world import Channel, World


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(100), world.depositor(0), deposit=40)


def test_a_late_voucher_still_counts_until_somebody_closes(world: World, channel: Channel) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.set_time(NOW + 10_000)
    world.settled(channel, 40)
    world.ok(world.finalize_close(channel))
    assert world.read_balance(channel.payer.address).available == 60


def test_a_channel_nobody_asked_to_close_stays(world: World, channel: Channel) -> None:
    world.set_time(NOW + 10**9)
    assert world.refusal(world.finalize_close(channel)) == "ChannelNotClosing"


def test_it_happens_once(world: World, channel: Channel) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.set_time(NOW + 3_600)
    call = world.finalize_close(channel)
    assert world.refusal(call, call) == "ForeignAccount"
    world.ok(call)
    assert world.refusal(call) == "ForeignAccount"
    assert world.read_balance(channel.payer.address).available == 100
