"""Offers and requirements for tests of the market."""

from __future__ import annotations

from typing import Any

import msgspec

from robocompute_protocol.identifiers import Address, NodeKey, Signature
from robocompute_protocol.messages import Offer, Requirements, Signed
from robocompute_protocol.money import MicroUnits, Millis

MINT = Address(bytes([9]) * 32)
NOW = Millis(1_700_000_000_000)
SIGNED = Signed(key=NodeKey(bytes(32)), body=b"", signature=Signature(bytes(64)))


def offer(number: int = 1, **changes: Any) -> Offer:
    fair = Offer(
        provider=NodeKey(bytes([number]) * 32),
        sequence=NOW,
        ttl_ms=Millis(600_000),
        resource_class="h100",
        model="H100",
        slots=4,
        gpu_memory_mib=81_559,
        cpu_cores=8,
        memory_mib=65_536,
        disk_mib=100_000,
        price_per_hour=MicroUnits(2_000_000),
        mint=MINT,
        payee=Address(bytes(32)),
        stake=Address(bytes(32)),
        executors=("bubblewrap",),
        addresses=(),
    )
    return msgspec.structs.replace(fair, **changes)


FAIR = Requirements(
    resource_class="h100", gpus=2, gpu_memory_mib=80_000, cpu_cores=16, memory_mib=131_072,
    disk_mib=200_000,
)  # fmt: skip
