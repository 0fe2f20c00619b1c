"""From a task to a provider that would take it: the book is asked first, then providers for quotes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.core.matching import PASSING, Match, explain_no_match, misfit, rank
from robocompute_node.core.stake_policy import objection_to_stake
from robocompute_node.p2p.port import Network, PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, say
from robocompute_protocol import limits
from robocompute_protocol.errors import ChainError, ChainRefused, RemoteProtocolError
from robocompute_protocol.identifiers import Address, NodeKey, to_base58
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    AgreementMessage,
    Quote,
    QuoteRequest,
)
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.core.tasks import TaskRecord
    from robocompute_node.services.market import Market
    from robocompute_settlement.port import Settlement, StakeView

log = logging.getLogger(__name__)

QUOTE_SECONDS: Final = 5.0
"""A provider that does not answer by then is away."""
AWAY_MS: Final = Millis(15_000)
"""A provider that is away is left out for this long: a restart takes less, and others come first."""
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


class Matchmaking:
    """Finds providers for this node's tasks."""

    def __init__(
        self,
        network: Network,
        market: Market,
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
        self._stakes: dict[NodeKey, _KnownStake] = {}
        self._away: dict[NodeKey, Millis] = {}
        self._network = network
        self._market = market
        self._clock = clock
        self._wallet = wallet
        self._config = config

    def away(self, provider: NodeKey) -> None:
        """Leave ``provider`` out for a while: it could not be reached, which is no refusal."""
        if len(self._away) >= MAX_AWAY:
            self._away.clear()
        self._away[provider] = Millis(self._clock.now_ms() + AWAY_MS)

    def _away_now(self, now: Millis) -> frozenset[NodeKey]:
        return frozenset(provider for provider, until in self._away.items() if until > now)

    async def find(self, task: TaskRecord) -> Quoted | NotMatched:
        """Ask the providers that fit, best first, until one quotes."""
        unsafe = self._unsafe()
        if unsafe is not None:
            return NotMatched(f"nothing is rented: {unsafe}", busy=True, failed=())
        now = self._clock.now_ms()
        away = self._away_now(now)
        offers = [entry.offer for entry in self._market.book.live(now)]
        matches = rank(
            offers,
            task.spec.requirements,
            max_price=task.max_price_per_hour,
            mint=self._config.chain.mint,
            now=now,
            avoid=frozenset(task.avoid) | away,
            only=task.only,
        )
        busy, failed = 0, list[NodeKey]()
        why = explain_no_match(
            [offer for offer in offers if offer.provider not in task.avoid],
            task.spec.requirements,
            max_price=task.max_price_per_hour,
        )
        if any(
            offer.provider in away
            and misfit(offer, task.spec.requirements, task.max_price_per_hour) is None
            for offer in offers
        ):
            why = "the providers that fit do not answer now"
        for match in matches:
            provider = match.offer.provider
            try:
                quote = await self._ask(provider, task)
            except PeerRefused as exc:
                if exc.refused.code in PASSING:
                    busy += 1
                    continue
                why = f"{to_base58(provider)} refused: {exc}"
            except PeerGone as exc:
                why = f"{to_base58(provider)} did not answer: {exc}"
                log.info("no quote: %s", why)
                self.away(provider)
                continue
            except RemoteProtocolError as exc:
                why = f"{to_base58(provider)} is not to be trusted: {exc}"
            except ChainRefused as exc:
                why = f"the stake of {to_base58(provider)} cannot be read: {exc}"
            except ChainError as exc:
                busy += 1
                log.warning("a provider's stake cannot be looked up: %s", exc)
                continue
            else:
                if quote.price_per_hour <= match.price:
                    return Quoted(match, quote, self._held_until(quote))
                why = f"{to_base58(provider)} asks for more than it offered"
            log.info("no quote: %s", why)
            failed.append(provider)
        if busy:
            why = f"{busy} fitting provider{'s are' if busy > 1 else ' is'} busy"
        return NotMatched(why, busy > 0, tuple(failed))

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
        quote = await self._ask(found.match.offer.provider, task)
        if (quote.payee, quote.mint) != (found.quote.payee, found.quote.mint) or (
            quote.price_per_hour > found.quote.price_per_hour
        ):
            return None
        return Quoted(found.match, quote, self._held_until(quote))

    async def _ask(self, provider: NodeKey, task: TaskRecord) -> Quote:
        request = QuoteRequest(
            requirements=task.spec.requirements,
            payer=self._wallet,
            mint=self._config.chain.mint,
            wall_ms=task.spec.wall_ms,
        )
        async with self._network.open(
            provider, PROTOCOL_AGREEMENT, timeout_s=QUOTE_SECONDS
        ) as stream:
            await say(stream, request)
            quote = await expect(stream, AgreementMessage, Quote, timeout_s=QUOTE_SECONDS)
        if quote.mint != request.mint:
            raise RemoteProtocolError("a quote in another mint than asked for")
        longest = self._config.client.max_challenge_s
        if quote.min_challenge_s > longest:
            raise RemoteProtocolError(
                f"it wants money locked for {quote.min_challenge_s} s after a close; at most "
                f"{longest} s are allowed by [client] max_challenge_s"
            )
        await self._check_stake(provider, quote)
        return quote

    async def _check_stake(self, provider: NodeKey, quote: Quote) -> None:
        """Raises: RemoteProtocolError, ChainError."""
        known = self._stakes.get(provider)
        now = self._clock.now_ms()
        if known is None or now - known.seen_ms > STAKE_MS or known.payee != quote.payee:
            known = _KnownStake(
                payee=quote.payee,
                stake=await self._chain.stake_of(quote.payee, quote.mint),
                slot_stake=(await self._chain.config()).slot_stake,
                seen_ms=now,
            )
            if len(self._stakes) >= MAX_STAKES:
                self._stakes.clear()
            self._stakes[provider] = known
        objection = objection_to_stake(
            known.stake,
            named=quote.stake,
            node_key=provider,
            slots=quote.slots,
            slot_stake=known.slot_stake,
        )
        if objection is not None:
            del self._stakes[provider]
            raise RemoteProtocolError(f"stake: {objection}", code="stake_short")
