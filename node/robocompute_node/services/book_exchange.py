"""``/robocompute/book/1``: a late joiner asks three peers for the live offers and takes the union.

What one of them leaves out another one shows, and what it invents is not signed. A peer's book may be
as long and as slow as it likes: it is read for a minute at most, beside everything else.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.offer_book import MAX_OFFERS, OfferBook, Verdict
from robocompute_node.p2p.bounds import Rates
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, hear, say
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import NodeKey, to_base58
from robocompute_protocol.messages import (
    CLASSES,
    PROTOCOL_BOOK,
    BookMessage,
    BookPage,
    BookRequest,
    Refused,
    Signed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from robocompute_node.clocks import Clock

    class Admit(Protocol):
        """As ``Market.admit``."""

        def __call__(
            self, signed: Signed, classes: tuple[str, ...], *, allow: Callable[[], bool]
        ) -> Verdict: ...


log = logging.getLogger(__name__)

BOOKS: Final = 3
"""Peers whose books of a class are taken: one may lie, and one be new itself."""
PAGE_OFFERS: Final = 32
"""Offers on one page of the book: of 2 KiB each at most, a quarter of a frame."""
MAX_PAGES: Final = 2 * MAX_OFFERS // PAGE_OFFERS
"""Pages one peer may send: twice what the book can hold."""
STRANGERS_A_BOOK: Final = 5_000
"""Offers without stake that are looked at in one peer's book: a second of CPU."""
PEER_POLL_SECONDS: Final = 0.25
"""How soon a new peer's book is asked for."""
PAGE_SECONDS: Final = 10.0
"""A peer that takes longer for one page has no book."""
BOOK_SECONDS: Final = 60.0
"""A whole book is read by then: 50,000 offers are 40 MB and eight seconds of checking signatures."""
LATER_SECONDS: Final = 30.0
"""Once three books were read, another new peer's is asked for so seldom: it may be of an island."""
ASKED_AT_ONCE: Final = 8
"""Books read at the same time: a few peers that drip theirs hold nobody up."""
SERVED_AT_ONCE: Final = 8
"""Books given at the same time: each keeps a list of all offers, half a megabyte."""
SERVE_SECONDS: Final = 120.0
"""A peer that takes longer for a whole book is cut off."""
SERVED_PER_SECOND: Final = 0.1
"""Books given to one peer in the long run: it needs one for each class that it comes to want."""
SERVED_BURST: Final = len(CLASSES)


class BookExchange:
    """Asks peers for their books, and gives them ours."""

    def __init__(self, network: Network, clock: Clock, book: OfferBook, admit: Admit) -> None:
        self._network = network
        self._clock = clock
        self._book = book
        self._admit = admit
        self._wanted: dict[str, trio.Event] = {}
        """By class: set once a peer's book of it was read."""
        self._read: Counter[str] = Counter()
        self._asked: dict[NodeKey, set[str]] = {}
        """Of the peers that are connected."""
        self._asking: set[NodeKey] = set()
        self._asked_at = float("-inf")
        self._rates: Rates[NodeKey] = Rates(SERVED_PER_SECOND, SERVED_BURST)
        self._serving = trio.CapacityLimiter(SERVED_AT_ONCE)

    def register(self) -> None:
        """Answer ``/robocompute/book/1``."""
        self._network.serve(PROTOCOL_BOOK, self._serve)

    def want(self, resource_class: str) -> None:
        """Ask peers for their offers of this class from now on."""
        self.heard(resource_class)

    def heard(self, resource_class: str) -> trio.Event:
        """Set once a peer's book of this class was read."""
        return self._wanted.setdefault(resource_class, trio.Event())

    # --- asking ---------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Ask new peers until cancelled: three books of each class soon, others seldom."""
        async with trio.open_nursery() as nursery:
            while True:
                peers = self._network.peers()
                self._asked = {peer: self._asked.get(peer, set()) for peer in peers}
                for peer in peers:
                    classes = self._due(peer)
                    if classes and peer not in self._asking and len(self._asking) < ASKED_AT_ONCE:
                        self._asking.add(peer)
                        self._asked[peer] |= set(classes)
                        self._asked_at = trio.current_time()
                        nursery.start_soon(self._ask, peer, classes)
                await trio.sleep(PEER_POLL_SECONDS)
        raise AssertionError("unreachable")

    def _due(self, peer: NodeKey) -> tuple[str, ...]:
        """Classes that this peer is to be asked for now."""
        unasked = [each for each in self._wanted if each not in self._asked[peer]]
        if trio.current_time() - self._asked_at < LATER_SECONDS:
            unasked = [each for each in unasked if self._read[each] < BOOKS]
        return tuple(unasked)

    async def _ask(self, peer: NodeKey, classes: tuple[str, ...]) -> None:
        try:
            with trio.fail_after(BOOK_SECONDS):
                await self._read_book(peer, classes)
        except PeerRefused as exc:
            log.debug("%s has no time for its book: %s", to_base58(peer), exc)
            self._asking.discard(peer)
            await trio.sleep(LATER_SECONDS)
            self._asked.get(peer, set[str]()).difference_update(classes)
        except (PeerGone, RemoteProtocolError, trio.TooSlowError) as exc:
            log.info("no book from %s: %s", to_base58(peer), exc or "too slow")
        else:
            for each in classes:
                self._read[each] += 1
                self._wanted[each].set()
        finally:
            self._asking.discard(peer)

    async def _read_book(self, peer: NodeKey, classes: tuple[str, ...]) -> None:
        strangers = 0

        def allow() -> bool:
            nonlocal strangers
            strangers += 1
            return strangers <= STRANGERS_A_BOOK

        async with self._network.open(peer, PROTOCOL_BOOK) as stream:
            await say(stream, BookRequest(classes=classes))
            for _ in range(MAX_PAGES):
                page = await expect(stream, BookMessage, BookPage, timeout_s=PAGE_SECONDS)
                for signed in page.offers:
                    self._admit(signed, classes, allow=allow)
                if page.last:
                    return
        raise RemoteProtocolError("a book with more pages than a book has")

    # --- answering ------------------------------------------------------------------------------

    async def _serve(self, stream: FrameStream) -> None:
        request = await hear(stream, BookMessage, timeout_s=PAGE_SECONDS)
        if not isinstance(request, BookRequest):
            raise RemoteProtocolError("a book stream begins with BookRequest")
        if not self._rates.take(stream.peer, trio.current_time()):
            await say(stream, Refused(code="busy", message="the book was shown just now"))
            return
        try:
            self._serving.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            await say(stream, Refused(code="busy", message="others are reading; ask in a while"))
            return
        try:
            with trio.move_on_after(SERVE_SECONDS) as patience:
                await self._show(stream, frozenset(request.classes))
        finally:
            self._serving.release_on_behalf_of(stream)
        if patience.cancelled_caught:
            raise PeerGone("the peer reads too slowly")

    async def _show(self, stream: FrameStream, wanted: frozenset[str]) -> None:
        entries = [
            entry.signed
            for entry in self._book.everything(self._clock.now_ms())
            if entry.offer.resource_class in wanted
        ]
        for start in range(0, max(1, len(entries)), PAGE_OFFERS):
            page = tuple(entries[start : start + PAGE_OFFERS])
            await say(stream, BookPage(offers=page, last=start + PAGE_OFFERS >= len(entries)))
