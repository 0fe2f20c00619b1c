import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from robocompute_protocol import limits
from robocompute_protocol.codec import decode, encode
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, digest
from robocompute_protocol.messages import SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey, verify
from robocompute_protocol.vouchers import (
    NOTHING_CLOSED,
    PayeeLedger,
    PayerLedger,
    UnsignedVoucher,
    allocation_root,
    closed_digest,
    sign_voucher,
    signing_bytes,
    verify_voucher,
)

KEY = SigningKey(b"\x03" * 32)
CHANNEL = ChannelId(b"c" * 32)
A, B = AgreementId(b"a" * 32), AgreementId(b"b" * 32)
RECEIPT = Digest(b"r" * 32)
DEPOSIT = MicroUnits(1_000_000)
VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "protocol/vectors/settlement.json").read_text("utf-8")
)


def units(amount: int) -> MicroUnits:
    return MicroUnits(amount)


def promised(
    ledger: PayerLedger, agreement: AgreementId, paid: int
) -> tuple[PayerLedger, SignedVoucher]:
    ledger, voucher = ledger.allocate(agreement, units(paid))
    return ledger, sign_voucher(KEY, voucher)


def accepted(ledger: PayeeLedger, voucher: SignedVoucher, deposit: int = DEPOSIT) -> PayeeLedger:
    return ledger.accept(voucher, voucher_key=KEY.node_key, deposit=units(deposit))


def refusal(ledger: PayeeLedger, voucher: SignedVoucher, deposit: int = DEPOSIT) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        accepted(ledger, voucher, deposit)
    return caught.value.code


def made(**fields: Any) -> SignedVoucher:
    """Sign what no honest ledger would make."""
    parts: dict[str, Any] = {
        "channel": CHANNEL,
        "cumulative": 100,
        "sequence": 1,
        "closed": NOTHING_CLOSED,
        "open": ((A, 100),),
        "closes": (),
    }
    return sign_voucher(KEY, UnsignedVoucher(**parts | fields))


PAYER, PAYEE = PayerLedger(channel=CHANNEL), PayeeLedger(channel=CHANNEL)

# --- bytes --------------------------------------------------------------------------------------


def test_the_signing_bytes_are_the_80_bytes_that_the_program_rebuilds() -> None:
    case = VECTORS["voucher"]
    statement = signing_bytes(
        ChannelId(bytes.fromhex(case["channel"])),
        units(case["cumulative"]),
        Digest(bytes.fromhex(case["alloc_root"])),
    )
    assert statement.hex() == case["signing_bytes"]
    assert len(statement) == 80
    assert SigningKey(bytes.fromhex(case["seed"])).sign(statement).hex() == case["signature"]
    assert verify(bytes.fromhex(case["key"]), statement, bytes.fromhex(case["signature"]))


def test_roots_and_closed_chains_are_as_the_vectors_say() -> None:
    case = VECTORS["alloc_root"]
    open_ = tuple(
        (AgreementId(bytes.fromhex(entry["agreement"])), units(entry["paid"]))
        for entry in case["open"]
    )
    root = allocation_root(case["sequence"], Digest(bytes.fromhex(case["closed"])), open_)
    assert root.hex() == case["root"]
    case = VECTORS["closed"]
    closed = closed_digest(
        Digest(bytes.fromhex(case["previous"])),
        AgreementId(bytes.fromhex(case["agreement"])),
        units(case["amount"]),
        Digest(bytes.fromhex(case["receipt"])),
    )
    assert closed.hex() == case["closed"]


