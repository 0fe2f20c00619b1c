"""Sending one transaction so that it is taken once, or certainly not, or its signature is known.

The order of things is what keeps a payment from being made twice:

1. It is simulated. What would fail is refused here, and costs nothing.
2. It is signed, and its signature given to the journal before any byte leaves.
3. The same bytes go to all endpoints, again and again, until they are confirmed. The chain takes
   one signature once.
4. They are signed anew, which makes another payment of them, only after the first can never land:
   because every endpoint said that it did not take them, or because a final block is past their
   last valid height and a search of the whole history finds them nowhere.
5. When time is up before that, ``ChainUnknown`` names the signature that is still open.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_settlement.port import Attempt, Commitment, Outcome, Sent
from robocompute_settlement.refusals import BlockhashExpired, refusal_of
from robocompute_settlement.rpc import RecentBlockhash, SignatureStatus
from robocompute_settlement.transactions import (
    DISTINCT,
    Budget,
    Prepared,
    Priority,
    prepare,
    received,
    writable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solders.instruction import Instruction
    from solders.keypair import Keypair

    from robocompute_settlement.rpc import Rpc
    from robocompute_settlement.subscriptions import Subscriptions

log = logging.getLogger(__name__)

WRITE_DEADLINE_S: Final = 120.0
"""A write that is not confirmed by then is ``ChainUnknown``: long enough for a transaction to
expire for good (150 blocks, and 32 more until that is final: 73 s) and be signed once more."""
RESEND_S: Final = 2.0
"""Public endpoints drop transactions under load: the same bytes are sent again this often."""
STALE_PAUSE_S: Final = 0.1
"""Before asking again for a blockhash, when the endpoint refused the one it had given out."""
SIMULATION_UNITS: Final = 400_000
"""More than any transaction of ours needs (half of that, with the unluckiest addresses)."""
MARGIN_UNITS: Final = 1_000
MARGIN_SHARE: Final = 10
"""On top of what the simulation took: a tenth, and this many units."""
FEE_PERCENTILE: Final = 75
"""Of what was paid in recent blocks to write the same accounts, this is what we pay: enough for
most blocks, and not what one bidder in a hurry paid."""


class Sender:
    """Sends for one signer. Any number of tasks may use it."""

    def __init__(
        self,
        rpc: Rpc,
        subscriptions: Subscriptions,
        *,
        priority: Priority,
    ) -> None:
        self._rpc = rpc
        self._subscriptions = subscriptions
        self._priority = priority
        # Begins anywhere, so that two processes with one key differ too.
        self._distinct = itertools.count(secrets.randbelow(DISTINCT))

    async def send(
        self, instructions: Sequence[Instruction], signer: Keypair, also: Sequence[Keypair] = (),
        *, journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        """Simulate, sign, send and confirm one transaction of these instructions.

        ``journal`` is called with each signed one before it is sent. What it raises ends this, and
        that one is not sent.

        Raises:
            ChainBusy: not taken, and it never will be.
            ChainRefused: it would fail, or it failed.
            ChainUnknown: the signature in it may still land.
        """
        open_attempt: Prepared | None = None
        with trio.move_on_after(WRITE_DEADLINE_S):
            for tries in itertools.count():
                budget = await self._budget(instructions, signer, also, tries)
                recent = await self._rpc.recent_blockhash()
                open_attempt = prepare(
                    instructions, signer, recent, budget.distinct(next(self._distinct)), also=also
                )
                if journal is not None:
                    journal(Attempt(open_attempt.signature, open_attempt.last_valid_height))
                sent = await self._deliver(open_attempt)
                if sent is not None:
                    return sent
                open_attempt = None
                log.warning("a transaction expired without being taken, signing it anew")
        raise _out_of_time(open_attempt)

    async def send_signed(self, wire: bytes, last_valid_height: int | None) -> Sent:
        """Send and confirm a transaction that was signed elsewhere. It is never signed anew.

        Raises:
            ChainRefused: so above, and when it expired without being taken.
        """
        prepared: Prepared | None = None
        with trio.move_on_after(WRITE_DEADLINE_S):
            if last_valid_height is None:
                # Its blockhash is no newer than this one, so neither is its end.
                last_valid_height = (await self._rpc.recent_blockhash()).last_valid_height
            prepared = received(wire, last_valid_height)
            sent = await self._deliver(prepared)
            if sent is None:
                raise ChainRefused(
                    "the signed transaction has expired without being taken: make and sign a new one"
                )
            return sent
        raise _out_of_time(prepared)

    async def outcome(self, attempt: Attempt) -> Outcome:
        """See ``port.Settlement.outcome``."""
        with trio.move_on_after(WRITE_DEADLINE_S):
            found = await self._rpc.fate(attempt.signature, attempt.last_valid_height)
            if isinstance(found, SignatureStatus):
                if not found.reached(Commitment.CONFIRMED):
                    return Outcome.PENDING
                self._rpc.endpoints.seen(found.slot)  # whoever reads now sees what it did
                return Outcome.LANDED if found.error is None else Outcome.FAILED
            return Outcome.NEVER if found else Outcome.PENDING
        raise ChainBusy("no endpoint could tell in time what became of a transaction")

    # --- before ---------------------------------------------------------------------------------

    async def _budget(
        self, instructions: Sequence[Instruction], signer: Keypair, also: Sequence[Keypair],
        tries: int,
    ) -> Budget:  # fmt: skip
        """What the transaction needs and should pay.

        Raises:
            ChainRefused: it would fail.
        """
        price = await self._price(instructions, signer, tries)
        nowhere = RecentBlockhash(bytes(32), 0)
        draft = prepare(instructions, signer, nowhere, Budget(SIMULATION_UNITS, price), also=also)
        simulated = await self._rpc.simulate(draft.wire, draft.programs)
        if simulated.refusal is not None:
            raise simulated.refusal
        return Budget(simulated.units + simulated.units // MARGIN_SHARE + MARGIN_UNITS, price)

    async def _price(
        self, instructions: Sequence[Instruction], signer: Keypair, tries: int
    ) -> int:
        """Micro-lamports a unit: what others pay, twice that after each vain try, within bounds."""
        least, most = self._priority.least_micro_lamports, self._priority.most_micro_lamports
        try:
            paid = sorted(await self._rpc.recent_fees(writable(instructions, signer)))
        except ChainError as exc:
            log.info("no recent fees, offering the least: %s", exc)
            paid = []
        usual = paid[len(paid) * FEE_PERCENTILE // 100] if paid else 0
        return min(most, max(least, usual) * 2**tries)

    # --- after ----------------------------------------------------------------------------------

    async def _deliver(self, prepared: Prepared) -> Sent | None:
        """Return ``None`` when the transaction can never be taken any more."""
        try:
            await self._rpc.send(prepared.wire)
        except BlockhashExpired:
            await trio.sleep(STALE_PAUSE_S)
            return None
        except ChainUnknown as exc:
            log.warning("looking for transaction %s: %s", prepared.signature, exc)
        status = await self._wait(prepared)
        if status is None:
            return None
        self._rpc.endpoints.seen(status.slot)
        if status.error is not None:
            raise refusal_of(status.error, programs=prepared.programs)
        return Sent(signature=prepared.signature, slot=status.slot)

    async def _wait(self, prepared: Prepared) -> SignatureStatus | None:
        """Resend until confirmed; ``None`` once that cannot happen any more."""
        look_at = trio.current_time() + RESEND_S
        with self._subscriptions.signature(prepared.signature) as watch:
            while True:
                try:
                    status = await self._rpc.status(prepared.signature)
                    if status is not None and status.reached(Commitment.CONFIRMED):
                        return status
                    if trio.current_time() >= look_at:
                        look_at = trio.current_time() + RESEND_S
                        fate = await self._rpc.fate(prepared.signature, prepared.last_valid_height)
                        if fate is True:
                            return None
                        if isinstance(fate, SignatureStatus):
                            if fate.reached(Commitment.CONFIRMED):
                                return fate
                        else:
                            await self._rpc.send(prepared.wire)
                except ChainError as exc:
                    # No answer here says that the transaction was not taken before.
                    log.warning("still looking for %s: %s", prepared.signature, exc)
                await watch.changed()


def _out_of_time(prepared: Prepared | None) -> ChainError:
    if prepared is None:
        return ChainBusy(f"the chain did not take a transaction within {WRITE_DEADLINE_S:g} s")
    return ChainUnknown(
        f"a transaction was not confirmed within {WRITE_DEADLINE_S:g} s, and may still be: "
        f"look for {prepared.signature}",
        signature=prepared.signature,
        last_valid_height=prepared.last_valid_height,
    )
