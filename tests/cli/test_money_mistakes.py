"""What an owner may type by mistake, and is stopped before money is lost or a fee is paid."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from money_world import Owner, found_owner, on_chain, open_channel
from settlement_chains import ChainWorld, embedded_world
from solders.keypair import Keypair

from robocompute_node.cli.main import run_command
from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.addresses import associated_token_account

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from robocompute_settlement.solana import SolanaSettlement

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[ChainWorld]:
    with embedded_world(tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture
def owner(world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    return found_owner(world, tmp_path / "node", capsys)


@pytest.fixture
def elsewhere(world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    """An owner whose node has no wallet secret: it is in node.wallet.json beside the folder."""
    return found_owner(world, tmp_path / "node", capsys, secret=False)


def lamports(owner: Owner) -> int:
    """What the wallet's fees are paid from."""

    async def look(chain: SolanaSettlement) -> int:
        return await chain.lamports(owner.wallet)

    found: int = on_chain(owner, look)
    return found


def test_nothing_is_paid_to_an_address_that_nobody_can_spend_from(
    owner: Owner, world: ChainWorld, tmp_path: Path
) -> None:
    owner.json("wallet", "deposit", "5")
    owner.json("wallet", "delegate", "set")
    payee = found_owner(world, tmp_path / "payee", owner.capsys)
    payee.json("wallet", "deposit", "1")
    channel = open_channel(owner, payee, 1_000_000).channel
    nowhere = Keypair().pubkey()
    for lost in (
        to_base58(world.usdc),
        "11111111111111111111111111111111",
        "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
        to_base58(world.plan.program_id),
        to_base58(channel),
        to_base58(associated_token_account(bytes(nowhere), world.usdc)),  # pyright: ignore[reportArgumentType]
    ):
        for words in (["payout", "1"], ["wallet", "withdraw", "1"]):
            said = owner.refused(*words, "--to", lost, "--yes")
            assert "nobody could spend" in said, (lost, said)
    assert owner.held()["available"] == "4.000000"


