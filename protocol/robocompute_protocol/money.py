"""Money and time as whole numbers: micro-units of a stablecoin, milliseconds of a lease."""

from __future__ import annotations

import re
from typing import Final, NewType

MicroUnits = NewType("MicroUnits", int)
"""A millionth of a USDC or USDT: both mints have six decimals."""
Millis = NewType("Millis", int)
"""A duration, or a moment since the Unix epoch, in milliseconds."""

UNIT: Final = 1_000_000
"""Micro-units in one USDC or USDT."""
HOUR_MS: Final = 3_600_000
"""Milliseconds in an hour: prices are per hour, metering is in milliseconds."""
MAX_AMOUNT: Final = 2**62
"""No amount is larger (4.6 trillion USDC): it fits every signed 64-bit integer on the way."""
MINIMUM_BILLED: Final = Millis(1_000)
"""A lease is billed for at least a second: starting a sandbox costs the provider that much."""

_DECIMAL = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,6}))?")


def parse_amount(text: str) -> MicroUnits:
    """Read a decimal amount exactly; ``"1.5"`` is 1,500,000 micro-units.

    Raises:
        ValueError: not a plain non-negative decimal with at most six places, or too large.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not an amount: digits, then at most six decimal places (like 12.50)"
        )
    whole, places = match.groups()
    amount = int(whole) * UNIT + int((places or "").ljust(6, "0"))
    if amount > MAX_AMOUNT:
        raise ValueError(f"{text!r} is more than any account can hold")
    return MicroUnits(amount)


def format_amount(amount: int) -> str:
    """Write micro-units as a decimal with all six places: exact, and it sorts and adds up by eye."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // UNIT}.{abs(amount) % UNIT:06d}"


def charge(price_per_hour: MicroUnits, duration: Millis) -> MicroUnits:
    """Return what ``duration`` costs, rounded up to the micro-unit once, on the total."""
    return MicroUnits(-(-price_per_hour * duration // HOUR_MS))
