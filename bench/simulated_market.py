"""A market of thousands of nodes on virtual time, deciding by the node's own core.

Real here: the offer book, the ranking, reputation, slots, and both sides of every agreement. Modelled: the wire. A message takes the latency between two regions and some; gossip
takes the quickest way through a random overlay; each hop may be lost and repeated, and now and then
a node misses a message altogether. Whoever does not hold a book of its own in here (all but the
sampled clients) is there as a provider, and as others' demand for its slots.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import TYPE_CHECKING, Any

import population
from robocompute_node.core.matching import fits, slots_needed
from robocompute_node.core.offer_book import OfferBook
from robocompute_node.core.slots import SlotTable
from robocompute_node.services.market import ANNOUNCE_SECONDS
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address, AgreementId, NodeKey
from robocompute_protocol.money import MicroUnits, Millis
from simulated_plan import (
    HOP_LOSS,
    JITTER_MS,
    LIARS,
    LINKS,
    LOSS,
    MISSED,
    PATIENCE_MS,
    REGIONS_MS,
    RESENT_MS,
    START,
    Client,
    Honesty,
    Plan,
    Provider,
    Tally,
    node_of,
)
from simulated_renting import Search

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from robocompute_protocol.messages import Offer, Requirements


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
        if index not in provider.slots.free(other, node_of(other), self.now):
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
        free = provider.slots.free(payer, node_of(payer), self.now)[: slots_needed(wanted)]
        if len(free) < slots_needed(wanted):
            return "busy", ()
        provider.slots, held = provider.slots.hold(
            free, node_of(payer), self.now, limits.QUOTE_HOLD
        )
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
