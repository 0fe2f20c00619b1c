"""Both families side by side, and dials that no dead address holds up."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING

import pytest
import trio
from multiaddr import Multiaddr

from robocompute_node.p2p.addresses import MAX_ADDRESSES, by_turns
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.listening import dialable
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.p2p.port import FrameStream

ECHO = "/test/echo/1"
PEER_SCRIPT = Path(__file__).with_name("p2p_peer.py")


def has_ip6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ip6 = pytest.mark.skipif(not has_ip6(), reason="this machine has no IPv6")


def node(name: str, *listen: str, **more: object) -> Libp2pNetwork:
    seed = sha256(name.encode()).digest()
    made = Libp2pNetwork(seed, listen=listen or ("/ip4/127.0.0.1/tcp/0",), **more)  # pyright: ignore[reportArgumentType]
    made.serve(ECHO, echo)
    return made


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def ask(one: Libp2pNetwork, other: Libp2pNetwork) -> None:
    async with one.open(other.key, ECHO, timeout_s=30.0) as stream:
        await stream.send(b"hi")
        assert await stream.receive() == b"hi"


def plain(*addresses: str) -> list[str]:
    return [str(each) for each in by_turns([Multiaddr(text) for text in addresses])]


def test_the_families_take_turns_and_each_keeps_its_order() -> None:
    four = [f"/ip4/192.0.2.{each}/tcp/1" for each in (1, 2, 3)]
    six = ["/ip6/2001:db8::1/tcp/1", "/dns6/a.example/tcp/1"]
    assert plain(*four, *six) == [four[0], six[0], four[1], six[1], four[2]]
    assert plain(six[0], *four) == [six[0], four[0], four[1], four[2]]
    assert plain(*four) == four


def test_the_address_that_means_all_of_them_is_named_as_ones_that_can_be_dialled() -> None:
    assert dialable("/ip4/192.0.2.1/tcp/7") == ("/ip4/192.0.2.1/tcp/7",)
    assert "/ip4/127.0.0.1/tcp/7" in dialable("/ip4/0.0.0.0/tcp/7")
    if has_ip6():
        assert "/ip6/::1/tcp/7" in dialable("/ip6/::/tcp/7")


@pytest.mark.net
@needs_ip6
async def test_both_families_share_a_port_number_and_each_is_reached(
    nursery: trio.Nursery,
) -> None:
    with trio.fail_after(60):
        four = node("one", "/ip4/127.0.0.1/tcp/0")
        async with trio.open_nursery() as first:
            await first.start(four.run)
            port = four.addresses[0].split("/")[4]
            first.cancel_scope.cancel()
        both = node("one", f"/ip4/0.0.0.0/tcp/{port}", f"/ip6/::/tcp/{port}")
        await nursery.start(both.run)
        assert {each.split("/")[4] for each in both.addresses} == {port}
        for number, loopback in enumerate(("/ip4/127.0.0.1/", "/ip6/::1/")):
            other = node(f"other {number}")
            await nursery.start(other.run)
            named = [each for each in both.addresses if each.startswith(loopback)]
            assert named
            other.add_addresses(both.key, (named[0],))
            await ask(other, both)
        assert both.status().connections_in == 2
    nursery.cancel_scope.cancel()


@pytest.mark.net
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_family_that_this_machine_lacks_is_left_out_with_a_warning() -> None:
    """In a network of its own without IPv6."""
    both = "/ip4/127.0.0.1/tcp/0,/ip6/::/tcp/0"
    peer = f"{sys.executable} {PEER_SCRIPT} {bytes(32).hex()} {both}"
    without = "ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    command = ["unshare", "-rn", "sh", "-c", f"{without} && exec timeout -k 1 60 {peer}"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as made:
        assert made.stdout is not None
        assert made.stderr is not None
        first = made.stdout.readline()
        made.terminate()
        said = made.stderr.read()
    if "unshare" in said or "ip:" in said or "cannot create" in said:
        pytest.skip(f"no network of its own to be had here: {said.strip()}")
    assert first.startswith("/ip4/127.0.0.1/tcp/"), said
    assert "no such address family" in said


@pytest.mark.net
async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        await node("one", "/ip4/127.0.0.1/tcp/0", "/ip4/192.0.2.1/tcp/0").run()


@asynccontextmanager
async def black_hole() -> AsyncGenerator[str]:
    """An address where a dial is neither taken nor refused: a listener whose queue is full."""
    with socket.socket() as full:
        full.bind(("0.0.0.0", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", full.getsockname()[1]))
        try:
            yield f"/ip4/127.0.0.1/tcp/{full.getsockname()[1]}"
        finally:
            for each in fillers:
                each.close()


@pytest.mark.net
async def test_no_dead_address_holds_up_a_dial(nursery: trio.Nursery) -> None:
    one, other = node("one"), node("other")
    async with black_hole() as hole:
        dead = [
            "/ip6/2001:db8::1/tcp/4001",  # no route, or nobody there
            "/ip4/192.0.2.1/tcp/4001",
            hole,
            "/ip4/127.0.0.1/tcp/1",  # refused
            "/dns4/no-such-host.invalid/tcp/1",
        ]
        with trio.fail_after(60):
            await nursery.start(one.run)
            await nursery.start(other.run)
            one.add_addresses(other.key, (*dead, *other.addresses))
            await ask(one, other)
    nursery.cancel_scope.cancel()


@pytest.mark.net
async def test_a_peer_with_nothing_but_black_holes_is_given_up_within_the_race(
    nursery: trio.Nursery,
) -> None:
    one, other = node("one"), node("other")
    async with black_hole() as hole:
        port = hole.rsplit("/", 1)[1]
        holes = tuple(f"/ip4/127.0.0.{each}/tcp/{port}" for each in range(1, MAX_ADDRESSES + 1))
        with trio.fail_after(60):
            await nursery.start(one.run)
            one.add_addresses(other.key, (hole, *holes[1:]))
            with pytest.raises(PeerGone, match="cannot be reached"):
                async with one.open(other.key, ECHO, timeout_s=60.0):
                    pass
        status = one.status()
        assert status.dials == status.dial_failures > 0
    nursery.cancel_scope.cancel()
