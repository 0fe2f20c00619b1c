"""Which offers fit a task, in which order to ask them, and why; or what nobody meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_protocol.money import MicroUnits, Millis, format_amount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Offer, Requirements


PASSING: Final = frozenset({"busy", "just_restored", "waits_for_chain", "unsafe_deployment"})
"""Refusals that say nothing against a provider: the same request may be granted in a while."""


@dataclass(frozen=True, slots=True)
class Match:
    """An offer that fits. Lower ``price`` first, then fewer wasted resources, then key."""

    offer: Offer
    price: MicroUnits
    why: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first requirement that an offer does not meet, and what the offer has instead."""

    requirement: str
    wanted: str
    offered: str


def slots_needed(requirements: Requirements) -> int:
    """A slot is a card; a job without cards takes one slot of a cpu provider."""
    return max(1, requirements.gpus)


def misfit(offer: Offer, wanted: Requirements, max_price: MicroUnits | None) -> Misfit | None:
    """Return what of ``wanted`` the offer does not meet, or None when it fits."""
    slots = slots_needed(wanted)
    price = offer.price_per_hour * slots
    checks = (
        (
            "class",
            wanted.resource_class == offer.resource_class,
            wanted.resource_class,
            offer.resource_class,
        ),
        ("slots", slots <= offer.slots, str(slots), str(offer.slots)),
        (
            "gpu memory",
            wanted.gpu_memory_mib <= offer.gpu_memory_mib,
            f"{wanted.gpu_memory_mib} MiB",
            f"{offer.gpu_memory_mib} MiB",
        ),
        (
            "cpu cores",
            wanted.cpu_cores <= offer.cpu_cores * slots,
            str(wanted.cpu_cores),
            str(offer.cpu_cores * slots),
        ),
        (
            "memory",
            wanted.memory_mib <= offer.memory_mib * slots,
            f"{wanted.memory_mib} MiB",
            f"{offer.memory_mib * slots} MiB",
        ),
        (
            "disk",
            wanted.disk_mib <= offer.disk_mib * slots,
            f"{wanted.disk_mib} MiB",
            f"{offer.disk_mib * slots} MiB",
        ),
        (
            "price per hour",
            max_price is None or price <= max_price,
            f"at most {format_amount(max_price or 0)}",
            format_amount(price),
        ),
    )
    for requirement, met, want, have in checks:
        if not met:
            return Misfit(requirement, want, have)
    return None


def rank(
    offers: Iterable[Offer],
    wanted: Requirements,
    *,
    max_price: MicroUnits | None,
    mint: Address,
    now: Millis,
    avoid: frozenset[NodeKey] = frozenset(),
    only: NodeKey | None = None,
) -> tuple[Match, ...]:
    """Offers that fit, best first: cheapest, then smallest, then by key so that ties are stable."""
    slots = slots_needed(wanted)
    fitting: list[Match] = []
    for offer in offers:
        if offer.mint != mint or offer.provider in avoid or (only and offer.provider != only):
            continue
        if misfit(offer, wanted, max_price) is not None:
            continue
        price = MicroUnits(offer.price_per_hour * slots)
        age_s = max(0, now - offer.sequence) // 1000
        why = f"{format_amount(price)} an hour, {offer.model}, offered {age_s} s ago"
        fitting.append(Match(offer, price, why))
    fitting.sort(key=lambda m: (m.price, m.offer.cpu_cores, m.offer.memory_mib, m.offer.provider))
    return tuple(fitting)


def explain_no_match(
    offers: Iterable[Offer], wanted: Requirements, *, max_price: MicroUnits | None
) -> str:
    """Say which requirement nobody meets: of the offers that came closest, their first misfit."""
    order = ("price per hour", "disk", "memory", "cpu cores", "gpu memory", "slots", "class")
    found = [m for offer in offers if (m := misfit(offer, wanted, max_price)) is not None]
    if not found:
        return (
            "no provider fits: this node knows of no live offers; "
            "see `robocompute-node status` for its peers, or add --wait to keep waiting"
        )
    closest = min(found, key=lambda m: order.index(m.requirement))
    return (
        f"no provider fits: nobody meets {closest.requirement} {closest.wanted} "
        f"(the closest offers {closest.offered}); ask for less, or add --wait to keep waiting"
    )
