"""Ledgers after a store was lost: rebuilt from the chain, and made whole by shown receipts."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from robocompute_protocol import codec
from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, digest
from robocompute_protocol.messages import Receipt, Signed, SignedVoucher
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.receipts import receipt_digest
from robocompute_protocol.signing import RECEIPT, SigningKey, sign_message
from robocompute_protocol.vouchers import PayeeLedger, PayerLedger, sign_voucher

PAYER, PAYEE = SigningKey(b"\x03" * 32), SigningKey(b"\x04" * 32)
CHANNEL = ChannelId(b"c" * 32)
OLD, LATE, NEW = (AgreementId(digest(name)) for name in (b"old", b"late", b"new"))
DEPOSIT = MicroUnits(1_000_000)


def units(amount: int) -> MicroUnits:
    return MicroUnits(amount)


def receipt(agreement: AgreementId, amount: int, *, channel: ChannelId = CHANNEL) -> Signed:
    body = Receipt(
        agreement=agreement,
        terms=Digest(bytes(32)),
        task=Digest(bytes(32)),
        channel=channel,
        started_ms=Millis(1),
        metered_ms=Millis(1_000),
        frozen_ms=Millis(0),
        exit_code=0,
        cause=Cause.EXITED,
        detail="",
        output=Digest(bytes(32)),
        output_records=0,
        artifacts=Digest(bytes(32)),
        prepaid=units(amount),
        amount=units(amount),
    )
    return sign_message(RECEIPT, PAYEE, codec.encode(body))


def promised(
    ledger: PayerLedger, agreement: AgreementId, paid: int
) -> tuple[PayerLedger, SignedVoucher]:
    ledger, voucher = ledger.allocate(agreement, units(paid))
    return ledger, sign_voucher(PAYER, voucher)


def accepted(ledger: PayeeLedger, voucher: SignedVoucher) -> PayeeLedger:
    return ledger.accept(voucher, voucher_key=PAYER.node_key, deposit=DEPOSIT)


def refusal(ledger: PayeeLedger, voucher: SignedVoucher) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        accepted(ledger, voucher)
    return caught.value.code


def a_job_is_over(amount: int = 300, paid: int = 400) -> PayerLedger:
    """The payer's ledger after one job: closed at its receipt."""
    ledger, _ = promised(PayerLedger(channel=CHANNEL), OLD, paid)
    return ledger.close(OLD, receipt_digest(receipt(OLD, amount)), units(amount))


def test_a_rebuilt_ledger_takes_the_first_voucher_as_it_is_and_counts_from_what_was_settled() -> (
    None
):
    payer = a_job_is_over()
    payee = PayeeLedger.rebuild(CHANNEL, units(300))
    payer, voucher = promised(payer, NEW, 250)
    payee = accepted(payee, voucher)
    assert not payee.rebuilt
    assert payee.paid(NEW) == 250
    payee = payee.lease(NEW).close(NEW, receipt_digest(receipt(NEW, 200)), units(200))
    assert payee.owed == payee.claimable == 500
    payer = payer.close(NEW, receipt_digest(receipt(NEW, 200)), units(200))
    assert payer.closed_total == payee.owed


def test_a_rebuilt_ledger_learns_of_settlements_until_its_first_voucher() -> None:
    payee = PayeeLedger.rebuild(CHANNEL, units(100)).settled_at(units(300))
    assert payee == PayeeLedger.rebuild(CHANNEL, units(300))
    assert payee.settled_at(units(200)) == payee
    _, voucher = promised(a_job_is_over(), NEW, 250)
    payee = accepted(payee, voucher)
    assert payee.settled_at(units(400)) == payee


def test_after_the_first_voucher_a_rebuilt_ledger_is_as_strict_as_any() -> None:
    payee = PayeeLedger.rebuild(CHANNEL, units(300))
    payer, voucher = promised(a_job_is_over(), NEW, 250)
    payee = accepted(payee, voucher)
    # The payer closes an agreement by a receipt that this payee never signed.
    forged = payer.close(NEW, Digest(bytes(32)), units(1))
    _, voucher = promised(forged, LATE, 10)
    assert refusal(payee, voucher) == "closed_unknown"


def test_a_rebuilt_ledger_leases_nothing_for_a_promise_that_was_settled_already() -> None:
    payee = PayeeLedger.rebuild(CHANNEL, units(300))
    _, voucher = promised(PayerLedger(channel=CHANNEL), NEW, 250)
    assert refusal(payee, voucher) == "voucher_lowered"
    _, voucher = promised(PayerLedger(channel=CHANNEL, cumulative=units(300)), NEW, 350)
    assert refusal(payee, voucher) == "bad_voucher"


