"""A slot whose card is not well is neither offered nor quoted, and nobody is told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fake_world import fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from pathlib import Path

    import trio


async def test_a_withheld_slot_is_offered_to_nobody_until_it_is_well(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(slots=2)
        against = {1: "process 4800 holds 2048 MiB of it"}
        await world.start(provider)
        provider.offering.withheld = lambda: against
        offer = provider.offering.announced(Millis(1), ())
        assert offer is not None
        assert offer.slots == 1
        assert provider.offering.summary()["withheld"] == [
            "slot 1: process 4800 holds 2048 MiB of it"
        ]
        against[0] = "3 uncorrected memory errors"
        assert provider.offering.announced(Millis(2), ()) is None
        client = await world.start(await world.client("client"))
        task_id = await client.submit("run", wait=True)
        with_none = client.api.task(task_id)
        assert with_none.started_ms is None
        against.clear()
        assert (await client.until_ended(task_id)).status is TaskStatus.COMPLETED
