"""How simulated clients find a provider, and what becomes of each agreement: the node's own core."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import population
from robocompute_node.core.matching import rank, slots_needed
from robocompute_node.core.reputation import (
    Standing,
    after_end,
    after_failure,
    evidence_of,
)
from robocompute_node.services.matchmaking import AWAY_MS, CANDIDATES
from robocompute_node.services.quoting import ASKED_AT_ONCE, GRACE_SECONDS, QUOTE_SECONDS
from robocompute_protocol import limits, steps
from robocompute_protocol.agreement import (
    ClientAgreement,
    ClientPhase,
    ProviderAgreement,
    advance,
    order,
)
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest, NodeKey
from robocompute_protocol.money import MicroUnits, Millis
from simulated_plan import FIRST_TICK, PATIENCE_MS, RETRY_MS, STARTS_MS, Honesty, node_of

if TYPE_CHECKING:
    from robocompute_node.core.matching import Match
    from robocompute_protocol.messages import Requirements
    from simulated_market import World
    from simulated_plan import Client, Provider


@dataclass(slots=True, eq=False)
class Round:
    """A few providers asked together, as ``services.quoting`` does it."""

    asked: tuple[Match, ...]
    pending: set[int]
    quotes: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Slots held for this client, by the place of who holds them."""
    decided: bool = False


class Search:
    """One task, from its submission to the tick of a provider that really runs it."""

    def __init__(self, world: World, client: Client, number: int) -> None:
        self._world = world
        self._client = client
        self._number = number
        self._wanted, self._price = population.invent_task(world.random)
        self._since = world.now
        self._failed: set[NodeKey] = set()
        self._matches: list[Match] = []

    def begin(self) -> None:
        """Look into the book, and ask the best ones."""
        world, client, now = self._world, self._client, self._world.now
        client.away = {each: until for each, until in client.away.items() if until > now}
        avoid = frozenset(self._failed) | frozenset(client.away)
        entries = world.book_of(client).fitting(
            self._wanted,
            mint=population.MINT,
            max_price=self._price,
            now=now,
            without=avoid,
            at_most=CANDIDATES,
        )
        self._matches = list(
            rank(
                (entry.offer for entry in entries),
                self._wanted,
                max_price=self._price,
                mint=population.MINT,
                now=now,
                avoid=avoid,
                evidence=lambda provider: evidence_of(
                    client.standings.get(provider, Standing()),
                    now,
                    fees_paid=MicroUnits(0),
                    latency_ms=client.latency.get(provider),
                    has_bps=0,
                ),
            )
        )
        self._ask_some()

    def _again(self) -> None:
        if self._world.now - self._since > PATIENCE_MS:
            self._world.tally.unmatched += 1
            self._world.tally.note("unmatched", self._client.number, self._number)
        else:
            self._world.after(RETRY_MS, self.begin)

    def _ask_some(self) -> None:
        some = tuple(self._matches[:ASKED_AT_ONCE])
        del self._matches[:ASKED_AT_ONCE]
        if not some:
            self._again()
            return
        asked = Round(some, set(range(len(some))))
        for place, match in enumerate(some):
            provider = self._world.of_key[match.offer.provider]
            trips = 1 if match.offer.provider in self._client.latency else 5
            way = self._world.way(self._client.region, provider.region) * trips
            self._client.sent += 1
            self._world.after(way, self._arrive, asked, place, provider, self._world.now)
            self._world.after(
                QUOTE_SECONDS * 1000, self._answered, asked, place, "no answer", (), 0
            )

    def _arrive(self, asked: Round, place: int, provider: Provider, since: Millis) -> None:
        world = self._world
        if not provider.online or provider.honesty is Honesty.SILENT:
            world.tally.asked["gone" if not provider.online else provider.honesty] += 1
            return
        said, held = world.quote(provider, self._client.payer, self._wanted)
        world.tally.asked[said] += 1
        back = world.way(self._client.region, provider.region)
        world.after(back, self._answered, asked, place, said, held, since)

    def _answered(
        self, asked: Round, place: int, said: str, held: tuple[int, ...], since: int
    ) -> None:
        if place not in asked.pending and not (asked.decided and held):
            return
        provider = self._world.of_key[asked.asked[place].offer.provider]
        if asked.decided:
            self._release(provider, held)
            return
        asked.pending.discard(place)
        key = provider.offer.provider
        if since:
            self._client.latency[key] = Millis(self._world.now - since)
        if said == "quoted":
            asked.quotes[place] = held
            if len(asked.quotes) == 1:
                self._world.after(GRACE_SECONDS * 1000, self._decide, asked)
        elif said != "no answer" and self._world.plan.shun_s:
            shunned = Millis(self._world.now + round(self._world.plan.shun_s * 1000))
            self._client.away[key] = shunned
        elif said == "no answer":
            self._client.away[key] = Millis(self._world.now + AWAY_MS)
        first = min(asked.quotes, default=None)
        if not asked.pending or (first is not None and first < min(asked.pending)):
            self._decide(asked)

    def _release(self, provider: Provider, held: tuple[int, ...]) -> None:
        def let_go() -> None:
            provider.heard += 1
            peer = node_of(self._client.payer)
            provider.slots = provider.slots.unhold(held, peer, self._world.now)

        self._client.sent += 1
        self._world.after(self._world.way(self._client.region, provider.region), let_go)

    def _decide(self, asked: Round) -> None:
        if asked.decided:
            return
        asked.decided = True
        if not asked.quotes:
            self._ask_some()
            return
        best = min(asked.quotes)
        for place, held in asked.quotes.items():
            if place != best:
                self._release(self._world.of_key[asked.asked[place].offer.provider], held)
        self._order(self._world.of_key[asked.asked[best].offer.provider])

    # --- the agreement --------------------------------------------------------------------------

    def _order(self, provider: Provider) -> None:
        name = self._world.agreement_name()
        state, _ = order(name, Digest(bytes(32)), first_tick_ms=FIRST_TICK)
        rental = Rental(self, self._world, self._client, provider, state)
        self._client.sent += 1
        way = self._world.way(self._client.region, provider.region)
        self._world.after(way, rental.ordered, self._wanted)
        self._world.after(limits.DEFAULT_HORIZON, rental.silent)

    def lost(self, provider: Provider, why: str) -> None:
        """The provider failed this task: it is avoided, and the search goes on."""
        key, now = provider.offer.provider, self._world.now
        self._world.tally.ordered[why] += 1
        self._failed.add(key)
        old = self._client.standings.get(key, Standing())
        self._client.standings[key] = after_failure(old, now)
        self.begin()

    def found(self, leased: Millis) -> None:
        """The job runs; its lease began to be known at ``leased``."""
        tally = self._world.tally
        tally.ordered["runs"] += 1
        tally.waits_ms.append(leased - self._since)
        tally.note(self._client.number, self._number, leased - self._since)