@given(st.integers(0, 400), st.integers(0, 500), st.integers(1, 500))
def test_what_a_rebuilt_payee_claims_for_new_work_is_always_covered(
    settled: int, unsettled: int, paid: int
) -> None:
    earned = settled + unsettled
    payer, _ = promised(PayerLedger(channel=CHANNEL), OLD, earned)
    payer = payer.close(OLD, receipt_digest(receipt(OLD, earned)), units(earned))
    _, voucher = promised(payer, NEW, paid)
    payee = accepted(PayeeLedger.rebuild(CHANNEL, units(settled)), voucher)
    payee = payee.lease(NEW).close(NEW, receipt_digest(receipt(NEW, paid)), units(paid))
    assert payee.claimable == payee.owed == settled + paid <= payee.cumulative


def test_a_payer_closes_forgotten_agreements_by_their_receipts_and_goes_on() -> None:
    truth, first = promised(PayerLedger(channel=CHANNEL), OLD, 400)
    payee = accepted(PayeeLedger(channel=CHANNEL), first)
    payee = payee.lease(OLD).close(OLD, receipt_digest(receipt(OLD, 300)), units(300))
    assert truth.cumulative == 400
    shown = payee.voucher
    assert shown is not None
    rebuilt = PayerLedger.rebuild(CHANNEL, units(300))
    rebuilt = rebuilt.adopt(shown, PAYER.node_key)
    rebuilt = rebuilt.close_shown(receipt(OLD, 300), PAYEE.node_key)
    assert rebuilt.open == ()
    assert rebuilt.credit == 100
    rebuilt, voucher = promised(rebuilt, NEW, 150)
    assert voucher.cumulative == 450
    payee = accepted(payee, voucher)
    assert payee.owed == 300
    assert payee.paid(NEW) == 150


@given(st.integers(1, 500), st.integers(0, 500), st.booleans(), st.booleans())
def test_a_rebuilt_payers_credit_is_never_less_than_nothing(
    settled: int, spare: int, first_is_closed: bool, late_is_open: bool
) -> None:
    """Whatever of its life a voucher shows: nothing closed yet, all closed, something open."""
    truth, voucher = promised(PayerLedger(channel=CHANNEL), OLD, settled + spare)
    if first_is_closed:
        truth = truth.close(OLD, receipt_digest(receipt(OLD, settled)), units(settled))
        truth, voucher = promised(truth, LATE, spare if late_is_open else 0)
    rebuilt = PayerLedger.rebuild(CHANNEL, units(settled)).adopt(voucher, PAYER.node_key)
    rebuilt = rebuilt.close_shown(receipt(OLD, settled), PAYEE.node_key)
    assert rebuilt.cumulative == truth.cumulative
    assert 0 <= rebuilt.credit <= spare
    assert 0 <= rebuilt.closed_total <= rebuilt.cumulative


def test_when_both_sides_forgot_they_go_on_from_what_was_settled() -> None:
    payer = PayerLedger.rebuild(CHANNEL, units(300))
    payee = PayeeLedger.rebuild(CHANNEL, units(300))
    payer, voucher = promised(payer, NEW, 250)
    assert voucher.cumulative == 550
    payee = accepted(payee, voucher)
    payee = payee.lease(NEW).close(NEW, receipt_digest(receipt(NEW, 200)), units(200))
    payer = payer.close(NEW, receipt_digest(receipt(NEW, 200)), units(200))
    _, voucher = promised(payer, LATE, 60)
    payee = accepted(payee, voucher)
    assert payee.owed == 500
    assert payee.cumulative == 560


def test_a_shown_receipt_must_be_the_payees_of_this_channel_and_no_more_than_was_paid() -> None:
    ledger, _ = promised(PayerLedger(channel=CHANNEL), OLD, 400)
    elsewhere = receipt(OLD, 300, channel=ChannelId(b"d" * 32))
    for signed, code in ((elsewhere, "wrong_channel"), (receipt(OLD, 401), "bad_receipt")):
        with pytest.raises(RemoteProtocolError) as caught:
            ledger.close_shown(signed, PAYEE.node_key)
        assert caught.value.code == code
    with pytest.raises(RemoteProtocolError):
        ledger.close_shown(receipt(OLD, 300), PAYER.node_key)
    assert ledger.close_shown(receipt(NEW, 1), PAYEE.node_key) == ledger
