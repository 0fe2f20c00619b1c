"""Faults of a client that were found once: each test fails where its mend is taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from fake_world import FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Append, Pause, Say
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_node.services.metrics_inbox import MetricsInbox
from robocompute_node.store import Store
from robocompute_protocol.agreement import ClientPhase
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import ChainBusy, RemoteProtocolError, StoreError
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_BLOB,
    PROTOCOL_BOOK,
    AgreementMessage,
    Appended,
    BlobMessage,
    BookMessage,
    ChunkPart,
    Refused,
    Waiting,
    Want,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.receipts import build_receipt, sign_receipt
from robocompute_protocol.steps import ExtensionFellDue

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.api.port import TaskEvent
    from robocompute_node.executor.fake import Script
    from robocompute_node.p2p.port import FrameStream
    from robocompute_node.services.lettings import LettingRecord
    from robocompute_node.services.rental_book import RentalRecord
    from robocompute_settlement.port import Sent

NO = Refused(code="not_now", message="no")
LONG = 100_000_000


async def pair(world: World, script: Script) -> tuple[FakeNode, FakeNode]:
    provider = await world.provider(script=script)
    client = await world.client()
    await world.start(provider)
    await world.start(client)
    return client, provider


def rental_of(client: FakeNode, task_id: str) -> RentalRecord:
    agreement = client.tasks.get(task_id).agreement
    assert agreement is not None
    return client.book.get(agreement)


async def test_a_peer_that_refuses_its_book_does_not_end_the_node(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.provider(script=lambda _: (Pause(1_000),))
        client = await world.client()
        await world.start(provider)

        async def refuse(stream: FrameStream) -> None:
            await hear_or_end(stream, BookMessage)
            await say(stream, NO)

        provider.network.serve(PROTOCOL_BOOK, refuse)
        await world.start(client)
        await trio.sleep(60)  # the offer is gossiped, too
        assert (await client.until_ended(await client.submit("run", wait=True))).exit_code == 0


def test_metrics_that_cannot_be_written_are_left_out_and_the_job_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    try:
        inbox = MetricsInbox(store, tmp_path / "aspara")
        inbox.take("task", Appended(path="volume/aspara/run.jsonl", offset=0, data=b"1\n"))
        inside = "volume/aspara/run.jsonl/metrics"
        inbox.take("task", Appended(path=f"{inside}.jsonl", offset=0, data=b"2\n"))
        inbox.replace("task", f"{inside}.json", b"{}")
        inbox.take("task", Appended(path="volume/aspara/other.jsonl", offset=0, data=b"3\n"))
        assert (tmp_path / "aspara" / "run.jsonl").read_bytes() == b"1\n"
        assert (tmp_path / "aspara" / "other.jsonl").read_bytes() == b"3\n"
    finally:
        store.close()


async def test_the_same_request_twice_at_once_is_one_task(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Pause(1_000),))
        await trio.sleep(30)
        made: list[str] = []

        async def ask() -> None:
            made.append(await client.submit("run", key="the same"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert made[0] == made[1]
        await client.until_ended(made[0])
        await trio.sleep(30)
        assert len(client.tasks.listed(status=None, limit=10, offset=0)) == 1
        payee = world.check_agreed(client, provider)
        assert payee.ledger.owed == client.api.task(made[0]).cost


async def test_a_lease_older_than_its_order_is_not_believed_and_its_money_comes_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Pause(LONG),))
        real = provider.lettings.elapsed

        def older(record: LettingRecord) -> Millis:
            return Millis(real(record) + 5_000)

        provider.lettings.elapsed = older
        task = await client.until_ended(await client.submit("run"), within_s=7_200)
        assert task.status is TaskStatus.FAILED
        assert task.cost == 0
        provider.lettings.elapsed = real
        await trio.sleep(120)
        payee = world.check_agreed(client, provider)
        assert payee.ledger.owed <= payee.ledger.cumulative


async def test_a_task_that_fails_on_this_side_does_not_leave_its_agreement_open(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Pause(5_000), Say("hello"), Pause(LONG)))
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")

        task_log = client.tasks.log(task_id)
        real = task_log.extend

        def full(entries: list[tuple[str, dict[str, Any]]]) -> list[TaskEvent]:
            task_log.extend = real
            raise StoreError("no space left")

        task_log.extend = full
        task = await client.until_ended(task_id)
        assert task.status is TaskStatus.FAILED
        await trio.sleep(120)
        world.check_agreed(client, provider)


async def test_a_receipt_for_an_extension_that_was_wanted_but_never_promised_is_refused(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Pause(LONG),))
        await client.until_stage(await client.submit("run"), "running")
        (letting,) = provider.lettings.running()
        agreement = letting.state.agreement
        before = client.channel_with(provider).ledger
        wanted = Millis(client.book.get(agreement).state.prepaid_ms + 3_000)
        client.book.apply(agreement, ExtensionFellDue(prepaid_ms=wanted))
        receipt = build_receipt(
            letting.terms, started_ms=Millis(1), metered_ms=wanted, frozen_ms=Millis(0),
            exit_code=0, cause=Cause.EXITED, detail="", output=letting.terms.task,
            output_records=0, artifacts=letting.terms.task, prepaid_ms=wanted,
        )  # fmt: skip
        assert receipt.amount > before.paid(agreement)
        with pytest.raises(RemoteProtocolError, match="more than was paid"):
            client.book.ended(agreement, sign_receipt(provider.key, receipt))
        assert client.channel_with(provider).ledger == before


async def test_a_provider_that_keeps_asking_for_patience_holds_up_no_other_ones_money(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        names = ("first", "second")
        providers = [await world.provider(name, script=lambda _: (Pause(LONG),)) for name in names]
        client = await world.client()
        for provider in providers:
            await world.start(provider)
        await world.start(client)
        tasks = [await client.submit("run", wait=True) for _ in providers]
        for task_id in tasks:
            await client.until_stage(task_id, "running")
        lost = [rental_of(client, task_id).provider for task_id in tasks]
        by_key = {provider.key.node_key: provider for provider in providers}
        slow, quick = by_key[lost[0]], by_key[lost[1]]
        for provider in providers:
            await provider.kill()
        for task_id in tasks:
            await client.until_ended(task_id)

        async def patience(stream: FrameStream) -> None:
            await hear_or_end(stream, AgreementMessage)
            while True:
                await say(stream, Waiting(reason="stopping"))
                await trio.sleep(1)

        await world.start(slow)
        slow.network.serve(PROTOCOL_AGREEMENT, patience)
        await trio.sleep(30)
        await world.start(quick)
        await trio.sleep(120)
        assert client.channel_with(slow).ledger.open != ()
        assert client.channel_with(quick).ledger.open == ()


async def test_a_provider_that_refuses_while_it_gives_its_results_fails_no_task(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Append("volume/out", b"x"), Pause(3_000)))
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")

        async def give_and_refuse(stream: FrameStream) -> None:
            wanted = await hear_or_end(stream, BlobMessage)
            assert isinstance(wanted, Want)
            for chunk in wanted.chunks:
                data = provider.blobs.get(chunk)
                await say(stream, ChunkPart(chunk=chunk, offset=0, data=data, last=True))
            await say(stream, NO)

        provider.network.serve(PROTOCOL_BLOB, give_and_refuse)
        task = await client.until_ended(task_id, within_s=7_200)
        assert (task.error, task.exit_code) == (None, 0)
        assert [file.path for file in client.api.artifacts(task_id).files] == ["volume/out"]
        payee = world.check_agreed(client, provider)
        assert task.cost == payee.ledger.owed > 0


async def test_results_larger_than_the_jobs_disk_are_not_fetched(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    size = 65 << 20
    async with fake_world(tmp_path) as world:
        client, provider = await pair(
            world, lambda _: (Append("volume/out", bytes(size)), Pause(2_000))
        )
        task = await client.until_ended(await client.submit("run"), within_s=7_200)
        assert task.error
        kept = sum(path.stat().st_size for path in client.folder.rglob("*") if path.is_file())
        assert kept < size
        world.check_agreed(client, provider)


async def test_a_running_job_is_paid_while_another_channel_takes_for_ever_to_open(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _provider = await pair(world, lambda _: (Say("hello"), Pause(200_000)))
        first = await client.submit("run")
        await client.until_stage(first, "running")
        other = await world.provider("other", script=lambda _: (Pause(1_000),))
        await world.start(other)
        await trio.sleep(30)

        over = trio.Event()

        async def for_ever(**_asked: Any) -> Sent:
            await over.wait()
            raise ChainBusy("no answer")

        client.chain.open_channel = for_ever
        second = await client.submit("run", wait=True)
        await client.until_stage(second, "funding")
        task = await client.until_ended(first)
        over.set()
        assert (task.exit_code, task.cause) == (0, Cause.EXITED)


async def test_a_channel_whose_opening_lands_late_is_known_when_it_does(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Pause(1_000),))
        real = client.chain.open_channel
        asked: list[dict[str, Any]] = []

        async def in_the_air(**opening: Any) -> Sent:
            asked.append(opening)
            raise ChainBusy("no answer")

        client.chain.open_channel = in_the_air
        with pytest.raises(ChainBusy):
            await client.channels.ensure(
                provider.wallet,
                provider.key.node_key,
                needed=MicroUnits(10_000),
                min_challenge_s=600,
            )
        await client.kill()
        await world.start(client)
        await client.channels.recover()
        await real(**asked[0])
        client.chain.open_channel = real
        await client.until_ended(await client.submit("run", wait=True))
        (opened,) = world.chain.ledger.channels.values()
        (record,) = client.channels.all()
        assert (record.channel, record.deposit) == (opened.channel, opened.deposit)
        world.check_agreed(client, provider)


async def test_a_jobs_output_is_durable_before_its_provider_may_delete_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, lambda _: (Say("hello"), Pause(2_000)))
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        task_log = client.tasks.log(task_id)
        real, seen = task_log.sync, list[tuple[list[str], MicroUnits, ClientPhase]]()
        agreement = client.tasks.get(task_id).agreement
        assert agreement is not None

        def sync() -> None:
            letting = provider.lettings.get(agreement)
            assert letting is not None
            phase = client.book.get(agreement).state.phase
            seen.append((client.printed(task_id), MicroUnits(letting.ended_ms), phase))
            assert letting.state.phase.name == "ENDED"
            real()

        task_log.sync = sync
        await client.until_ended(task_id)
        ((printed, _, phase),) = seen
        assert printed == ["hello"]
        assert phase is ClientPhase.ENDED