@pytest.mark.parametrize(
    "change",
    [
        {"channel": b"x" * 32},
        {"cumulative": 101},
        {"sequence": 2},
        {"closed": b"x" * 32},
        {"open": ((A, 99),)},
        {"open": ()},
        {"signature": bytes(64)},
    ],
)
def test_every_part_of_a_voucher_is_signed(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        verify_voucher(replace(made(), **change), KEY.node_key)
    assert caught.value.code == "bad_signature"


@pytest.mark.parametrize("open_", [((B, 1), (A, 1)), ((A, 1), (A, 1)), ((A, 101),)])
def test_unsorted_repeated_or_uncovered_agreements_are_refused(open_: tuple[Any, ...]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        verify_voucher(made(open=open_), KEY.node_key)
    assert caught.value.code == "bad_voucher"


# --- the payer ----------------------------------------------------------------------------------


def test_what_a_closed_agreement_did_not_use_pays_for_the_next_one() -> None:
    payer, _ = promised(PAYER, A, 100)
    payer = payer.close(A, RECEIPT, units(30))
    assert (payer.credit, payer.closed_total, payer.cumulative) == (70, 30, 100)
    assert payer.cumulative_with(B, units(60)) == 100
    payer, voucher = promised(payer, B, 60)
    assert (voucher.cumulative, payer.credit) == (100, 10)
    payer, voucher = promised(payer, B, 80)
    assert (voucher.cumulative, payer.credit) == (110, 0)


def test_what_was_never_leased_is_credit_again() -> None:
    payer, _ = promised(PAYER, A, 100)
    payer = payer.release(A)
    assert (payer.credit, payer.closed_total, payer.open) == (100, 0, ())
    assert payer.release(A) == payer


def test_a_promise_is_never_lowered() -> None:
    payer, _ = promised(PAYER, A, 100)
    with pytest.raises(LocalProtocolError):
        payer.allocate(A, units(99))


def test_an_agreement_closes_once_and_for_no_more_than_it_was_paid() -> None:
    payer, _ = promised(PAYER, A, 100)
    with pytest.raises(LocalProtocolError):
        payer.close(A, RECEIPT, units(101))
    payer = payer.close(A, RECEIPT, units(100))
    with pytest.raises(LocalProtocolError):
        payer.close(A, RECEIPT, units(100))
    with pytest.raises(LocalProtocolError):
        payer.allocate(A, units(200))


def test_a_channel_carries_64_open_agreements() -> None:
    payer, voucher = promised(PAYER, AgreementId(digest(bytes([0]))), 1)
    for number in range(1, limits.MAX_OPEN_AGREEMENTS):
        payer, voucher = promised(payer, AgreementId(digest(bytes([number]))), 1)
    assert accepted(PAYEE, voucher).cumulative == limits.MAX_OPEN_AGREEMENTS
    with pytest.raises(LocalProtocolError):
        payer.allocate(A, units(1))


def test_a_restored_payer_adopts_its_newest_voucher_and_stays_acceptable() -> None:
    backup, voucher = promised(PAYER, A, 100)
    payee = accepted(PAYEE, voucher).lease(A).close(A, RECEIPT, units(40))
    payer, voucher = promised(backup.close(A, RECEIPT, units(40)), B, 90)
    payee = accepted(payee, voucher).lease(B)
    assert payee.voucher is not None
    restored = backup.adopt(payee.voucher, KEY.node_key)
    assert restored.sequence == payer.sequence
    assert restored.cumulative == payer.cumulative
    assert restored.paid(B) == 90
    assert restored.credit == 0
    _, voucher = promised(restored, B, 120)
    assert accepted(payee, voucher).paid(B) == 120
    assert payer.adopt(payee.voucher, KEY.node_key) == payer


def test_a_restored_payer_keeps_the_credit_that_it_can_still_count() -> None:
    payer, _ = promised(PAYER, A, 100)
    backup = payer.close(A, RECEIPT, units(40))
    _, voucher = promised(backup, B, 20)
    assert backup.adopt(voucher, KEY.node_key).credit == 40


def test_only_a_voucher_of_our_own_is_adopted() -> None:
    with pytest.raises(RemoteProtocolError):
        PAYER.adopt(made(), SigningKey(bytes(32)).node_key)
    with pytest.raises(RemoteProtocolError):
        PAYER.adopt(made(channel=b"x" * 32), KEY.node_key)


@pytest.mark.parametrize("other", [{"cumulative": 101}, {"sequence": 2, "cumulative": 99}])
def test_two_nodes_that_sign_with_one_key_are_found_out(other: dict[str, Any]) -> None:
    payer, _ = promised(PAYER, A, 100)
    with pytest.raises(LocalProtocolError, match="two nodes"):
        payer.adopt(made(open=(), **other), KEY.node_key)


# --- the payee ----------------------------------------------------------------------------------


def test_a_voucher_is_accepted_and_its_repetition_changes_nothing() -> None:
    payee = accepted(PAYEE, made())
    assert (payee.cumulative, payee.paid(A), payee.sequence) == (100, 100, 1)
    assert accepted(payee, made()) == payee


def test_a_voucher_that_a_newer_one_overtook_changes_nothing() -> None:
    payer, first = promised(PAYER, A, 100)
    _, second = promised(payer, B, 50)
    payee = accepted(PAYEE, second)
    assert accepted(payee, first) == payee


@pytest.mark.parametrize(
    ("code", "voucher"),
    [
        ("wrong_channel", made(channel=b"x" * 32, sequence=2)),
        ("bad_signature", replace(made(sequence=2), signature=bytes(64))),
        ("voucher_conflict", made(open=((A, 99),))),
        ("voucher_conflict", made(sequence=0, cumulative=101)),
        ("voucher_lowered", made(sequence=2, cumulative=99, open=((A, 99),))),
        ("exceeds_deposit", made(sequence=2, cumulative=DEPOSIT + 1)),
        ("allocation_missing", made(sequence=2, open=((B, 100),))),
        ("allocation_lowered", made(sequence=2, open=((A, 99), (B, 1)))),
        ("closed_unknown", made(sequence=2, closed=RECEIPT)),
        ("closed_unknown", made(sequence=2, closed=RECEIPT, closes=(A,), open=())),
    ],
)
def test_a_voucher_that_breaks_a_rule_is_refused_by_name(
    code: str, voucher: SignedVoucher
) -> None:
    assert refusal(accepted(PAYEE, made()).lease(A), voucher) == code


def test_an_agreement_that_was_not_leased_may_vanish() -> None:
    payee = accepted(PAYEE, made())
    assert accepted(payee, made(sequence=2, open=((B, 100),))).paid(A) == 0


def test_receipts_are_owed_before_and_after_a_voucher_shows_them() -> None:
    payer, voucher = promised(PAYER, A, 100)
    payee = accepted(PAYEE, voucher).lease(A).close(A, RECEIPT, units(40))
    assert (payee.owed, payee.claimable, payee.closed_total) == (40, 40, 0)
    _, voucher = promised(payer.close(A, RECEIPT, units(40)), B, 10)
    payee = accepted(payee, voucher)
    assert (payee.owed, payee.claimable, payee.closed_total) == (40, 40, 40)
    assert (payee.ended, payee.leased, payee.credit) == ((), (), 50)


@pytest.mark.parametrize(
    ("receipt", "amount"), [(Digest(b"x" * 32), 40), (RECEIPT, 39), (RECEIPT, 41)]
)
def test_a_close_by_another_receipt_or_amount_is_refused(receipt: Digest, amount: int) -> None:
    payer, voucher = promised(PAYER, A, 100)
    payee = accepted(PAYEE, voucher).lease(A).close(A, RECEIPT, units(40))
    _, voucher = promised(payer.close(A, receipt, units(amount)), B, 10)
    assert refusal(payee, voucher) == "closed_unknown"


def test_a_voucher_may_not_spend_a_closed_amount_again() -> None:
    payee = accepted(PAYEE, made()).lease(A).close(A, RECEIPT, units(40))
    closed = closed_digest(NOTHING_CLOSED, A, units(40), RECEIPT)
    again = made(sequence=2, closed=closed, closes=(A,), open=((B, 61),))
    assert refusal(payee, again) == "bad_voucher"
    both = made(sequence=2, closed=closed, closes=(A,), open=((A, 100),), cumulative=140)
    assert refusal(payee, both) == "bad_voucher"


def test_two_closes_are_followed_in_the_order_of_the_payer() -> None:
    payer, _ = promised(PAYER, A, 100)
    payer, voucher = promised(payer, B, 100)
    payee = accepted(PAYEE, voucher).lease(A).lease(B)
    payee = payee.close(A, RECEIPT, units(1)).close(B, RECEIPT, units(2))
    payer = payer.close(B, RECEIPT, units(2)).close(A, RECEIPT, units(1))
    _, unsigned = payer.reissue()
    payee = accepted(payee, sign_voucher(KEY, unsigned))
    assert (payee.closed_total, payee.ended) == (3, ())


def test_what_was_not_promised_is_not_leased_and_what_was_not_leased_is_not_closed() -> None:
    with pytest.raises(LocalProtocolError):
        PAYEE.lease(A)
    payee = accepted(PAYEE, made())
    with pytest.raises(LocalProtocolError):
        payee.close(A, RECEIPT, units(1))
    payee = payee.lease(A)
    assert payee.lease(A) == payee
    with pytest.raises(LocalProtocolError):
        payee.close(A, RECEIPT, units(101))
    payee = payee.close(A, RECEIPT, units(1))
    assert payee.close(A, RECEIPT, units(1)) == payee
    with pytest.raises(LocalProtocolError):
        payee.close(A, RECEIPT, units(2))


# --- both, joined -------------------------------------------------------------------------------


@dataclass
class Channel:
    """Both ledgers of a channel, with vouchers that may be lost, late or repeated."""

    payer: PayerLedger = PAYER
    payee: PayeeLedger = PAYEE
    sent: list[SignedVoucher] = field(default_factory=list[SignedVoucher])
    receipts: dict[AgreementId, MicroUnits] = field(default_factory=dict[AgreementId, MicroUnits])
    never: set[AgreementId] = field(default_factory=set[AgreementId])
    closed: set[AgreementId] = field(default_factory=set[AgreementId])

    def receipt(self, name: AgreementId) -> Digest:
        return digest(b"receipt", name)

    def order(self, name: AgreementId, amount: int) -> None:
        if name not in self.closed:
            paid = units(self.payer.paid(name) + amount)
            self.payer, unsigned = self.payer.allocate(name, paid)
            self.sent.append(sign_voucher(KEY, unsigned))

    def reissue(self, _: AgreementId, __: int) -> None:
        self.payer, unsigned = self.payer.reissue()
        self.sent.append(sign_voucher(KEY, unsigned))

    def deliver(self, _: AgreementId, which: int) -> None:
        if self.sent:
            voucher = self.sent[-1 - which % len(self.sent)]
            self.payee = accepted(self.payee, voucher, 2**60)

    def lease(self, name: AgreementId, _: int) -> None:
        if self.payee.paid(name) and name not in self.never and name not in self.receipts:
            self.payee = self.payee.lease(name)

    def end(self, name: AgreementId, part: int) -> None:
        if name in self.payee.leased and name not in self.receipts:
            amount = units(self.payee.paid(name) * (part % 5) // 4)
            self.payee = self.payee.close(name, self.receipt(name), amount)
            self.receipts[name] = amount

    def give_receipt(self, name: AgreementId, _: int) -> None:
        if name in self.receipts and name not in self.closed:
            self.payer = self.payer.close(name, self.receipt(name), self.receipts[name])
            self.closed.add(name)

    def refuse(self, name: AgreementId, _: int) -> None:
        if name not in self.payee.leased and name not in self.receipts:
            self.never.add(name)
            self.payer = self.payer.release(name)
            self.closed.add(name)

    def check(self) -> None:
        for ledger in (self.payer, self.payee):
            open_total = sum(paid for _, paid in ledger.open)
            assert ledger.credit >= 0
            assert ledger.cumulative == ledger.closed_total + open_total + ledger.credit
            assert decode(type(ledger), encode(ledger)) == ledger
        assert self.payee.owed == sum(self.receipts.values())
        assert self.payee.claimable == self.payee.owed <= self.payee.cumulative
        assert self.payee.cumulative <= self.payer.cumulative
        assert self.payer.closed_total <= self.payee.owed


ACTIONS = st.sampled_from(
    [
        Channel.order,
        Channel.order,
        Channel.deliver,
        Channel.deliver,
        Channel.lease,
        Channel.end,
        Channel.give_receipt,
        Channel.refuse,
        Channel.reissue,
    ]
)
NAMES = st.integers(0, 7).map(lambda number: AgreementId(digest(bytes([number]))))


@settings(max_examples=300)
@given(st.lists(st.tuples(ACTIONS, NAMES, st.integers(0, 1_000)), max_size=80))
def test_whatever_is_lost_late_or_repeated_both_ledgers_balance(history: list[Any]) -> None:
    channel = Channel()
    for action, name, number in history:
        action(channel, name, number)
        channel.check()
    for name in channel.receipts:
        channel.give_receipt(name, 0)
    channel.reissue(A, 0)
    channel.deliver(A, 0)
    channel.check()
    assert channel.payee.closed == channel.payer.closed
    assert channel.payee.credit == channel.payer.credit
    assert channel.payee.ended == ()
