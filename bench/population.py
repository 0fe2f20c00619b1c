"""Invented providers and tasks, the same for the same seed: what the book and the simulation hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_protocol import codec
from robocompute_protocol.identifiers import Address, NodeKey, Signature
from robocompute_protocol.messages import Offer, Requirements, Signed
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from random import Random

MINT: Final = Address(bytes([7]) * 32)
TTL: Final = Millis(1_800_000)
MICRO_UNITS_A_CENT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A sort of machine that people have."""

    share: int
    resource_class: str
    model: str
    gpu_memory_mib: int
    slots: tuple[int, ...]
    cents: int
    """What its middle one asks for an hour of a slot."""


KINDS: Final = (
    Kind(share=40, resource_class="cpu", model="EPYC", gpu_memory_mib=0, slots=(1, 2, 4), cents=4),
    Kind(
        share=25,
        resource_class="rtx4090",
        model="RTX 4090",
        gpu_memory_mib=24_576,
        slots=(1, 1, 2),
        cents=35,
    ),
    Kind(
        share=15,
        resource_class="rtx3090",
        model="RTX 3090",
        gpu_memory_mib=24_576,
        slots=(1, 2),
        cents=20,
    ),
    Kind(
        share=15,
        resource_class="a100",
        model="A100",
        gpu_memory_mib=81_920,
        slots=(1, 4, 8),
        cents=140,
    ),
    Kind(
        share=5, resource_class="h100", model="H100", gpu_memory_mib=81_920, slots=(8,), cents=250
    ),
)


def kind_of(random: Random) -> Kind:
    """Draw a sort of machine by its share."""
    return random.choices(KINDS, weights=[kind.share for kind in KINDS])[0]


def key_of(name: str) -> NodeKey:
    """Return a key that nobody has."""
    return NodeKey(hashlib.sha256(name.encode()).digest())


def invent_offer(random: Random, name: str, now: Millis) -> Offer:
    """Draw what one provider lets."""
    kind = kind_of(random)
    key = key_of(name)
    return Offer(
        provider=key,
        sequence=now,
        ttl_ms=TTL,
        resource_class=kind.resource_class,
        model=kind.model,
        slots=random.choice(kind.slots),
        gpu_memory_mib=kind.gpu_memory_mib,
        cpu_cores=random.choice((2, 4, 8, 16)),
        memory_mib=random.choice((8_192, 16_384, 32_768, 65_536)),
        disk_mib=random.choice((51_200, 102_400, 512_000)),
        price_per_hour=MicroUnits(
            round(kind.cents * random.lognormvariate(0, 0.35) * MICRO_UNITS_A_CENT)
        ),
        mint=MINT,
        payee=Address(key),
        stake=Address(key[::-1]),
        executors=("bubblewrap",),
        addresses=(f"/ip4/10.{key[0]}.{key[1]}.{key[2]}/tcp/4001",),
    )


def invent_task(random: Random) -> tuple[Requirements, MicroUnits | None]:
    """Draw what one task needs, and the most that is paid for an hour of it."""
    kind = kind_of(random)
    gpus = 0 if kind.resource_class == "cpu" else random.choice((1, 1, 1, min(4, max(kind.slots))))
    wanted = Requirements(
        resource_class=kind.resource_class,
        gpus=gpus,
        gpu_memory_mib=kind.gpu_memory_mib,
        cpu_cores=random.choice((1, 2, 4, 8)),
        memory_mib=random.choice((2_048, 8_192, 16_384, 32_768)),
        disk_mib=random.choice((1_024, 20_480, 51_200)),
    )
    if random.random() < 0.5:
        return wanted, None
    return wanted, MicroUnits(round(kind.cents * max(1, gpus) * 1.2 * MICRO_UNITS_A_CENT))


def renewed(offer: Offer, now: Millis) -> Offer:
    """Return the same offer as it is announced again."""
    return msgspec.structs.replace(offer, sequence=now)


def sealed(offer: Offer) -> Signed:
    """Return the offer in a letter whose signature nobody checks: a book is given verified ones."""
    return Signed(key=offer.provider, body=codec.encode(offer), signature=Signature(bytes(64)))


def withdrawn(offer: Offer, now: Millis) -> Offer:
    """Return the tombstone of an offer."""
    return msgspec.structs.replace(offer, sequence=now, ttl_ms=Millis(0))


def repriced(offer: Offer, price: MicroUnits) -> Offer:
    """Return the same offer for another price."""
    return msgspec.structs.replace(offer, price_per_hour=price)
