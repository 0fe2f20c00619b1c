"""Peers that lie about others, aim a node at a victim, or ask without end."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio
from discovery_world import NETWORK, PATIENCE_S, Member, ask, member, until

from robocompute_node.clocks import Clock
from robocompute_node.p2p.discovery.known import HOST_DIALS, MAX_UNREACHED_OF_ONE
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, hear, say
from robocompute_protocol import codec, limits
from robocompute_protocol.messages import (
    PROTOCOL_PEERS,
    PROTOCOL_REACH,
    DialBack,
    DialledBack,
    PeerRecord,
    PeersMessage,
    PeersPage,
    PeersRequest,
    ReachMessage,
    Refused,
    Signed,
)
from robocompute_protocol.signing import PEER, SigningKey, sign_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from robocompute_node.p2p.port import FrameStream

pytestmark = pytest.mark.net


def record_of(name: str, *addresses: str, network: bytes = NETWORK, ahead_ms: int = 0) -> Signed:
    key = SigningKey(sha256(name.encode()).digest())
    record = PeerRecord(
        key=key.node_key,
        network=NETWORK if network == NETWORK else type(NETWORK)(network),
        sequence=Clock().now_ms() + ahead_ms,
        ttl_ms=limits.MAX_PEER_TTL,
        addresses=addresses,
    )
    return sign_message(PEER, key, codec.encode(record))


@asynccontextmanager
async def liar(page: Callable[[], PeersPage]) -> AsyncGenerator[Libp2pNetwork]:
    """A node that answers every request for peers with ``page``."""

    async def serve(stream: FrameStream) -> None:
        await hear(stream, PeersMessage, timeout_s=30)
        await say(stream, page())

    network = Libp2pNetwork(sha256(b"liar").digest())
    network.serve(PROTOCOL_PEERS, serve)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


async def test_a_poisoned_list_fills_the_liars_share_and_is_passed_on_to_nobody() -> None:
    numbers = iter(range(10**9))

    def page() -> PeersPage:
        names = [next(numbers) for _ in range(limits.MAX_PEER_RECORDS)]
        return PeersPage(
            records=tuple(
                record_of(f"fake {n}", f"/ip4/127.0.0.1/tcp/{n % 60_000 + 1}") for n in names
            )
        )

    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            poison = await stack.enter_async_context(liar(page))
            hub = await stack.enter_async_context(member("hub", bootstrap=[poison.addresses[0]]))
            await until(lambda: len(hub.discovery.known) > 0)
            exchange: Any = hub.discovery
            for _ in range(8):
                await exchange._exchange.ask(poison.key)
            one = await stack.enter_async_context(member("one", bootstrap=[hub.address]))
            two = await stack.enter_async_context(member("two", bootstrap=[hub.address]))
            await until(lambda: two.key in one.network.peers())
            assert len(hub.discovery.known) <= MAX_UNREACHED_OF_ONE + 3
            known = {hub.key, one.key, two.key, poison.key}
            for each in (one, two):
                assert {peer for peer in _all_known(each) if peer not in known} == set()


def _all_known(each: Member) -> set[bytes]:
    table: Any = each.discovery.known
    return set(table._nodes)


async def test_a_victim_whose_address_many_fakes_name_is_knocked_at_a_few_times() -> None:
    knocks = 0

    async def victim(stream: trio.SocketStream) -> None:
        nonlocal knocks
        knocks += 1
        await stream.aclose()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, victim, 0)
            port = listeners[0].socket.getsockname()[1]

            def page() -> PeersPage:
                at = f"/ip4/127.0.0.1/tcp/{port}"
                return PeersPage(records=tuple(record_of(f"fake {n}", at) for n in range(32)))

            async with liar(page) as poison, member("hub", bootstrap=[poison.addresses[0]]) as hub:
                await until(lambda: knocks >= 3)
                await trio.sleep(5)  # real hosts have no mock clock
                assert knocks <= HOST_DIALS
                assert poison.key in hub.network.peers()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "records",
    [
        lambda: (record_of("a", "/ip4/127.0.0.1/tcp/9", network=bytes(32)),),
        lambda: (record_of("a", "/ip4/127.0.0.1/tcp/9", ahead_ms=60_000),),
        lambda: (record_of("a", "/ip4/127.0.0.1/tcp/9", ahead_ms=-limits.MAX_PEER_TTL - 60_000),),
        lambda: (record_of("a", "nonsense", "/dns4/a.example/tcp/1", "/ip4/0.0.0.0/tcp/1"),),
        lambda: (
            Signed(
                key=SigningKey(sha256(b"somebody else").digest()).node_key,
                body=record_of("a", "/ip4/127.0.0.1/tcp/9").body,
                signature=record_of("a", "/ip4/127.0.0.1/tcp/9").signature,
            ),
        ),
    ],
    ids=["another network", "from the future", "expired", "no addresses", "forged"],
)
async def test_a_record_that_is_not_as_it_must_be_is_not_taken(
    records: Callable[[], tuple[Signed, ...]],
) -> None:
    with trio.fail_after(PATIENCE_S):
        answered = trio.Event()

        def page() -> PeersPage:
            answered.set()
            return PeersPage(records=records())

        async with liar(page) as poison, member("hub", bootstrap=[poison.addresses[0]]) as hub:
            await answered.wait()
            await trio.sleep(0.3)
            assert len(hub.discovery.known) == 0


async def test_a_record_of_somebody_else_is_not_registered() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("hub") as hub, liar(lambda: PeersPage(records=())) as stranger:
            stranger.add_addresses(hub.key, (hub.address,))
            request = PeersRequest(network=NETWORK, record=record_of("a", "/ip4/127.0.0.1/tcp/9"))
            async with stranger.open(hub.key, PROTOCOL_PEERS) as stream:
                await say(stream, request)
                with suppress(PeerGone):
                    assert await stream.receive(timeout_s=30) is None
            assert len(hub.discovery.known) == 0


async def test_a_flood_of_requests_is_refused_and_others_are_answered() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("hub") as hub, liar(lambda: PeersPage(records=())) as stranger:
            stranger.add_addresses(hub.key, (hub.address,))
            refused = 0
            for _ in range(20):
                async with stranger.open(hub.key, PROTOCOL_PEERS) as stream:
                    await say(stream, PeersRequest(network=NETWORK))
                    answer = await hear(stream, PeersMessage, timeout_s=30)
                    refused += isinstance(answer, Refused) and answer.code == "busy"
            assert refused >= 10
            async with member("other", bootstrap=[hub.address]) as other:
                await until(lambda: hub.discovery.known.of(other.key) is not None)


async def test_dialling_back_goes_only_to_where_the_question_came_from_and_seldom() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("hub") as hub, liar(lambda: PeersPage(records=())) as stranger:
            stranger.add_addresses(hub.key, (hub.address,))
            own = int(stranger.addresses[0].split("/")[4])
            answer = await _dial_back(stranger, hub, own, 1)
            assert answer == DialledBack(address="127.0.0.1", ports=(own,))
            await _dial_back(stranger, hub, own)
            with pytest.raises(PeerRefused) as refused:
                await _dial_back(stranger, hub, own)
            assert refused.value.refused.code == "busy"


async def test_a_door_where_somebody_else_answers_does_not_count() -> None:
    with trio.fail_after(PATIENCE_S):
        async with member("hub") as hub, liar(lambda: PeersPage(records=())) as stranger:
            stranger.add_addresses(hub.key, (hub.address,))
            theirs = int(hub.address.split("/")[4])
            answer = await _dial_back(stranger, hub, theirs)
            assert answer.ports == ()


async def _dial_back(one: Libp2pNetwork, hub: Member, *ports: int) -> DialledBack:
    async with one.open(hub.key, PROTOCOL_REACH) as stream:
        await say(stream, DialBack(ports=ports))
        return await expect(stream, ReachMessage, DialledBack, timeout_s=60)


async def test_a_peer_that_answers_nonsense_or_nothing_leaves_the_rest_working() -> None:
    async def nonsense(stream: FrameStream) -> None:
        await stream.send(b"\xc1" * 100)

    with trio.fail_after(PATIENCE_S):
        async with liar(lambda: PeersPage(records=())) as poison:
            for protocol in (PROTOCOL_PEERS, PROTOCOL_REACH):
                poison.serve(protocol, nonsense)
            async with (
                member("hub", bootstrap=[poison.addresses[0]]) as hub,
                member("one", bootstrap=[hub.address]) as one,
                member("two", bootstrap=[hub.address]) as two,
            ):
                await until(lambda: two.key in one.network.peers())
                await ask(one.network, two.key, b"fine")
