"""A channel whose deposit runs dry: its job ends, and what was earned can be settled by anyone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from scene_chain import STRANGER
from whole_world import wait_until

from robocompute_node.config_file import load_config
from robocompute_node.services.earnings import EARNINGS, EarningRecord
from robocompute_node.store import Store
from robocompute_settlement.port import SettleClaim

if TYPE_CHECKING:
    from scene_world import Scene

    from robocompute_protocol.identifiers import ChannelId

pytestmark = [pytest.mark.world, pytest.mark.timeout(300)]

TENTH = 1_000
"""What a tenth of a second costs."""


def owed_by(scene: Scene, channel: ChannelId) -> EarningRecord:
    """What the provider's own disk says, while its daemon is dead."""
    store = Store(load_config(scene.world.data("provider-1")).store_dir)
    try:
        store.declare(EARNINGS)
        return dict(store.all(EARNINGS))[channel]
    finally:
        store.close()


def settle_as_a_stranger(scene: Scene, record: EarningRecord) -> None:
    assert record.ledger.voucher is not None
    claim = SettleClaim(
        channel=record.channel, payee=record.payee, mint=record.mint,
        voucher_key=record.voucher_key, voucher=record.ledger.voucher,
        claim=record.ledger.claimable,
    )  # fmt: skip

    async def settle() -> None:
        async with scene.chain.adapter(STRANGER) as stranger:
            await stranger.settle((claim,))

    trio.run(settle)


def test_a_dry_channel_freezes_its_job_then_ends_it_and_a_stranger_settles(scene: Scene) -> None:
    scene.settled()
    task = scene.order(600, client="client-2")
    scene.until_stage(task, "frozen", client="client-2")
    with scene.chain.away():
        ended = scene.ended(task, "client-2")
        assert ended["ended_by"] == "client", ended
        (channel,) = scene.channels("client-2")
        assert 0 < scene.said(task, "client-2") * TENTH <= channel.deposit
        scene.world.kill("provider-1")
        record = owed_by(scene, channel.channel)
        assert channel.settled < record.ledger.claimable <= channel.deposit
        settle_as_a_stranger(scene, record)
        (after,) = scene.channels("client-2")
        assert after.settled == record.ledger.claimable
        settled = scene.chain.accounts()
        settle_as_a_stranger(scene, record)
        assert scene.chain.accounts() == settled
    scene.world.start("provider-1")
    scene.settled()
    assert scene.chain.accounts() == settled
    assert scene.chain.books().surplus == 0
    wait_until("the offer", lambda: scene.world.sdk("client-2").offers())
