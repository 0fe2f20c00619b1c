"""Drafts: what is signed elsewhere is told from its own bytes, and only that is signed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from solders.compute_budget import (
    request_heap_frame,
    set_compute_unit_limit,
    set_compute_unit_price,
)
from solders.hash import Hash
from solders.instruction import CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey

from robocompute_protocol.identifiers import Address, Digest, NodeKey, digest
from robocompute_settlement.addresses import Addresses
from robocompute_settlement.drafts import (
    BadDraft,
    Draft,
    describe,
    draft_file,
    read_draft,
    sign_draft,
    wire_of,
)
from robocompute_settlement.instructions import Instructions, create_token_account, discriminator

IDL = json.loads(
    (Path(__file__).parents[2] / "programs/settlement/idl/settlement.json").read_text()
)
PROGRAM = Address(digest(b"program"))
MINT = Address(digest(b"mint"))
SEED = digest(b"seed")
WALLET = Address(bytes(Keypair.from_seed(SEED).pubkey()))
BUILD = Instructions(Addresses(PROGRAM, Digest(digest(b"domain"))))


def draft_of(*instructions: Instruction) -> Draft:
    message = Message.new_with_blockhash(
        list(instructions), Pubkey.from_bytes(WALLET), Hash(digest(b"block"))
    )
    return Draft(message=bytes(message), last_valid_height=7)


def in_words(*instructions: Instruction) -> tuple[str, ...]:
    return describe(draft_of(*instructions).message, PROGRAM)


def test_every_instruction_a_wallet_signs_is_put_into_words() -> None:
    key = NodeKey(digest(b"key"))
    told = in_words(
        create_token_account(WALLET, WALLET, MINT),
        BUILD.deposit(owner=WALLET, mint=MINT, amount=1_500_000),
        BUILD.withdraw(owner=WALLET, mint=MINT, destination=MINT, amount=2_000_000),
        BUILD.set_delegate(owner=WALLET, mint=MINT, delegate=key, allowance=3, expires_s=9),
        BUILD.set_delegate(owner=WALLET, mint=MINT, delegate=bytes(32), allowance=0, expires_s=0),
        BUILD.stake(owner=WALLET, mint=MINT, amount=4_000_000),
        BUILD.unstake(owner=WALLET, mint=MINT, amount=5_000_000),
    )
    assert [line.split()[0] for line in told] == [
        "make", "deposit", "withdraw", "let", "end", "move", "begin", "fee",
    ]  # fmt: skip
    assert "1.500000" in told[1]
    assert not any("UNKNOWN" in line for line in told)


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    foreign = Instruction(Pubkey(digest(b"another program")), b"drain", [])
    ours = Instruction(Pubkey(PROGRAM), discriminator("settle") + bytes(10), [])
    longer = BUILD.stake(owner=WALLET, mint=MINT, amount=1)
    longer = Instruction(longer.program_id, bytes(longer.data) + b"\0", longer.accounts)
    *told, _fee = in_words(foreign, ours, longer)
    assert all("UNKNOWN" in line for line in told)
    with pytest.raises(BadDraft, match="UNKNOWN"):
        sign_draft(
            draft_of(BUILD.stake(owner=WALLET, mint=MINT, amount=1), foreign), SEED, PROGRAM
        )


@pytest.mark.parametrize(
    "name",
    ["deposit", "withdraw", "set_delegate", "register", "stake", "unstake", "claim_unbonded",
     "rotate_key", "close_by_payee", "request_close", "finalize_close"],
)  # fmt: skip
def test_arguments_are_read_as_the_programs_own_description_packs_them(name: str) -> None:
    (found,) = [each for each in IDL["instructions"] if camel(name) == each["name"]]
    size = {"u64": 8, "i64": 8, "publicKey": 32}
    length = sum(size[argument["type"]] for argument in found["args"])
    accounts = [Pubkey(digest(bytes((number,)))) for number in range(len(found["accounts"]))]
    data = discriminator(name) + b"\1" * length
    from solders.instruction import AccountMeta

    metas = [AccountMeta(key, is_signer=False, is_writable=False) for key in accounts]
    line, _fee = in_words(Instruction(Pubkey(PROGRAM), data, metas))
    assert "UNKNOWN" not in line


def test_a_draft_survives_its_file_and_only_its_wallet_signs_it() -> None:
    draft = draft_of(BUILD.deposit(owner=WALLET, mint=MINT, amount=1))
    again = read_draft(draft_file(draft, PROGRAM))
    assert again == draft
    with pytest.raises(BadDraft, match="for the wallet"):
        sign_draft(draft, digest(b"another seed"), PROGRAM)
    with pytest.raises(BadDraft, match="not signed"):
        wire_of(draft)
    signed = read_draft(draft_file(sign_draft(draft, SEED, PROGRAM), PROGRAM))
    assert signed.signature is not None
    assert wire_of(signed).endswith(draft.message)


@pytest.mark.parametrize(
    "change",
    [{"message": "AAAA"}, {"format": "another"}, {"signature": "1111"}, {"message": "?"},
     {"more": 1}],
)  # fmt: skip
def test_a_damaged_file_is_refused(change: dict[str, object]) -> None:
    draft = draft_of(BUILD.deposit(owner=WALLET, mint=MINT, amount=1))
    draft = sign_draft(draft, SEED, PROGRAM)
    told = json.loads(draft_file(draft, PROGRAM)) | change
    with pytest.raises(BadDraft):
        read_draft(msgspec.json.encode(told))


DEPOSIT = BUILD.deposit(owner=WALLET, mint=MINT, amount=1)


def test_the_fee_is_told_at_its_most() -> None:
    assert in_words(DEPOSIT)[-1] == "fee at most 0.000005000 SOL"
    limit, price = set_compute_unit_limit(100_001), set_compute_unit_price(10_000)
    assert in_words(limit, price, DEPOSIT)[1:] == ("fee at most 0.000006001 SOL",)
    assert in_words(price, DEPOSIT)[-1] == "fee at most 0.000009000 SOL"  # 2 * 200,000 units


def test_a_fee_that_would_burn_the_wallets_money_is_refused() -> None:
    dear = draft_of(set_compute_unit_limit(1_400_000), set_compute_unit_price(10**12), DEPOSIT)
    with pytest.raises(BadDraft, match=r"1400\.000005000 SOL"):
        sign_draft(dear, SEED, PROGRAM)
    most = [set_compute_unit_limit(400_000), set_compute_unit_price(1_000_000)]
    assert in_words(*most, DEPOSIT)[-1] == "fee at most 0.000405000 SOL"
    most[0] = set_compute_unit_limit(400_001)
    with pytest.raises(BadDraft, match="none of ours"):
        in_words(*most, DEPOSIT)


def test_a_compute_budget_of_another_kind_or_a_second_one_is_not_signed() -> None:
    price = set_compute_unit_price(1)
    odd = Instruction(price.program_id, bytes(price.data) + b"\0", [])
    heap = request_heap_frame(262_144)
    for budget in ([price, price], [odd], [heap], [Instruction(price.program_id, b"", [])]):
        assert "UNKNOWN" in "".join(in_words(*budget, DEPOSIT))
        with pytest.raises(BadDraft, match="UNKNOWN"):
            sign_draft(draft_of(*budget, DEPOSIT), SEED, PROGRAM)


@pytest.mark.parametrize(
    ("signers", "keys", "instruction"),
    [(1, 1, CompiledInstruction(9, b"", b"")), (1, 1, CompiledInstruction(0, b"", b"\7")),
     (1, 0, None), (0, 1, None)],
)  # fmt: skip
def test_bytes_that_name_accounts_they_do_not_hold_are_no_draft(
    signers: int, keys: int, instruction: CompiledInstruction | None
) -> None:
    message = Message.new_with_compiled_instructions(
        signers,
        0,
        0,
        [Pubkey(WALLET)] * keys,
        Hash.default(),
        [instruction] if instruction else [],
    )
    with pytest.raises(BadDraft, match="not in them"):
        describe(bytes(message), PROGRAM)


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
