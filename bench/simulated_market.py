"""A market of thousands of nodes on virtual time, deciding by the node's own core.

Real here: the offer book, the ranking, reputation, slots, and both sides of every agreement. Modelled: the wire. A message takes the latency between two regions and some; gossip
takes the quickest way through a random overlay; each hop may be lost and repeated, and now and then
a node misses a message altogether. Whoever does not hold a book of its own in here (all but the
sampled clients) is there as a provider, and as others' demand for its slots.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import population
from robocompute_node.core.matching import fits, rank, slots_needed
from robocompute_node.core.offer_book import OfferBook
from robocompute_node.core.reputation import (
    Standing,
    after_end,
    after_failure,
    evidence_of,
)
from robocompute_node.core.slots import SlotTable
from robocompute_node.services.market import ANNOUNCE_SECONDS
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
from robocompute_protocol.identifiers import Address, AgreementId, Digest, NodeKey
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from robocompute_node.core.matching import Match
    from robocompute_protocol.messages import Offer, Requirements, Signed

START: Final = Millis(1_800_000_000_000)
REGIONS_MS: Final = (
    (8, 45, 75, 110, 90, 140),
    (45, 8, 70, 125, 60, 120),
    (75, 70, 8, 85, 55, 75),
    (110, 125, 85, 8, 120, 60),
    (90, 60, 55, 120, 8, 95),
    (140, 120, 75, 60, 95, 8),
)
"""One way between six parts of the world."""
JITTER_MS: Final = 6.0
LOSS: Final = 0.01
"""Share of direct messages that are sent again, ``RESENT_MS`` later."""
RESENT_MS: Final = 250
HOP_LOSS: Final = 0.02
"""Share of gossip hops that go the second-best way."""
MISSED: Final = 0.003
"""Share of gossip that a node never hears: it was busy, or its mesh was being mended."""
LINKS: Final = 4
"""Each node dials so many others: eight neighbours on average, as gossip's mesh of six wants."""
RETRY_MS: Final = 2_000
"""Between searches of a task that found nobody."""
PATIENCE_MS: Final = 120_000
"""A task that found nobody for so long is given up."""
FIRST_TICK: Final = Millis(10_000)
STARTS_MS: Final = 1_500
"""From the lease to the program's start, or to the word that it cannot."""


class Honesty(StrEnum):
    """What a provider is like. All but the first lie, in equal shares."""

    HONEST = "honest"
    STALE = "stale offers"
    """Offers slots that it never has."""
    FAKE = "fake capacity"
    """Offers, cheaply, what it has not; takes the job and cannot start it."""
    SILENT = "never answers"
    REFUSER = "refuses after the quote"


