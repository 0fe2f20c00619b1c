"""From a task to a provider that would take it: the book is asked first, then providers for quotes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from robocompute_node.core.matching import PASSING, Match, explain_no_match, fits, rank
from robocompute_node.core.stake_policy import objection_to_stake
from robocompute_node.p2p.port import Network, PeerGone
from robocompute_node.services.conversation import PeerRefused
from robocompute_node.services.quoting import ASKED_AT_ONCE, QUOTE_SECONDS, Asked, Quoting
from robocompute_protocol import limits
from robocompute_protocol.errors import (
    ChainError,
    ChainRefused,
    RemoteProtocolError,
    RoboComputeError,
)
from robocompute_protocol.identifiers import Address, Digest, NodeKey, to_base58
from robocompute_protocol.messages import PROTOCOL_AGREEMENT, Offer, Quote, QuoteRequest
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.core.tasks import TaskRecord
    from robocompute_node.p2p.port import FrameStream
    from robocompute_node.services.bidding import Bids
    from robocompute_node.services.market import Market
    from robocompute_node.services.quoting import Answer
    from robocompute_node.services.standings import Standings
    from robocompute_protocol.messages import Requirements
    from robocompute_settlement.port import Settlement, StakeView

log = logging.getLogger(__name__)

CANDIDATES: Final = 32
"""The cheapest that fit, which are compared by all that is known of them; quotes cost time."""
EXPLAINED: Final = 2_000
"""Offers looked at to say what nobody meets."""
BID_EVERY: Final = Millis(10_000)
"""A task that waits bids again after so long: its market changes slowly."""
AWAY_MS: Final = Millis(15_000)
"""A provider that is away is left out for this long: a restart takes less, and others come first."""
BUSY_MS: Final = Millis(15_000)
"""A provider that said it is busy comes after all that did not for so long, twice as long each time
in a row: else the same cheapest few would be asked again and again, and who lies about it too."""
BUSY_DOUBLINGS: Final = 4
"""Up to four minutes."""
BUSY_ASKED: Final = 2 * ASKED_AT_ONCE
"""Of these, so many are asked again where nobody else is left."""
MAX_AWAY: Final = 10_000
"""Providers remembered as away: under a megabyte."""
STAKE_MS: Final = Millis(60_000)
"""A stake is looked up again after a minute: unbonding takes days."""
MAX_STAKES: Final = 10_000
"""Providers whose stakes are remembered: a few megabytes."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A provider's quote, the offer it was asked for, and until when it holds its slots."""

    match: Match
    quote: Quote
    held_until: Millis
    why: str


@dataclass(frozen=True, slots=True)
class NotMatched:
    """Nobody took it. ``busy``: somebody would, later. ``failed`` are not to be asked again."""

    explanation: str
    busy: bool
    failed: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownStake:
    """A provider's stake as it was seen on chain."""

    payee: Address
    stake: StakeView | None
    slot_stake: MicroUnits
    seen_ms: Millis


@dataclass(slots=True)
class _Search:
    """What was found out in looking for one task's provider."""

    why: str
    busy: int
    failed: list[NodeKey]


