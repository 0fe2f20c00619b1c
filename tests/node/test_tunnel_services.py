"""Tunnels between a client's and a provider's services, and those who would use other people's."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import InvalidRequest
from robocompute_node.executor.fake import Listen, Pause
from robocompute_node.p2p.fake import FakeHub, FakeNetwork
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, hear, say
from robocompute_node.services.tunnels import CONNECTIONS_PER_AGREEMENT, Pace, Tunnels
from robocompute_protocol.identifiers import AgreementId, NodeKey
from robocompute_protocol.messages import (
    PROTOCOL_TUNNEL,
    Kept,
    Message,
    OpenTunnel,
    TunnelData,
    TunnelEnd,
    TunnelMessage,
    TunnelOpened,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream

PORT = 8_888


class Scene:
    """A job that listens on a port, and everybody around it."""

    def __init__(self, world: World, client: FakeNode, provider: FakeNode, task_id: str) -> None:
        self.world = world
        self.client = client
        self.provider = provider
        self.task_id = task_id

    @property
    def agreement(self) -> AgreementId:
        agreement = self.client.tasks.get(self.task_id).agreement
        assert agreement is not None
        return agreement

    @asynccontextmanager
    async def stream(
        self, node: FakeNode | None = None, port: int = PORT
    ) -> AsyncGenerator[FrameStream]:
        """A connection as the protocol has it, by the client or somebody else."""
        network = (node or self.client).network
        async with network.open(self.provider.key.node_key, PROTOCOL_TUNNEL) as stream:
            await say(stream, OpenTunnel(agreement=self.agreement, port=port))
            await expect(stream, TunnelMessage, TunnelOpened, timeout_s=60)
            yield stream


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    async with fake_world(folder) as world:
        provider = await world.provider(script=lambda _: (Listen(PORT), Pause(120_000)))
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        task_id = await client.submit("serve")
        await client.until_stage(task_id, "running")
        yield Scene(world, client, provider, task_id)


async def reply(stream: FrameStream) -> Message:
    return await hear(stream, TunnelMessage, timeout_s=60)


async def test_bytes_go_both_ways_and_each_side_ends_its_own(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(tmp_path) as it, it.stream() as stream:
        for data in (b"GET /", b"x" * 65_536):
            await say(stream, TunnelData(data=data))
            received = b""
            while len(received) < len(data):
                answer = await reply(stream)
                assert isinstance(answer, TunnelData)
                received += answer.data
            assert received == data
        await say(stream, TunnelData(data=b"last"))
        await say(stream, TunnelEnd())  # what was asked before the end is answered after it
        assert await reply(stream) == TunnelData(data=b"last")
        assert await reply(stream) == TunnelEnd()


async def test_only_the_agreement_s_client_is_let_in_and_only_where_something_listens(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(tmp_path) as it:
        stranger = await it.world.client(name="stranger")
        await it.world.start(stranger)
        with pytest.raises(PeerRefused, match="no such agreement"):
            async with it.stream(stranger):
                pass
        with pytest.raises(PeerRefused, match="nothing listens"):
            async with it.stream(port=PORT + 1):
                pass
        async with it.client.network.open(it.provider.key.node_key, PROTOCOL_TUNNEL) as stream:
            await say(stream, Kept(agreement=it.agreement))
            with pytest.raises(PeerGone):
                await reply(stream)


async def test_a_job_s_connections_are_bounded_and_end_with_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(tmp_path) as it, trio.open_nursery() as nursery:
        opened: list[int] = []
        ended: list[int] = []

        async def hold() -> None:
            async with it.stream() as stream:
                opened.append(1)
                try:
                    while not isinstance(await reply(stream), TunnelEnd):
                        pass
                except PeerGone:
                    pass
                ended.append(1)

        for _ in range(CONNECTIONS_PER_AGREEMENT):
            nursery.start_soon(hold)
        await trio.sleep(1)
        assert len(opened) == CONNECTIONS_PER_AGREEMENT
        with pytest.raises(PeerRefused, match="too many connections"):
            async with it.stream():
                pass
        assert not ended
        await it.client.api.cancel_task(it.task_id)
        await it.client.until_ended(it.task_id)
        await trio.sleep(61)
        assert len(ended) == CONNECTIONS_PER_AGREEMENT
        with pytest.raises(PeerRefused):
            async with it.stream():
                pass


async def test_what_is_out_of_place_ends_the_connection_and_no_other(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(tmp_path) as it, it.stream() as well:
        async with it.stream() as stream:
            await say(stream, TunnelOpened())
            with pytest.raises(PeerGone):
                await reply(stream)
        await say(well, TunnelData(data=b"still"))
        assert await reply(well) == TunnelData(data=b"still")


async def test_the_owner_opens_lists_and_closes_tunnels_of_tasks_that_run(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(tmp_path) as it:
        api = it.client.api
        made = await api.open_tunnel(it.task_id, PORT, 0)
        assert made["port"] == PORT
        assert api.tunnels(it.task_id) == [made]
        assert await api.open_tunnel(it.task_id, PORT, 0) == made
        with pytest.raises(InvalidRequest, match="open already"):
            await api.open_tunnel(it.task_id, PORT, 1)
        local = made["local_port"]
        assert isinstance(local, int)
        with pytest.raises(InvalidRequest, match="cannot listen"):
            await api.open_tunnel(it.task_id, PORT + 1, local)
        api.close_tunnel(it.task_id, PORT)
        api.close_tunnel(it.task_id, PORT)
        assert api.tunnels(it.task_id) == []
        await api.open_tunnel(it.task_id, PORT, 0)
        await api.cancel_task(it.task_id)
        await it.client.until_ended(it.task_id)
        await trio.sleep(1)
        assert api.tunnels(it.task_id) == []
        with pytest.raises(InvalidRequest, match="runs"):
            await api.open_tunnel(it.task_id, PORT, 0)


async def test_all_connections_of_a_job_share_its_bytes_a_second(
    autojump_clock: trio.abc.Clock,
) -> None:
    pace, began = Pace(1_000), trio.current_time()
    async with trio.open_nursery() as nursery:

        async def spend() -> None:
            for _ in range(50):
                await pace.spend(100)

        nursery.start_soon(spend)
        nursery.start_soon(spend)
    assert 8 <= trio.current_time() - began <= 11


@pytest.mark.net
async def test_a_connection_that_breaks_on_either_side_ends_neither_the_tunnel_nor_the_node() -> (
    None
):
    hub = FakeHub()
    client, provider = NodeKey(bytes(31) + b"\1"), NodeKey(bytes(31) + b"\2")
    ours, theirs = FakeNetwork(hub, client), FakeNetwork(hub, provider)

    async def serve(stream: FrameStream) -> None:
        await expect(stream, TunnelMessage, OpenTunnel, timeout_s=60)
        await say(stream, TunnelOpened())
        heard = await hear(stream, TunnelMessage, timeout_s=60)
        assert isinstance(heard, TunnelData)
        match heard.data:
            case b"cut":
                hub.cut(client, provider)
            case b"nonsense":
                await say(stream, TunnelOpened())
                await trio.sleep_forever()
            case _:
                await say(stream, heard)
                await trio.sleep_forever()

    theirs.serve(PROTOCOL_TUNNEL, serve)
    ours.add_addresses(provider, theirs.addresses)
    tunnels = Tunnels(ours)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for each in (ours.run, theirs.run, tunnels.run):
                await nursery.start(each)
            made = await tunnels.open(
                "task", provider, AgreementId(bytes(32)), PORT, local_port=0,
                until=trio.sleep_forever,
            )  # fmt: skip
            for word in (b"cut", b"nonsense", b"hello", b"hello"):
                local = await trio.open_tcp_stream("127.0.0.1", made.local_port)
                async with local:
                    await local.send_all(word)
                    assert await local.receive_some() == (word if word == b"hello" else b"")
                    reset = struct.pack("ii", 1, 0)  # as a program that is killed hangs up
                    local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            nursery.cancel_scope.cancel()
