"""Numbers of what a node gossips: each is higher than the one before, through restarts, and is the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol import limits
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.store import Store, Table


class Sequences:
    """Draws the numbers of one kind of message."""

    def __init__(
        self, store: Store, clock: Clock, table: Table[int], key: bytes, *, spacing: Millis
    ) -> None:
        """Go on after the last number, which ``table`` has at ``key``.

        Nobody takes what is further ahead than ``MAX_CLOCK_AHEAD``: a last number beyond that was
        drawn by a clock that was wrong, and nothing would be heard of this node until that time came.
        """
        self._store = store
        self._clock = clock
        self._table = table
        self._key = key
        self._spacing = spacing
        store.declare(table)
        self._last = min(store.get(table, key) or 0, clock.now_ms() + limits.MAX_CLOCK_AHEAD)

    def next(self) -> Millis:
        """Draw the next number, which is on disk before this returns. Raises: StoreError."""
        number = max(self._last + self._spacing, self._clock.now_ms())
        with self._store.transaction() as txn:
            txn.put(self._table, self._key, number)
        self._last = number
        return Millis(number)
