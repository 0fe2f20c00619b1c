"""The settlement program, and a provider's own stake in it, as the chain last showed them.

A node starts without them: while the chain is out it goes on with what runs, says what it waits
for, and lets nothing new. It goes on as well where the deployment's settings are not safe, or are so no
more: what is owed is settled, and nothing new is let or rented until they are safe.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.chain_clock import ClockWatch, Reading, clock_text, observe
from robocompute_node.core.deployment_policy import objection_to_deployment
from robocompute_protocol.errors import ChainError, ChainRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.clocks import Clock
    from robocompute_protocol.identifiers import Address, Digest
    from robocompute_settlement.port import ConfigView, Settlement, StakeView

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 30.0
"""Between looks at Config and stake: a stake that another key took over must be noticed well within
the 300 s for which the old key's ticks count."""
FIRST_SECONDS: Final = 3.0
"""The node goes on starting after this long, whether the chain answered or not."""
AGAIN_SECONDS: Final = 2.0
"""Between looks while there is no answer: nothing is let until there is one."""


class ProgramView:
    """What is known of the deployment this node is paid through."""

    def __init__(
        self,
        chain: Settlement,
        clock: Clock,
        wallet: Address,
        mint: Address,
        *,
        genesis: Callable[[], Digest | None],
        told: Callable[[ProgramView], None] = lambda _view: None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            chain: the chain.
            clock: this node's clock, which is held against the chain's.
            wallet: whose stake this is.
            mint: what jobs are paid in.
            genesis: the chain's genesis hash, as far as it is known.
            told: called after each answer of the chain.
        """
        self._chain = chain
        self._clock = clock
        self._watch = ClockWatch()
        self._wallet = wallet
        self._mint = mint
        self._genesis = genesis
        self._told = told
        self.config: ConfigView | None = None
        self.stake: StakeView | None = None
        self.waits_for = "the chain's first answer"
        """What is missing, in words; "" while the chain answers."""
        self.unsafe: str | None = None
        """Why nobody should be paid through this deployment as its settings are now, or None."""

    @property
    def missing(self) -> str:
        """What stands against new leases, in words; "" for nothing."""
        return self.waits_for or (f"a safe deployment: {self.unsafe}" if self.unsafe else "")

    @property
    def ahead_ms(self) -> int | None:
        """How far this node's clock is ahead of the chain's; None where that is not known."""
        return self._watch.ahead_ms

    @property
    def clock_off(self) -> str | None:
        """How far this node's clock is off, in words; None where the chain's agrees with it."""
        off = self._watch.off_ms
        if not off:
            return None
        return f"the clock is {clock_text(off)}: set it right and start the node again"

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Ask from time to time until cancelled. Started after the first try, whatever it brought."""
        with trio.move_on_after(FIRST_SECONDS):
            await self._look()
        task_status.started()
        while True:
            soon = self.waits_for or self.clock_off
            await trio.sleep(AGAIN_SECONDS if soon else REFRESH_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            config = await self._chain.config()
            stake = await self._chain.stake_of(self._wallet, self._mint)
            chain_s = await self._chain.time_s()
        except ChainRefused as exc:
            self._missing(f"a chain with the settlement program: {exc}")
        except ChainError as exc:
            self._missing(f"the chain: {exc}")
        else:
            genesis = self._genesis()
            unsafe = None if genesis is None else objection_to_deployment(genesis, config)
            if unsafe is not None and unsafe != self.unsafe:
                log.error("nothing new is let or rented: %s", unsafe)
            elif unsafe is None and self.unsafe is not None:
                log.info("the deployment's settings are safe again")
            self.unsafe = unsafe
            self._compare_clocks(chain_s)
            if self.waits_for and self.config is not None:
                log.info("the chain answers again")
            self.config, self.stake, self.waits_for = config, stake, ""
            self._told(self)

    def _compare_clocks(self, chain_s: int) -> None:
        before = self.clock_off
        self._watch = observe(self._watch, Reading(self._clock.now_ms(), chain_s))
        if self.clock_off is not None and before is None:
            log.error("nothing new is let: %s", self.clock_off)
        elif self.clock_off is None and before is not None:
            log.info("the chain's time no longer speaks against this node's clock")

    def _missing(self, what: str) -> None:
        if self.waits_for != what:
            log.warning("waiting for %s", what)
        self.waits_for = what
