"""A node's books while it works: what is earned, invoiced and locked, and closing in good order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from fake_world import USDC, FakeNode, World, fake_world

from robocompute_node.api.port import InvalidRequest, TaskStatus
from robocompute_node.core.ledger_lines import (
    COLUMNS,
    date_of,
    earned_of,
    grouped,
    invoiced_of,
    invoices_within,
    row_of,
    within,
)
from robocompute_node.executor.fake import Pause
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import address_from_base58, to_base58
from robocompute_protocol.money import format_amount, parse_amount
from robocompute_settlement.fake import FakeSettlement

if TYPE_CHECKING:
    from pathlib import Path


async def run_job(client: FakeNode) -> int:
    """Run a job; return what it cost."""
    task = await client.until_ended(await client.submit("run", wait=True))
    assert task.status is TaskStatus.COMPLETED, task
    assert task.cost is not None
    return task.cost


async def pair(world: World, pause_ms: int = 1_000) -> tuple[FakeNode, FakeNode]:
    provider = await world.start(await world.provider(script=lambda _: (Pause(pause_ms),)))
    return await world.start(await world.client()), provider


async def test_earnings_and_invoices_name_receipt_and_transaction_of_every_unit(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        costs = [await run_job(client) for _ in range(3)]
        await provider.settler.settle_everything()
        costs.append(await run_job(client))
        earned: Any = await provider.money.earnings()
        assert earned["history_whole"] is True
        assert earned["differences"] == []
        assert [parse_amount(line["amount"]) for line in earned["lines"]] == costs
        assert [line["state"] for line in earned["lines"]] == ["settled"] * 3 + ["unsettled"]
        assert earned["totals"]["unsettled"] == format_amount(costs[3])
        balance = await provider.chain.balance(provider.wallet, USDC)
        assert balance is not None
        assert earned["totals"]["fees"] == format_amount(balance.fees_owed)
        invoiced: Any = await client.money.invoices()
        assert invoiced["totals"]["invoiced"] == format_amount(sum(costs))
        tasks = {task.task_id for task in client.api.tasks(status=None, limit=9, offset=0)}
        assert {each["job"] for each in invoiced["invoices"]} == tasks
        # Both sides name the same agreements, receipts and transactions.
        for ours, theirs in zip(invoiced["invoices"], earned["lines"], strict=True):
            (line,) = ours["lines"]
            assert ours["agreement"] == theirs["agreement"]
            assert ours["receipt"] == theirs["receipt"]
            assert line["transaction"] == theirs["transaction"]
        # A credit is the client's, whoever is asked.
        assert invoiced["totals"]["credit"] == format_amount(
            client.channel_with(provider).ledger.credit
        )


async def test_a_channel_says_what_is_in_it_on_both_sides(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        cost = await run_job(client)
        ours: Any = await client.money.channels()
        theirs: Any = await provider.money.channels()
        (paying,), (paid,) = ours["channels"], theirs["channels"]
        assert paying["channel"] == paid["channel"]
        assert paid["unsettled"] == format_amount(cost)
        assert paid["settled"] == paying["settled"] == "0.000000"
        assert paying["alarm"] is paid["alarm"] is None
        assert paying["peer_node"] == to_base58(provider.key.node_key)


async def test_a_payer_closes_through_its_running_node_and_has_the_rest_back(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        cost = await run_job(client)
        name = to_base58(client.channel_with(provider).channel)
        told = await client.money.close_channel(name)
        assert told["role"] == "payer"
        assert told["close_at"] is not None
        await client.money.close_channel(name)  # repeating is harmless
        await trio.sleep(700)
        balance = await client.chain.balance(client.wallet, USDC)
        assert balance is not None
        assert balance.available == 10**9 - cost
        with pytest.raises(ChainRefused, match="was closed"):
            await client.money.close_channel(name)
        world.check_money()


async def test_a_closed_channel_says_what_was_settled_and_holds_no_credit_any_more(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        cost = await run_job(client)
        channel = client.channel_with(provider)
        assert channel.ledger.credit > 0
        await provider.settler.settle_everything()
        await client.money.close_channel(to_base58(channel.channel))
        closing: Any = await client.money.invoices()
        assert closing["totals"]["credit"] == "0.000000"  # no next job is paid over it
        await trio.sleep(700)
        for node in (client, provider):
            told: Any = await node.money.channels()
            (row,) = told["channels"]
            assert (row["state"], row["settled"]) == ("closed", format_amount(cost))
            assert row["credit"] == row["unsettled"] == "0.000000"
        invoiced: Any = await client.money.invoices()
        earned: Any = await provider.money.earnings()
        assert invoiced["totals"]["credit"] == earned["totals"]["credit"] == "0.000000"
        assert invoiced["totals"]["invoiced"] == format_amount(cost)


async def test_a_payee_settles_first_and_takes_no_job_on_a_channel_it_closes(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        cost = await run_job(client)
        channel = client.channel_with(provider).channel
        told = await provider.money.close_channel(to_base58(channel))
        assert told == {
            "role": "payee",
            "channel": to_base58(channel),
            "close_at": None,
            "unsettled": "0.000000",
        }
        view = await provider.chain.channel(channel)
        assert view is not None
        assert view.settled == cost
        await client.submit("run", wait=True)
        await trio.sleep(5)
        record = provider.earnings.get(channel)
        assert record is not None
        assert record.ledger.owed == cost
        await FakeSettlement(world.chain, provider.wallet).close_by_payee(view)
        world.check_money()


async def test_a_payee_does_not_close_a_channel_that_a_job_is_paid_over(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world, pause_ms=30_000)
        task = await client.submit("run", wait=True)
        await client.until_stage(task, "running")
        name = to_base58(client.channel_with(provider).channel)
        with pytest.raises(InvalidRequest, match="1 jobs are being paid"):
            await provider.money.close_channel(name)
        assert (await client.until_ended(task)).status is TaskStatus.COMPLETED
        assert (await provider.money.close_channel(name))["unsettled"] == "0.000000"


async def test_only_ones_own_channels_are_closed(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await run_job(client)
        stranger = await world.start(await world.client("stranger"))
        name = to_base58(client.channel_with(provider).channel)
        with pytest.raises(InvalidRequest, match="between others"):
            await stranger.money.close_channel(name)
        with pytest.raises(InvalidRequest, match="channel:"):
            await stranger.money.close_channel("nonsense")
        with pytest.raises(InvalidRequest, match="provider"):
            await client.money.settle()


async def test_a_node_key_that_may_no_longer_act_is_told_of_the_wallet(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await run_job(client)
        await FakeSettlement(world.chain, client.wallet).set_delegate_wallet(
            mint=USDC, delegate=provider.key.node_key, allowance=parse_amount("0"), expires_s=0
        )
        with pytest.raises(InvalidRequest, match="--with-wallet"):
            await client.money.close_channel(to_base58(client.channel_with(provider).channel))


async def test_settling_now_says_which_channels_and_what_waits(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await pair(world)
        await run_job(client)
        world.chain.fault = lambda name: ChainRefused("paused") if name == "settle" else None
        told: Any = await provider.money.settle()
        (waiting,) = told["waiting"]
        assert told["settled_channels"] == told["transactions"] == []
        owed = told["unsettled_before"]
        assert parse_amount(owed) > 0
        assert told["unsettled_after"] == waiting["amount"] == owed
        assert told["available_before"] == told["available_after"]
        assert address_from_base58(waiting["channel"]) == client.channel_with(provider).channel
        world.chain.fault = lambda _name: None
        await trio.sleep(600)
        await run_job(client)
        told = await provider.money.settle()
        assert told["waiting"] == []
        assert len(told["transactions"]) == len(told["settled_channels"]) == 1
        assert parse_amount(told["unsettled_before"]) > 0
        assert told["unsettled_after"] == "0.000000"
        gained = parse_amount(told["available_after"]) - parse_amount(told["available_before"])
        assert 0 < gained <= parse_amount(told["unsettled_before"])


def test_lines_are_added_up_by_what_is_asked_for_and_exported_whole() -> None:
    line: dict[str, Any] = {
        "ended_at": "2026-01-31T23:59:59.000Z", "settled_at": None, "state": "settled",
        "amount": "1.500000", "fee": "0.015000", "net": "1.485000", "job": "a", "payer": "P",
        "channel": "C", "transaction": "T",
    }  # fmt: skip
    later = line | {"ended_at": None, "settled_at": "2026-02-01T00:00:00.000Z", "job": None}
    owed = line | {"state": "unsettled", "amount": "0.000001", "fee": "0.000001"}
    lines = [line, later, owed]
    assert [(s.group, s.settled, s.unsettled) for s in grouped(lines, "month")] == [
        ("2026-01", 1_500_000, 1),
        ("2026-02", 1_500_000, 0),
    ]
    assert [s.group for s in grouped(lines, "task")] == ["(no receipt)", "a"]
    assert [(s.group, s.fees) for s in grouped(lines, "payer")] == [("P", 30_000)]
    row = dict(zip(COLUMNS, row_of(later, "USDC"), strict=True))
    assert row["date"] == date_of(later) == "2026-02-01T00:00:00.000Z"
    assert (row["currency"], row["job"], row["transaction"]) == ("USDC", "", "T")


def test_totals_are_of_the_days_that_are_shown() -> None:
    line: dict[str, Any] = {
        "settled_at": "2026-02-01T00:00:00.000Z", "state": "settled", "amount": "1.000000",
        "fee": "0.010000", "net": "0.990000",
    }  # fmt: skip
    later = line | {"settled_at": "2026-02-03T08:00:00.000Z", "amount": "2.000000"}
    undated = line | {"settled_at": None, "state": "settled_unseen", "amount": "4.000000"}
    job = line | {"settled_at": None, "state": "unsettled", "amount": "8.000000"}
    invoices: list[dict[str, Any]] = [
        {"ended_at": None, "lines": [line, later, undated]},
        {"ended_at": "2026-02-02T23:59:59.000Z", "lines": [job]},
        {"ended_at": "2026-02-03T00:00:00.000Z", "lines": []},
    ]
    for since, until, amounts, total in (
        ("", "", ["7.000000", "8.000000", "0.000000"], "15.000000"),
        ("2026-02-02", "", ["2.000000", "8.000000", "0.000000"], "10.000000"),
        ("2026-02-02", "2026-02-03", ["8.000000"], "8.000000"),
        ("", "2026-02-02", ["1.000000"], "1.000000"),
        ("2026-02-04", "", [], "0.000000"),
    ):
        chosen = invoices_within(invoices, since, until)
        assert [each["amount"] for each in chosen] == amounts
        assert invoiced_of(chosen) == total
        lines = [{**each, **one} for each in invoices for one in each["lines"]]
        assert earned_of(within(lines, since, until))["earned"] == total
    assert earned_of([{"ended_at": None, **line}, {"ended_at": None, **job}]) == {
        "earned": "9.000000", "settled": "1.000000", "fees": "0.010000", "net": "0.990000",
        "unsettled": "8.000000",
    }  # fmt: skip
