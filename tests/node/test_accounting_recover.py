"""A store is lost: what comes back from the chain, and that the same channel goes on exactly."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import trio
from fake_world import USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.services.accounts_recovery import recover, report, require_fresh, write
from robocompute_node.store import Store
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.money import MicroUnits, format_amount
from robocompute_settlement.port import SettleClaim

if TYPE_CHECKING:
    from pathlib import Path


async def lose_and_recover(world: World, node: FakeNode) -> Any:
    """Kill the node, delete its store, and rebuild it from the chain; return what was reported."""
    await node.kill()
    shutil.rmtree(node.folder / "store")
    store = Store(node.folder / "store")
    try:
        require_fresh(store)
        found = await recover(
            node.chain, node.wallet, node.key.node_key, USDC, now=world.clock.now_ms()
        )
        write(store, found)
    finally:
        store.close()
    return report(found, node.wallet)


async def run_job(client: FakeNode) -> int:
    """Run a job; return what it cost."""
    task = await client.until_ended(await client.submit("run", wait=True))
    assert task.status is TaskStatus.COMPLETED, task
    assert task.cost is not None
    return task.cost


async def world_with_a_settled_job(world: World) -> tuple[FakeNode, FakeNode, int]:
    provider = await world.start(
        await world.provider(script=lambda _: (Pause(1_000),), restored_wait_s=100.0)
    )
    client = await world.start(await world.client())
    cost = await run_job(client) + await run_job(client)
    await provider.settler.settle_everything()
    return client, provider, cost


async def test_a_client_that_lost_its_store_goes_on_with_the_same_channel_and_pays_exactly(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        before = client.channel_with(provider)
        told = await lose_and_recover(world, client)
        (row,) = told["channels"]
        assert (row["role"], row["settled"]) == ("payer", format_amount(cost))
        assert told["history_whole"] is True
        await world.start(client)
        more = await run_job(client)
        after = client.channel_with(provider)
        assert after.channel == before.channel
        assert not after.unsure
        payee = provider.earnings.get(after.channel)
        assert payee is not None
        assert payee.ledger.owed == cost + more
        assert after.ledger.cumulative == payee.ledger.cumulative
        assert after.ledger.credit >= 0
        await provider.settler.settle_everything()
        view = await client.chain.channel(after.channel)
        assert view is not None
        assert view.settled == cost + more
        world.check_money()


async def test_a_settlement_of_what_the_client_forgot_is_no_alarm(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        cost += await run_job(client)  # settled after the client forgot it
        channel = client.channel_with(provider).channel
        await lose_and_recover(world, client)
        await provider.settler.settle_everything()
        await world.start(client)
        await trio.sleep(120)
        cost += await run_job(client)
        assert client.channel_with(provider).channel == channel
        await provider.settler.settle_everything()
        view = await client.chain.channel(channel)
        assert view is not None
        assert view.settled == cost


async def test_the_receipt_that_the_provider_still_holds_comes_back_as_an_invoice(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        before: Any = await client.money.invoices()
        await lose_and_recover(world, client)
        await world.start(client)
        more = await run_job(client)
        await provider.settler.settle_everything()
        after: Any = await client.money.invoices()
        assert after["totals"]["invoiced"] == format_amount(cost + more)
        assert after["history_whole"] is True
        known = {each["agreement"]: each["amount"] for each in before["invoices"]}
        again = {each["agreement"]: each["amount"] for each in after["invoices"]}
        # The last agreement before was still open in the provider's voucher: its receipt is back.
        last = list(known)[-1]
        assert again[last] == known[last]
        assert None in again


async def test_a_provider_that_lost_its_store_accepts_what_is_above_what_was_settled(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        channel = client.channel_with(provider).channel
        told = await lose_and_recover(world, provider)
        (row,) = told["channels"]
        assert (row["role"], row["settled"]) == ("payee", format_amount(cost))
        assert [each["role"] for each in told["settlements"]] == ["payee"]
        await world.start(provider)
        record = provider.earnings.get(channel)
        assert record is not None
        assert record.ledger.rebuilt
        assert record.settled == record.ledger.owed == cost
        # It must not lease until the ticks that it may have forgotten are over.
        assert provider.quiet.objection() is not None
        more = await run_job(client)
        record = provider.earnings.get(channel)
        assert record is not None
        assert client.channel_with(provider).channel == channel
        assert not record.ledger.rebuilt
        assert record.ledger.owed == cost + more
        await provider.settler.settle_everything()
        payee = world.check_agreed(client, provider)
        assert payee.settled == cost + more


async def test_what_was_earned_and_not_settled_is_not_claimed_after_a_loss(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        lost = await run_job(client)
        told = await lose_and_recover(world, provider)
        assert any("not settled" in line for line in told["not_known"])
        await world.start(provider)
        more = await run_job(client)
        await provider.settler.settle_everything()
        channel = client.channel_with(provider).channel
        view = await client.chain.channel(channel)
        assert view is not None
        assert view.settled == cost + more
        assert client.channel_with(provider).ledger.closed_total == cost + lost + more
        world.check_money()


async def test_what_a_watchtower_settles_for_a_provider_that_forgot_it_is_its_own(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        channel = client.channel_with(provider).channel
        cost += await run_job(client)
        record = provider.earnings.get(channel)
        assert record is not None
        assert record.ledger.voucher is not None
        kept = SettleClaim(
            channel=channel,
            payee=record.payee,
            mint=record.mint,
            voucher_key=record.voucher_key,
            voucher=record.ledger.voucher,
            claim=record.ledger.claimable,
        )
        await lose_and_recover(world, provider)
        await client.chain.settle((kept,))  # anybody may
        await world.start(provider)
        await trio.sleep(60)
        cost += await run_job(client)
        assert client.channel_with(provider).channel == channel
        await provider.settler.settle_everything()
        assert world.check_agreed(client, provider).settled == cost


async def test_when_both_stores_are_lost_the_channel_still_goes_on(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        channel = client.channel_with(provider).channel
        await lose_and_recover(world, provider)
        await lose_and_recover(world, client)
        await world.start(provider)
        await world.start(client)
        more = await run_job(client)
        assert client.channel_with(provider).channel == channel
        await provider.settler.settle_everything()
        payee = world.check_agreed(client, provider)
        assert payee.settled == cost + more


async def test_the_books_after_a_recovery_are_those_of_before_in_all_that_the_chain_knows(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        _, provider, cost = await world_with_a_settled_job(world)
        before: Any = await provider.money.earnings()
        assert before["totals"]["earned"] == before["totals"]["settled"] == format_amount(cost)
        assert all(line["agreement"] for line in before["lines"])
        told = await lose_and_recover(world, provider)
        await world.start(provider)
        after: Any = await provider.money.earnings()
        for name in ("earned", "settled", "fees", "net", "unsettled"):
            assert after["totals"][name] == before["totals"][name]
        assert {line["transaction"] for line in after["lines"]} == {
            line["transaction"] for line in before["lines"]
        }
        assert all(line["agreement"] is None for line in after["lines"])
        assert sum(float(each["amount"]) for each in told["settlements"]) == cost / 1e6


async def test_a_store_that_remembers_anything_is_not_overwritten(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, _, _ = await world_with_a_settled_job(world)
        await client.kill()
        store = Store(client.folder / "store")
        try:
            with pytest.raises(ConfigError, match="--force"):
                require_fresh(store)
        finally:
            store.close()


async def test_a_channel_whose_provider_cannot_be_found_is_closed(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider, cost = await world_with_a_settled_job(world)
        await provider.kill()
        world.chain.ledger.stakes.clear()
        told = await lose_and_recover(world, client)
        assert told["channels"][0]["state"] == "closing"
        await world.start(client)
        await trio.sleep(700)
        assert await client.chain.channels_of(client.wallet) == ()
        balance = await client.chain.balance(client.wallet, USDC)
        assert balance is not None
        assert balance.available == MicroUnits(10**9 - cost)