class Matchmaking:
    """Finds providers for this node's tasks."""

    def __init__(
        self,
        network: Network,
        market: Market,
        bids: Bids,
        standings: Standings,
        chain: Settlement,
        clock: Clock,
        wallet: Address,
        config: NodeConfig,
        *,
        unsafe: Callable[[], str | None],
    ) -> None:
        """Put together what decides. While ``unsafe`` says why not, nobody is asked."""
        self._unsafe = unsafe
        self._chain = chain
        self._known: dict[NodeKey, _KnownStake] = {}
        self._away: dict[NodeKey, Millis] = {}
        self._busy: dict[NodeKey, tuple[int, Millis]] = {}
        """Who said it is busy: how often in a row, and until when others come first."""
        self._bid_at: dict[str, Millis] = {}
        self._network = network
        self._market = market
        self._bids = bids
        self.standings = standings
        self._clock = clock
        self._wallet = wallet
        self._config = config
        self._quoting = Quoting(clock.now_ms, self._check)

    def away(self, provider: NodeKey) -> None:
        """Leave ``provider`` out for a while: it could not be reached, which is no refusal."""
        if len(self._away) >= MAX_AWAY:
            self._away.clear()
        self._away[provider] = Millis(self._clock.now_ms() + AWAY_MS)

    def _away_now(self, now: Millis) -> frozenset[NodeKey]:
        return frozenset(provider for provider, until in self._away.items() if until > now)

    # --- before there is a task -----------------------------------------------------------------

    async def likely(
        self, wanted: Requirements, *, max_price: MicroUnits, only: NodeKey | None
    ) -> tuple[Match | None, str]:
        """Return the match that looks best now, or None and what nobody meets.

        Where nobody fits, the market is asked: who answers a bid is in the book afterwards.
        """
        await self._market.follow(wanted.resource_class)
        matches = self._rank(wanted, max_price, only=only)
        if not matches and only is None:
            async with self._bids.asking(wanted, max_price):
                matches = self._rank(wanted, max_price)
        if matches:
            return matches[0], ""
        return None, self._explain(wanted, max_price, only=only)

    # --- one task -------------------------------------------------------------------------------

    async def find(
        self, task: TaskRecord, files: Callable[[], frozenset[Digest]]
    ) -> Quoted | NotMatched:
        """Ask the providers that fit, best first and a few at once, until one quotes."""
        unsafe = self._unsafe()
        if unsafe is not None:
            return NotMatched(f"nothing is rented: {unsafe}", busy=True, failed=())
        wanted, price = task.spec.requirements, task.max_price_per_hour
        await self._market.follow(wanted.resource_class)
        avoid = frozenset(task.avoid)
        away = self._away_now(self._clock.now_ms())
        avoid_now = avoid | away
        first = avoid_now | self._busy_now(self._clock.now_ms())
        has = files() if self.standings.knows_files else frozenset[Digest]()
        matches = self._rank(wanted, price, avoid=first, only=task.only, files=has)
        if len(matches) > 1:
            await self.standings.look_up_fees(match.offer for match in matches)
            matches = self._rank(wanted, price, avoid=first, only=task.only, files=has)
        search = _Search(self._explain(wanted, price, only=task.only, without=avoid), 0, [])
        again = self._rank(wanted, price, avoid=avoid_now, only=task.only, files=has)
        if not again and self._rank(wanted, price, avoid=avoid, only=task.only):
            search.why = "the providers that fit do not answer now"
        request = QuoteRequest(
            requirements=wanted,
            payer=self._wallet,
            mint=self._config.chain.mint,
            wall_ms=task.spec.wall_ms,
        )
        found = await self._best_of(self._to_ask(matches), request, search)
        if found is None:
            tried = {match.offer.provider for match in matches}
            left = [match for match in again if match.offer.provider not in tried][:BUSY_ASKED]
            found = await self._best_of(self._to_ask(left), request, search)
        if found is None and not search.busy and task.only is None and self._may_bid(task):
            found = await self._bid(task, request, search)
        if found is not None:
            return found
        if search.busy:
            several = search.busy > 1
            search.why = f"{search.busy} fitting provider{'s are' if several else ' is'} busy"
        return NotMatched(search.why, search.busy > 0, tuple(search.failed))

    def has_another(self, task: TaskRecord) -> bool:
        """Whether a provider is known that the task could go to, and that it does not avoid."""
        wanted, price = task.spec.requirements, task.max_price_per_hour
        return bool(self._rank(wanted, price, avoid=frozenset(task.avoid), only=task.only))

    def _rank(
        self,
        wanted: Requirements,
        max_price: MicroUnits | None,
        *,
        avoid: frozenset[NodeKey] = frozenset(),
        only: NodeKey | None = None,
        files: frozenset[Digest] = frozenset(),
    ) -> tuple[Match, ...]:
        book, mint, now = self._market.book, self._config.chain.mint, self._clock.now_ms()
        if only is None:
            entries = book.fitting(
                wanted, mint=mint, max_price=max_price, now=now, without=avoid, at_most=CANDIDATES
            )
        else:
            entry = book.get(only, wanted.resource_class, now)
            entries = () if entry is None else (entry,)
        return self._ranked((entry.offer for entry in entries), wanted, max_price, avoid, files)

    def _ranked(
        self,
        offers: Iterable[Offer],
        wanted: Requirements,
        max_price: MicroUnits | None,
        avoid: frozenset[NodeKey],
        files: frozenset[Digest],
    ) -> tuple[Match, ...]:
        return rank(
            offers,
            wanted,
            max_price=max_price,
            mint=self._config.chain.mint,
            now=self._clock.now_ms(),
            avoid=avoid,
            evidence=lambda provider: self.standings.evidence(provider, files),
        )

    def _explain(
        self,
        wanted: Requirements,
        max_price: MicroUnits | None,
        *,
        only: NodeKey | None,
        without: frozenset[NodeKey] = frozenset(),
    ) -> str:
        live = islice(self._market.book.live(self._clock.now_ms()), EXPLAINED)
        offers = [
            entry.offer
            for entry in live
            if only in (None, entry.offer.provider) and entry.offer.provider not in without
        ]
        return explain_no_match(offers, wanted, max_price=max_price)

    def _to_ask(self, matches: Iterable[Match]) -> list[Asked]:
        return [Asked(match, self._dial(match)) for match in matches]

    def _busy_now(self, now: Millis) -> frozenset[NodeKey]:
        return frozenset(provider for provider, (_, until) in self._busy.items() if until > now)

    def _said_busy(self, provider: NodeKey) -> None:
        times, _ = self._busy.pop(provider, (0, Millis(0)))
        rest = BUSY_MS << min(times, BUSY_DOUBLINGS)
        self._busy[provider] = (times + 1, Millis(self._clock.now_ms() + rest))
        if len(self._busy) > MAX_AWAY:
            del self._busy[next(iter(self._busy))]

    def _dial(self, match: Match) -> Callable[[], AbstractAsyncContextManager[FrameStream]]:
        return partial(
            self._network.open,
            match.offer.provider,
            PROTOCOL_AGREEMENT,
            timeout_s=QUOTE_SECONDS,
        )

    async def _best_of(
        self, asked: list[Asked], request: QuoteRequest, search: _Search
    ) -> Quoted | None:
        """Ask a few at once, and the next few where none of them quotes."""
        for start in range(0, len(asked), ASKED_AT_ONCE):
            some = asked[start : start + ASKED_AT_ONCE]
            outcome = await self._quoting.best_of(some, request)
            for answer in outcome.answers:
                self._busy.pop(answer.match.offer.provider, None)
                self.standings.answered(answer.match.offer.provider, answer.took_ms)
            for provider, error in outcome.errors:
                self._take_no(provider, error, search)
            if outcome.best is not None:
                return self._quoted(outcome.best, len(outcome.answers))
        return None

    def _take_no(self, provider: NodeKey, error: RoboComputeError, search: _Search) -> None:
        """Note why a provider gave no quote, and whether it is to be asked again."""
        name = to_base58(provider)
        match error:
            case PeerRefused() if error.refused.code in PASSING:
                search.busy += 1
                self._said_busy(provider)
                return
            case PeerRefused():
                search.why = f"{name} refused: {error}"
            case PeerGone():
                search.why = f"{name} did not answer: {error}"
                log.info("no quote: %s", search.why)
                self.away(provider)
                return
            case ChainRefused():
                search.why = f"the stake of {name} cannot be read: {error}"
            case ChainError():
                search.busy += 1
                log.warning("a provider's stake cannot be looked up: %s", error)
                return
            case _:
                search.why = f"{name} is not to be trusted: {error}"
        log.info("no quote: %s", search.why)
        self.standings.failed(provider)
        search.failed.append(provider)

    def _quoted(self, answer: Answer, quotes: int) -> Quoted:
        why = answer.match.why
        if quotes > 1:
            why += f", taken of {quotes} quotes"
        return Quoted(answer.match, answer.quote, self._held_until(answer.quote), why)

    # --- bids -----------------------------------------------------------------------------------

    def _may_bid(self, task: TaskRecord) -> bool:
        now = self._clock.now_ms()
        self._bid_at = {each: at for each, at in self._bid_at.items() if now - at < BID_EVERY}
        return self._bid_at.setdefault(task.task_id, now) == now

    async def _bid(
        self, task: TaskRecord, request: QuoteRequest, search: _Search
    ) -> Quoted | None:
        wanted = task.spec.requirements
        price = task.max_price_per_hour
        most = self._config.client.max_price_per_hour if price is None else price
        async with self._bids.asking(wanted, most) as answered:
            by = {each.offer.provider: each for each in answered}
            offers = (each.offer for each in answered if fits(each.offer, wanted, price))
            matches = self._ranked(offers, wanted, price, frozenset(task.avoid), frozenset())
            asked = [Asked(match, by[match.offer.provider].open) for match in matches]
            found = await self._best_of(asked, request, search)
        if found is None:
            return None
        return Quoted(found.match, found.quote, found.held_until, f"{found.why}, answered a bid")

    # --- quotes ---------------------------------------------------------------------------------

    def _held_until(self, quote: Quote) -> Millis:
        """Half of the hold is left to the order's way to the provider."""
        return Millis(self._clock.now_ms() + min(quote.hold_ms, limits.QUOTE_HOLD) // 2)

    async def renew(self, found: Quoted, task: TaskRecord) -> Quoted | None:
        """Return ``found`` with its slots held, asking once more where the hold ran out meanwhile.

        None when the provider asks for more now. Raises: PeerGone, PeerRefused,
        RemoteProtocolError, ChainError.
        """
        if self._clock.now_ms() < found.held_until:
            return found
        request = QuoteRequest(
            requirements=task.spec.requirements,
            payer=self._wallet,
            mint=self._config.chain.mint,
            wall_ms=task.spec.wall_ms,
        )
        answer = await self._quoting.one(Asked(found.match, self._dial(found.match)), request)
        quote = answer.quote
        if (quote.payee, quote.mint) != (found.quote.payee, found.quote.mint) or (
            quote.price_per_hour > found.quote.price_per_hour
        ):
            return None
        return Quoted(found.match, quote, self._held_until(quote), found.why)

    async def _check(self, match: Match, quote: Quote, request: QuoteRequest) -> None:
        """Raises: RemoteProtocolError, ChainError."""
        if quote.price_per_hour > match.price:
            raise RemoteProtocolError("it asks for more than it offered", code="price_changed")
        if quote.mint != request.mint:
            raise RemoteProtocolError("a quote in another mint than asked for")
        longest = self._config.client.max_challenge_s
        if quote.min_challenge_s > longest:
            raise RemoteProtocolError(
                f"it wants money locked for {quote.min_challenge_s} s after a close; at most "
                f"{longest} s are allowed by [client] max_challenge_s"
            )
        await self._check_stake(match.offer.provider, quote)

    async def _check_stake(self, provider: NodeKey, quote: Quote) -> None:
        """Raises: RemoteProtocolError, ChainError."""
        known = self._known.get(provider)
        now = self._clock.now_ms()
        if known is None or now - known.seen_ms > STAKE_MS or known.payee != quote.payee:
            known = _KnownStake(
                payee=quote.payee,
                stake=await self._chain.stake_of(quote.payee, quote.mint),
                slot_stake=(await self._chain.config()).slot_stake,
                seen_ms=now,
            )
            if len(self._known) >= MAX_STAKES:
                self._known.clear()
            self._known[provider] = known
        objection = objection_to_stake(
            known.stake,
            named=quote.stake,
            node_key=provider,
            slots=quote.slots,
            slot_stake=known.slot_stake,
        )
        if objection is not None:
            del self._known[provider]
            raise RemoteProtocolError(f"stake: {objection}", code="stake_short")
