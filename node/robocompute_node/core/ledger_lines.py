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
    return str(_day(line) or "(unknown)")


def within(
    lines: Iterable[Mapping[str, Any]], since: str = "", until: str = ""
) -> list[Mapping[str, Any]]:
    """Return the lines from the day ``since`` on and before the day ``until``.

    ISO dates are in order as text. A line without a date is of no days, so only where no day is
    named is it among them.
    """
    if not since and not until:
        return list(lines)
    return [
        line
        for line in lines
        if _day(line) is not None
        and date_of(line) >= since
        and (not until or date_of(line) < until)
    ]


def invoices_within(
    invoices: Iterable[Mapping[str, Any]], since: str = "", until: str = ""
) -> list[dict[str, Any]]:
    """Return the invoices of some days, with their lines and amounts of those days only.

    An agreement's lines are all of the day on which its job ended; only what no receipt explains
    is of many days, and cut.
    """
    chosen: list[dict[str, Any]] = []
    for invoice in invoices:
        dated = [{**invoice, **line} for line in invoice["lines"]]
        kept = [
            line
            for line, full in zip(invoice["lines"], dated, strict=True)
            if within([full], since, until)
        ]
        if kept or within([{**invoice, "settled_at": None}], since, until):
            total = _sum("", kept)
            chosen.append(
                {
                    **invoice,
                    "amount": format_amount(total.settled + total.unsettled),
                    "settled": format_amount(total.settled),
                    "unsettled": format_amount(total.unsettled),
                    "lines": kept,
                }
            )
    return chosen


def earned_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what lines add up to, under the names of the node's own totals."""
    total = _sum("", list(lines))
    return {
        "earned": format_amount(total.settled + total.unsettled),
        "settled": format_amount(total.settled),
        "fees": format_amount(total.fees),
        "net": format_amount(total.settled - total.fees),
        "unsettled": format_amount(total.unsettled),
    }


def invoiced_of(invoices: Iterable[Mapping[str, Any]]) -> str:
    """Return what invoices add up to."""
    return format_amount(sum(parse_amount(each["amount"]) for each in invoices))


def _day(line: Mapping[str, Any]) -> str | None:
    """The moment that ``date_of`` shows, where one is known."""
    found: str | None = line["ended_at"] or line["settled_at"]
    return found


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
