"""Subscriptions over a websocket: accounts, programs, signatures, logs and slots.

A client that does not read is disconnected rather than waited for: its notifications are in a
queue of bounded length, and it can reconnect and read the state it missed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest

from robocompute_settlement.embedded.ledger import Ledger, Level
from robocompute_settlement.embedded.subscribers import Subscriber
from robocompute_settlement.embedded.timeline import SLOT_MS

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

    from robocompute_settlement.embedded.methods import Methods
    from robocompute_settlement.embedded.storage import Landed

MAX_CONNECTIONS: Final = 512
"""Websockets at once; a further one is refused."""
MAX_MESSAGE_BYTES: Final = 51_200
"""One request of a client, as over HTTP."""
SURER: Final = (Level.CONFIRMED, Level.FINALIZED)
"""The levels a transaction reaches after it has been processed."""


class Pubsub:
    """All websocket connections of one ledger. ``run`` must be running for time to be told."""

    def __init__(self, ledger: Ledger, methods: Methods) -> None:
        self._ledger = ledger
        self._methods = methods
        self._subscribers: set[Subscriber] = set()
        self._waiting: dict[Level, deque[tuple[Landed, list[Pubkey]]]] = {
            level: deque() for level in SURER
        }
        self._told_slot = ledger.tick()
        self._last_identifier = 0
        ledger.listen(self._landed)

    async def run(self) -> None:
        """Tell of slots, and of transactions that become surer, until cancelled."""
        while True:
            await trio.sleep(SLOT_MS / 1000)
            self._advance()

    async def handle(self, request: WebSocketRequest) -> None:
        """Serve one websocket until it closes."""
        if len(self._subscribers) >= MAX_CONNECTIONS:
            await request.reject(503)
            return
        subscriber = Subscriber(self._ledger, self._methods, self._new_identifier)
        self._subscribers.add(subscriber)
        try:
            await subscriber.serve(await request.accept())
        except ConnectionClosed:
            return
        finally:
            self._subscribers.discard(subscriber)

    def cut(self) -> int:
        """Close every connection; how many there were."""
        for subscriber in tuple(self._subscribers):
            subscriber.cut()
        return len(self._subscribers)

    def _new_identifier(self) -> int:
        self._last_identifier += 1
        return self._last_identifier

    def _landed(self, landed: Landed, changed: list[Pubkey]) -> None:
        for queue in self._waiting.values():
            queue.append((landed, changed))
        self._tell(landed, changed, Level.PROCESSED)
        self._promote()

    def _advance(self) -> None:
        present = self._ledger.tick()
        self._promote()
        if present > self._told_slot:
            root = self._ledger.slot(Level.FINALIZED)
            slot = self._ledger.slot(Level.PROCESSED)
            self._told_slot = present
            for subscriber in tuple(self._subscribers):
                subscriber.tell_slot(slot, root)

    def _promote(self) -> None:
        for level, queue in self._waiting.items():
            while queue and queue[0][0].slot <= self._ledger.slot(level):
                landed, changed = queue.popleft()
                # It is not there any more where it was rolled back.
                if self._ledger.transaction(landed.signature) is not None:
                    self._tell(landed, changed, level)

    def _tell(self, landed: Landed, changed: list[Pubkey], level: Level) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber.tell_landed(landed, changed, level)
