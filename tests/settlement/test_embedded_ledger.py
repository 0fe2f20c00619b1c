"""What the embedded chain charges, refuses, remembers and forgets, in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from embedded_ledgers import ALICE, BOB, FEE, LAMPORTS, MEMO, Chain, pay, stranger
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair

from robocompute_settlement.embedded.execution import LOG_BYTES
from robocompute_settlement.embedded.fees import ED25519_PROGRAM
from robocompute_settlement.embedded.genesis import rent_exempt
from robocompute_settlement.embedded.ledger import Level
from robocompute_settlement.embedded.methods import Methods
from robocompute_settlement.embedded.requests import RpcFault
from robocompute_settlement.localworld import local_seed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """A new chain."""
    chain = Chain(tmp_path / "chain")
    yield chain
    chain.close()


# --- fees and rent -------------------------------------------------------------------------------


def test_a_transfer_costs_five_thousand_lamports_a_signature(chain: Chain) -> None:
    landed = chain.landed(chain.send(pay(1_000_000)))
    assert landed.fee == FEE
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - 1_000_000 - FEE
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 1_000_000


def test_a_priority_is_paid_for_the_units_asked_for_rounded_up(chain: Chain) -> None:
    price = [set_compute_unit_limit(100_001), set_compute_unit_price(1_000)]
    landed = chain.landed(chain.send(*price, pay(1_000_000)))
    assert landed.fee == FEE + 101
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - 1_000_000 - FEE - 101


def test_a_priority_without_a_limit_is_paid_for_the_runtimes_own(chain: Chain) -> None:
    landed = chain.landed(chain.send(set_compute_unit_price(1_000_000), pay(1)))
    assert landed.fee == FEE + 2 * 3_000


def test_the_prices_of_recent_blocks_are_the_lowest_they_took(chain: Chain) -> None:
    cheap, dear = set_compute_unit_price(10), set_compute_unit_price(700)
    other = stranger("other")
    chain.send(cheap, pay(1_000_000, other))
    chain.send(dear, pay(2_000_000))
    first = chain.pass_slots(1) - 1
    chain.send(dear, pay(3_000_000))

    def listed(*addresses: str) -> list[tuple[int, int]]:
        answer = chain.call(
            "getRecentPrioritizationFees", *([list(addresses)] if addresses else [])
        )
        return [(each["slot"], each["prioritizationFee"]) for each in answer]

    assert listed() == [(first, 10), (first + 1, 700)]
    assert listed(str(BOB.pubkey())) == [(first, 700), (first + 1, 700)]
    assert listed(str(other)) == [(first, 10), (first + 1, 700)]
    chain.call("embeddedRollback", 1)
    assert listed() == [(first, 10)]
    chain.pass_slots(152)
    chain.send(pay(4_000_000))
    assert [price for _, price in listed()] == [0]


def test_a_transaction_that_fails_is_charged_and_changes_nothing_else(chain: Chain) -> None:
    landed = chain.landed(chain.send(pay(1_000_000), pay(LAMPORTS)))
    assert b"InstructionError" in landed.error
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - FEE
    assert chain.balance(BOB.pubkey()) == LAMPORTS


def test_a_failed_precompile_is_charged_for_the_signatures_it_was_to_check(chain: Chain) -> None:
    landed = chain.landed(chain.send(Instruction(ED25519_PROGRAM, b"\x01\x00" + bytes(100), [])))
    assert b"InstructionError" in landed.error
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - 2 * FEE


def test_a_program_that_is_not_there_is_charged_for_too(chain: Chain) -> None:
    landed = chain.landed(chain.send(Instruction(stranger("program"), b"", [])))
    assert landed.error == b'"ProgramAccountNotFound"'
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - FEE


def test_no_account_may_be_made_that_would_owe_rent(chain: Chain) -> None:
    poor, exempt = stranger("poor"), stranger("exempt")
    landed = chain.landed(chain.send(pay(rent_exempt(0) - 1, poor)))
    assert landed.error == b'{"InsufficientFundsForRent":{"account_index":1}}'
    assert chain.balance(poor) == 0
    assert chain.balance(ALICE.pubkey()) == LAMPORTS - FEE
    assert chain.landed(chain.send(pay(rent_exempt(0), exempt))).error == b"null"


def test_a_payer_keeps_what_rent_asks_for_or_nothing(chain: Chain) -> None:
    payer = Keypair.from_seed(local_seed("small-payer"))
    chain.send(pay(rent_exempt(0) + FEE, payer.pubkey()))
    keeps_too_little = chain.send(pay(1, source=payer), payer=payer)
    assert chain.landed(keeps_too_little).error.startswith(b'{"InsufficientFundsForRent"')
    assert chain.balance(payer.pubkey()) == rent_exempt(0)
    # Now the fee alone would leave too little: no block takes that.
    assert chain.status(chain.send(pay(2, source=payer), payer=payer)) is None
    assert chain.balance(payer.pubkey()) == rent_exempt(0)
    all_of_it = pay(rent_exempt(0), source=payer)
    chain.send(pay(FEE, payer.pubkey()))
    assert chain.landed(chain.send(all_of_it, payer=payer)).error == b"null"
    assert chain.ledger.account(payer.pubkey()) is None


@pytest.mark.parametrize("lamports", [0, FEE - 1])
def test_who_cannot_pay_the_fee_is_in_no_block(chain: Chain, lamports: int) -> None:
    payer = Keypair.from_seed(local_seed("nobody-payer"))
    if lamports:
        chain.call("embeddedDonate", str(payer.pubkey()), {"lamports": lamports})
    assert chain.status(chain.send(pay(1, source=payer), payer=payer)) is None
    assert chain.balance(payer.pubkey()) == lamports


def test_a_long_log_is_cut_off_at_ten_kilobytes(chain: Chain) -> None:
    notes = [Instruction(MEMO, b"x" * 10, []) for _ in range(60)]
    budget = set_compute_unit_limit(1_400_000)
    short = chain.landed(chain.send(budget, *notes[:2]))
    assert "Log truncated" not in short.logs
    long = chain.landed(chain.send(budget, *notes))
    assert long.error == b"null"
    assert long.logs[-1] == "Log truncated"
    assert sum(map(len, long.logs[:-1])) <= LOG_BYTES


# --- what is taken, and for how long -------------------------------------------------------------


def test_the_same_bytes_are_executed_once(chain: Chain) -> None:
    wire = chain.signed(pay(7_000_000))
    first = chain.ledger.submit(wire)
    chain.pass_slots(3)
    assert chain.ledger.submit(wire) == first
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 7_000_000


def test_a_blockhash_is_taken_for_a_hundred_and_fifty_slots(chain: Chain) -> None:
    chain.pass_slots(10)
    last, late = chain.signed(pay(1_000_000)), chain.signed(pay(2_000_000))
    chain.pass_slots(150)
    assert chain.status(chain.ledger.submit(last)) == "confirmed"
    chain.pass_slots(1)
    assert chain.status(chain.ledger.submit(late)) is None


def test_blockhashes_go_on_over_a_restart(chain: Chain) -> None:
    chain.pass_slots(10)
    wire = chain.signed(pay(1_000_000))
    chain.reopen()
    assert chain.status(chain.ledger.submit(wire)) == "confirmed"


def test_history_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "chain", history=5)
    signatures: list[bytes] = []
    for number in range(12):
        signatures.append(chain.send(pay(1_000_000 + number)))
        chain.pass_slots(100)
    kept = [chain.ledger.transaction(each) is not None for each in signatures]
    assert kept == [False] * 7 + [True] * 5
    listed = chain.call("getSignaturesForAddress", str(ALICE.pubkey()), {"limit": 1_000})
    assert len(listed) <= 5
    first = chain.call("getFirstAvailableBlock")
    assert first > 1
    with pytest.raises(RpcFault, match="cleaned up") as gone:
        chain.call("getBlock", 1)
    assert gone.value.code == -32001
    assert chain.balance(BOB.pubkey()) == LAMPORTS + sum(range(12)) + 12_000_000
    assert chain.ledger.transaction_count == 12
    chain.reopen()
    assert chain.ledger.transaction(signatures[-1]) is not None
    chain.close()


def test_what_could_land_twice_is_not_forgotten_whatever_the_bound(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "chain", history=1)
    wires = [chain.signed(pay(1_000_000 + number)) for number in range(8)]
    for wire in wires + wires:
        chain.ledger.submit(wire)
    assert chain.ledger.transaction_count == 8
    chain.close()


# --- faults --------------------------------------------------------------------------------------


def test_a_dropped_transaction_has_a_signature_and_nothing_else(chain: Chain) -> None:
    chain.faults(drop=1)
    wire = chain.signed(pay(1_000_000))
    assert chain.status(chain.ledger.submit(wire)) is None
    assert chain.status(chain.ledger.submit(wire)) == "confirmed"


def test_a_duplicated_transaction_is_executed_once(chain: Chain) -> None:
    chain.faults(duplicate=1)
    chain.send(pay(1_000_000))
    chain.pass_slots(2)
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 1_000_000
    assert chain.ledger.transaction_count == 1


def test_a_transaction_may_be_in_the_air_for_some_slots(chain: Chain) -> None:
    chain.faults(land_slots=3)
    signature = chain.send(pay(1_000_000))
    chain.pass_slots(2)
    assert chain.status(signature) is None
    present = chain.pass_slots(1)
    assert chain.landed(signature).slot == present


def test_what_is_in_the_air_too_long_is_in_no_block(chain: Chain) -> None:
    chain.faults(land_slots=150)
    wire = chain.signed(pay(1_000_000))
    chain.pass_slots(1)
    signature = chain.ledger.submit(wire)
    chain.pass_slots(160)
    assert chain.status(signature) is None


def test_a_transaction_becomes_surer_by_and_by(chain: Chain) -> None:
    chain.faults(confirm_slots=2, finality_slots=5)
    chain.pass_slots(20)
    signature = chain.send(pay(1_000_000))
    seen: list[tuple[str | None, int, int]] = []
    for _ in range(6):
        confirmed = chain.balance(BOB.pubkey(), Level.CONFIRMED) - LAMPORTS
        final = chain.balance(BOB.pubkey(), Level.FINALIZED) - LAMPORTS
        seen.append((chain.status(signature), confirmed, final))
        chain.pass_slots(1)
    assert seen == [
        ("processed", 0, 0),
        ("processed", 0, 0),
        ("confirmed", 1_000_000, 0),
        ("confirmed", 1_000_000, 0),
        ("confirmed", 1_000_000, 0),
        ("finalized", 1_000_000, 1_000_000),
    ]
    assert chain.balance(BOB.pubkey(), Level.PROCESSED) == LAMPORTS + 1_000_000


def test_a_rollback_takes_everything_back_that_was_not_final(chain: Chain) -> None:
    old = chain.send(pay(1_000_000))
    chain.pass_slots(40)
    kept = chain.send(pay(2_000_000))
    chain.pass_slots(5)
    gone, before = chain.send(pay(4_000_000, stranger("new"))), chain.signed(pay(8_000_000))
    chain.pass_slots(1)
    assert chain.call("embeddedRollback", 3) == 1
    assert [chain.status(each) for each in (old, kept, gone)] == ["finalized", "confirmed", None]
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 3_000_000
    assert chain.balance(stranger("new")) == 0
    assert chain.status(chain.ledger.submit(before)) is None, "its blockhash went with its block"
    chain.reopen()
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 3_000_000
    assert chain.status(chain.send(pay(1_000_000))) == "confirmed"


def test_no_rollback_reaches_behind_what_is_final(chain: Chain) -> None:
    final = chain.send(pay(1_000_000))
    chain.pass_slots(33)
    assert chain.call("embeddedRollback", 1_000) == 0
    assert chain.status(final) == "finalized"


def test_rolled_back_transactions_may_be_in_the_air_again(chain: Chain) -> None:
    chain.pass_slots(40)
    wire = chain.signed(pay(1_000_000))
    chain.pass_slots(2)
    signature = chain.ledger.submit(wire)
    first = chain.landed(signature).slot
    assert chain.call("embeddedRollback", 1, {"resend": True}) == 1
    assert chain.status(signature) is None
    chain.pass_slots(1)
    assert chain.landed(signature).slot == first + 1
    assert chain.balance(BOB.pubkey()) == LAMPORTS + 1_000_000


def test_all_blockhashes_may_expire_at_once(chain: Chain) -> None:
    chain.pass_slots(5)
    wire = chain.signed(pay(1_000_000))
    chain.call("embeddedExpireBlockhashes")
    assert chain.status(chain.ledger.submit(wire)) is None
    chain.reopen()
    assert chain.status(chain.ledger.submit(wire)) is None
    assert chain.status(chain.send(pay(1_000_000))) == "confirmed"


def test_the_clock_programs_see_may_drift(chain: Chain) -> None:
    clock = "SysvarC1ock11111111111111111111111111111111"

    def shown() -> int:
        answer = chain.call("getAccountInfo", clock, {"encoding": "jsonParsed"})
        return int(answer["value"]["data"]["parsed"]["info"]["unixTimestamp"])

    assert shown() == chain.now_ms // 1_000
    chain.faults(clock_drift_s=-90)
    chain.ledger.tick()
    assert shown() == chain.now_ms // 1_000 - 90


def test_an_endpoint_that_lags_answers_from_the_past(chain: Chain) -> None:
    chain.pass_slots(60)
    signature = chain.send(pay(1_000_000))
    present = chain.pass_slots(10)
    chain.faults(lag_slots=20)
    assert chain.call("getSlot", {"commitment": "processed"}) == present - 20
    assert chain.balance(BOB.pubkey()) == LAMPORTS
    assert chain.status(signature) is None
    late = {"commitment": "confirmed", "minContextSlot": present}
    with pytest.raises(RpcFault) as refused:
        chain.call("getBalance", str(BOB.pubkey()), late)
    assert (refused.value.code, refused.value.data) == (-32016, {"contextSlot": present - 20})
    chain.pass_slots(10)
    assert chain.status(signature) == "confirmed"
    assert chain.call("getHealth") == "ok"
    chain.faults(lag_slots=129)
    with pytest.raises(RpcFault) as unhealthy:
        chain.call("getHealth")
    assert (unhealthy.value.code, unhealthy.value.data) == (-32005, {"numSlotsBehind": 129})


@pytest.mark.parametrize("change", [{"dorp": 1}, {"drop": -1}, {"lag_slots": 151}, {"drop": "x"}])
def test_a_fault_that_is_none_is_refused_and_changes_nothing(
    chain: Chain, change: dict[str, object]
) -> None:
    with pytest.raises(RpcFault):
        chain.faults(**change)
    assert chain.call("embeddedFaultsLeft")["drop"] == 0


def test_faults_are_not_for_clients_of_a_chain_that_was_not_started_for_tests(
    chain: Chain,
) -> None:
    names = Methods(chain.ledger).names
    assert "sendTransaction" in names
    assert not [name for name in names if name.startswith("embedded")]
