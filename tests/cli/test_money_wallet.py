"""The wallet's commands on a chain: what they move, what they refuse, and signing elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from money_world import Owner, found_owner, on_chain
from settlement_chains import TOKENS, ChainWorld, embedded_world
from solders.keypair import Keypair

from robocompute_protocol.identifiers import address_from_base58, to_base58
from robocompute_protocol.money import format_amount
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


def test_money_goes_in_and_out_and_every_unit_is_shown(owner: Owner) -> None:
    assert owner.held()["in_wallet"] == format_amount(TOKENS)
    sent = owner.json("wallet", "deposit", "12.345678")
    assert len(sent["signature"]) > 80
    assert owner.held()["available"] == "12.345678"
    assert owner.held()["in_wallet"] == format_amount(TOKENS - 12_345_678)
    owner.json("wallet", "withdraw", "0.345678", "--yes")
    assert owner.held()["available"] == "12.000000"
    status, out, _ = owner.types("wallet")
    assert status == 0
    assert "12.000000" in out


def test_a_withdrawal_without_a_terminal_names_the_option_that_confirms_it(owner: Owner) -> None:
    owner.json("wallet", "deposit", "5")
    said = owner.refused("wallet", "withdraw", "5")
    assert "--yes" in said
    assert "5.000000 USDC" in said
    assert owner.held()["available"] == "5.000000"


def test_more_than_there_is_is_refused_with_the_figures(owner: Owner) -> None:
    owner.json("wallet", "deposit", "5")
    assert "5.000000 USDC are free" in owner.refused("wallet", "withdraw", "6", "--yes")
    assert "holds" in owner.refused("wallet", "deposit", "1000000")


def test_the_delegate_is_set_and_revoked(owner: Owner) -> None:
    assert "wallet deposit" in owner.refused("wallet", "delegate", "set")
    owner.json("wallet", "deposit", "5")
    owner.json("wallet", "delegate", "set", "--allowance", "3.5", "--days", "2")
    shown = owner.json("wallet")
    assert shown["holdings"][0]["allowance"] == "3.500000"
    assert shown["holdings"][0]["delegate"] == shown["node_key"]
    owner.json("wallet", "delegate", "revoke")
    assert owner.held()["delegate"] is None
    assert owner.held()["allowance"] == "0.000000"


def test_a_payout_reaches_a_wallet_that_has_no_token_account_yet(
    owner: Owner,
) -> None:
    stranger = str(Keypair().pubkey())
    owner.json("wallet", "deposit", "5")
    owner.json("payout", "2", "--to", stranger, "--yes")
    assert tokens(owner, stranger) == "2.000000"
    owner.json("payout", "--all", "--to", stranger, "--yes")
    assert tokens(owner, stranger) == "5.000000"
    assert owner.held()["available"] == "0.000000"
    assert "no USDC is free" in owner.refused("payout", "--all", "--to", stranger, "--yes")


def test_a_payout_reaches_a_token_account_but_none_of_another_mint(
    owner: Owner, world: ChainWorld
) -> None:
    other = world.person()
    account = associated_token_account(other.address, world.usdc)
    owner.json("wallet", "deposit", "5")
    before = tokens(owner, to_base58(other.address))
    owner.json("payout", "1", "--to", to_base58(account), "--yes")
    after = tokens(owner, to_base58(other.address))
    assert float(after) - float(before) == 1
    said = owner.refused("payout", "1", "--to", to_base58(account), "--currency", "USDT", "--yes")
    assert "no USDT is free" in said
    assert "a wallet" in owner.refused("payout", "1", "--to", vault(owner), "--yes")


def test_a_wallet_whose_secret_is_elsewhere_signs_there(
    world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = found_owner(world, tmp_path / "node", capsys, secret=False)
    key = tmp_path / "node.wallet.json"
    assert "--unsigned" in owner.refused("wallet", "deposit", "5")
    draft, signed = tmp_path / "deposit", tmp_path / "deposit.signed"
    assert owner.json("wallet", "deposit", "5", "--unsigned", str(draft)) == {
        "unsigned": str(draft),
        "amount": "5.000000",
        "currency": "USDC",
    }
    assert owner.held()["available"] == "0.000000"
    told = json.loads(draft.read_text())
    assert told["signer"] == to_base58(owner.wallet)
    assert told["what"][0].startswith("deposit 5.000000 of mint")
    assert "not signed" in owner.refused("wallet", "send", str(draft))
    assert "--yes" in owner.refused("wallet", "sign", str(draft), "--key", str(key))
    owner.json("wallet", "sign", str(draft), "--key", str(key), "--yes")
    sent = owner.json("wallet", "send", str(signed))
    assert sent["signature"] == json.loads(signed.read_text())["signature"]
    assert owner.held()["available"] == "5.000000"
    # The same file again is the same transaction: it was taken, and moves nothing twice.
    assert owner.json("wallet", "send", str(signed))["sent_before"] is True
    trio.run(world.pass_time, 150)
    assert owner.json("wallet", "send", str(signed))["sent_before"] is True
    assert owner.held()["available"] == "5.000000"


def test_a_draft_that_was_changed_on_its_way_is_neither_signed_blindly_nor_sent(
    world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = found_owner(world, tmp_path / "node", capsys, secret=False)
    key, draft = tmp_path / "node.wallet.json", tmp_path / "draft"
    owner.json("wallet", "deposit", "5", "--unsigned", str(draft))
    told = json.loads(draft.read_text())
    told["what"] = ["something harmless"]
    draft.write_text(json.dumps(told))
    signed = owner.json("wallet", "sign", str(draft), "--key", str(key), "--yes")
    assert signed["what"][0].startswith("deposit 5.000000")
    told = json.loads((tmp_path / "draft.signed").read_text())
    other = tmp_path / "other"
    owner.json("wallet", "deposit", "6", "--unsigned", str(other))
    told["message"] = json.loads(other.read_text())["message"]
    (tmp_path / "mixed").write_text(json.dumps(told))
    assert "signature" in owner.refused("wallet", "send", str(tmp_path / "mixed"))
    assert owner.held()["available"] == "0.000000"


def test_a_draft_whose_time_is_over_says_so_and_has_moved_nothing(
    world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = found_owner(world, tmp_path / "node", capsys, secret=False)
    key, draft = tmp_path / "node.wallet.json", tmp_path / "draft"
    owner.json("wallet", "deposit", "5", "--unsigned", str(draft))
    owner.json("wallet", "sign", str(draft), "--key", str(key), "--yes")
    trio.run(world.pass_time, 150)
    said = owner.refused("wallet", "send", str(tmp_path / "draft.signed"))
    assert "expired" in said
    assert "--unsigned" in said
    assert owner.held()["available"] == "0.000000"


def test_a_file_that_is_there_is_not_overwritten_by_a_draft(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "draft").write_text("mine")
    said = owner.refused("wallet", "deposit", "5", "--unsigned", str(tmp_path / "draft"))
    assert "not overwritten" in said
    assert (tmp_path / "draft").read_text() == "mine"


def tokens(owner: Owner, wallet: str) -> str:
    """What the wallet's own token account holds."""
    mint = owner.config.chain.mint

    async def look(chain: SolanaSettlement) -> str:
        return format_amount(await chain.token_balance(address_from_base58(wallet), mint))

    found: str = on_chain(owner, look)
    return found


def vault(owner: Owner) -> str:
    """The program's own token account."""

    async def address(chain: SolanaSettlement) -> str:
        await chain.connect()
        return to_base58(chain.addresses.vault(owner.config.chain.mint))

    found: str = on_chain(owner, address)
    return found


@pytest.mark.parametrize(
    "command",
    [("wallet", "deposit"), ("wallet", "withdraw"), ("payout",), ("stake", "add"),
     ("stake", "remove")],
)  # fmt: skip
def test_an_amount_below_zero_is_called_that_and_no_option(
    command: tuple[str, ...], owner: Owner
) -> None:
    said = owner.refused(*command, "-5")
    assert "'-5' is not an amount" in said
    assert "No such option" in owner.refused(*command, "--never")
