"""A provider whose store was lost or restored signs nothing until forgotten ticks are over."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trio
from fake_world import SMALL, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.node_mark import MARK_NAME
from robocompute_protocol.errors import StoreError
from robocompute_protocol.messages import Quote, QuoteRequest, Refused
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 330


def asked(client: FakeNode, provider: FakeNode) -> Quote | Refused:
    request = QuoteRequest(
        requirements=SMALL,
        payer=client.wallet,
        mint=client.config.chain.mint,
        wall_ms=Millis(1_000),
    )
    return provider.desk.quote(client.key.node_key, request)


async def worked(world: World) -> tuple[FakeNode, FakeNode]:
    """A provider that ran a job, stopped; and its client, running."""
    provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
    client = await world.start(await world.client())
    task = await client.until_ended(await client.submit("run"))
    assert task.status is TaskStatus.COMPLETED
    return provider, client


def lose_the_store(folder: Path, _backup: Path) -> None:
    shutil.rmtree(folder / "store")


def restore_the_store(folder: Path, backup: Path) -> None:
    shutil.rmtree(folder / "store")
    shutil.copytree(backup / "store", folder / "store")


def restore_in_place(folder: Path, backup: Path) -> None:
    shutil.copyfile(backup / "store/data/data.mdb", folder / "store/data/data.mdb")


def restore_everything(folder: Path, backup: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    # A copy keeps what a file says of its age, never when its bytes came to lie there.
    mark = (folder / MARK_NAME).read_bytes()
    moved = mark.replace(b'"written_ms":1', b'"written_ms":0')
    assert moved != mark
    (folder / MARK_NAME).write_bytes(moved)


def lose_the_mark(folder: Path, _backup: Path) -> None:
    (folder / MARK_NAME).unlink()


@pytest.mark.parametrize(
    "spoil",
    [lose_the_store, restore_the_store, restore_in_place, restore_everything, lose_the_mark],
)
async def test_a_lost_or_restored_store_lets_nothing_for_330_seconds_and_says_until_when(
    spoil: Callable[[Path, Path], None], tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await worked(world)
        await provider.kill()
        backup = tmp_path / "backup"
        shutil.copytree(provider.folder, backup)
        await world.start(provider)
        assert isinstance(asked(client, provider), Quote)
        task = await client.until_ended(await client.submit("run", wait=True))
        assert task.status is TaskStatus.COMPLETED
        await provider.kill()
        spoil(provider.folder, backup)
        began = world.clock.now_ms()
        await world.start(provider)
        answer = asked(client, provider)
        assert isinstance(answer, Refused)
        assert answer.code == "just_restored"
        day = datetime.fromtimestamp(provider.quiet.until_ms / 1_000, tz=UTC).strftime("%Y-%m-%d")
        assert f"leases again at {day}" in answer.message
        assert provider.offering.summary()["not_letting"] == answer.message
        waiting = await client.submit("run", wait=True)
        await trio.sleep(WAIT_S / 2)
        await provider.kill()  # another restart does not shorten it
        await world.start(provider)
        assert isinstance(asked(client, provider), Refused)
        await trio.sleep(WAIT_S / 2 - 5)
        assert client.api.task(waiting).started_ms is None
        await client.until_ended(waiting)
        started = client.api.task(waiting).started_ms
        assert started is not None
        assert started >= began + WAIT_S * 1_000


async def test_a_provider_that_is_killed_again_and_again_is_not_delayed(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await worked(world)
        for _ in range(3):
            await provider.kill()
            await trio.sleep(1_000)
            await world.start(provider)
            assert isinstance(asked(client, provider), Quote)


async def test_a_mark_that_cannot_be_written_stops_a_tick_from_being_said(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider, client = await worked(world)
        ticks = provider.quiet
        os.rename(provider.folder / MARK_NAME, provider.folder / "elsewhere")  # noqa: PTH104
        (provider.folder / MARK_NAME).mkdir()
        (provider.folder / MARK_NAME / "x").touch()
        ticks.mark()  # it says all that the store does
        with provider.store.transaction() as txn:
            ticks.note(txn, signed=True)
        for _ in range(2):
            with pytest.raises(StoreError, match="cannot be written"):
                ticks.mark()
        assert isinstance(asked(client, provider), Quote)
