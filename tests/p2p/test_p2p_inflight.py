"""Bytes in flight: bounded for each connection and for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attack_kit import Target, attacker, send_raw, stream_to
from attack_streams import DATA, SYN, yamux
from hypothesis import given, strategies as st

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.inflight import UnreadBudget

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream

DEAF = "/test/deaf/1"
SLOW = "/test/slow/1"
BOUNDS = PeerBounds(unread_per_connection=100, unread_in_all=250)


@dataclass(eq=False)
class Holder:
    held: int = 0

    def unread(self) -> int:
        return self.held


def take(budget: UnreadBudget, holder: Holder, size: int) -> bool:
    if not budget.may_take(holder, size):
        return False
    holder.held += size
    return True


def test_one_connection_takes_up_to_its_bound_and_one_frame_of_any_size() -> None:
    budget, one = UnreadBudget(BOUNDS), Holder()
    assert take(budget, one, 60)
    assert not take(budget, one, 41)
    assert take(budget, one, 40)
    one.held = 0
    assert take(budget, one, 500)
    assert not take(budget, one, 1)


def test_when_all_is_used_who_is_over_his_share_waits_and_who_is_not_goes_on() -> None:
    budget = UnreadBudget(PeerBounds(unread_per_connection=200, unread_in_all=250))
    large, other, small = Holder(), Holder(), Holder()
    assert take(budget, small, 5)
    assert take(budget, large, 120)
    assert take(budget, other, 120)
    assert take(budget, small, 45)
    assert not take(budget, large, 1)
    other.held = 0  # it was read in between, and nobody said so
    assert budget.total == 290
    assert take(budget, large, 10)
    assert budget.total == 180


def test_what_is_forgotten_counts_no_more() -> None:
    budget, one = UnreadBudget(BOUNDS), Holder()
    assert take(budget, one, 80)
    budget.forget(one)
    budget.forget(one)
    assert budget.total == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120)), max_size=80))
def test_whatever_comes_the_total_stays_within_the_bound_and_one_frame_each(
    steps: list[tuple[int, int]],
) -> None:
    budget = UnreadBudget(BOUNDS)
    holders = [Holder() for _ in range(4)]
    for who, size in steps:
        if who == 4:
            for each in holders:
                each.held = max(0, each.held - size)
        else:
            take(budget, holders[who], size)
    assert sum(each.held for each in holders) <= 250 + 4 * 120
    budget.recount()
    assert budget.total == sum(each.held for each in holders)


@pytest.mark.net
async def test_a_peer_that_fills_all_of_its_windows_stays_within_its_share(
    nursery: trio.Nursery,
) -> None:
    async def deaf(stream: FrameStream) -> None:
        del stream
        await trio.sleep_forever()

    bounds = PeerBounds(unread_per_connection=1_000_000, unread_s=1.0)
    node = Libp2pNetwork(sha256(b"victim").digest(), bounds=bounds)
    node.serve(DEAF, deaf)
    most = 0
    with trio.fail_after(60):
        await nursery.start(node.run)
        async with attacker() as host:
            target = Target(node.addresses[0])
            streams = [await stream_to(host, target, DEAF) for _ in range(10)]

            async def fill() -> None:
                with pytest.raises(Exception):  # noqa: B017, PT011, PT012 its connection ends
                    while True:
                        for stream in streams:
                            await stream.write(bytes(50_000))

            async with trio.open_nursery() as filling:
                filling.start_soon(fill)
                while node.status().connections_in:
                    most = max(most, node.status().unread)
                    await trio.sleep(0.01)
                filling.cancel_scope.cancel()
    assert 500_000 < most <= 1_000_000
    nursery.cancel_scope.cancel()


@pytest.mark.net
async def test_a_frame_that_is_only_announced_counts_as_if_it_were_here(
    nursery: trio.Nursery,
) -> None:
    node = Libp2pNetwork(sha256(b"victim").digest())
    with trio.fail_after(60):
        await nursery.start(node.run)
        async with attacker() as host:
            await send_raw(host, Target(node.addresses[0]), yamux(DATA, SYN, 21, 2_000_000))
            while node.status().unread < 2_000_000:  # noqa: ASYNC110
                await trio.sleep(0.01)
        while node.status().unread:  # noqa: ASYNC110
            await trio.sleep(0.01)
    nursery.cancel_scope.cancel()


@pytest.mark.net
async def test_an_honest_peer_is_slowed_down_to_what_is_read_and_loses_nothing(
    nursery: trio.Nursery,
) -> None:
    got: dict[int, int] = {}

    async def slow(stream: FrameStream) -> None:
        total = 0
        while (frame := await stream.receive()) is not None:
            total += len(frame)
            await trio.sleep(0.005)
        got[len(got)] = total
        await stream.send(b"thanks")

    bounds = PeerBounds(unread_per_connection=300_000, unread_s=5.0)
    node = Libp2pNetwork(sha256(b"slow").digest(), bounds=bounds)
    node.serve(SLOW, slow)
    other = Libp2pNetwork(sha256(b"honest").digest())
    sent = 40 * 50_000

    async def upload() -> None:
        async with other.open(node.key, SLOW) as stream:
            for _ in range(40):
                await stream.send(bytes(50_000))
            await stream.close()
            assert await stream.receive() == b"thanks"

    with trio.fail_after(60):
        await nursery.start(node.run)
        await nursery.start(other.run)
        other.add_addresses(node.key, node.addresses)
        async with trio.open_nursery() as uploads:
            for _ in range(4):
                uploads.start_soon(upload)
    assert list(got.values()) == [sent] * 4
    status: Any = node.status()
    assert status.bytes_in > 4 * sent
    assert status.starts == 1
    nursery.cancel_scope.cancel()
