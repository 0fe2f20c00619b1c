"""What this provider lets, from its settings and what the machine really has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_protocol.messages import Offer
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.config import NodeConfig
    from robocompute_node.inventory import Inventory
    from robocompute_protocol.identifiers import Address, NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an offer needs besides the machine: who lets, and what runs jobs here."""

    provider: NodeKey
    payee: Address
    stake: Address
    executors: tuple[str, ...]
    runtimes: tuple[str, ...]


def offer_of(
    config: NodeConfig, machine: Inventory, standing: Standing
) -> Callable[[Millis, tuple[str, ...]], Offer]:
    """Return a maker of this node's offer: (sequence, addresses) → offer.

    Slots are cards where there are cards of the class that is offered; otherwise as set.
    """
    provider = config.provider
    card = machine.gpus[0] if machine.gpus else None
    found = "cpu" if card is None else card.resource_class
    resource_class = provider.resource_class or found
    gpus = [gpu for gpu in machine.gpus if gpu.resource_class == resource_class]
    slots = min(provider.slots, len(gpus)) if gpus else provider.slots
    model = machine.cpu_model if not gpus else gpus[0].model

    def make(sequence: Millis, addresses: tuple[str, ...]) -> Offer:
        return Offer(
            provider=standing.provider,
            sequence=sequence,
            ttl_ms=Millis(int(provider.offer_ttl_s * 1000)),
            resource_class=resource_class,
            model=(provider.model or model)[:256],
            slots=slots,
            gpu_memory_mib=gpus[0].memory_mib if gpus else 0,
            cpu_cores=provider.cpu_cores or max(1, machine.cpu_cores // slots),
            memory_mib=provider.memory_mib or machine.memory_mib * 3 // 4 // slots,
            disk_mib=provider.disk_mib or machine.disk_mib // 2 // slots,
            price_per_hour=provider.price_per_hour,
            mint=config.chain.mint,
            payee=standing.payee,
            stake=standing.stake,
            executors=standing.executors,
            runtimes=standing.runtimes,
            location=provider.location,
            addresses=addresses[:8],
        )

    return make
