"""Providers that drop agreements, and clients that vanish: who loses what, and who is served next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause, Say
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    NeverLeased,
    Order,
    QuoteRequest,
)
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.receipts import sign_never_leased
from robocompute_protocol.terms import agreement_id, open_terms

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream


def drops_orders(provider: FakeNode) -> None:
    """From now on it quotes, and leases nothing that is ordered."""

    async def serve(stream: FrameStream) -> None:
        while (request := await hear_or_end(stream, AgreementMessage)) is not None:
            match request:
                case QuoteRequest():
                    await say(stream, provider.desk.quote(stream.peer, request))
                case Order():
                    terms = open_terms(request.terms)
                    signed = sign_never_leased(
                        provider.key, agreement=agreement_id(terms), channel=terms.channel
                    )
                    await say(stream, NeverLeased(statement=signed))
                case _:
                    return

    provider.network.serve(PROTOCOL_AGREEMENT, serve)


@pytest.mark.parametrize("finished", [0, 2])
async def test_a_provider_that_drops_an_agreement_keeps_nothing_and_another_runs_the_job(
    finished: int, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        fickle = await world.start(
            await world.provider(
                "fickle", script=lambda _: (Pause(1_000),), price_per_hour=MicroUnits(1_800_000)
            )
        )
        steady = await world.start(
            await world.provider("steady", script=lambda _: (Pause(1_000),))
        )
        client = await world.start(await world.client())
        await trio.sleep(1)
        for _ in range(finished):
            task = await client.until_ended(await client.submit("run"), within_s=60)
            assert task.provider == to_base58(fickle.key.node_key)
            assert task.status is TaskStatus.COMPLETED
        drops_orders(fickle)
        dropped = await client.until_ended(await client.submit("run", wait=True), within_s=60)
        assert dropped.status is TaskStatus.COMPLETED
        assert dropped.provider == to_base58(steady.key.node_key)
        world.check_agreed(client, steady)
        ledger = client.channel_with(fickle).ledger
        assert ledger.open == ()
        assert ledger.credit == ledger.cumulative - ledger.closed_total > 0
        world.check_money()


async def vanish(world: World) -> tuple[FakeNode, FakeNode]:
    """A provider whose only slot a client had that was just killed."""
    provider = await world.start(
        await world.provider(script=lambda task: (Say("on"), Pause(int(task.argv[-1]))))
    )
    client = await world.start(await world.client())
    await client.until_stage(await client.submit("run", "10000000"), "running")
    await trio.sleep(20)
    await client.kill()
    return client, provider


async def test_a_slot_whose_client_was_killed_serves_the_next_client_after_a_horizon_at_most(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        _, provider = await vanish(world)
        second = await world.start(await world.client("second"))
        task_id = await second.submit("run", "1000", wait=True)
        task = await second.until_ended(task_id, within_s=30 + 15)  # a horizon, and some looks
        assert task.status is TaskStatus.COMPLETED
        world.check_agreed(second, provider)
