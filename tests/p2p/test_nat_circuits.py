"""Circuits on loopback: what a relay cannot do, what nobody can make it do, and its end."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from discovery_world import PATIENCE_S, ask, echo, until
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage

from robocompute_node.p2p.circuits import open_stream, read_message, write_message
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import peer_id_of
from robocompute_node.p2p.port import PeerGone
from robocompute_node.p2p.relay import HOP, STOP, RelayBounds, RelayServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from libp2p.abc import INetConn

    from robocompute_node.p2p.streams import YamuxPipe
    from robocompute_protocol.identifiers import NodeKey

pytestmark = pytest.mark.net

ECHO = "/test/echo/1"
SECRET = b"what only the two ends may know " * 64


@asynccontextmanager
async def host(name: str, relay: RelayBounds | None = None) -> AsyncGenerator[Libp2pNetwork]:
    network = Libp2pNetwork(sha256(name.encode()).digest(), relay=relay)
    network.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def triangle(
    server: RelayServer | None = None, **bounds: int
) -> AsyncGenerator[tuple[Libp2pNetwork, Libp2pNetwork, Libp2pNetwork]]:
    """A relay, a node that reserved with it, and one that knows that."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(host("relay", RelayBounds(**bounds)))
        if server is not None:
            relay.links.server = server
            typed: Any = relay
            server.attach(typed._host, typed._swarm, lambda: relay.addresses)
        inner = await stack.enter_async_context(host("inner"))
        caller = await stack.enter_async_context(host("caller"))
        for each in (inner, caller):
            await each.links.dial(relay.key, relay.addresses)
        await inner.links.reserve(relay.key)
        caller.add_addresses(inner.key, circuits(inner))
        yield relay, inner, caller


def circuits(network: Libp2pNetwork) -> tuple[str, ...]:
    return tuple(each for each in network.addresses if "/p2p-circuit" in each)


class CuriousRelay(RelayServer):
    """A relay that keeps what it carries, and may change it or connect to somebody else."""

    def __init__(self, *, change: bool = False, divert_to: NodeKey | None = None) -> None:
        super().__init__(RelayBounds())
        self.seen = bytearray()
        self._change = change
        self._divert_to = divert_to
        self.diverted_by: Libp2pNetwork | None = None

    async def _stop(self, conn: INetConn, source: NodeKey) -> tuple[YamuxPipe, bytes]:
        if self._divert_to is not None and self.diverted_by is not None:
            typed: Any = self.diverted_by
            conn = typed._swarm.live_connections(peer_id_of(self._divert_to))[0]
        far, back = await super()._stop(conn, source)
        write = far.write

        async def look(data: bytes) -> None:
            self.seen.extend(data)
            if self._change and len(self.seen) > 600:  # past the handshake
                data = data[:-1] + bytes((data[-1] ^ 1,))
            await write(data)

        typed_far: Any = far
        typed_far.write = look
        return far, back


async def test_a_relay_sees_no_word_of_what_it_carries() -> None:
    server = CuriousRelay()
    with trio.fail_after(PATIENCE_S):
        async with triangle(server) as (_, inner, caller):
            await ask(caller, inner.key, SECRET)
    assert len(server.seen) > len(SECRET)
    assert SECRET[:32] not in server.seen
    assert ECHO.encode() not in server.seen


async def test_a_relay_that_changes_a_bit_ends_the_connection_and_forges_nothing() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle(CuriousRelay(change=True)) as (relay, inner, caller):
            with pytest.raises(PeerGone):
                await ask(caller, inner.key, SECRET)
            assert relay.key in inner.peers()  # and nothing else broke


async def test_a_relay_that_connects_to_somebody_else_is_found_out() -> None:
    with trio.fail_after(PATIENCE_S):
        async with host("impostor") as impostor:
            server = CuriousRelay(divert_to=impostor.key)
            async with triangle(server) as (relay, inner, caller):
                await impostor.links.dial(relay.key, relay.addresses)
                await impostor.links.reserve(relay.key)
                server.diverted_by = relay
                with pytest.raises(PeerGone):
                    await ask(caller, inner.key, SECRET)
                assert impostor.key not in caller.peers()


async def test_a_circuit_is_cut_after_its_bytes_and_dialled_anew() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle(circuit_bytes=300_000) as (_, inner, caller):
            with pytest.raises(PeerGone):
                await _echo_frames(caller, inner.key, 8)
            await ask(caller, inner.key, b"again")


