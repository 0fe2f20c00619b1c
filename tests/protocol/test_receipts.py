import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from robocompute_protocol import vectors
from robocompute_protocol.causes import Cause
from robocompute_protocol.codec import decode
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest
from robocompute_protocol.messages import Output, Receipt
from robocompute_protocol.money import MicroUnits, Millis, charge
from robocompute_protocol.receipts import (
    NO_OUTPUT,
    build_receipt,
    chain,
    receipt_digest,
    sign_never_leased,
    sign_receipt,
    verify_never_leased,
    verify_receipt,
)
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.terms import agreement_id, prepaid_amount

PROVIDER = SigningKey(vectors.PROVIDER_SEED)
STRANGER = SigningKey(b"\x09" * 32)
AGREED = vectors.example_terms()
NAME = agreement_id(AGREED)
PREPAID_MS = Millis(65_000)
PAID = prepaid_amount(AGREED, PREPAID_MS)
VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "protocol/vectors/agreement.json").read_text("utf-8")
)


def receipt(cause: Cause = Cause.EXITED, metered_ms: int = 30_000, frozen_ms: int = 0) -> Receipt:
    return build_receipt(
        AGREED,
        started_ms=Millis(1_800_000_000_000),
        metered_ms=Millis(metered_ms),
        frozen_ms=Millis(frozen_ms),
        exit_code=0,
        cause=cause,
        detail="",
        output=NO_OUTPUT,
        output_records=0,
        artifacts=Digest(bytes(32)),
        prepaid_ms=PREPAID_MS,
    )


def refusal(changed: Receipt, key: SigningKey = PROVIDER, paid: MicroUnits = PAID) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        verify_receipt(sign_receipt(key, changed), AGREED, paid=paid)
    return caught.value.code


@pytest.mark.parametrize("cause", Cause)
def test_every_end_gives_a_receipt_that_the_client_accepts(cause: Cause) -> None:
    made = receipt(cause)
    assert verify_receipt(sign_receipt(PROVIDER, made), AGREED, paid=PAID) == made


def test_frozen_time_is_billed_and_never_more_than_was_prepaid() -> None:
    assert receipt(metered_ms=30_000, frozen_ms=30_000).amount == charge(
        AGREED.price_per_hour, Millis(30_000)
    )
    assert receipt(Cause.CLIENT_LOST, metered_ms=65_004).amount == PAID
    with pytest.raises(LocalProtocolError):
        receipt(metered_ms=1, frozen_ms=2)


def test_a_detail_that_is_too_long_is_cut_rather_than_refused() -> None:
    made = build_receipt(
        AGREED,
        started_ms=Millis(0),
        metered_ms=Millis(0),
        frozen_ms=Millis(0),
        exit_code=None,
        cause=Cause.SANDBOX_FAILED,
        detail="x" * 10_000,
        output=NO_OUTPUT,
        output_records=0,
        artifacts=Digest(bytes(32)),
        prepaid_ms=PREPAID_MS,
    )
    assert verify_receipt(sign_receipt(PROVIDER, made), AGREED, paid=PAID) == made


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("wrong_agreement", {"agreement": bytes(32)}),
        ("wrong_agreement", {"terms": bytes(32)}),
        ("wrong_agreement", {"task": bytes(32)}),
        ("wrong_agreement", {"channel": bytes(32)}),
        ("bad_receipt", {"amount": receipt().amount + 1}),
        ("bad_receipt", {"amount": receipt().amount - 1}),
        ("bad_receipt", {"metered_ms": 30_100}),
        ("bad_receipt", {"cause": Cause.GPU_FAULT}),
        ("bad_receipt", {"frozen_ms": 30_001}),
        ("bad_receipt", {"prepaid": PAID + 1}),
    ],
)
def test_a_receipt_that_does_not_follow_from_its_terms_is_refused(
    code: str, change: dict[str, Any]
) -> None:
    assert refusal(replace(receipt(), **change)) == code


def test_only_the_payees_node_signs_receipts_and_only_for_what_was_paid() -> None:
    assert refusal(receipt(), STRANGER) == "wrong_signer"
    assert refusal(receipt(), paid=MicroUnits(PAID - 1)) == "bad_receipt"


def test_an_extension_that_the_provider_never_saw_does_no_harm() -> None:
    made = receipt()
    verify_receipt(sign_receipt(PROVIDER, made), AGREED, paid=MicroUnits(PAID + 1_000))


def test_never_leased_is_said_by_the_payees_node_about_this_agreement() -> None:
    said = sign_never_leased(PROVIDER, agreement=NAME, channel=AGREED.channel)
    verify_never_leased(said, AGREED)
    assert sign_never_leased(PROVIDER, agreement=NAME, channel=AGREED.channel) == said
    for wrong in (
        sign_never_leased(STRANGER, agreement=NAME, channel=AGREED.channel),
        sign_never_leased(PROVIDER, agreement=AgreementId(bytes(32)), channel=AGREED.channel),
        sign_never_leased(PROVIDER, agreement=NAME, channel=ChannelId(bytes(32))),
        sign_receipt(PROVIDER, receipt()),
    ):
        with pytest.raises(RemoteProtocolError):
            verify_never_leased(wrong, AGREED)


def test_two_receipts_never_have_one_digest() -> None:
    signed = sign_receipt(PROVIDER, receipt())
    assert receipt_digest(signed) != receipt_digest(sign_receipt(STRANGER, receipt()))
    assert receipt_digest(signed) != receipt_digest(
        sign_receipt(PROVIDER, receipt(metered_ms=30_001))
    )


def test_the_output_chain_covers_stream_kind_number_and_bytes() -> None:
    record = Output(sequence=7, stream="stdout", kind="line", at_ns=1, data=b"hello\n")
    expected = sha256(bytes(32) + b"stdoutline" + (7).to_bytes(8, "little") + b"hello\n")
    assert chain(NO_OUTPUT, record) == expected.digest()
    assert chain(NO_OUTPUT, replace(record, at_ns=2)) == expected.digest()
    changes: list[dict[str, Any]] = [
        {"sequence": 8},
        {"stream": "stderr"},
        {"kind": "part"},
        {"data": b"hello"},
    ]
    for change in changes:
        assert chain(NO_OUTPUT, replace(record, **change)) != expected.digest()


def test_the_output_chain_is_as_the_vectors_say() -> None:
    link = NO_OUTPUT
    for record, expected in zip(VECTORS["output"], VECTORS["output_chain"][1:], strict=True):
        link = chain(link, decode(Output, bytes.fromhex(record)))
        assert link.hex() == expected
