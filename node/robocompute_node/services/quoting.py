"""Several providers are asked at once, the best quote is taken, and the others hear so at once.

A quote holds slots that nobody else can have. What is not taken is released by a word where there was
a quote, and by resetting the stream where there was none yet; a quote's own deadline does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_node.services.conversation import expect, say
from robocompute_protocol.errors import ChainError, RemoteProtocolError, RoboComputeError
from robocompute_protocol.messages import AgreementMessage, Quote, QuoteRequest, ReleaseQuote
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from robocompute_node.core.matching import Match
    from robocompute_protocol.identifiers import NodeKey
QUOTE_SECONDS: Final = 5.0
"""A provider that does not answer by then is away."""
GRACE_SECONDS: Final = 0.25
"""Once there is a quote, better ones have so long to come: about what a slower line takes."""
ASKED_AT_ONCE: Final = 3
"""Providers asked together: quotes may be hedged, and each one asked holds a slot for a moment."""
RELEASE_SECONDS: Final = 2.0
"""Telling a loser takes no longer than this; then its hold ends by itself."""

Open = Callable[[], AbstractAsyncContextManager[FrameStream]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A provider to be asked, and how its ear is reached."""

    match: Match
    open: Open


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's quote."""

    match: Match
    quote: Quote
    took_ms: Millis


class Round:
    """What came of asking some providers: the best quote, if any, and who said what else."""

    def __init__(self, asked: int) -> None:
        self.best: Answer | None = None
        self.answers: list[Answer] = []
        self.errors: list[tuple[NodeKey, RoboComputeError]] = []
        self.pending = set(range(asked))
        self.decided = trio.Event()
        self._places: dict[int, Answer] = {}
        self._changed = trio.Event()

    def done(self, place: int, answer: Answer | None) -> None:
        """The provider at this place answered, or will not."""
        if answer is not None:
            self._places[place] = answer
            self.answers.append(answer)
        self.pending.discard(place)
        self._changed.set()
        self._changed = trio.Event()

    async def decide(self) -> None:
        """Wait until nobody who is still to answer could be better, or until patience ends."""
        until = math.inf
        while self.pending:
            first = min(self._places, default=None)
            if first is not None and first < min(self.pending):
                break
            if first is not None:
                until = min(until, trio.current_time() + GRACE_SECONDS)
            with trio.move_on_at(until) as patience:
                await self._changed.wait()
            if patience.cancelled_caught:
                break
        if self._places:
            self.best = self._places[min(self._places)]
        self.decided.set()


class Quoting:
    """Asks for quotes."""

    def __init__(
        self,
        now_ms: Callable[[], Millis],
        check: Callable[[Match, Quote, QuoteRequest], Awaitable[None]],
    ) -> None:
        """``check`` raises what stands against a quote."""
        self._now_ms = now_ms
        self._check = check

    async def one(self, asked: Asked, request: QuoteRequest) -> Answer:
        """Ask one provider. Raises: PeerGone, PeerRefused, RemoteProtocolError, ChainError."""
        async with asked.open() as stream:
            return await self._ask(stream, asked.match, request)

    async def best_of(self, asked: Sequence[Asked], request: QuoteRequest) -> Round:
        """Ask some providers together, best first, and return the best quote in hand.

        The first choice is taken as soon as it quotes what it offered; any other once the better
        ones had a moment to answer. All others are released before this returns.
        """
        outcome = Round(len(asked))
        scopes = [trio.CancelScope() for _ in asked]
        async with trio.open_nursery() as nursery:
            for place, each in enumerate(asked):
                nursery.start_soon(self._ask_in, scopes[place], outcome, place, each, request)
            await outcome.decide()
            for place in outcome.pending:
                scopes[place].cancel()
        return outcome

    async def _ask_in(
        self,
        scope: trio.CancelScope,
        outcome: Round,
        place: int,
        asked: Asked,
        request: QuoteRequest,
    ) -> None:
        """Ask, wait for what is decided, and release. Cancelled, the stream is reset."""
        answer: Answer | None = None
        with scope:
            try:
                async with asked.open() as stream:
                    answer = await self._ask(stream, asked.match, request)
                    outcome.done(place, answer)
                    await outcome.decided.wait()
                    if outcome.best is not answer:
                        await _release(stream)
            except RoboComputeError as exc:
                if answer is None:
                    outcome.errors.append((asked.match.offer.provider, exc))
                    outcome.done(place, None)

    async def _ask(self, stream: FrameStream, match: Match, request: QuoteRequest) -> Answer:
        began = self._now_ms()
        await say(stream, request)
        quote = await expect(stream, AgreementMessage, Quote, timeout_s=QUOTE_SECONDS)
        took = Millis(self._now_ms() - began)
        try:
            await self._check(match, quote, request)
        except (RemoteProtocolError, ChainError):
            await _release(stream)
            raise
        return Answer(match, quote, took)


async def _release(stream: FrameStream) -> None:
    """Say that a quote is not wanted. A peer that does not read waits for the quote's own end."""
    with trio.move_on_after(RELEASE_SECONDS), suppress(PeerGone):
        await say(stream, ReleaseQuote())
