"""What a test may switch on: everything that goes wrong between a client and a real cluster."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Slots = Annotated[int, msgspec.Meta(ge=0, le=150)]


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Switched by the method ``embeddedFaults``; forgotten when the chain restarts.

    Those that count go down with each use; the others last until they are set again.
    """

    drop: Count = 0
    """This many transactions are answered with a signature and then forgotten."""
    duplicate: Count = 0
    """This many transactions reach the leader twice, the second time a slot later."""
    land_slots: Slots = 0
    """Slots a transaction is in the air before a block takes it."""
    confirm_slots: Slots = 0
    """Slots between processed and confirmed."""
    finality_slots: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    """Slots until a block is final, instead of the genesis file's."""
    expire_blockhashes: Count = 0
    """This many times, the latest blockhash given out is one that has already expired."""
    clock_drift_s: Annotated[int, msgspec.Meta(ge=-(10**9), le=10**9)] = 0
    """Added to the clock that programs see, not to the slots."""
    lag_slots: Slots = 0
    """Slots this endpoint is behind: what it answers is so old."""
    fail_requests: Count = 0
    """This many requests fail."""
    fail_code: Annotated[int, msgspec.Meta(ge=-40_000, le=599)] = -32_603
    """How: an HTTP status where it is positive, a JSON-RPC error where it is negative."""
    methods: list[str] = []
    """Which methods fail or are slow; all, where none is named."""
    answer_delay_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0
    """How long each request is held before it is answered."""
    mute_subscriptions: bool = False
    """Whether subscriptions say nothing, and nobody is told."""

    def hits(self, method: str) -> bool:
        """Whether this method is among those that fail or are slow."""
        return not method.startswith("embedded") and (not self.methods or method in self.methods)


def with_changes(faults: Faults, changes: dict[str, object]) -> Faults:
    """The faults with some of them set.

    Raises:
        msgspec.ValidationError: there is no such fault, or its value is out of range.
    """
    return msgspec.convert({**msgspec.to_builtins(faults), **changes}, Faults)