LIARS: Final = (Honesty.STALE, Honesty.FAKE, Honesty.SILENT, Honesty.REFUSER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated. Times are of the simulated clock."""

    nodes: int = 10_000
    sampled: int = 32
    """Clients with a full book of their own."""
    minutes: float = 10.0
    liars: float = 0.2
    busy: float = 0.6
    """Share of honest slots that others' jobs hold."""
    job_minutes: float = 4.0
    tasks_per_client: int = 30
    leaves_per_hour: float = 0.5
    """How often a provider goes away; it is back after some minutes. Half say so."""
    staked: float = 0.7
    shun_s: float = 0.0
    """How long a search leaves out who said it was full; 0: not at all. What that would bring."""
    seed: int = 5


@dataclass(slots=True, eq=False)
class Provider:
    """One provider: what it lets, what it is like, and its slots."""

    number: int
    region: int
    offer: Offer
    honesty: Honesty
    slots: SlotTable
    online: bool = True
    announced: int = 0
    heard: int = 0


@dataclass(slots=True, eq=False)
class Client:
    """A sampled node: its own book, and what it learnt of providers."""

    number: int
    region: int
    payer: Address
    book: OfferBook
    reach: list[tuple[int, int]]
    """Milliseconds and hops that gossip takes from each provider."""
    coming: list[tuple[Millis, int, Offer, Signed]] = field(
        default_factory=list["tuple[Millis, int, Offer, Signed]"]
    )
    standings: dict[NodeKey, Standing] = field(default_factory=dict[NodeKey, Standing])
    latency: dict[NodeKey, Millis] = field(default_factory=dict[NodeKey, Millis])
    away: dict[NodeKey, Millis] = field(default_factory=dict[NodeKey, Millis])
    sent: int = 0


@dataclass(slots=True)
class Tally:
    """What came of it."""

    waits_ms: list[int] = field(default_factory=list[int])
    asked: Counter[str] = field(default_factory=Counter[str])
    """Quote requests by what came of them."""
    ordered: Counter[str] = field(default_factory=Counter[str])
    tasks: int = 0
    unmatched: int = 0
    announcements: int = 0
    taken: int = 0
    """Offers that came to a sampled book."""
    trace: Any = field(default_factory=hashlib.sha256)

    def note(self, *what: object) -> None:
        """Mix one outcome into the digest of the whole run."""
        self.trace.update(repr(what).encode())


class World:
    """Everything there is, and the events to come."""

    def __init__(self, plan: Plan, random: Random) -> None:
        self.plan = plan
        self.random = random
        self.now = START
        self.end = Millis(START + round(plan.minutes * 60_000))
        self.tally = Tally()
        self._events: list[tuple[Millis, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0
        self._agreements = 0
        self.providers = [self._provider(number) for number in range(plan.nodes)]
        self.of_key = {each.offer.provider: each for each in self.providers}
        backed = {
            each.offer.provider
            for each in self.providers
            if random.random() < (plan.staked if each.honesty is Honesty.HONEST else 0.4)
        }
        links = self._overlay()
        self.clients = [
            self._client(number, links, backed)
            for number in random.sample(range(plan.nodes), plan.sampled)
        ]

    # --- who there is ---------------------------------------------------------------------------

    def _provider(self, number: int) -> Provider:
        random = self.random
        offer = population.invent_offer(random, f"node-{number}", START)
        honesty = Honesty.HONEST
        if random.random() < self.plan.liars:
            honesty = random.choice(LIARS)
        if honesty is Honesty.FAKE:
            price = MicroUnits(offer.price_per_hour * 7 // 10)
            offer = population.repriced(offer, price)
        return Provider(
            number=number,
            region=random.randrange(len(REGIONS_MS)),
            offer=offer,
            honesty=honesty,
            slots=SlotTable.of(offer.slots),
        )

    def _overlay(self) -> list[list[int]]:
        links: list[list[int]] = [[] for _ in self.providers]
        for node in range(len(links)):
            for other in self.random.sample(range(len(links)), LINKS):
                if other != node and other not in links[node]:
                    links[node].append(other)
                    links[other].append(node)
        return links

    def _client(self, number: int, links: list[list[int]], backed: set[NodeKey]) -> Client:
        key = self.providers[number].offer.provider
        return Client(
            number=number,
            region=self.providers[number].region,
            payer=Address(key),
            book=OfferBook(backed=lambda offer: offer.provider in backed),
            reach=self._reach(number, links),
        )

    def _reach(self, start: int, links: list[list[int]]) -> list[tuple[int, int]]:
        """Quickest ways to one node from all others: milliseconds and hops."""
        best: list[tuple[int, int]] = [(1 << 30, 0)] * len(links)
        best[start] = (0, 0)
        heap = [(0, 0, start)]
        while heap:
            took, hops, node = heapq.heappop(heap)
            if took > best[node][0]:
                continue
            here = REGIONS_MS[self.providers[node].region]
            for other in links[node]:
                there = took + here[self.providers[other].region]
                if there < best[other][0]:
                    best[other] = (there, hops + 1)
                    heapq.heappush(heap, (there, hops + 1, other))
        return best

    # --- time and the wire ----------------------------------------------------------------------

    def after(self, wait_ms: float, act: Callable[..., None], *rest: Any) -> None:
        """Do something later."""
        self._made += 1
        at = Millis(self.now + max(0, round(wait_ms)))
        heapq.heappush(self._events, (at, self._made, act, rest))

    def way(self, one: int, other: int) -> float:
        """Milliseconds of one direct message between two regions."""
        took = REGIONS_MS[one][other] + self.random.expovariate(1 / JITTER_MS)
        return took + RESENT_MS if self.random.random() < LOSS else took

    def run(self) -> Tally:
        """Let it all happen, to the end of the simulated time."""
        plan, random = self.plan, self.random
        for provider in self.providers:
            self.after(random.uniform(0, ANNOUNCE_SECONDS * 1000), self._announce, provider)
            self.after(random.expovariate(plan.leaves_per_hour / 3_600_000), self._leave, provider)
            if provider.honesty is Honesty.HONEST:
                for index in provider.slots.slots:
                    self._demand(provider, index, first=True)
        warm_ms = ANNOUNCE_SECONDS * 1000 + 5_000
        for client in self.clients:
            for number in range(plan.tasks_per_client):
                at = random.uniform(warm_ms, plan.minutes * 60_000 - PATIENCE_MS / 2)
                self.after(at, self._submit, client, number)
        while self._events and self._events[0][0] < self.end:
            self.now, _, act, rest = heapq.heappop(self._events)
            act(*rest)
        return self.tally

    # --- providers ------------------------------------------------------------------------------

    def _announce(self, provider: Provider) -> None:
        self.after(ANNOUNCE_SECONDS * 1000, self._announce, provider)
        if provider.online:
            self._publish(provider, population.renewed(provider.offer, self.now))

    def _publish(self, provider: Provider, offer: Offer) -> None:
        provider.announced += 1
        self.tally.announcements += 1
        signed = population.sealed(offer)
        random = self.random
        for client in self.clients:
            if random.random() < MISSED:
                continue
            took, hops = client.reach[provider.number]
            lost = sum(random.random() < HOP_LOSS for _ in range(hops))
            jitter = random.expovariate(1 / JITTER_MS) * hops + lost * random.uniform(20, 200)
            at = Millis(self.now + round(took + jitter))
            self._made += 1
            heapq.heappush(client.coming, (at, self._made, offer, signed))

    def _leave(self, provider: Provider) -> None:
        provider.online = False
        if self.random.random() < 0.5:
            self._publish(provider, population.withdrawn(provider.offer, self.now))
        self.after(self.random.expovariate(1 / 300_000), self._return, provider)

    def _return(self, provider: Provider) -> None:
        provider.online = True
        self.after(
            self.random.expovariate(self.plan.leaves_per_hour / 3_600_000), self._leave, provider
        )

    def _demand(self, provider: Provider, index: int, *, first: bool = False) -> None:
        """Others' jobs come to a slot and go, so that it is busy as often as planned."""
        mean_ms, busy = self.plan.job_minutes * 60_000, self.plan.busy
        if first and self.random.random() < busy:
            self._take_slot(provider, index)
            return
        self.after(
            self.random.expovariate(busy / (mean_ms * (1 - busy))),
            self._take_slot,
            provider,
            index,
        )

    def _take_slot(self, provider: Provider, index: int) -> None:
        other = Address(bytes(31) + bytes([index + 1]))
        if index not in provider.slots.free(other, self.now):
            self._demand(provider, index)
            return
        name = self.agreement_name()
        lasts = self.random.expovariate(1 / (self.plan.job_minutes * 60_000))
        until = Millis(self.now + round(lasts))
        provider.slots = provider.slots.let((index,), name, other, until)
        self.after(lasts, self._give_slot, provider, index, name)

    def agreement_name(self) -> AgreementId:
        """Return a name no agreement had before."""
        self._agreements += 1
        return AgreementId(hashlib.sha256(b"agreement %d" % self._agreements).digest())

    def _give_slot(self, provider: Provider, index: int, name: AgreementId) -> None:
        provider.slots = provider.slots.release(name)
        self._demand(provider, index)

    def quote(
        self, provider: Provider, payer: Address, wanted: Requirements
    ) -> tuple[str, tuple[int, ...]]:
        """What a provider says to a request for a quote: how it went, and the slots it holds."""
        provider.heard += 1
        if provider.honesty in (Honesty.STALE, Honesty.FAKE) or not fits(
            provider.offer, wanted, None
        ):
            return ("quoted" if provider.honesty is Honesty.FAKE else provider.honesty), ()
        free = provider.slots.free(payer, self.now)[: slots_needed(wanted)]
        if len(free) < slots_needed(wanted):
            return "busy", ()
        provider.slots, held = provider.slots.hold(free, payer, self.now, limits.QUOTE_HOLD)
        return "quoted", free if held else ()

    # --- clients --------------------------------------------------------------------------------

    def _submit(self, client: Client, number: int) -> None:
        self.tally.tasks += 1
        Search(self, client, number).begin()

    def book_of(self, client: Client) -> OfferBook:
        """The client's book with all that has come to it by now."""
        while client.coming and client.coming[0][0] <= self.now:
            at, _, offer, signed = heapq.heappop(client.coming)
            client.book.take(offer, signed, at)
            self.tally.taken += 1
        return client.book


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
            payer = self._client.payer
            provider.slots = provider.slots.unhold(held, payer, self._world.now)

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
        free = provider.slots.free(self._client.payer, now)[: slots_needed(wanted)]
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
