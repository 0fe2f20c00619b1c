import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import Address, AgreementId
from robocompute_protocol.leases import (
    STATEMENT_BYTES,
    overlaps,
    sign_tick,
    signing_bytes,
    verify_tick,
    window,
)
from robocompute_protocol.messages import LeaseTick
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import SigningKey

KEY = SigningKey(b"\x02" * 32)


def tick(
    *,
    payer: bytes = b"p",
    slots: int = 1,
    start_s: int = 100,
    end_s: int = 160,
    stake: bytes = b"s",
) -> LeaseTick:
    return sign_tick(
        KEY,
        stake=Address(stake * 32),
        agreement=AgreementId(b"a" * 32),
        payer=Address(payer * 32),
        slots=slots,
        start_s=start_s,
        end_s=end_s,
    )


def test_a_signed_tick_verifies_for_its_signer_only() -> None:
    verify_tick(tick(), KEY.node_key)
    with pytest.raises(RemoteProtocolError) as caught:
        verify_tick(tick(), SigningKey(bytes(32)).node_key)
    assert caught.value.code == "bad_signature"


@pytest.mark.parametrize(
    "change",
    [
        {"stake": b"x" * 32},
        {"agreement": b"x" * 32},
        {"payer": b"x" * 32},
        {"slots": 2},
        {"start_s": 99},
        {"end_s": 161},
    ],
)
def test_every_field_of_a_tick_is_signed(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        verify_tick(replace(tick(), **change), KEY.node_key)


def test_the_statement_has_128_bytes_as_the_program_reads_them() -> None:
    vectors = json.loads(
        (Path(__file__).parents[2] / "protocol/vectors/settlement.json").read_text("utf-8")
    )
    for name in ("lease", "conflicting_lease"):
        case = vectors[name]
        read = LeaseTick(
            stake=Address(bytes.fromhex(case["stake"])),
            agreement=AgreementId(bytes.fromhex(case["agreement"])),
            payer=Address(bytes.fromhex(case["payer"])),
            slots=case["slots"],
            start_s=case["start"],
            end_s=case["end"],
            signature=bytes.fromhex(case["signature"]),  # pyright: ignore[reportArgumentType]
        )
        assert signing_bytes(read).hex() == case["signing_bytes"]
        assert len(signing_bytes(read)) == STATEMENT_BYTES
        verify_tick(read, SigningKey(bytes.fromhex(case["seed"])).node_key)


@pytest.mark.parametrize(("slots", "end_s"), [(0, 160), (1, 100), (1, 99)])
def test_a_tick_that_lets_nothing_is_neither_signed_nor_taken(slots: int, end_s: int) -> None:
    with pytest.raises(LocalProtocolError):
        tick(slots=slots, end_s=end_s)
    with pytest.raises(RemoteProtocolError) as caught:
        verify_tick(replace(tick(), slots=slots, end_s=end_s), KEY.node_key)
    assert caught.value.code == "bad_lease"


def test_one_slot_let_to_two_payers_at_one_time_is_evidence() -> None:
    assert overlaps(tick(), tick(payer=b"q", start_s=159, end_s=300))


@pytest.mark.parametrize(
    "other",
    [
        tick(start_s=120, end_s=180),
        tick(payer=b"q", start_s=160, end_s=220),
        tick(payer=b"q", slots=2),
        tick(payer=b"q", stake=b"t"),
    ],
    ids=["one payer", "one after the other", "another slot", "another stake"],
)
def test_honest_ticks_are_no_evidence(other: LeaseTick) -> None:
    assert not overlaps(tick(), other)
    assert not overlaps(other, tick())


@given(
    st.integers(0, 2**42), st.integers(1, 300_000), st.integers(0, 2**32), st.integers(1, 300_000)
)
def test_windows_cover_what_is_paid_and_never_meet_those_of_another_payer(
    now_ms: int, left_ms: int, free_from_s: int, later_ms: int
) -> None:
    first = window(now_ms=Millis(now_ms), left_ms=Millis(left_ms), free_from_s=free_from_s)
    assert first.start_s >= free_from_s
    assert first.end_s > first.start_s
    assert first.end_s * 1_000 >= now_ms + left_ms
    second = window(
        now_ms=Millis(now_ms + later_ms), left_ms=Millis(left_ms), free_from_s=first.end_s
    )
    ticks = [
        tick(payer=payer, start_s=start_s, end_s=end_s)
        for payer, (start_s, end_s) in ((b"p", first), (b"q", second))
    ]
    assert not overlaps(*ticks)
