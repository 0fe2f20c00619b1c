"""What may be logged, and how it is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_NONFINITE: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}


def number(name: str, value: object) -> int | float:
    """``value`` as a plain number: bools count as 0 and 1, scalars of numpy and torch as theirs.

    Raises:
        ValueError: it is no number.
    """
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if not isinstance(value, (str, bytes, bytearray)):
        scalar = _scalar(value)
        if scalar is not None:
            return scalar
    raise ValueError(
        f"Unsupported value type for '{name}': {type(value)}. "
        "Currently only int and float are supported."
    )


def _scalar(value: Any) -> int | float | None:
    """The number inside a zero-dimensional array or tensor, or a Decimal or Fraction."""
    try:
        inner = value.item() if hasattr(value, "item") else value
        if isinstance(inner, bool):
            return int(inner)
        if isinstance(inner, (int, float)):
            return inner
        if isinstance(inner, (str, complex)) or not hasattr(inner, "__float__"):
            return None
        return float(inner)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def metric_line(metrics: Mapping[str, object], *, step: int, timestamp: int) -> bytes:
    """One record, with its line end. NaN and infinities stand apart: JSON has no word for them.

    Raises:
        ValueError: a name is empty or no text, or a value is no number.
    """
    finite: dict[str, int | float] = {}
    nonfinite: dict[str, str] = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("Metric name cannot be empty")
        plain = number(name, value)
        if math.isfinite(plain):
            finite[name] = plain
        else:
            nonfinite[name] = _NONFINITE.get(plain, "NaN")
    record: dict[str, Any] = {"timestamp": timestamp, "step": step, "metrics": finite}
    if nonfinite:
        record["nonfinite"] = nonfinite
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def milliseconds(moment: str | float | datetime) -> int:
    """A moment as ms since the epoch: ISO 8601 text, a datetime (both UTC if naive), or ms.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(moment, bool):
        raise ValueError(f"Invalid timestamp: {moment!r}")  # noqa: TRY004 - as published
    if isinstance(moment, (int, float)):
        if not math.isfinite(moment):
            raise ValueError(f"Invalid timestamp: {moment!r}")
        return int(moment)
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"Invalid timestamp: {moment!r}") from None
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"Invalid timestamp: {moment!r}")  # noqa: TRY004 - as published
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000)


def json_ready(value: Any) -> Any:
    """``value`` with everything in it that JSON cannot hold made a number or a text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NONFINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        entries: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {str(key): json_ready(inner) for key, inner in entries.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_ready(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    scalar = _scalar(value)
    if scalar is None:
        return str(value)
    return json_ready(scalar)
