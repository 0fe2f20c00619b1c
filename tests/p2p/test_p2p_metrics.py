"""What the network counts is what happened, and every count is documented."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.metrics import NetworkStatus
from robocompute_node.p2p.port import PeerGone

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream

DOCS = Path(__file__).parents[2] / "docs" / "rest.md"
ECHO = "/test/echo/1"
TOPIC = "/test/topic/1"


def test_every_count_is_documented() -> None:
    section = DOCS.read_text().partition("### What the network counts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert rows == ["network", *(each.name for each in fields(NetworkStatus))]


def test_a_node_that_does_not_run_counts_nothing() -> None:
    status = Libp2pNetwork(bytes(32)).status()
    values = {getattr(status, each.name) for each in fields(status) if each.type == "int"}
    assert values == {0}
    frozen: Any = status
    with pytest.raises(FrozenInstanceError):
        frozen.dials = 1


@pytest.mark.net
async def test_what_happens_is_counted(nursery: trio.Nursery) -> None:
    async def echo(stream: FrameStream) -> None:
        while (frame := await stream.receive()) is not None:
            await stream.send(frame)

    bounds = PeerBounds(connections_per_address=1)
    one = Libp2pNetwork(sha256(b"one").digest(), bounds=bounds)
    one.serve(ECHO, echo)
    with trio.fail_after(60):
        await nursery.start(one.run)
        other = Libp2pNetwork(sha256(b"other").digest())
        await nursery.start(other.run)
        other.add_addresses(one.key, ("/ip4/127.0.0.1/tcp/1", *one.addresses))
        async with other.open(one.key, ECHO) as stream:
            await stream.send(bytes(10_000))
            await stream.receive()
            assert one.status().streams >= 1
            assert one.status().connections_in == other.status().connections_out == 1
        async with one.subscribe(TOPIC, _no_bad_ones) as messages:
            while not one.status().gossip_in or not one.status().gossip_dropped:
                await other.publish(TOPIC, b"good")
                await other.publish(TOPIC, b"bad")
                await trio.sleep(0.05)
            assert await anext(messages) == (other.key, b"good")
        third = Libp2pNetwork(sha256(b"third").digest())
        await nursery.start(third.run)
        third.add_addresses(one.key, one.addresses)
        with pytest.raises(PeerGone):
            async with third.open(one.key, ECHO):
                pass
        status, theirs = one.status(), other.status()
    assert status.gossip_dropped == {"invalid": status.gossip_dropped["invalid"]}
    assert status.connections_refused == {"address_full": 1}
    assert status.bytes_in > 10_000
    assert status.bytes_out > 10_000
    assert theirs.gossip_out >= status.gossip_in
    assert (theirs.dials, theirs.dial_failures) == (2, 1)
    assert theirs.streams_out >= 1
    assert status.starts == theirs.starts == 1
    nursery.cancel_scope.cancel()


def _no_bad_ones(_peer: object, payload: bytes) -> bool:
    return payload != b"bad"
