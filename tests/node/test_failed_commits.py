"""A commit that fails (a full disk) leaves what services hold in memory as the disk is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from cuttable import FullDisk
from fake_world import FakeNode, fake_world

from robocompute_node.executor.fake import Pause
from robocompute_node.services.channels import CHANNELS, ChannelPhase
from robocompute_node.services.earnings import EARNINGS, OUTBOX
from robocompute_node.services.lettings import LETTINGS
from robocompute_node.services.quiet_time import KEPT, KEPT_KEY
from robocompute_node.services.rental_book import RENTALS
from robocompute_node.services.task_book import TASKS
from robocompute_node.store import Store, Table
from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.errors import StoreError
from robocompute_protocol.identifiers import AgreementId
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import CancelReceived, CancelRequested, VoucherAccepted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COUNT = Table("count/1", int)


def test_what_waits_for_a_commit_happens_after_it_in_order_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.declare(COUNT)
    said: list[str] = []
    with store.transaction() as txn:
        txn.put(COUNT, b"a", 1)
        txn.after(lambda: said.append("first"))
        txn.after(lambda: said.append(f"then {store.get(COUNT, b'a')}"))
        assert said == []
    assert said == ["first", "then 1"]
    with pytest.raises(StoreError), store.transaction() as txn:  # noqa: PT012
        txn.put(COUNT, b"a", 2)
        txn.after(lambda: said.append("never"))
        raise StoreError("no")
    assert (said[2:], store.get(COUNT, b"a")) == ([], 1)
    store.close()


async def test_no_service_believes_what_the_disk_did_not_take(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(10**7),)))
        client = await world.start(await world.client())
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(30)
        channel = client.channel_with(provider).channel
        agreement = AgreementId(bytes.fromhex(client.api.task(task_id).agreement or ""))
        earning = provider.earnings.get(channel)
        record = provider.lettings.get(agreement)
        assert earning is not None
        assert record is not None
        owes_more = msgspec.structs.replace(
            earning,
            closing=True,
            ledger=msgspec.structs.replace(
                earning.ledger, closed_total=MicroUnits(earning.ledger.cumulative)
            ),
        )

        def keep(node: FakeNode) -> None:
            with node.store.transaction() as txn:
                node.earnings.keep(txn, owes_more)

        def put(node: FakeNode) -> None:
            with node.store.transaction() as txn:
                node.tasks.put(txn, task_id, message="never")

        def release(node: FakeNode) -> None:
            with node.store.transaction() as txn:
                node.channels.release(txn, channel, agreement)

        def decline(node: FakeNode) -> None:
            node.lettings.decline(AgreementId(bytes(32)), record.terms, "no")

        paid = client.channel_with(provider).ledger.paid(agreement)
        late = Millis(record.state.prepaid_ms + 1)
        changes: list[tuple[FakeNode, Callable[[], object]]] = [
            (provider, partial(keep, provider)),
            (provider, partial(provider.earnings.gone, channel, MicroUnits(1))),
            (provider, partial(provider.earnings.settled, channel, MicroUnits(1), "sig")),
            (provider, partial(decline, provider)),
            (
                provider,
                partial(provider.lettings.apply, agreement, VoucherAccepted(prepaid_ms=late)),
            ),
            (provider, partial(provider.lettings.apply, agreement, CancelReceived(reason=""))),
            (client, partial(put, client)),
            (client, partial(client.tasks.update, task_id, message="never")),
            (client, partial(release, client)),
            (
                client,
                partial(client.channels.promise, channel, agreement, MicroUnits(paid + 1)),
            ),
            (client, partial(client.book.apply, agreement, CancelRequested(reason="x"))),
        ]
        slots = provider.lettings.slots
        for node, change in changes:
            disk = FullDisk(node.store)
            with pytest.raises(StoreError):
                change()
            disk.emptied()
            assert provider.earnings.get(channel) == provider.store.get(EARNINGS, channel)
            assert provider.earnings.due() == tuple(due for _, due in provider.store.all(OUTBOX))
            assert provider.lettings.get(agreement) == provider.store.get(LETTINGS, agreement)
            assert provider.lettings.slots == slots
            assert provider.lettings.never.get(AgreementId(bytes(32))) is None
            kept = provider.quiet._kept  # pyright: ignore[reportPrivateUsage]
            assert kept == provider.store.get(KEPT, KEPT_KEY)
            assert client.tasks.get(task_id).message == ""
            assert client.store.get(TASKS, task_id.encode()) is not None
            seen = client.channel_with(provider)
            assert seen.phase is ChannelPhase.OPEN
            stored = client.store.get(CHANNELS, channel)
            assert stored is not None
            assert seen.ledger == stored.ledger
            assert client.book.get(agreement) == client.store.get(RENTALS, agreement)
        await trio.sleep(30)
        assert provider.lettings.running()[0].state.phase is ProviderPhase.LEASED
        await client.api.cancel_task(task_id)
        await client.until_ended(task_id)
        world.check_agreed(client, provider)
