"""A channel that its provider does not want any more: another is opened, and no money is forgotten."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
from fake_world import fake_world

from robocompute_node.core.reconciling import Kind
from robocompute_node.executor.fake import Pause
from robocompute_node.services.channels import ChannelPhase
from robocompute_node.services.earnings import RETIRED_MS

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_channel_in_use_is_still_good_once_the_program_takes_a_lower_fee(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        world.chain.settings = replace(world.chain.settings, fee_bps=0)
        await trio.sleep(60)
        ran = await client.until_ended(await client.submit("run"))
        assert ran.exit_code == 0
        assert [record.phase for record in client.channels.all()] == [ChannelPhase.OPEN]


async def test_a_channel_that_its_provider_is_closing_is_replaced_by_another(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        (old,) = provider.earnings.all()
        provider.earnings.retire(old.channel)
        with trio.fail_after(60):
            ran = await client.until_ended(await client.submit("run"))
        assert ran.exit_code == 0
        assert [r.phase is ChannelPhase.OPEN for r in client.channels.all()] == [False, True]
        assert client.channels.get(old.channel).ledger.open == ()


async def test_a_channel_whose_close_was_begun_and_never_signed_is_used_again(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        (record,) = provider.earnings.all()
        provider.earnings.retire(record.channel)
        record = provider.earnings.all()[0]
        objection = provider.earnings.objection_to_use(record)
        assert objection is not None
        assert objection.code == "channel_closing"
        await trio.sleep(RETIRED_MS / 1_000)
        assert provider.earnings.objection_to_use(record) is None
        ran = await client.until_ended(await client.submit("run"))
        assert ran.exit_code == 0
        assert len(client.channels.all()) == 1


async def test_after_an_alarm_on_a_channel_its_client_goes_on_over_another(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(20_000),))
        await world.start(provider)
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        await provider.kill()
        shutil.copytree(provider.folder / "store", tmp_path / "backup")
        await world.start(provider)
        for _ in range(3):  # nothing of these is in the copy
            await client.until_ended(await client.submit("run", wait=True))
        await provider.settler.settle_everything()
        await provider.kill()
        shutil.rmtree(provider.folder / "store")
        shutil.copytree(tmp_path / "backup", provider.folder / "store")
        await world.start(provider)
        await trio.sleep(400)
        kinds = [alarm.kind for alarm in provider.reconciler.alarms()]
        assert kinds == [Kind.SETTLED_MORE.value]
        with trio.fail_after(60):
            ran = await client.until_ended(await client.submit("run"))
        assert ran.exit_code == 0
        await trio.sleep(2 * client.config.client.challenge_s)
        await provider.reconciler.compare()
        assert provider.reconciler.alarms() == ()


async def test_a_voucher_on_a_channel_with_an_alarm_is_kept_before_it_is_refused(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        await client.until_ended(await client.submit("run"))
        (before,) = provider.earnings.all()
        assert before.ledger.ended != ()
        provider.earnings.alarm_on = lambda name: "odd" if name == before.channel else None
        await client.until_ended(await client.submit("run"))
        after = provider.earnings.get(before.channel)
        assert after is not None
        assert after.ledger.sequence > before.ledger.sequence
        assert after.ledger.ended == ()  # the newer voucher closes it: a higher claim than before