@pytest.mark.parametrize(
    "words",
    [
        ["wallet", "deposit", "0"],
        ["wallet", "withdraw", "0", "--yes"],
        ["payout", "0.000000", "--to", "HuNgrYfeebAck111111111111111111111111111111", "--yes"],
        ["stake", "add", "0"],
        ["stake", "remove", "0"],
    ],
)
def test_an_amount_of_nothing_is_refused_here_and_costs_no_fee(
    owner: Owner, words: list[str]
) -> None:
    before = lamports(owner)
    status, _, err = owner.types(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "above zero" in err
    assert lamports(owner) == before


def test_without_anything_staked_there_is_nothing_to_remove(owner: Owner) -> None:
    owner.json("stake", "register")
    assert "no USDC is staked" in owner.refused("stake", "remove", "--all")


def test_the_steps_that_a_draft_names_lead_to_its_end(owner: Owner, tmp_path: Path) -> None:
    status, out, _ = owner.types("wallet", "deposit", "5", "--unsigned", str(tmp_path / "draft"))
    assert status == 0
    steps = [line for line in out.splitlines() if line.startswith("  robocompute-node ")]
    assert [step.split()[2] for step in steps] == ["sign", "send"]
    for step in steps:
        program, *words = shlex.split(step)
        assert program == "robocompute-node"
        assert run_command([*words, "--yes"] if "sign" in words else words) == 0
    owner.capsys.readouterr()
    assert owner.held()["available"] == "5.000000"


def test_a_draft_is_signed_where_there_is_no_node(
    elsewhere: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, draft, bare = tmp_path / "node.wallet.json", tmp_path / "deposit", tmp_path / "bare"
    told = elsewhere.types("wallet", "deposit", "5", "--unsigned", str(draft))[1]
    assert f"wallet sign {draft} --key KEYFILE" in told
    assert f"wallet send {draft}.signed" in told
    monkeypatch.setenv("ROBOCOMPUTE_HOME", str(bare))
    program = to_base58(elsewhere.config.chain.program_id)
    sign = ["wallet", "sign", str(draft), "--key", str(key)]
    # Nobody at the terminal, and nobody who vouches for the program: it is named, not trusted.
    for words in ([*sign, "--yes"], sign):
        assert run_command(words) == 2
        out, err = elsewhere.capsys.readouterr()
        assert program in err
        assert "deposit 5.000000" in out
    other = to_base58(elsewhere.wallet)
    assert run_command([*sign, "--yes", "--program-id", other]) != 0
    assert "UNKNOWN" in elsewhere.capsys.readouterr().err
    assert run_command([*sign, "--yes", "--program-id", program]) == 0
    elsewhere.capsys.readouterr()
    assert not bare.exists()
    assert "sent_before" in elsewhere.json("wallet", "send", f"{draft}.signed")
    assert elsewhere.held()["available"] == "5.000000"


def test_a_key_that_is_missing_is_asked_for_and_none_is_made_in_its_place(
    elsewhere: Owner, tmp_path: Path
) -> None:
    draft = tmp_path / "deposit"
    elsewhere.json("wallet", "deposit", "5", "--unsigned", str(draft))
    for words in (["--key", str(tmp_path / "no-such-key")], []):
        said = elsewhere.refused("wallet", "sign", str(draft), "--yes", *words)
        assert "--key KEYFILE" in said
        assert "init" not in said
    assert "FILE.signed" in elsewhere.refused("wallet", "deposit", "5")


def test_a_wallet_that_went_missing_is_not_replaced_by_an_empty_one(owner: Owner) -> None:
    owner.config.wallet_path.rename(owner.config.wallet_path.with_suffix(".away"))
    said = owner.refused("wallet")
    assert "backup" in said
    assert "init" not in said


def test_a_close_is_drafted_without_a_question(
    owner: Owner, world: ChainWorld, tmp_path: Path
) -> None:
    payee = found_owner(world, tmp_path / "payee", owner.capsys)
    payee.json("wallet", "deposit", "1")
    owner.json("wallet", "deposit", "5")
    owner.json("wallet", "delegate", "set")
    channel = to_base58(open_channel(owner, payee, 1_000_000).channel)
    draft = tmp_path / "close"
    owner.json("channels", "close", channel, "--with-wallet", "--unsigned", str(draft))
    assert json.loads(draft.read_text())["signature"] is None
    assert "--yes" in payee.refused(
        "channels", "close", channel, "--unsigned", str(tmp_path / "x")
    )


def test_what_moved_is_said_with_its_amount_its_currency_and_where_to(owner: Owner) -> None:
    owner.json("stake", "register")
    sent = owner.json("wallet", "deposit", "7")
    assert (sent["amount"], sent["currency"]) == ("7.000000", "USDC")
    owner.json("stake", "add", "2")
    assert owner.json("stake", "remove", "--all")["amount"] == "2.000000"
    stranger = str(Keypair().pubkey())
    status, out, _ = owner.types("payout", "1", "--to", stranger, "--yes")
    assert status == 0
    assert f"1.000000 USDC paid to the wallet {stranger}" in out
    sent = owner.json("payout", "--all", "--to", stranger, "--yes")
    assert (sent["amount"], sent["currency"], sent["to"]) == ("4.000000", "USDC", stranger)


def test_an_allowance_of_another_key_is_not_shown_as_this_nodes(
    owner: Owner, tmp_path: Path
) -> None:
    owner.json("wallet", "deposit", "5")
    owner.json("wallet", "delegate", "set")
    assert "not this node's key" not in owner.types("wallet")[1]
    owner.config.node_key_path.rename(tmp_path / "node.key.old")
    assert owner.types("init")[0] == 0
    assert "not this node's key" in owner.types("wallet")[1]


def test_another_wallet_for_a_node_that_has_one_is_not_dropped_silently(
    owner: Owner, world: ChainWorld, tmp_path: Path
) -> None:
    stranger = str(Keypair().pubkey())
    said = owner.types("init", "--wallet", stranger)[1]
    assert "still, and not" in said
    assert stranger in said
    assert "kept" not in owner.json("init", "--wallet", to_base58(owner.wallet))
    lost = to_base58(associated_token_account(owner.wallet, world.usdc))
    assert run_command(["init", "--wallet", lost, "--data", str(tmp_path / "new")]) == 2
    assert "no wallet" in owner.capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_wallet_without_sol_is_told_where_to_send_some(owner: Owner, tmp_path: Path) -> None:
    owner.config.wallet_path.unlink()
    assert owner.types("init")[0] == 0
    poor = owner.json("wallet")["wallet_address"]
    said = owner.refused("stake", "register")
    assert f"send it some, to {poor}" in said
    draft = tmp_path / "register"
    owner.json("stake", "register", "--unsigned", str(draft))
    owner.json("wallet", "sign", str(draft), "--yes")
    said = owner.refused("wallet", "send", f"{draft}.signed")
    assert f"no SOL for the fee: send it some, to {poor}" in said
