"""Channels, stake, earnings and invoices as commands, with no node running: on the chain alone."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
import trio
from money_world import CHALLENGE_S, Owner, found_owner, open_channel, settle
from settlement_chains import ChainWorld, embedded_world

from robocompute_node.services.earnings import EARNINGS, EarningRecord
from robocompute_node.services.reconciler import ALARMS, Alarm
from robocompute_node.store import Store
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import Millis
from robocompute_protocol.vouchers import PayeeLedger

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[ChainWorld]:
    with embedded_world(tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture
def client(world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    found = found_owner(world, tmp_path / "client", capsys)
    found.json("wallet", "deposit", "100")
    found.json("wallet", "delegate", "set", "--allowance", "80")
    return found


@pytest.fixture
def provider(world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    found = found_owner(world, tmp_path / "provider", capsys, role="provider")
    found.json("stake", "register")
    return found


def test_a_channel_is_listed_on_both_sides_and_closed_by_its_payer(
    client: Owner, provider: Owner, world: ChainWorld
) -> None:
    view = open_channel(client, provider, 10_000_000)
    settle(client, provider, view, 2_500_000)
    name = to_base58(view.channel)
    (paying,) = client.json("channels")["channels"]
    (paid,) = provider.json("channels")["channels"]
    assert (paying["role"], paid["role"]) == ("payer", "payee")
    assert paying["peer"] == to_base58(provider.wallet)
    assert paid["settled"] == paying["settled"] == "2.500000"
    assert "chain recover" in paying["alarm"]
    assert client.json("channels", "show", name)["deposit"] == "10.000000"
    assert client.held()["in_channels"] == "7.500000"
    assert "--yes" in client.refused("channels", "close", name)
    assert client.json("channels", "close", name, "--yes")["role"] == "payer"
    assert "ChallengeNotOver" in client.refused("channels", "finalize", name)
    trio.run(world.pass_time, CHALLENGE_S + 10)
    client.json("channels", "finalize", name)
    assert client.json("channels")["channels"] == []
    assert client.held()["available"] == "97.500000"
    # The books tell of a channel that is gone, to the unit, on both sides.
    for owner, command in ((provider, "earnings"), (client, "invoices")):
        books = owner.json(command)
        assert books["history_whole"] is True, books["differences"]
        assert books["totals"]["settled" if owner is provider else "invoiced"] == "2.500000"
    assert provider.json("earnings")["totals"]["fees"] == "0.025000"
    assert "closed already" in client.refused("channels", "finalize", name)


def test_the_payee_closes_at_once_with_its_wallet(client: Owner, provider: Owner) -> None:
    view = open_channel(client, provider, 10_000_000)
    settle(client, provider, view, 1_000_000)
    provider.json("channels", "close", to_base58(view.channel), "--yes")
    assert client.held()["available"] == "99.000000"
    assert client.json("channels")["channels"] == []


def test_a_payee_whose_wallet_is_elsewhere_is_told_before_it_refuses_any_job(
    client: Owner, provider: Owner, tmp_path: Path
) -> None:
    view = open_channel(client, provider, 10_000_000)
    store = Store(provider.config.store_dir)
    store.declare(EARNINGS)
    record = EarningRecord(
        channel=view.channel, payer=view.payer, payee=view.payee, mint=view.mint,
        voucher_key=view.voucher_key, challenge_s=view.challenge_s, deposit=view.deposit,
        ledger=PayeeLedger(channel=view.channel),
    )  # fmt: skip
    with store.transaction() as txn:
        txn.put(EARNINGS, view.channel, record)
    store.close()
    provider.config.wallet_path.rename(tmp_path / "elsewhere.json")
    provider.refused("channels", "close", to_base58(view.channel), "--yes")
    store = Store(provider.config.store_dir)
    store.declare(EARNINGS)
    kept = store.get(EARNINGS, view.channel)
    store.close()
    assert kept == record


def test_a_payer_whose_node_key_may_not_act_any_more_closes_with_the_wallet(
    client: Owner, provider: Owner
) -> None:
    view = open_channel(client, provider, 10_000_000)
    client.json("wallet", "delegate", "revoke")
    name = to_base58(view.channel)
    assert "--with-wallet" in client.refused("channels", "close", name, "--yes")
    client.json("channels", "close", name, "--yes", "--with-wallet")
    assert client.json("channels", "show", name)["state"] == "closing"


def test_what_the_chain_alone_knows_is_earned_and_invoiced_by_transaction(
    client: Owner, provider: Owner, tmp_path: Path
) -> None:
    view = open_channel(client, provider, 10_000_000)
    first = settle(client, provider, view, 1_000_001)
    second = settle(client, provider, view, 2_500_000)
    earned = provider.json("earnings")
    assert earned["history_whole"] is True
    assert earned["differences"] == []
    assert [(line["amount"], line["transaction"]) for line in earned["lines"]] == [
        ("1.000001", first),
        ("1.499999", second),
    ]
    assert earned["totals"]["settled"] == "2.500000"
    assert earned["totals"]["fees"] == "0.025000"
    assert earned["totals"]["net"] == provider.held()["available"] == "2.475000"
    invoiced = client.json("invoices")
    assert invoiced["history_whole"] is True
    assert invoiced["totals"]["invoiced"] == "2.500000"
    (unexplained,) = invoiced["invoices"]
    assert unexplained["agreement"] is None
    assert [line["transaction"] for line in unexplained["lines"]] == [first, second]
    for command, total in (("earnings", "earned"), ("invoices", "invoiced")):
        owner = provider if command == "earnings" else client
        assert owner.json(command, "--until", "9999-01-01")["totals"][total] == "2.500000"
        assert owner.json(command, "--since", "9999-01-01")["totals"][total] == "0.000000"
        assert "From 9999-01-01 on 0.000000" in owner.types(command, "--since", "9999-01-01")[1]
    table = tmp_path / "earned.csv"
    assert provider.types("earnings", "--csv", str(table))[0] == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["amount"], row["fee"], row["transaction"]) for row in rows] == [
        ("1.000001", "0.010001", first),
        ("1.499999", "0.014999", second),
    ]


def test_a_lost_store_comes_back_from_the_chain_and_only_into_a_fresh_one(
    client: Owner, provider: Owner
) -> None:
    view = open_channel(client, provider, 10_000_000)
    first = settle(client, provider, view, 2_500_000)
    told = client.json("chain", "recover")
    assert told["available"] == "90.000000"
    assert told["put_aside"] is None
    (row,) = told["channels"]
    assert (row["channel"], row["settled"]) == (to_base58(view.channel), "2.500000")
    assert [each["transaction"] for each in told["settlements"]] == [first]
    assert any("which task" in line for line in told["not_known"])
    (listed,) = client.json("channels")["channels"]
    assert listed["alarm"] is None
    assert listed["voucher"] == "2.500000"
    assert "--force" in client.refused("chain", "recover")
    again = client.json("chain", "recover", "--force")
    assert again["put_aside"].startswith(str(client.config.data_dir))
    assert client.json("channels")["channels"] == [listed]
    told = provider.json("chain", "recover")
    assert [row["role"] for row in told["channels"]] == ["payee"]
    assert provider.json("earnings")["totals"]["settled"] == "2.500000"
    status, out, _ = provider.types("chain", "recover", "--force")
    assert status == 0
    assert "Not known any more" in out


def test_an_alarm_is_shown_and_accepted_only_with_a_yes(client: Owner) -> None:
    alarm = Alarm(kind="balance_low", channel=None, text="5 left", since_ms=Millis(1), amount=5)
    store = Store(client.config.store_dir)
    store.declare(ALARMS)
    with store.transaction() as txn:
        txn.put(ALARMS, b"balance_low", alarm)
    store.close()
    assert "! balance_low: 5 left" in client.types("channels")[1]
    status, out, err = client.types("channels", "accept", "balance_low")
    assert (status, "5 left" in out, "--yes" in err) == (2, True, True)
    (accepted,) = client.json("channels", "accept", "balance_low", "--yes")["accepted"]
    assert accepted["text"] == "5 left"
    assert client.json("channels")["alarms"] == []
    assert "no alarm" in client.refused("channels", "accept", "balance_low", "--yes")


def test_nothing_is_recovered_into_a_store_that_a_node_uses(client: Owner) -> None:
    store = Store(client.config.store_dir)
    try:
        assert "another robocompute-node" in client.refused("chain", "recover")
        assert "another robocompute-node" in client.refused("chain", "recover", "--force")
    finally:
        store.close()


def test_every_wallet_command_drafts_one_transaction_and_moves_nothing(
    client: Owner, provider: Owner, tmp_path: Path
) -> None:
    view = open_channel(client, provider, 10_000_000)
    provider.json("wallet", "deposit", "20")
    provider.json("stake", "add", "5")
    before = client.held(), provider.held()
    commands = (
        (client, ["wallet", "deposit", "1"], "deposit"),
        (client, ["wallet", "withdraw", "1"], "withdraw"),
        (client, ["payout", "1", "--to", to_base58(provider.wallet)], "withdraw"),
        (client, ["wallet", "delegate", "set"], "let the key"),
        (client, ["wallet", "delegate", "revoke"], "end the delegation"),
        (client, ["stake", "register"], "register"),
        (client, ["channels", "close", to_base58(view.channel), "--yes"], "ask to close"),
        (provider, ["stake", "add", "1"], "move 1.000000"),
        (provider, ["stake", "remove", "1"], "begin to take 1.000000"),
    )
    for number, (owner, words, says) in enumerate(commands):
        draft = tmp_path / f"draft-{number}"
        owner.json(*words, "--unsigned", str(draft))
        told = json.loads(draft.read_text())
        assert any(line.startswith(says) for line in told["what"]), told["what"]
        assert told["signature"] is None
        assert told["signer"] == to_base58(owner.wallet)
    assert (client.held(), provider.held()) == before


@pytest.mark.parametrize("command", ["earnings", "invoices"])
def test_only_days_of_the_calendar_in_their_order_are_taken(command: str, client: Owner) -> None:
    for option in ("--since", "--until"):
        for text in ("foo", "2026-13-45", "2026-1-31", "20260131", "2026-01-31T00:00:00Z", ""):
            status, _, err = client.types(command, option, text)
            assert (status, err.count("\n")) == (2, 1)
            assert "is not a date (like 2026-01-31)" in err
    for until in ("2026-01-31", "2026-01-30"):
        status, _, err = client.types(command, "--since", "2026-01-31", "--until", until)
        assert status == 2
        assert "is not after --since" in err


def test_only_a_provider_settles_whether_its_node_runs_or_not(
    client: Owner, provider: Owner
) -> None:
    assert "role provider" in client.refused("earnings", "settle")
    status, out, _ = provider.types("earnings", "settle")
    assert (status, out) == (0, "Nothing waits: all that is owed is settled.\n")


def test_nothing_is_made_in_the_folder_of_a_node_that_never_ran(client: Owner) -> None:
    client.json("channels")
    client.json("invoices")
    assert not client.config.store_dir.exists()


def test_staking_shows_what_it_backs_and_what_threatens_it(provider: Owner) -> None:
    shown = provider.json("stake")
    assert shown["registered"] is True
    assert shown["bonded"] == "0.000000"
    assert "registered already" in provider.refused("stake", "register")
    assert "wallet deposit" in provider.refused("stake", "add", "30")
    provider.json("wallet", "deposit", "50")
    provider.json("stake", "add", "30")
    assert provider.json("stake")["bonded"] == "30.000000"
    assert provider.held()["staked"] == "30.000000"
    assert any("two nodes" in threat for threat in provider.json("stake")["threats"])
    assert provider.types("stake")[0] == 0
    assert "AMOUNT" in provider.refused("stake", "add")


def test_a_stake_leaves_after_its_time_and_nothing_before(
    provider: Owner, world: ChainWorld
) -> None:
    provider.json("wallet", "deposit", "50")
    provider.json("stake", "add", "30")
    assert "nothing is on its way out" in provider.refused("stake", "claim")
    assert "30.000000 USDC are staked" in provider.refused("stake", "remove", "31")
    provider.json("stake", "remove", "12")
    shown = provider.json("stake")
    assert (shown["bonded"], shown["unbonding"]) == ("18.000000", "12.000000")
    assert any("can still be slashed" in threat for threat in shown["threats"])
    assert "can be claimed in" in provider.refused("stake", "claim")
    assert provider.held()["available"] == "20.000000"
    provider.json("stake", "remove", "--all")
    assert provider.json("stake")["unbonding"] == "30.000000"
    earned = provider.json("earnings")
    assert earned["history_whole"] is True
    assert earned["differences"] == []


def test_a_new_node_key_is_bound_by_rotating(provider: Owner, tmp_path: Path) -> None:
    assert "this node's key already" in provider.refused("stake", "rotate-key")
    old = provider.json("stake")["node_key"]
    provider.config.node_key_path.rename(tmp_path / "node.key.old")
    assert provider.types("init")[0] == 0
    assert any("rotate-key" in threat for threat in provider.json("stake")["threats"])
    provider.json("stake", "rotate-key")
    shown = provider.json("stake")
    assert shown["prev_key"] == old
    assert shown["node_key"] == provider.json("wallet")["node_key"] != old


def test_without_a_stake_the_next_step_is_named(client: Owner) -> None:
    status, out, _ = client.types("stake")
    assert status == 0
    assert "stake register" in out
    assert "stake register" in client.refused("stake", "add", "1")
