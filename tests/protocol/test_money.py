import pytest
from hypothesis import given, strategies as st

from robocompute_protocol.money import (
    HOUR_MS,
    MAX_AMOUNT,
    MicroUnits,
    Millis,
    charge,
    format_amount,
    parse_amount,
)

AMOUNTS = st.integers(0, MAX_AMOUNT)
TIMES = st.integers(0, 10**12)


@given(AMOUNTS)
def test_an_amount_written_and_read_is_the_same(amount: int) -> None:
    assert parse_amount(format_amount(amount)) == amount


@pytest.mark.parametrize(
    ("text", "amount"), [("0", 0), ("1.5", 1_500_000), ("12.50", 12_500_000), ("0.000001", 1)]
)
def test_a_decimal_is_read_exactly(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1.", ".5", "1e3", "1.0000001", "1,5", " 1", "1\n", "٣", "nan", "9" * 13],
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|hold"):
        parse_amount(text)


def test_a_negative_difference_is_written_with_its_sign() -> None:
    assert format_amount(-1_500_000) == "-1.500000"


@given(AMOUNTS, TIMES)
def test_a_charge_is_rounded_up_by_less_than_one_unit(price: int, time: int) -> None:
    exact = price * time
    assert 0 <= charge(MicroUnits(price), Millis(time)) * HOUR_MS - exact < HOUR_MS


@given(AMOUNTS, TIMES, TIMES)
def test_more_time_never_costs_less_and_parts_never_cost_less_than_the_whole(
    price: int, one: int, other: int
) -> None:
    whole = charge(MicroUnits(price), Millis(one + other))
    parts = [charge(MicroUnits(price), Millis(part)) for part in (one, other)]
    assert max(parts) <= whole <= sum(parts)
