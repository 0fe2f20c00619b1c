from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from robocompute_protocol import codec, limits, vectors
from robocompute_protocol.causes import ANSWERABLE, MEANING, Cause, Side
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import Terms
from robocompute_protocol.money import MicroUnits, Millis, charge
from robocompute_protocol.signing import TERMS, SigningKey, sign_message
from robocompute_protocol.terms import (
    agreement_id,
    amount_owed,
    check_extension,
    first_tick,
    next_extension,
    open_terms,
    prepaid_amount,
    reserve,
    sign_terms,
    terms_digest,
)

PAYER = SigningKey(vectors.PAYER_SEED)
AGREED = vectors.example_terms()


def lasting(horizon_ms: int, first_tick_ms: int) -> Terms:
    return replace(AGREED, horizon_ms=horizon_ms, first_tick_ms=min(first_tick_ms, horizon_ms))


TERMS_OF_ANY_LENGTH = st.builds(
    lasting,
    st.integers(limits.MIN_HORIZON, limits.MAX_HORIZON),
    st.integers(limits.FIRST_TICK_MIN, limits.FIRST_TICK_MAX),
)


def refusal(terms: Terms, key: SigningKey = PAYER) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_terms(sign_terms(key, terms))
    return caught.value.code


@pytest.mark.parametrize("field", Terms.__struct_fields__)
def test_an_agreement_is_named_by_everything_in_its_terms(field: str) -> None:
    value: Any = getattr(AGREED, field)
    changed = bytes(len(value)) if isinstance(value, bytes) else value + 1
    other = replace(AGREED, **{field: changed})
    assert agreement_id(other) != agreement_id(AGREED)
    assert terms_digest(other) != terms_digest(AGREED)


def test_terms_open_to_what_was_signed() -> None:
    assert open_terms(sign_terms(PAYER, AGREED)) == AGREED


def test_only_the_payers_node_signs_terms() -> None:
    assert refusal(AGREED, SigningKey(vectors.PROVIDER_SEED)) == "wrong_signer"


def test_terms_for_no_slot_or_with_a_first_tick_over_the_horizon_are_refused() -> None:
    assert refusal(replace(AGREED, slots=0)) == "bad_terms"
    assert refusal(replace(AGREED, horizon_ms=4_000, first_tick_ms=5_000)) == "bad_terms"


def test_terms_in_another_encoding_than_the_name_is_made_of_are_refused() -> None:
    fields = codec.encode(AGREED)[1:]
    padded = b"\xde\x00\x0e" + fields
    assert codec.decode(Terms, padded) == AGREED
    with pytest.raises(RemoteProtocolError) as caught:
        open_terms(sign_message(TERMS, PAYER, padded))
    assert caught.value.code == "malformed"


def test_ticks_of_the_default_horizon_are_as_agreed() -> None:
    assert first_tick(AGREED) == 10_000
    assert next_extension(AGREED, elapsed_ms=Millis(0), prepaid_ms=Millis(10_000)) == (
        5_000,
        65_000,
    )
    assert next_extension(AGREED, elapsed_ms=Millis(5_000), prepaid_ms=Millis(65_000)) == (
        11_000,
        71_000,
    )
    assert next_extension(AGREED, elapsed_ms=Millis(40_000), prepaid_ms=Millis(71_000)) == (
        17_000,
        100_000,
    )


def test_the_first_tick_has_no_reserve_and_later_ones_a_quarter_of_the_horizon_at_most_15_s() -> (
    None
):
    assert [reserve(AGREED, index) for index in range(3)] == [0, 15_000, 15_000]
    assert reserve(lasting(8_000, 2_000), 1) == 2_000


@given(TERMS_OF_ANY_LENGTH, st.lists(st.integers(0, 20_000), max_size=30))
def test_no_tick_is_ever_further_ahead_than_the_horizon_and_each_brings_time(
    terms: Terms, delays: list[int]
) -> None:
    elapsed, prepaid = Millis(0), first_tick(terms)
    for delay in delays:
        due, total = next_extension(terms, elapsed_ms=elapsed, prepaid_ms=prepaid)
        assert due <= prepaid
        elapsed = Millis(min(max(elapsed, due) + delay, prepaid))
        due, total = next_extension(terms, elapsed_ms=elapsed, prepaid_ms=prepaid)
        assert prepaid < total <= elapsed + terms.horizon_ms
        check_extension(terms, elapsed_ms=elapsed, prepaid_ms=prepaid, new_prepaid_ms=total)
        prepaid = total


@given(TERMS_OF_ANY_LENGTH)
def test_a_job_that_is_extended_in_time_never_meets_its_reserve(terms: Terms) -> None:
    prepaid, tick = first_tick(terms), 0
    for _ in range(20):
        due, total = next_extension(terms, elapsed_ms=Millis(0), prepaid_ms=prepaid)
        assert due < prepaid - reserve(terms, tick) or tick == 0
        prepaid, tick = total, tick + 1


def test_an_extension_that_goes_too_far_is_refused_and_a_repeat_is_fine() -> None:
    def check(elapsed: int, prepaid: int, total: int) -> None:
        check_extension(
            AGREED,
            elapsed_ms=Millis(elapsed),
            prepaid_ms=Millis(prepaid),
            new_prepaid_ms=Millis(total),
        )

    check(5_000, 65_000, 65_000)
    check(5_000, 65_000, 10_000)
    check(5_000, 10_000, 66_000)
    for elapsed, prepaid, total in ((5_000, 10_000, 66_001), (400_000, 10_000, 310_001)):
        with pytest.raises(RemoteProtocolError) as caught:
            check(elapsed, prepaid, total)
        assert caught.value.code == "tick_too_long"


def test_every_cause_has_someone_answerable_and_a_meaning() -> None:
    assert set(ANSWERABLE) == set(MEANING) == set(Cause)


@given(st.sampled_from(Cause), st.integers(0, 10**9), st.integers(0, 10**9))
def test_nobody_owes_more_than_was_prepaid_nor_for_what_the_provider_caused(
    cause: Cause, metered: int, prepaid_ms: int
) -> None:
    prepaid = prepaid_amount(AGREED, Millis(prepaid_ms))
    amount = amount_owed(AGREED, cause=cause, metered_ms=Millis(metered), prepaid=prepaid)
    if ANSWERABLE[cause] is Side.PROVIDER:
        assert amount == 0
    else:
        due = charge(AGREED.price_per_hour, Millis(max(1_000, metered)))
        assert amount == min(due, prepaid)


def test_a_lease_is_billed_for_at_least_a_second() -> None:
    amount = amount_owed(
        AGREED, cause=Cause.EXITED, metered_ms=Millis(1), prepaid=MicroUnits(10_000)
    )
    assert amount == charge(AGREED.price_per_hour, Millis(1_000))
