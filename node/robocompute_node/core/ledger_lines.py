"""Lines of earnings and invoices put together: by day, month, task, payer or channel, and as rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robocompute_protocol.money import format_amount, parse_amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROUPS: Final = ("day", "month", "task", "payer", "channel")
COLUMNS: Final = (
    "date", "state", "currency", "amount", "fee", "net", "payer", "provider", "peer_node", "job",
    "agreement", "receipt", "cause", "metered_ms", "channel", "voucher_cumulative", "transaction",
    "slot", "settled_at",
)  # fmt: skip
"""Of an export: a row a line, each with its evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What the lines of one group add up to, in micro-units."""

    group: str
    lines: int
    settled: int
    fees: int
    unsettled: int


def grouped(lines: Iterable[Mapping[str, Any]], by: str) -> tuple[Sum, ...]:
    """Add lines up by ``by``, one of ``GROUPS``; groups in their own order."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        found[_group(line, by)].append(line)
    return tuple(_sum(group, found[group]) for group in sorted(found))


def _group(line: Mapping[str, Any], by: str) -> str:
    match by:
        case "day":
            return date_of(line)[:10]
        case "month":
            return date_of(line)[:7]
        case "task":
            return str(line["job"] or "(no receipt)")
        case _:
            return str(line[by])


def date_of(line: Mapping[str, Any]) -> str:
    """When it was earned: the end of its job or, without a receipt, its settlement."""
    return str(line["ended_at"] or line["settled_at"] or "(unknown)")


def _sum(group: str, lines: list[Mapping[str, Any]]) -> Sum:
    open_ = [line for line in lines if line["state"] == "unsettled"]
    paid = [line for line in lines if line["state"] != "unsettled"]
    return Sum(
        group=group,
        lines=len(lines),
        settled=sum(parse_amount(line["amount"]) for line in paid),
        fees=sum(parse_amount(line["fee"]) for line in paid),
        unsettled=sum(parse_amount(line["amount"]) for line in open_),
    )


def row_of(line: Mapping[str, Any], currency: str) -> tuple[str, ...]:
    """Return an export's row, in the order of ``COLUMNS``."""
    full = {**line, "date": date_of(line), "currency": currency}
    return tuple("" if full.get(name) is None else str(full[name]) for name in COLUMNS)


def shown(total: Sum) -> tuple[str, ...]:
    """Return a table's row of one group."""
    return (
        total.group,
        format_amount(total.settled),
        format_amount(total.fees),
        format_amount(total.settled - total.fees),
        format_amount(total.unsettled),
    )
