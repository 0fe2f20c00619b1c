"""Offers by gossip: a provider's own are announced, everybody's are kept in the book.

A late joiner asks each new peer once for its book (``/robocompute/book/1``), so it need not wait
for the next announcement.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.offer_book import OfferBook, Verdict
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, hear, say
from robocompute_node.store import Store, Table
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import NodeKey, to_base58
from robocompute_protocol.messages import (
    PROTOCOL_BOOK,
    TOPIC_OFFERS,
    BookMessage,
    BookPage,
    BookRequest,
    Offer,
    Signed,
)
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import OFFER, SigningKey, open_signed, sign_message

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock

log = logging.getLogger(__name__)

SEQUENCES: Final = Table("offer-sequences/1", int)
ANNOUNCE_SECONDS: Final = 60.0
"""Between announcements of an unchanged offer: gossip loses messages, and 30 fit in a TTL."""
NOTHING_SECONDS: Final = 1.0
"""How soon an offer is announced once there is something to let."""
PAGE_OFFERS: Final = 16
"""Offers on one page of the book: at most 16 times 16 KiB, which is one frame's limit."""
MAX_PAGES: Final = 4_096
"""Pages one peer may send: more than the book can hold."""
PEER_POLL_SECONDS: Final = 0.25
"""How soon a new peer's book is asked for."""
BOOK_SECONDS: Final = 10.0
"""A peer that takes longer for one page is asked another time."""

OfferSource = Callable[[Millis], Offer | None]
"""(sequence) → this node's offer as it is now, or None while there is nothing to let."""


class Market:
    """This node's side of the offer gossip."""

    def __init__(
        self, network: Network, store: Store, clock: Clock, key: SigningKey, book: OfferBook
    ) -> None:
        self._network = network
        self._store = store
        self._clock = clock
        self._key = key
        self.book = book
        store.declare(SEQUENCES)
        self._learnt = trio.Event()

    def learnt(self) -> trio.Event:
        """An event that is set when the next new offer comes in."""
        return self._learnt

    async def run(
        self,
        *,
        classes: tuple[str, ...],
        source: OfferSource | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Listen to ``classes``, answer for the book, and announce what ``source`` offers."""
        self._network.serve(PROTOCOL_BOOK, self._serve_book)
        async with trio.open_nursery() as nursery:
            for resource_class in classes:
                await nursery.start(self._listen, resource_class)
            nursery.start_soon(self._ask_new_peers, classes)
            if source is not None:
                nursery.start_soon(self._announce, source)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    def _open(self, payload: bytes) -> tuple[Offer, Signed]:
        signed = codec.decode(Signed, payload, limit=limits.MAX_GOSSIP_BYTES)
        offer = open_signed(OFFER, signed, Offer)
        if offer.provider != signed.key:
            raise RemoteProtocolError("an offer signed by somebody else than its provider")
        return offer, signed

    def _validate(self, _forwarder: NodeKey, payload: bytes) -> bool:
        """Relay only what is well formed, signed by its provider, and news to this node."""
        try:
            offer, _ = self._open(payload)
        except RemoteProtocolError:
            return False
        return self.book.judge(offer, self._clock.now_ms()) is Verdict.NEW

    def _take(self, offer: Offer, signed: Signed) -> None:
        if offer.provider == self._key.node_key:
            return
        if self.book.take(offer, signed, self._clock.now_ms()) is Verdict.NEW:
            self._network.add_addresses(offer.provider, offer.addresses)
            self._learnt.set()
            self._learnt = trio.Event()

    async def _listen(
        self,
        resource_class: str,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        topic = TOPIC_OFFERS + resource_class
        async with self._network.subscribe(topic, self._validate) as messages:
            task_status.started()
            async for _signer, payload in messages:
                try:
                    self._take(*self._open(payload))
                except RemoteProtocolError as exc:
                    log.warning("offer ignored: %s", exc)

    async def _announce(self, source: OfferSource) -> None:
        while True:
            while source(Millis(0)) is None:  # noqa: ASYNC110 - many things may stand against it
                await trio.sleep(NOTHING_SECONDS)
            offer = source(self._next_sequence())
            if offer is not None:
                signed = sign_message(OFFER, self._key, codec.encode(offer))
                self.book.take(offer, signed, self._clock.now_ms())
                await self._network.publish(
                    TOPIC_OFFERS + offer.resource_class, codec.encode(signed)
                )
            await trio.sleep(ANNOUNCE_SECONDS)

    async def withdraw(self, source: OfferSource) -> None:
        """Gossip a tombstone: nobody needs to ask a provider that is going away."""
        if source(Millis(0)) is None:
            return
        offer = source(self._next_sequence())
        if offer is None:
            return
        gone = msgspec.structs.replace(offer, ttl_ms=Millis(0))
        signed = sign_message(OFFER, self._key, codec.encode(gone))
        await self._network.publish(TOPIC_OFFERS + gone.resource_class, codec.encode(signed))

    def _next_sequence(self) -> Millis:
        with self._store.transaction() as txn:
            previous = txn.get(SEQUENCES, b"offer") or 0
            sequence = max(previous + 1, self._clock.now_ms())
            txn.put(SEQUENCES, b"offer", sequence)
        return Millis(sequence)

    async def _ask_new_peers(self, classes: tuple[str, ...]) -> None:
        asked: set[NodeKey] = set()
        while True:
            peers = set(self._network.peers())
            asked &= peers
            for peer in peers - asked:
                try:
                    await self._ask(peer, classes)
                except (PeerGone, PeerRefused, RemoteProtocolError) as exc:
                    log.debug("no book from %s: %s", to_base58(peer), exc)
                asked.add(peer)
            await trio.sleep(PEER_POLL_SECONDS)

    async def _ask(self, peer: NodeKey, classes: tuple[str, ...]) -> None:
        async with self._network.open(peer, PROTOCOL_BOOK) as stream:
            await say(stream, BookRequest(classes=classes))
            for _ in range(MAX_PAGES):
                page = await expect(stream, BookMessage, BookPage, timeout_s=BOOK_SECONDS)
                for signed in page.offers:
                    self._take(*self._open(codec.encode(signed)))
                if page.last:
                    return

    async def _serve_book(self, stream: FrameStream) -> None:
        request = await hear(stream, BookMessage, timeout_s=BOOK_SECONDS)
        if not isinstance(request, BookRequest):
            raise RemoteProtocolError("a book stream begins with BookRequest")
        wanted = set(request.classes)
        entries = [
            entry.signed
            for entry in self.book.everything(self._clock.now_ms())
            if entry.offer.resource_class in wanted
        ]
        for start in range(0, max(1, len(entries)), PAGE_OFFERS):
            page = tuple(entries[start : start + PAGE_OFFERS])
            await say(stream, BookPage(offers=page, last=start + PAGE_OFFERS >= len(entries)))
