"""Several JSON-RPC endpoints of one chain, used as one.

Reads go to the first that is well, and to the next when it is not. Transactions go to all. What
answers for another chain is never asked again. No answer is older than one already given: every
read names the newest slot seen, so that an endpoint that lags says so rather than that an account
is not there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import base58
import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused
from robocompute_protocol.identifiers import ID_BYTES, Digest, to_base58
from robocompute_settlement.endpoint import Endpoint, ErrorAnswer, Unanswered
from robocompute_settlement.port import Commitment
from robocompute_settlement.refusals import BUSY_CODES, METHOD_NOT_FOUND, NODE_BEHIND, error_of

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""Rounds over all endpoints that one read makes before it is ``ChainBusy``."""
PAUSE_S: Final = 0.1
"""Before the second round; twice as long before the third."""
BEHIND_PAUSE_S: Final = 0.2
"""Half a slot: until an endpoint that is behind is asked again."""
BEHIND_PATIENCE_S: Final = 12.0
"""How long endpoints may be behind the newest slot seen before that slot is taken for nonsense:
an honest one is behind by seconds. Less than a read's deadline, so that the read can say so."""
COOL_S: Final = 1.0
MOST_COOL_S: Final = 30.0
"""An endpoint that failed is asked after the others, for this long, doubled with each failure."""
SLOT_S: Final = 0.4
"""A slot lasts this long."""
LAG_SLOTS: Final = 25
"""An endpoint this far behind the best (10 s) is asked after the others."""
PROBE_S: Final = 10.0
"""How often each of several endpoints is asked for its slot."""
VERIFY_S: Final = 60.0
"""How long an endpoint is trusted to be still the same chain, while it does not fail."""


@dataclass(eq=False, slots=True)
class Standing:
    """One endpoint, and what was seen of it."""

    endpoint: Endpoint
    rank: int
    failures: int = 0
    cool_until: float = float("-inf")
    verified_at: float = float("-inf")
    foreign: bool = False
    slot: int = 0
    slot_at: float = float("-inf")
    verifying: trio.Lock = field(default_factory=trio.Lock)

    def failed(self) -> None:
        """Note that it gave no answer: the next one to answer here may be another chain."""
        self.cool_until = trio.current_time() + min(COOL_S * 2**self.failures, MOST_COOL_S)
        self.failures = min(self.failures + 1, 10)
        self.verified_at = float("-inf")

    def answered(self, slot: int | None = None) -> None:
        """Note that it is well, and the slot it named."""
        self.failures = 0
        self.cool_until = float("-inf")
        if slot is not None:
            self.slot, self.slot_at = slot, trio.current_time()

    def supposed_slot(self, now: float) -> float | None:
        """Where it should be by now; ``None`` when it was not heard of lately."""
        age = now - self.slot_at
        return None if age > 2 * PROBE_S else self.slot + age / SLOT_S


