"""Which offers fit a task, in which order to ask them, and why; or what nobody meets.

Offers are compared by what they are likely to cost in the end: the price, and on top of it a
surcharge for what this node knows of the provider. What a provider claims of itself counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.core.reputation import NOTHING_KNOWN, Evidence
from robocompute_protocol.money import MicroUnits, Millis, format_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Offer, Requirements


PASSING: Final = frozenset(
    {"busy", "clock_off", "just_restored", "waits_for_chain", "unsafe_deployment"}
)
"""Refusals that say nothing against a provider: the same request may be granted in a while."""
TIME_WORTH: Final = MicroUnits(10_000)
"""An hour of the owner's, added to every price: what fails costs time even where it costs no money."""
FAILURE_WEIGHT: Final = 2
"""A failure costs what was spent until then and the run that follows: twice its share of the price."""
LATENCY_BPS_PER_MS: Final = 2
"""A tenth of a second away counts as 2 % of the price: output is live, but jobs are not chatty."""
LATENCY_BPS_MOST: Final = 1_000
"""However far away, a machine on this planet is not worth more than a tenth less."""
UPLOAD_BPS: Final = 500
"""Files that must all be sent first count as 5 % of the price: seconds of a job of minutes."""
WHOLE_BPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An offer that fits, what it costs, and what put it in its place. Lower ``score`` first."""

    offer: Offer
    price: MicroUnits
    score: MicroUnits
    known: Evidence
    age_s: int
    over_cheapest: MicroUnits
    choices: int
    """How many fit."""

    @property
    def why(self) -> str:
        """For the task's owner: what it was chosen for, or in spite of."""
        told = [f"{format_amount(self.price)} an hour", self.offer.model]
        told.append(f"offered {self.age_s} s ago")
        if self.choices > 1:
            dearer = f"{format_amount(self.over_cheapest)} over the cheapest"
            told.append(f"{dearer if self.over_cheapest else 'the cheapest'} of {self.choices}")
        return ", ".join((*told, *self.known.in_words()))


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first requirement that an offer does not meet, and what the offer has instead."""

    requirement: str
    wanted: str
    offered: str


def slots_needed(requirements: Requirements) -> int:
    """A slot is a card; a job without cards takes one slot of a cpu provider."""
    return max(1, requirements.gpus)


def fits(offer: Offer, wanted: Requirements, max_price: MicroUnits | None) -> bool:
    """Whether ``misfit`` finds nothing, sooner."""
    slots = slots_needed(wanted)
    return (
        wanted.resource_class == offer.resource_class
        and slots <= offer.slots
        and wanted.gpu_memory_mib <= offer.gpu_memory_mib
        and wanted.cpu_cores <= offer.cpu_cores * slots
        and wanted.memory_mib <= offer.memory_mib * slots
        and wanted.disk_mib <= offer.disk_mib * slots
        and wanted.executor in offer.executors
        and (max_price is None or offer.price_per_hour * slots <= max_price)
    )


def misfit(offer: Offer, wanted: Requirements, max_price: MicroUnits | None) -> Misfit | None:
    """Return what of ``wanted`` the offer does not meet, or None when it fits."""
    if fits(offer, wanted, max_price):
        return None
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
            "executor",
            wanted.executor in offer.executors,
            wanted.executor,
            ", ".join(offer.executors),
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


def surcharge_bps(evidence: Evidence) -> int:
    """What is put on a provider's price, in hundredths of a per cent."""
    return (
        FAILURE_WEIGHT * evidence.failure_bps
        + min(LATENCY_BPS_MOST, LATENCY_BPS_PER_MS * (evidence.latency_ms or 0))
        + UPLOAD_BPS * (WHOLE_BPS - evidence.has_bps) // WHOLE_BPS
    )


def rank(
    offers: Iterable[Offer],
    wanted: Requirements,
    *,
    max_price: MicroUnits | None,
    mint: Address,
    now: Millis,
    avoid: frozenset[NodeKey] = frozenset(),
    only: NodeKey | None = None,
    evidence: Callable[[NodeKey], Evidence] = lambda _provider: NOTHING_KNOWN,
) -> tuple[Match, ...]:
    """Offers that fit, best first: by price and surcharge, then smallest, then by key.

    Providers that failed lately come after all others, whatever they cost.
    """
    slots = slots_needed(wanted)
    fitting: list[tuple[Offer, MicroUnits, MicroUnits, Evidence]] = []
    for offer in offers:
        if offer.mint != mint or offer.provider in avoid or (only and offer.provider != only):
            continue
        if not fits(offer, wanted, max_price):
            continue
        known = evidence(offer.provider)
        price = MicroUnits(offer.price_per_hour * slots)
        worth = (price + TIME_WORTH) * (WHOLE_BPS + surcharge_bps(known)) // WHOLE_BPS
        fitting.append((offer, price, MicroUnits(worth), known))
    fitting.sort(
        key=lambda each: (
            each[3].cools, each[2], each[0].cpu_cores, each[0].memory_mib, each[0].provider,
        )
    )  # fmt: skip
    cheapest = min((price for _, price, *_ in fitting), default=MicroUnits(0))
    return tuple(
        Match(
            offer=offer,
            price=price,
            score=score,
            known=known,
            age_s=max(0, now - offer.sequence) // 1000,
            over_cheapest=MicroUnits(price - cheapest),
            choices=len(fitting),
        )
        for offer, price, score, known in fitting
    )


def explain_no_match(
    offers: Iterable[Offer], wanted: Requirements, *, max_price: MicroUnits | None
) -> str:
    """Say which requirement nobody meets: of the offers that came closest, their first misfit."""
    order = (
        "price per hour",
        "executor",
        "disk",
        "memory",
        "cpu cores",
        "gpu memory",
        "slots",
        "class",
    )
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