class Rental:
    """One agreement: both sides, and the messages between them."""

    def __init__(
        self,
        search: Search,
        world: World,
        client: Client,
        provider: Provider,
        state: ClientAgreement,
    ) -> None:
        self._search = search
        self._world = world
        self._client = client
        self._provider = provider
        self._ours = state
        self._theirs = ProviderAgreement(agreement=state.agreement, terms=state.terms)
        self._leased = Millis(0)
        self._receipt = population.sealed(provider.offer)

    def _tell_client(self, event: steps.ClientEvent) -> None:
        self._world.after(
            self._world.way(self._client.region, self._provider.region), self._hear, event
        )

    def ordered(self, wanted: Requirements) -> None:
        """The order reached the provider, if it is there."""
        provider, now = self._provider, self._world.now
        if not provider.online:
            return
        provider.heard += 1
        free = provider.slots.free(self._client.payer, node_of(self._client.payer), now)
        free = free[: slots_needed(wanted)]
        lies = provider.honesty is Honesty.FAKE
        if provider.honesty is Honesty.REFUSER or (len(free) < slots_needed(wanted) and not lies):
            declined = steps.OrderDeclined(reason="slot_taken")
            self._theirs, _ = advance(self._theirs, declined)
            self._tell_client(steps.NeverLeasedReceived())
            return
        if not lies:
            until = Millis(now + FIRST_TICK)
            name = self._theirs.agreement
            provider.slots = provider.slots.let(free, name, self._client.payer, until)
        granted = steps.LeaseGranted(at_ms=now, prepaid_ms=FIRST_TICK)
        self._theirs, _ = advance(self._theirs, granted)
        self._tell_client(
            steps.TickReceived(prepaid_ms=FIRST_TICK, elapsed_ms=Millis(0), at_ms=now)
        )
        mean = self._world.plan.job_minutes * 60_000
        lasts = STARTS_MS + (0 if lies else self._world.random.expovariate(1 / mean))
        self._world.after(lasts, self._end, Cause.NOT_STARTED if lies else Cause.EXITED)

    def _end(self, cause: Cause) -> None:
        self._theirs, _ = advance(self._theirs, steps.JobEnded(cause=cause, detail=""))
        signed = steps.ReceiptSigned(receipt=self._receipt, amount=MicroUnits(0))
        self._theirs, _ = advance(self._theirs, signed)
        self._provider.slots = self._provider.slots.release(self._theirs.agreement)
        self._tell_client(steps.ReceiptReceived(receipt=self._receipt, amount=MicroUnits(0)))

    def _hear(self, event: steps.ClientEvent) -> None:
        self._ours, _ = advance(self._ours, event)
        match event:
            case steps.NeverLeasedReceived():
                refuses = self._provider.honesty is Honesty.REFUSER
                self._search.lost(
                    self._provider, Honesty.REFUSER if refuses else "slot was taken meanwhile"
                )
            case steps.TickReceived():
                self._leased = self._world.now
                if self._provider.honesty is not Honesty.FAKE:
                    self._search.found(self._leased)
            case steps.ReceiptReceived():
                self._ended()
            case _:
                raise AssertionError(event)

    def _ended(self) -> None:
        if self._theirs.cause is Cause.NOT_STARTED:
            self._search.lost(self._provider, Honesty.FAKE)
            return
        key, now = self._provider.offer.provider, self._world.now
        old = self._client.standings.get(key, Standing())
        self._client.standings[key] = after_end(old, Cause.EXITED, now)

    def silent(self) -> None:
        """The horizon passed since the order."""
        if self._leased or self._ours.phase is ClientPhase.NEVER_LEASED:
            return
        self._ours, _ = advance(self._ours, steps.HorizonPassed())
        self._search.lost(self._provider, "gone after the quote")