class Endpoints:
    """One chain behind one or several URLs; the first is preferred. The caller closes it."""

    def __init__(self, endpoints: tuple[Endpoint, ...], *, genesis_hash: Digest | None) -> None:
        """Prepare; nothing is asked yet.

        Args:
            endpoints: at least one.
            genesis_hash: the chain they must be of; the first answer's when absent.
        """
        self._all = tuple(Standing(each, rank) for rank, each in enumerate(endpoints))
        self._genesis_hash = genesis_hash
        self._floors = dict.fromkeys(Commitment, 0)
        """The newest slot seen, by commitment."""

    @property
    def name(self) -> str:
        """The endpoints, for people."""
        return " or ".join(each.endpoint.url for each in self._all)

    async def aclose(self) -> None:
        """Close all connections. Repeatable."""
        for each in self._all:
            await each.endpoint.aclose()

    async def run(self) -> NoReturn:
        """Compare the endpoints from time to time, until cancelled. Only several need it."""
        while True:
            for each in self._all if len(self._all) > 1 else ():
                if not each.foreign:
                    await self._probe(each)
            await trio.sleep(PROBE_S)

    async def genesis_hash(self) -> Digest:
        """Which chain this is.

        Raises:
            ChainBusy: none answers.
            ChainRefused: it is another one than expected.
        """
        return _genesis(await self.ask("getGenesisHash"))

    def seen(self, slot: int, at: Commitment = Commitment.CONFIRMED) -> None:
        """Accept no answer any more that is older than this."""
        self._floors[at] = max(self._floors[at], slot)

    async def ask(
        self, method: str, *positions: Any, at: Commitment | None = None, urgent: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Ask the best endpoint, and others or again where it does not answer.

        Args:
            method: what changes nothing, so that it may be asked often.
            positions: its parameters before the options.
            at: the commitment; the answer is then no older than earlier ones.
            urgent: whether a write waits for it.
            options: its last parameter, without the commitment.

        Raises:
            ChainBusy: no endpoint can answer now.
            ChainRefused: they will never answer this.
        """
        pause, attempts = PAUSE_S, 0
        give_up_at = trio.current_time() + BEHIND_PATIENCE_S
        while True:
            behind: list[int] = []
            failure: ChainError = ChainBusy(f"the chain at {self.name} was not asked")
            for standing in self.usable():
                try:
                    return await self.ask_one(
                        standing, method, *positions, at=at, urgent=urgent, options=options
                    )
                except Unanswered as exc:
                    failure = ChainBusy(
                        f"the chain at {standing.endpoint.url} cannot be reached: {exc}"
                    )
                except ErrorAnswer as exc:
                    if exc.code not in BUSY_CODES and exc.code != METHOD_NOT_FOUND:
                        raise error_of(exc.code, exc.message, exc.data) from exc
                    if exc.code == NODE_BEHIND:
                        behind.append(standing.slot)
                    failure = error_of(exc.code, exc.message, exc.data)
            if behind and trio.current_time() < give_up_at:
                await trio.sleep(BEHIND_PAUSE_S)
                continue
            attempts += 1
            if behind or attempts == ATTEMPTS or isinstance(failure, ChainRefused):
                if behind and at is not None:
                    self._forget(at, max(behind))
                raise failure
            log.warning("will ask again: %s", failure)
            await trio.sleep(pause)
            pause *= 2

    def usable(self) -> list[Standing]:
        """All endpoints of this chain, the best first.

        Raises:
            ChainRefused: there is none.
        """
        now = trio.current_time()
        found = [each for each in self._all if not each.foreign]
        if not found:
            expected = "?" if self._genesis_hash is None else to_base58(self._genesis_hash)
            raise ChainRefused(
                f"the chain at {self.name} is another one: its genesis hash is not {expected}"
            )

        reached = [slot for each in found if (slot := each.supposed_slot(now)) is not None]
        best = max(reached, default=0.0)

        def order(each: Standing) -> tuple[bool, bool, int]:
            away = each.endpoint.paused or now < each.cool_until
            slot = each.supposed_slot(now)
            return away, slot is not None and slot + LAG_SLOTS < best, each.rank

        return sorted(found, key=order)

    async def ask_one(
        self, standing: Standing, method: str, *positions: Any, at: Commitment | None = None,
        urgent: bool = False, options: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Ask this endpoint, once.

        Raises:
            Unanswered: so below, and when the endpoint turns out to be another chain's.
            ErrorAnswer: so below.
        """
        await self._verify(standing, urgent=urgent)
        last = dict(options or {})
        if at is not None:
            last["commitment"] = at.value
            if self._floors[at]:
                last["minContextSlot"] = self._floors[at]
        params = [*positions, last] if last else [*positions]
        try:
            result = await standing.endpoint.ask(method, params, urgent=urgent)
        except Unanswered:
            standing.failed()
            raise
        except ErrorAnswer as exc:
            if exc.code in BUSY_CODES:
                # A chain that was founded anew is behind, too.
                standing.verified_at = float("-inf")
                standing.slot = _reported(exc.data, standing.slot)
            raise
        slot = _context(result)
        standing.answered(slot if at is Commitment.CONFIRMED else None)
        if slot is not None and at is not None:
            self.seen(slot, at)
        return result

    # --- inside ---------------------------------------------------------------------------------

    async def _verify(self, standing: Standing, *, urgent: bool) -> None:
        async with standing.verifying:
            if trio.current_time() < standing.verified_at + VERIFY_S:
                return
            try:
                text = await standing.endpoint.ask("getGenesisHash", [], urgent=urgent)
            except Unanswered:
                standing.failed()
                raise
            found = _genesis(text)
            if self._genesis_hash is None:
                self._genesis_hash = found
            if found != self._genesis_hash:
                standing.foreign = True
                log.error(
                    "%s is another chain, and not used any more: its genesis hash is %s",
                    standing.endpoint.url,
                    to_base58(found),
                )
                raise Unanswered("it is another chain", reached=False)
            standing.verified_at = trio.current_time()

    async def _probe(self, standing: Standing) -> None:
        try:
            slot = await standing.endpoint.ask(
                "getSlot", [{"commitment": Commitment.CONFIRMED.value}]
            )
        except Unanswered:
            standing.failed()
        except ErrorAnswer as exc:
            log.warning("%s does not tell its slot: %s", standing.endpoint.url, exc)
        else:
            standing.answered(slot if isinstance(slot, int) else None)

    def _forget(self, at: Commitment, reported: int) -> None:
        """Nobody has the newest slot seen, for long: go on from what the best of them has."""
        log.error(
            "no endpoint has slot %d that one claimed: going on from %d",
            self._floors[at],
            reported,
        )
        self._floors[at] = min(self._floors[at], reported)


def _context(result: Any) -> int | None:
    match result:
        case {"context": {"slot": int(slot)}} if 0 <= slot < 2**63:
            return slot
        case _:
            return None


def _reported(data: Any, otherwise: int) -> int:
    match data:
        case {"contextSlot": int(slot)} if 0 <= slot < 2**63:
            return slot
        case _:
            return otherwise


def _genesis(text: Any) -> Digest:
    try:
        raw = base58.b58decode(text)
    except (ValueError, TypeError, AttributeError):
        raw = b""
    if len(raw) != ID_BYTES:
        raise Unanswered("it does not tell its genesis hash", reached=False)
    return Digest(raw)
