"""Nodes of a local network find each other by multicast, whatever else is on the wire."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from nat_ground import one_house, why_not
from nat_remote import node_in

from robocompute_node.p2p.discovery.lan import lan_addresses, read_announcement
from robocompute_node.p2p.identity import peer_id_of
from robocompute_protocol.identifiers import digest
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import Generator

GARBAGE = Path(__file__).with_name("garbage_on_the_lan.py")
PATIENCE_S = 110.0
NETWORK = digest(b"this one")
KEY = SigningKey(sha256(b"one").digest()).node_key
AT = f"/ip4/10.0.0.7/tcp/4001/p2p/{peer_id_of(KEY)}"
OTHER = f"/ip4/10.0.0.8/tcp/1/p2p/{peer_id_of(SigningKey(sha256(b'two').digest()).node_key)}"
NAMED = {b"n": NETWORK[:16].hex().encode()}


@pytest.fixture
def house() -> Generator[tuple[str, str]]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with one_house() as namespaces:
        yield namespaces


@pytest.mark.net
async def test_two_nodes_meet_without_knowing_anybody_amid_garbage_and_lies(
    house: tuple[str, str],
) -> None:
    desk, shelf = house
    command = ["ip", "netns", "exec", shelf, sys.executable, str(GARBAGE), "10.9.0.2"]
    with trio.fail_after(PATIENCE_S):
        noise = await trio.lowlevel.open_process(command)
        try:
            listen = ["/ip4/0.0.0.0/tcp/0"]
            async with (
                node_in(desk, name="desk", lan=True, listen=listen) as one,
                node_in(shelf, name="shelf", lan=True, listen=listen) as other,
            ):
                key = (await other.do("status"))["key"]
                status = await one.until(lambda status: key in status["peers"])
                met = (status["peers"][key]["found"], status["peers"][key]["outbound"])
                assert met in {("lan", True), ("lan", False), ("inbound", False)}
                assert noise.poll() is None
        finally:
            noise.kill()
            with trio.CancelScope(shield=True):
                await noise.wait()


def test_an_announcement_is_read() -> None:
    assert read_announcement({**NAMED, b"dnsaddr": AT.encode()}, NETWORK) == (KEY, (AT,))


@pytest.mark.parametrize(
    "properties",
    [
        {},
        NAMED,
        {b"dnsaddr": AT.encode()},
        {b"n": b"another", b"dnsaddr": AT.encode()},
        {b"n": None, b"dnsaddr": AT.encode()},
        {**NAMED, b"dnsaddr": None},
        {**NAMED, b"dnsaddr": b"\xff\xfe"},
        {**NAMED, b"dnsaddr": b"/ip4/10.0.0.7/tcp/4001"},
        {
            **NAMED,
            b"dnsaddr": b"/ip4/10.0.0.7/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        },
        {**NAMED, b"dnsaddr": f"{AT}/p2p-circuit/p2p/{peer_id_of(KEY)}".encode()},
    ],
)
def test_what_is_no_announcement_of_this_network_is_nobody(
    properties: dict[bytes, bytes | None],
) -> None:
    assert read_announcement(properties, NETWORK) == (None, ())


def test_an_announcement_speaks_for_one_node_and_names_few_addresses() -> None:
    many = {f"dnsaddr{n}".encode(): AT.replace("4001", str(n + 1)).encode() for n in range(100)}
    peer, addresses = read_announcement({**NAMED, **many, b"dnsaddrx": OTHER.encode()}, NETWORK)
    assert peer == KEY
    assert len(addresses) == 8
    assert all(str(peer_id_of(KEY)) in each for each in addresses)


def test_neighbours_are_told_what_they_can_use() -> None:
    relayed = f"/ip4/11.0.0.1/tcp/1/p2p/{peer_id_of(KEY)}/p2p-circuit"
    assert lan_addresses(("/ip4/127.0.0.1/tcp/1", AT, relayed, "/dns4/a.example/tcp/1")) == (AT,)
