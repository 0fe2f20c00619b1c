"""Looks after the cards of a provider: one that is not well, or not given back clean, is not let.

A card that a job had is looked at before the next one gets it. Whoever used a card when the node
started (a desktop, say) is the owner's business; whoever comes later keeps it from being let.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.cards import CardGone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from robocompute_node.cards import Cards
    from robocompute_node.core.slots import Slot, SlotTable

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at the cards: each takes the driver some milliseconds."""
NOT_YET: Final = "it was let a moment ago and is looked at before the next job gets it"
NEVER: Final = "it has not been looked at yet"


class CardWatch:
    """What stands against letting each card now, by the slot it is."""

    def __init__(
        self, cards: Cards, uuids: tuple[str, ...], slots: Callable[[], SlotTable]
    ) -> None:
        """``uuids`` are the cards of the slots, in their order; none where no slot has a card."""
        self._cards = cards
        self._uuids = uuids
        self._slots = slots
        self._at_home: dict[str, frozenset[int]] = {}
        self._against: dict[int, str] = {}
        self._looked: dict[int, Slot | None] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Look at once, then again and again."""
        await self.look()
        task_status.started()
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at every card, in a thread: a driver that hangs must not hang the node."""
        for index, uuid in enumerate(self._uuids):
            before = self._slots().slots.get(index)
            let = before is not None and before.agreement is not None
            against = await trio.to_thread.run_sync(self._look_at, uuid, let)
            if against != self._against.get(index, ""):
                if against:
                    log.warning("card %s is not let: %s", uuid, against)
                else:
                    log.info("card %s is let again", uuid)
            self._against[index] = against
            self._looked[index] = before

    def _look_at(self, uuid: str, let: bool) -> str:
        try:
            faults = self._cards.faults(uuid)
            tenants = self._cards.tenants(uuid)
        except CardGone as exc:
            return str(exc)
        if faults:
            return "; ".join(faults)
        home = self._at_home.setdefault(uuid, frozenset(one.pid for one in tenants))
        if not let:
            for tenant in tenants:
                if tenant.pid not in home:
                    return f"process {tenant.pid} holds {tenant.memory_mib} MiB of it"
        return ""

    def withheld(self) -> Mapping[int, str]:
        """Slots that nobody may have now, and why: the node asks before every quote and lease."""
        found: dict[int, str] = {}
        for index in range(len(self._uuids)):
            slot = self._slots().slots.get(index)
            if index not in self._looked:
                found[index] = NEVER
            elif self._against[index]:
                found[index] = self._against[index]
            elif _changed_hands(self._looked[index], slot):
                found[index] = NOT_YET
        return found


def _changed_hands(before: Slot | None, now: Slot | None) -> bool:
    """Whether somebody had the slot since it was looked at free, and has it no more."""
    if now is None or now.agreement is not None:
        return False
    if before is None or before.agreement is not None:
        return True
    return (before.payer, before.signed_until) != (now.payer, now.signed_until)
