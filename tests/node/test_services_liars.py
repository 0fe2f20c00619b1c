"""Providers that lie to a client, and stores that were restored from an older copy."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_protocol.causes import Cause
from robocompute_protocol.messages import (
    PROTOCOL_JOB,
    Appended,
    Finished,
    JobMessage,
    Message,
    Output,
    Receipt,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.receipts import build_receipt, sign_receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream

PATHS = (
    "../../../outside.jsonl",
    "/tmp/outside.jsonl",
    "volume/aspara/../outside.jsonl",
    "volume/aspara/a/../../outside.jsonl",
    "volume/aspara//outside.jsonl/..",
    "volume/aspara/.hidden.jsonl",
    "volume/aspara/outside.py",
    "volume/aspara/a\x00b.jsonl",
    "volume/aspara/" + "a/" * 9 + "deep.jsonl",
)


def printed(sequence: int) -> Output:
    return Output(sequence=sequence, stream="stdout", kind="line", at_ns=0, data=b"x")


async def job_with_feed(
    world: World, feed: Callable[[FakeNode, FakeNode], list[Message]]
) -> tuple[FakeNode, FakeNode, str]:
    """Run a job whose provider says ``feed`` about it, each time it is asked."""
    provider = await world.provider(script=lambda _: (Pause(5_000),))
    client = await world.client()
    await world.start(provider)
    await world.start(client)

    async def lie(stream: FrameStream) -> None:
        await hear_or_end(stream, JobMessage)
        for message in feed(client, provider):
            await say(stream, message)
        await hear_or_end(stream, JobMessage, timeout_s=5)

    provider.network.serve(PROTOCOL_JOB, lie)
    return client, provider, await client.submit("run")


async def test_files_of_a_job_never_leave_the_folder_for_metrics(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        grown: list[Message] = [Appended(path=path, offset=0, data=b"evil") for path in PATHS]
        good = Appended(path="volume/aspara/good.jsonl", offset=0, data=b"fine")
        client, provider, task_id = await job_with_feed(world, lambda _c, _p: [*grown, good])
        task = await client.until_ended(task_id, within_s=7_200)
        assert task.error == "RESULTS_LOST"
        world.check_agreed(client, provider)
        kept = [path for path in client.folder.rglob("*") if path.suffix in (".jsonl", ".py")]
        assert kept == [client.config.aspara_dir / "good.jsonl"]
        assert not list(tmp_path.glob("outside*"))  # noqa: ASYNC240 - a test


@pytest.mark.parametrize("numbers", [(1,), (0, 2), (5, 0), (2**53,)])
async def test_output_with_gaps_is_not_believed(
    numbers: tuple[int, ...], tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, task_id = await job_with_feed(
            world, lambda _c, _p: [printed(number) for number in numbers]
        )
        task = await client.until_ended(task_id)
        assert task.status is not TaskStatus.COMPLETED
        assert len(client.printed(task_id)) <= 1
        world.check_agreed(client, provider)


@pytest.mark.parametrize("lie", ["amount", "prepaid", "signer", "agreement"])
async def test_a_receipt_that_lies_moves_no_money(
    lie: str, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    def finished(client: FakeNode, provider: FakeNode) -> list[Message]:
        terms = next(iter(provider.lettings.running())).terms
        receipt: Receipt = build_receipt(
            terms, started_ms=Millis(1), metered_ms=Millis(2_000), frozen_ms=Millis(0),
            exit_code=0, cause=Cause.EXITED, detail="", output=terms.task, output_records=0,
            artifacts=terms.task, prepaid_ms=Millis(10_000),
        )  # fmt: skip
        match lie:
            case "amount":
                receipt = msgspec.structs.replace(receipt, amount=MicroUnits(9_999))
            case "prepaid":
                receipt = msgspec.structs.replace(receipt, prepaid=MicroUnits(10**9))
            case "agreement":
                receipt = msgspec.structs.replace(receipt, agreement=terms.task)
            case _:
                pass
        key = client.key if lie == "signer" else provider.key
        return [Finished(artifacts=terms.task, receipt=sign_receipt(key, receipt))]

    async with fake_world(tmp_path) as world:
        client, provider, task_id = await job_with_feed(world, finished)
        await client.until_ended(task_id)
        payee = world.check_agreed(client, provider)
        assert client.api.task(task_id).cost == payee.ledger.owed


async def test_a_client_restored_from_a_backup_learns_what_it_signed_and_goes_on(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(1_000),))
        client = await world.client()
        await world.start(provider)
        await world.start(client)
        assert (await client.until_ended(await client.submit("run"))).exit_code == 0
        await client.kill()
        shutil.copytree(client.folder / "store", tmp_path / "backup")
        await world.start(client)
        for _ in range(2):
            assert (await client.until_ended(await client.submit("run"))).exit_code == 0
        await client.kill()
        shutil.rmtree(client.folder / "store")
        shutil.copytree(tmp_path / "backup", client.folder / "store")
        await world.start(client)
        task = await client.until_ended(await client.submit("run"))
        assert task.status is TaskStatus.COMPLETED
        await trio.sleep(5)
        assert (await client.until_ended(await client.submit("run"))).exit_code == 0
        await trio.sleep(1_500)
        await provider.settler.settle_everything()
        world.check_money()
