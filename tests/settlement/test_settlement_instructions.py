"""Our packing held against the program's own description: its IDL, through anchorpy's coder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from anchorpy import Idl
from anchorpy.coder.instruction import InstructionCoder
from construct import Container
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, NodeKey, Signature
from robocompute_protocol.messages import SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.addresses import Addresses, domain_of
from robocompute_settlement.instructions import ED25519_PROGRAM, Instructions, verify_vouchers
from robocompute_settlement.localworld import local_address, local_seed
from robocompute_settlement.port import ChannelView, SettleClaim, StakeView
from robocompute_settlement.program_errors import PROGRAM_ERRORS, describe
from robocompute_settlement.rpc import RecentBlockhash
from robocompute_settlement.transactions import MAX_TRANSACTION_BYTES, Budget, prepare

if TYPE_CHECKING:
    from solders.instruction import Instruction

IDL_PATH = Path(__file__).parents[2] / "programs" / "settlement" / "idl" / "settlement.json"
IDL: dict[str, Any] = json.loads(IDL_PATH.read_text())
CODER = cast("Any", InstructionCoder(Idl.from_json(IDL_PATH.read_text())))

GENESIS = Digest(bytes(range(32)))
PROGRAM = local_address("program")
AT = Addresses(PROGRAM, domain_of(GENESIS, PROGRAM))
BUILD = Instructions(AT)
A, B, MINT, OTHER = (local_address(name) for name in ("a", "b", "usdc", "usdt"))
CHANNEL = ChannelView(
    channel=AT.channel(A, B, MINT, 3), payer=A, payee=B, voucher_key=NodeKey(A), mint=MINT,
    rent_payer=A, nonce=3, deposit=MicroUnits(10), settled=MicroUnits(0), fee_taken=MicroUnits(0),
    fee_bps=1, challenge_s=5, close_at_s=0, alloc_root=Digest(bytes(32)),
)  # fmt: skip
STAKE = StakeView(
    stake=AT.stake(B, MINT), owner=B, mint=MINT, node_key=NodeKey(A), prev_key=NodeKey(bytes(32)),
    bonded=MicroUnits(1), unbonding=MicroUnits(0), unbond_at_s=0, rotated_at_s=0, watermark_s=0,
    slashed=MicroUnits(0),
)  # fmt: skip
BIG = 2**63 + 12345


def key(address: bytes) -> Pubkey:
    return Pubkey.from_bytes(address)


CASES: list[tuple[str, Instruction, dict[str, Any]]] = [
    (
        "initConfig",
        BUILD.init_config(
            authority=A, mints=(MINT, OTHER), genesis_hash=GENESIS, admin=A, treasury=B,
            slot_stake=MicroUnits(BIG), unbond_s=7, min_challenge_s=8, fee_bps=100, slash_bps=2000,
        ),
        {"genesis_hash": list(GENESIS), "admin": key(A), "treasury": key(B), "slot_stake": BIG,
         "unbond_s": 7, "min_challenge_s": 8, "fee_bps": 100, "slash_bps": 2000},
    ),
    (
        "updateConfig",
        BUILD.update_config(
            admin=A, treasury=B, slot_stake=MicroUnits(1), unbond_s=2, min_challenge_s=3,
            fee_bps=4, slash_bps=5, paused=True,
        ),
        {"treasury": key(B), "slot_stake": 1, "unbond_s": 2, "min_challenge_s": 3, "fee_bps": 4,
         "slash_bps": 5, "paused": True},
    ),
    ("deposit", BUILD.deposit(owner=A, mint=MINT, amount=BIG), {"amount": BIG}),
    (
        "withdraw",
        BUILD.withdraw(owner=A, mint=MINT, destination=B, amount=BIG),
        {"amount": BIG},
    ),
    (
        "setDelegate",
        BUILD.set_delegate(owner=A, mint=MINT, delegate=B, allowance=BIG, expires_s=2**40),
        {"delegate": key(B), "allowance": BIG, "expires": 2**40},
    ),
    (
        "openChannel",
        BUILD.open_channel(
            authority=A, payer=A, payee=B, mint=MINT, voucher_key=NodeKey(A), nonce=3,
            deposit=BIG, challenge_s=9,
        ),
        {"payee": key(B), "voucher_key": key(A), "nonce": 3, "deposit": BIG, "challenge_s": 9},
    ),
    ("topUp", BUILD.top_up(authority=A, channel=CHANNEL, amount=BIG), {"amount": BIG}),
    (
        "settle",
        BUILD.settle(channel=CHANNEL.channel, payee=B, mint=MINT, ed_ix=2, entry=1, claim=BIG),
        {"ed_ix": 2, "entry": 1, "claim": BIG},
    ),
    ("closeByPayee", BUILD.close_by_payee(authority=B, channel=CHANNEL), {}),
    ("requestClose", BUILD.request_close(authority=A, channel=CHANNEL), {}),
    ("finalizeClose", BUILD.finalize_close(channel=CHANNEL), {}),
    ("register", BUILD.register(owner=A, mint=MINT, node_key=NodeKey(B)), {"node_key": key(B)}),
    ("stake", BUILD.stake(owner=A, mint=MINT, amount=BIG), {"amount": BIG}),
    ("unstake", BUILD.unstake(owner=A, mint=MINT, amount=BIG), {"amount": BIG}),
    ("claimUnbonded", BUILD.claim_unbonded(owner=A, mint=MINT), {}),
    ("rotateKey", BUILD.rotate_key(owner=A, mint=MINT, node_key=NodeKey(B)), {"node_key": key(B)}),
    ("proposeAdmin", BUILD.propose_admin(admin=A, new_admin=B), {"new_admin": key(B)}),
    ("acceptAdmin", BUILD.accept_admin(new_admin=B), {}),
    (
        "slash",
        BUILD.slash(reporter=A, stake=STAKE, payers=(A, B), treasury=B, ed_ix=2),
        {"ed_ix": 2, "first": 0, "second": 1},
    ),
    ("sweepFees", BUILD.sweep_fees(rent_payer=A, treasury=B, mint=MINT, owners=()), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "built", "arguments"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_what_the_idl_describes(
    name: str, built: Instruction, arguments: dict[str, Any]
) -> None:
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    assert bytes(built.data) == CODER.build(Container(name=snake, data=arguments))
    described = next(each for each in IDL["instructions"] if each["name"] == name)
    assert built.program_id == key(PROGRAM)
    found = [(meta.is_writable, meta.is_signer) for meta in built.accounts]
    assert found == [(each["isMut"], each["isSigner"]) for each in described["accounts"]]


def test_the_adapter_builds_every_instruction_of_the_program() -> None:
    assert {case[0] for case in CASES} == {each["name"] for each in IDL["instructions"]}


def test_every_refusal_of_the_program_has_words() -> None:
    assert {each["code"]: each["name"] for each in IDL["errors"]} == {
        number: name for number, (name, _) in PROGRAM_ERRORS.items()
    }
    assert describe(6011) == "the balance does not cover the amount: deposit more (InsufficientFunds, 6011)"  # fmt: skip
    assert describe(7777) == "program error 7777"


def claims(count: int) -> tuple[SettleClaim, ...]:
    return tuple(
        SettleClaim(
            channel=ChannelId(local_seed(f"channel-{number}")), payee=B, mint=MINT,
            voucher_key=NodeKey(A), claim=MicroUnits(1),
            voucher=SignedVoucher(
                channel=ChannelId(local_seed(f"channel-{number}")), cumulative=MicroUnits(1),
                sequence=1, closed=Digest(bytes(32)),
                open=((AgreementId(bytes(32)), MicroUnits(1)),), closes=(),
                signature=Signature(bytes(range(64))),
            ),
        )
        for number in range(count)
    )  # fmt: skip


def settle_size(count: int) -> int:
    some = claims(count)
    settles = [
        BUILD.settle(
            channel=each.channel,
            payee=each.payee,
            mint=MINT,
            ed_ix=2,
            entry=entry,
            claim=1,
        )
        for entry, each in enumerate(some)
    ]
    signed = prepare(
        [verify_vouchers(some), *settles],
        Keypair.from_seed(local_seed("a")),
        RecentBlockhash(bytes(32), 1),
        Budget(200_000, 1_000),
    )
    return len(signed.wire)


def test_three_settlements_fit_into_a_packet_and_a_fourth_is_refused_before_sending() -> None:
    assert settle_size(3) <= MAX_TRANSACTION_BYTES
    with pytest.raises(ChainRefused, match="does not fit"):
        settle_size(4)


def test_vouchers_are_verified_without_gaps_or_overlaps() -> None:
    some = claims(2)
    built = verify_vouchers(some)
    data = bytes(built.data)
    assert built.program_id == ED25519_PROGRAM
    assert data[:2] == b"\x02\x00"
    assert len(data) == 2 + 2 * (14 + 176)
    for index, claim in enumerate(some):
        at = 2 + 2 * 14 + index * 176
        assert data[at : at + 64] == claim.voucher.signature
        assert data[at + 64 : at + 96] == claim.voucher_key
        assert data[at + 96 : at + 104] == b"RCVCHR01"


def test_equal_requests_are_different_transactions() -> None:
    def signed(distinct: int) -> str:
        return prepare(
            [BUILD.deposit(owner=A, mint=MINT, amount=1)],
            Keypair.from_seed(local_seed("a")),
            RecentBlockhash(bytes(32), 1),
            Budget(200_000, 1_000).distinct(distinct),
        ).signature

    assert signed(1) == signed(1)
    assert len({signed(each) for each in (0, 1, 4_095, 4_096, 65_535)}) == 5
    assert signed(0) == signed(65_536)
