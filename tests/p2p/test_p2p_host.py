"""The real host: restarts, dead addresses, peers that die, ports that are taken."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import key_pair_of
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import NodeKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.p2p.port import FrameStream

pytestmark = pytest.mark.net

ECHO = "/test/echo/1"
TOPIC = "/test/topic/1"
PATIENCE_S = 60.0
"""A process with libp2p takes seconds to come up on a busy machine."""
PEER_SCRIPT = Path(__file__).with_name("p2p_peer.py")


def node(name: str, **settings: Any) -> Libp2pNetwork:
    return Libp2pNetwork(sha256(name.encode()).digest(), **settings)


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def ask(one: Libp2pNetwork, peer: NodeKey, word: bytes, timeout_s: float = 10.0) -> None:
    async with one.open(peer, ECHO, timeout_s=timeout_s) as stream:
        await stream.send(word)
        assert await stream.receive(timeout_s=timeout_s) == word


@asynccontextmanager
async def peer_process(seed: bytes, listen: str) -> AsyncGenerator[tuple[trio.Process, str]]:
    """Run ``p2p_peer.py``; it is killed at the end at the latest."""
    command = [sys.executable, str(PEER_SCRIPT), seed.hex(), listen]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with process.stdout:
            line = b""
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                assert data, "the peer did not come up"
                line += data
            yield process, line.decode().strip()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_a_peer_that_is_killed_and_restarted_on_its_port_is_reached_again(
    nursery: trio.Nursery,
) -> None:
    seed = sha256(b"killed").digest()
    key = NodeKey(key_pair_of(seed).public_key.to_bytes())
    one = node("one")
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        async with peer_process(seed, "/ip4/127.0.0.1/tcp/0") as (process, address):
            one.add_addresses(key, (address,))
            await ask(one, key, b"before")
            async with one.open(key, ECHO) as stream:
                process.send_signal(signal.SIGKILL)
                with pytest.raises(PeerGone):
                    await stream.receive()
        async with peer_process(seed, address.rsplit("/p2p/", 1)[0]):
            await ask(one, key, b"after")
        with pytest.raises(PeerGone):
            await ask(one, key, b"nobody")
    nursery.cancel_scope.cancel()


async def test_a_peer_that_hangs_is_gone_after_the_timeout_and_back_when_it_wakes(
    nursery: trio.Nursery,
) -> None:
    seed = sha256(b"frozen").digest()
    key = NodeKey(key_pair_of(seed).public_key.to_bytes())
    one = node("one")
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        async with peer_process(seed, "/ip4/127.0.0.1/tcp/0") as (process, address):
            one.add_addresses(key, (address,))
            await ask(one, key, b"before")
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(PeerGone, match=r"did not answer within 0\.5 s"):
                await ask(one, key, b"during", timeout_s=0.5)
            process.send_signal(signal.SIGCONT)
            await ask(one, key, b"after")
    nursery.cancel_scope.cancel()


async def test_a_connection_that_died_unseen_is_replaced_while_opening(
    nursery: trio.Nursery,
) -> None:
    one, other = node("one"), node("other")
    other.serve(ECHO, echo)
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        await nursery.start(other.run)
        one.add_addresses(other.key, other.addresses)
        await ask(one, other.key, b"before")
        swarm: Any = other._swarm  # pyright: ignore[reportPrivateUsage]
        for conn in swarm.get_connections():  # the other end goes deaf without a word
            conn.muxed_conn._nursery.cancel_scope.cancel()
        await ask(one, other.key, b"after")
    nursery.cancel_scope.cancel()


async def test_a_dead_address_fails_at_once_and_says_where(nursery: trio.Nursery) -> None:
    one, other = node("one"), node("other")
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with trio.fail_after(PATIENCE_S / 2):
        await nursery.start(one.run)
        one.add_addresses(other.key, (f"/ip4/127.0.0.1/tcp/{port}",))
        with pytest.raises(PeerGone, match=f"cannot be reached at /ip4/127.0.0.1/tcp/{port}"):
            await ask(one, other.key, b"x", timeout_s=60.0)
    nursery.cancel_scope.cancel()


async def test_an_address_that_accepts_and_says_nothing_honours_the_timeout(
    nursery: trio.Nursery,
) -> None:
    one, other = node("one"), node("other")
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as silent:
        port = silent.socket.getsockname()[1]
        with trio.fail_after(PATIENCE_S / 2):
            await nursery.start(one.run)
            one.add_addresses(other.key, (f"/ip4/127.0.0.1/tcp/{port}",))
            with pytest.raises(PeerGone, match=r"within 0\.3 s"):
                await ask(one, other.key, b"x", timeout_s=0.3)
    nursery.cancel_scope.cancel()


async def test_a_good_address_is_found_behind_a_silent_and_a_dead_one(
    nursery: trio.Nursery,
) -> None:
    one, other = node("one"), node("other")
    other.serve(ECHO, echo)
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as silent:
        port = silent.socket.getsockname()[1]
        with trio.fail_after(PATIENCE_S):
            await nursery.start(one.run)
            await nursery.start(other.run)
            bad = (f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/1")
            one.add_addresses(other.key, (*bad, *other.addresses))
            await ask(one, other.key, b"found")
    nursery.cancel_scope.cancel()


async def test_an_address_where_somebody_else_answers_is_not_the_peer(
    nursery: trio.Nursery,
) -> None:
    one, other, wanted = node("one"), node("other"), node("wanted")
    other.serve(ECHO, echo)
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        await nursery.start(other.run)
        one.add_addresses(wanted.key, (other.addresses[0].rsplit("/p2p/", 1)[0],))
        with pytest.raises(PeerGone, match="cannot be reached"):
            await ask(one, wanted.key, b"x")
    nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken_is_a_clear_error(nursery: trio.Nursery) -> None:
    one = node("one")
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        listen = one.addresses[0].rsplit("/p2p/", 1)[0]
        with pytest.raises(ConfigError, match="cannot listen on"):
            await node("two", listen=[listen]).run()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": ["nonsense"]},
        {"bootstrap": ["/ip4/127.0.0.1/tcp/4001"]},
        {"bootstrap": ["nonsense"]},
        {"announce": ["/ip4/0.0.0.0/tcp/4001"]},
    ],
)
def test_a_bad_setting_is_a_configuration_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        node("one", **settings)


async def test_a_bootstrap_peer_is_dialled_and_dialled_again_when_it_returns(
    nursery: trio.Nursery,
) -> None:
    other = node("other")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as first:
            await first.start(other.run)
            address = other.addresses[0]
            one = node("one", bootstrap=[address])
            await nursery.start(one.run)
            while other.key not in one.peers():  # noqa: ASYNC110
                await trio.sleep(0.02)
            first.cancel_scope.cancel()
        while one.peers():  # noqa: ASYNC110
            await trio.sleep(0.02)
        again = node("other", listen=[address.rsplit("/p2p/", 1)[0]])
        await nursery.start(again.run)
        while one.key not in again.peers():  # noqa: ASYNC110
            await trio.sleep(0.02)
    nursery.cancel_scope.cancel()


async def test_gossip_flows_again_after_a_follower_was_restarted(nursery: trio.Nursery) -> None:
    one, other = node("one"), node("other")
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)

        async def announce() -> None:
            number = 0
            while True:
                number += 1
                await one.publish(TOPIC, number.to_bytes(4, "big"))
                await trio.sleep(0.1)

        nursery.start_soon(announce)
        listen = "/ip4/127.0.0.1/tcp/0"
        for _ in range(3):
            other = node("other", listen=[listen])
            async with trio.open_nursery() as inner:
                await inner.start(other.run)
                listen = other.addresses[0].rsplit("/p2p/", 1)[0]
                other.add_addresses(one.key, one.addresses)
                async with other.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
                    with pytest.raises(PeerGone, match="does not speak"):
                        await ask(other, one.key, b"x")
                    assert (await anext(messages))[0] == one.key
                inner.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_all_addresses_of_the_machine_are_named_as_ones_that_can_be_dialled(
    nursery: trio.Nursery,
) -> None:
    one = node("one", listen=["/ip4/0.0.0.0/tcp/0"])
    with trio.fail_after(PATIENCE_S):
        await nursery.start(one.run)
        assert one.addresses
        assert not any("0.0.0.0" in address for address in one.addresses)
    nursery.cancel_scope.cancel()


async def test_nothing_is_left_behind_when_a_host_stops() -> None:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            one, other = node("one"), node("other")
            other.serve(ECHO, echo)
            await nursery.start(one.run)
            await nursery.start(other.run)
            one.add_addresses(other.key, other.addresses)
            await ask(one, other.key, b"x")
            port = int(one.addresses[0].split("/")[4])
            nursery.cancel_scope.cancel()
        again = await trio.open_tcp_listeners(port, host="127.0.0.1")
        for listener in again:
            await listener.aclose()
