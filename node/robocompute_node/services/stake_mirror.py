"""All stakes of one mint as the chain last showed them: what gossip is held against.

A validator of gossip must not ask anybody anything, so the whole list is kept here. A stake that is
a minute old is good enough: it leaves only after days, and a new one is a stranger's for a minute.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_protocol.errors import ChainError

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Offer
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import Settlement, StakeView

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 60.0
"""Between looks at all stakes: 50,000 of them are 15 MB from the endpoint."""
AGAIN_SECONDS: Final = 3.0
"""The same while they were never seen."""
FIRST_SECONDS: Final = 3.0
"""The node goes on starting after this long, whether the chain answered or not."""
MAX_STAKES: Final = 200_000
"""Stakes kept: about 150 MB. Those with the least in them are left out: they back the least."""


class StakeMirror:
    """Knows who has staked what, without asking."""

    def __init__(self, chain: Settlement, mint: Address) -> None:
        """Prepare; nothing is asked yet."""
        self._chain = chain
        self._mint = mint
        self._stakes: dict[Address, StakeView] = {}
        self._slot_stake: MicroUnits | None = None
        self.told: Callable[[NodeKey], None] = lambda _node: None
        """Called for each node whose stake is not what it was."""

    def get(self, stake: Address) -> StakeView | None:
        """Return a stake as it was seen last."""
        return self._stakes.get(stake)

    def backs(self, offer: Offer) -> bool:
        """Whether the stake that ``offer`` names is its provider's and carries all its slots."""
        stake = self._stakes.get(offer.stake)
        if stake is None or self._slot_stake is None or offer.mint != self._mint:
            return False
        needed = self._slot_stake * max(1, offer.slots)
        return stake.node_key == offer.provider and stake.bonded >= needed

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Look again from time to time until cancelled. Started after the first try."""
        with trio.move_on_after(FIRST_SECONDS):
            await self.look()
        task_status.started()
        while True:
            await trio.sleep(AGAIN_SECONDS if self._slot_stake is None else REFRESH_SECONDS)
            await self.look()

    async def look(self) -> None:
        """See all stakes anew. What cannot be seen stays as it was."""
        try:
            slot_stake = (await self._chain.config()).slot_stake
            found = await self._chain.stakes(self._mint)
        except ChainError as exc:
            log.info("the stakes cannot be seen, what is known of them stays: %s", exc)
            return
        kept = sorted(found, key=lambda stake: stake.bonded, reverse=True)[:MAX_STAKES]
        before, self._stakes = self._stakes, {stake.stake: stake for stake in kept}
        changed = {stake.node_key for stake in kept if before.pop(stake.stake, None) != stake}
        changed |= {stake.node_key for stake in before.values()}
        if slot_stake != self._slot_stake:
            self._slot_stake = slot_stake
            changed |= {stake.node_key for stake in kept}
        for node in changed:
            self.told(node)
