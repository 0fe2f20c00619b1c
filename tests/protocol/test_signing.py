import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from solders.pubkey import Pubkey
from solders.signature import Signature as ChainSignature

from robocompute_protocol import codec, signing
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId
from robocompute_protocol.messages import NeverLeasedBody, Requirements, Signed
from robocompute_protocol.signing import SigningKey, open_signed, sign_message, verify

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "protocol/vectors/signatures.json").read_text("utf-8")
)
MESSAGE = bytes.fromhex(VECTORS["message"])
KEY = SigningKey(b"\x01" * 32)
BODY = NeverLeasedBody(agreement=AgreementId(b"a" * 32), channel=ChannelId(b"c" * 32))

CASES = [
    pytest.param(expected, case, id=case["name"])
    for name, expected in (("accepted", True), ("refused", False))
    for case in VECTORS[name]
]


@pytest.mark.parametrize(("expected", "case"), CASES)
def test_verify_decides_as_the_vectors_and_the_chain_do(
    expected: bool, case: dict[str, str]
) -> None:
    key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["signature"])
    assert verify(key, MESSAGE, signature) is expected
    assert ChainSignature(signature).verify(Pubkey(key), MESSAGE) is expected


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_what_a_key_signs_verifies_and_signing_repeats_itself(seed: bytes, message: bytes) -> None:
    key = SigningKey(seed)
    assert key.sign(message) == key.sign(message)
    assert verify(key.node_key, message, key.sign(message))


@given(st.integers(0, 64 * 8 - 1))
def test_no_bit_of_a_signature_may_flip(bit: int) -> None:
    signature = bytearray(KEY.sign(MESSAGE))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(KEY.node_key, MESSAGE, bytes(signature))


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verify_never_raises(key: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(key, message, signature)


def test_the_small_order_points_are_all_there_are() -> None:
    """Each y has its points on the curve, eight times each is the identity, and they are eight."""
    p = 2**255 - 19
    d = -121_665 * pow(121_666, -1, p) % p

    def double(x: int, y: int) -> tuple[int, int]:
        k = d * x * x * y * y
        return 2 * x * y * pow(1 + k, -1, p) % p, (y * y + x * x) * pow(1 - k, -1, p) % p

    def root(square: int) -> int:
        candidate = pow(square, (p + 3) // 8, p)
        return candidate if candidate**2 % p == square else candidate * pow(2, (p - 1) // 4, p) % p

    for y in signing.SMALL_ORDER_Y:
        x = root((y * y - 1) * pow(d * y * y + 1, -1, p) % p)
        assert (y * y - x * x - 1 - d * x * x * y * y) % p == 0
        assert double(*double(*double(x, y))) == (0, 1)
    counts = [2 if y not in (1, p - 1) else 1 for y in signing.SMALL_ORDER_Y]
    assert sum(counts) == 8


def test_a_seed_of_another_length_makes_no_key() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(b"short")


def test_a_key_shows_no_secret() -> None:
    assert repr(KEY) == f"SigningKey({KEY.node_key.hex()})"


def test_all_domains_are_apart_and_begin_with_what_no_transaction_begins_with() -> None:
    domains = [
        signing.OFFER,
        signing.BID,
        signing.TERMS,
        signing.RECEIPT,
        signing.NEVER_LEASED,
        signing.VOUCHER,
        signing.LEASE,
    ]
    assert len(set(domains)) == len(domains)
    assert all(len(domain) == 8 and domain.startswith(b"R") for domain in domains)


def test_a_signed_message_opens_to_what_was_signed() -> None:
    signed = sign_message(signing.NEVER_LEASED, KEY, codec.encode(BODY))
    assert open_signed(signing.NEVER_LEASED, signed, NeverLeasedBody) == BODY
    assert open_signed(signing.NEVER_LEASED, signed, NeverLeasedBody, by=KEY.node_key) == BODY


def test_a_signature_of_one_domain_is_none_in_another() -> None:
    signed = sign_message(signing.NEVER_LEASED, KEY, codec.encode(BODY))
    with pytest.raises(RemoteProtocolError) as caught:
        open_signed(signing.RECEIPT, signed, NeverLeasedBody)
    assert caught.value.code == "bad_signature"


def test_only_the_expected_signer_will_do() -> None:
    signed = sign_message(signing.NEVER_LEASED, KEY, codec.encode(BODY))
    with pytest.raises(RemoteProtocolError) as caught:
        open_signed(
            signing.NEVER_LEASED, signed, NeverLeasedBody, by=SigningKey(bytes(32)).node_key
        )
    assert caught.value.code == "wrong_signer"


def test_a_well_signed_body_of_another_type_is_refused() -> None:
    body = codec.encode(Requirements())
    signed = sign_message(signing.NEVER_LEASED, KEY, body)
    with pytest.raises(RemoteProtocolError) as caught:
        open_signed(signing.NEVER_LEASED, signed, NeverLeasedBody)
    assert caught.value.code == "malformed"


def test_nothing_shorter_than_a_voucher_is_signed_or_opened() -> None:
    with pytest.raises(LocalProtocolError):
        sign_message(signing.OFFER, KEY, b"\x80")
    statement = signing.statement(signing.OFFER, KEY.node_key, b"\x80")
    signed = Signed(key=KEY.node_key, body=b"\x80", signature=KEY.sign(statement))
    with pytest.raises(RemoteProtocolError):
        open_signed(signing.OFFER, signed, Requirements)
