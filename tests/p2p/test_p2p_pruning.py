"""A full node: who came last gets in, who was of least use goes, who is protected stays."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.port import PeerGone

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream

pytestmark = pytest.mark.net

ECHO = "/test/echo/1"
NOTHING = "/test/nothing/1"


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


class Crowd:
    """A node with room for two guests, and its guests."""

    def __init__(self, nursery: trio.Nursery, grace_s: float) -> None:
        bounds = PeerBounds(inbound_connections=2, connections=4, grace_s=grace_s)
        self.nursery = nursery
        self.node = Libp2pNetwork(sha256(b"full").digest(), bounds=bounds)
        self.node.serve(ECHO, echo)

    async def guest(self, name: str) -> Libp2pNetwork:
        """Let somebody connect who asks for nothing that is served."""
        made = Libp2pNetwork(sha256(name.encode()).digest())
        await self.nursery.start(made.run)
        made.add_addresses(self.node.key, self.node.addresses)
        with pytest.raises(PeerGone):
            async with made.open(self.node.key, NOTHING, timeout_s=30.0):
                pass
        return made

    async def ask(self, guest: Libp2pNetwork) -> None:
        async with guest.open(self.node.key, ECHO, timeout_s=30.0) as stream:
            await stream.send(b"hi")
            assert await stream.receive() == b"hi"

    async def until_inside(self, *guests: Libp2pNetwork) -> None:
        wanted = {guest.key for guest in guests}
        while not wanted <= set(self.node.peers()) or len(self.node.peers()) > 2:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_who_was_of_use_stays_and_who_was_not_goes(nursery: trio.Nursery) -> None:
    crowd = Crowd(nursery, grace_s=0.0)
    with trio.fail_after(90):
        await nursery.start(crowd.node.run)
        useful = await crowd.guest("useful")
        await crowd.ask(useful)
        idle = await crowd.guest("idle")
        await crowd.until_inside(useful, idle)
        newcomer = await crowd.guest("newcomer")
        await crowd.until_inside(useful, newcomer)
        assert crowd.node.status().connections_pruned >= 1
        await crowd.ask(useful)
    nursery.cancel_scope.cancel()


async def test_protected_peers_are_not_displaced_by_anybody(nursery: trio.Nursery) -> None:
    crowd = Crowd(nursery, grace_s=0.0)
    with trio.fail_after(90):
        await nursery.start(crowd.node.run)
        one, other = await crowd.guest("one"), await crowd.guest("other")
        await crowd.until_inside(one, other)
        crowd.node.protect(lambda: {one.key, other.key})
        for number in range(2):
            await crowd.guest(f"stranger {number}")
        assert set(crowd.node.peers()) == {one.key, other.key}
        status = crowd.node.status()
        assert status.connections_pruned == 0
        assert status.connections_refused["full"] >= 2
    nursery.cancel_scope.cancel()


async def test_a_node_may_still_dial_when_its_guests_filled_the_house(
    nursery: trio.Nursery,
) -> None:
    crowd = Crowd(nursery, grace_s=1_000.0)
    with trio.fail_after(90):
        await nursery.start(crowd.node.run)
        await crowd.guest("one")
        await crowd.guest("other")
        wanted = Libp2pNetwork(sha256(b"wanted").digest())
        wanted.serve(ECHO, echo)
        await nursery.start(wanted.run)
        crowd.node.add_addresses(wanted.key, wanted.addresses)
        async with crowd.node.open(wanted.key, ECHO, timeout_s=30.0) as stream:
            await stream.send(b"hi")
            assert await stream.receive() == b"hi"
    nursery.cancel_scope.cancel()