async def _echo_frames(one: Libp2pNetwork, peer: NodeKey, count: int) -> None:
    async with one.open(peer, ECHO, timeout_s=30) as stream:
        for _ in range(count):
            await stream.send(bytes(65_536))
            assert await stream.receive(timeout_s=30) is not None


async def test_a_circuit_ends_when_its_time_is_over() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle(circuit_s=2) as (relay, inner, caller):
            await ask(caller, inner.key, b"word")
            assert relay.links.server is not None
            await until(lambda: inner.key not in caller.peers())
            server = relay.links.server
            await until(lambda: server.open_circuits == 0)


async def test_one_peer_gets_only_so_many_circuits() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle(circuits_per_peer=2) as (relay, inner, caller):
            async with AsyncExitStack() as stack:
                for name in ("one", "two"):
                    other = await stack.enter_async_context(host(name))
                    other.add_addresses(inner.key, circuits(inner))
                    await ask(other, inner.key, b"word")
                with pytest.raises(PeerGone, match="201"):
                    await ask(caller, inner.key, b"word")
                server = relay.links.server
                assert server is not None
                assert server.open_circuits == 2
            await until(lambda: server.open_circuits == 0)
            await ask(caller, inner.key, b"now there is room")


async def test_reservations_at_one_address_are_few_and_a_repeated_one_counts_once() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle(reservations_per_host=2) as (relay, inner, caller):
            for _ in range(3):
                await inner.links.reserve(relay.key)
            await caller.links.reserve(relay.key)
            async with host("third") as third:
                await third.links.dial(relay.key, relay.addresses)
                with pytest.raises(PeerGone, match="200"):
                    await third.links.reserve(relay.key)
                assert circuits(third) == ()


async def test_a_relay_dials_nobody_and_a_node_without_reservation_is_not_connected() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle() as (relay, _, caller), host("stranger") as stranger:
            relay.add_addresses(stranger.key, stranger.addresses)
            at = f"{relay.addresses[0]}/p2p-circuit/p2p/{peer_id_of(stranger.key)}"
            caller.add_addresses(stranger.key, (at,))
            with pytest.raises(PeerGone, match="204"):
                await ask(caller, stranger.key, b"word")
            assert stranger.key not in relay.peers()


async def test_a_node_takes_no_circuit_from_a_relay_it_did_not_reserve_with() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle() as (relay, inner, caller):
            inner.links.client.forget(relay.key)
            with pytest.raises(PeerGone):
                await ask(caller, inner.key, b"word")
            assert caller.key not in inner.peers()


async def test_a_node_that_does_not_relay_refuses_by_not_speaking_it() -> None:
    with trio.fail_after(PATIENCE_S):
        async with host("plain") as plain, host("asker") as asker:
            await asker.links.dial(plain.key, plain.addresses)
            with pytest.raises(PeerGone, match="does not speak"):
                await asker.links.reserve(plain.key)


async def test_garbage_and_floods_on_the_relays_protocols_leave_it_working() -> None:
    with trio.fail_after(PATIENCE_S):
        async with triangle() as (relay, inner, caller), host("attacker") as attacker:
            await attacker.links.dial(relay.key, relay.addresses)
            typed: Any = attacker
            conn = typed._swarm.live_connections(peer_id_of(relay.key))[0]
            for number in range(24):
                for protocol in (HOP, STOP):
                    pipe, held = await open_stream(conn, protocol)
                    junk = [
                        b"\xff" * 64,
                        b"\x03abc",
                        b"\x80",
                        bytes((8, 8, 1, 18, 4, 10, 2, 1, 2)),
                    ]
                    await pipe.write(junk[number % len(junk)])
                    if number % 2:
                        await pipe.abort()
                    else:
                        await pipe.finish()
                    del held
            await ask(caller, inner.key, b"still there")
            pipe, held = await open_stream(conn, HOP)  # the flood used its share up
            await write_message(pipe, HopMessage(type=HopMessage.RESERVE))
            answer = await read_message(pipe, HopMessage, held)
            assert answer.status == 201


async def test_when_the_relay_is_gone_its_address_is_withdrawn_and_it_is_found_again() -> None:
    with trio.fail_after(PATIENCE_S):
        async with host("inner") as inner:
            async with host("relay", RelayBounds()) as relay:
                await inner.links.dial(relay.key, relay.addresses)
                await inner.links.reserve(relay.key)
                assert len(circuits(inner)) == 1
            await until(lambda: relay.key not in inner.peers())
            with pytest.raises(PeerGone):
                await inner.links.reserve(relay.key)
            assert circuits(inner) == ()
