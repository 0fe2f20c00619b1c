"""Until when the node was there to be paid: what a client is not blamed for after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_node.store import Store, Table
from robocompute_protocol import terms as rules
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_protocol.messages import Terms

AWAKE_EVERY: Final = Millis(2_000)
"""How exactly a node knows, after it was killed, until when it was there."""
CHANCE: Final = Millis(5_000)
"""A client that found this node for so long after a payment fell due could have paid: it tries
every few seconds."""
AWAKE: Final = Table("lettings-awake/1", int)
"""When this node last was there to be paid for a job, by its own clock. One record."""
AWAKE_KEY: Final = b"awake"


class Presence:
    """What the store remembers of the node that ran before, and what it is told of this one."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        store.declare(AWAKE)
        self._noted_ms = self._before_ms = store.get(AWAKE, AWAKE_KEY) or 0

    def note(self) -> None:
        """Remember that the node is there now. Written every ``AWAKE_EVERY`` at most."""
        now = self._clock.now_ms()
        if now - self._noted_ms >= AWAKE_EVERY:
            with self._store.transaction() as txn:
                txn.put(AWAKE, AWAKE_KEY, now)
            self._noted_ms = now

    def could_pay(self, terms: Terms, *, started_ms: Millis, prepaid_ms: Millis) -> bool:
        """Whether the node that ran before was still there when the next payment was due."""
        due, _ = rules.next_extension(terms, elapsed_ms=Millis(0), prepaid_ms=prepaid_ms)
        return self._before_ms >= started_ms + due + CHANCE
