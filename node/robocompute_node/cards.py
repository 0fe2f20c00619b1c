"""GPUs: what a card is, how it does, and the port behind which a driver tells of both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from robocompute_protocol.errors import RoboComputeError

OTHER: Final = "gpu-other"
_CLASSES: Final = (
    (r"\bA100\b", "a100"), (r"\bH100\b", "h100"), (r"\bH200\b", "h200"), (r"\bB200\b", "b200"),
    (r"\bL40S\b", "l40s"), (r"\bL4\b", "l4"), (r"\bA10\b", "a10"), (r"\bT4\b", "t4"),
    (r"\bV100\b", "v100"), (r"\b3090\b", "rtx3090"), (r"\b4090\b", "rtx4090"),
    (r"\b5090\b", "rtx5090"),
)  # fmt: skip
"""The driver's product names, by resource class of the protocol."""


class CardGone(RoboComputeError):
    """The driver does not tell of this card (any more): it fell off the bus, or never was here."""

    code = "card_gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card, or one MIG slice of a card: what one slot is."""

    uuid: str
    """What CUDA_VISIBLE_DEVICES takes: "GPU-…", or "MIG-…" for a slice."""
    model: str
    """As the driver calls it: "NVIDIA A100-SXM4-80GB"."""
    memory_mib: int
    slice_of: str = ""
    """The card that this is a slice of; whole cards say nothing here."""

    @property
    def resource_class(self) -> str:
        """The protocol's word for it. A slice is no customer's A100."""
        return OTHER if self.slice_of else class_of(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A card at one moment. None is what the driver does not tell, as of a slice's power."""

    busy_percent: int | None
    memory_used_mib: int
    power_mw: int | None
    temperature_c: int | None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A process of this machine that holds memory of a card."""

    pid: int
    memory_mib: int


class Cards(Protocol):
    """The cards of this machine, as the driver tells it. Every call blocks for milliseconds."""

    def cards(self) -> tuple[Card, ...]:
        """All of them, in the driver's order; a card in slices is told as its slices."""
        ...

    def reading(self, uuid: str) -> Reading:
        """Raises: CardGone."""
        ...

    def faults(self, uuid: str) -> tuple[str, ...]:
        """Why no job should get this card, each in words; nothing when it is well.

        Raises: CardGone.
        """
        ...

    def tenants(self, uuid: str) -> tuple[Tenant, ...]:
        """Who uses it now. Raises: CardGone."""
        ...


def class_of(model: str) -> str:
    """Return the resource class of a card by its product name."""
    for pattern, name in _CLASSES:
        if re.search(pattern, model.replace("-", " "), re.IGNORECASE):
            return name
    return OTHER
