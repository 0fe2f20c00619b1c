"""Offers by gossip: a provider's own are announced, everybody's are kept in the book.

A message is looked at in the order of what that costs: its size, its sequence, whether its sender may
still waste our time, and last its signature. What is relayed is in the book already, so nothing is
checked twice, and nothing that is not news travels on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.offer_book import (
    MAX_OFFER_BYTES,
    OFFER_SPACING,
    OfferBook,
    Verdict,
)
from robocompute_node.p2p.bounds import Offences, PeerBounds
from robocompute_node.services.book_exchange import BookExchange
from robocompute_node.services.gossip_gate import GossipGate
from robocompute_node.services.sequences import Sequences
from robocompute_node.store import Store, Table
from robocompute_protocol import codec
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import TOPIC_OFFERS, Offer, Signed
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import OFFER, SigningKey, open_signed, sign_message

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.p2p.port import Network
    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

SEQUENCES: Final = Table("offer-sequences/1", int)
ANNOUNCE_SECONDS: Final = 60.0
"""Between announcements of an unchanged offer: gossip loses messages, and 30 fit in a TTL."""
NOTHING_SECONDS: Final = 1.0
"""How soon an offer is announced once there is something to let."""
FIRST_BOOK_SECONDS: Final = 2.0
"""A task for a class that was not followed before waits so long for a peer's book of it."""
STRANGERS_OF_ONE: Final = 20.0
"""Offers without stake that one forwarder may have looked at, a second: a tenth of its gossip."""
STRANGERS_IN_ALL: Final = 100.0
"""The same of all forwarders: their signatures are checked in a hundredth of a core."""
STRANGERS_BURST: Final = 1_000
"""The same at once, after a quiet time."""
FORGERIES: Final = PeerBounds(offences_per_second=0.2, offences_burst=8)
"""Wrong signatures forgiven to one forwarder, which checks them as we do; then it is not listened to
for a minute."""

OfferSource = Callable[[Millis], Offer | None]
"""(sequence) → this node's offer as it is now, or None while there is nothing to let."""


class Market:
    """This node's side of the offer gossip."""

    def __init__(
        self, network: Network, store: Store, clock: Clock, key: SigningKey, book: OfferBook
    ) -> None:
        self._network = network
        self._clock = clock
        self._key = key
        self.book = book
        self._sequences = Sequences(store, clock, SEQUENCES, b"offer", spacing=OFFER_SPACING)
        self._learnt = trio.Event()
        self._strangers = GossipGate(
            of_one=STRANGERS_OF_ONE,
            of_one_burst=STRANGERS_BURST / 5,
            in_all=STRANGERS_IN_ALL,
            burst=STRANGERS_BURST,
        )
        self._forgers = Offences(FORGERIES)
        self._exchange = BookExchange(network, clock, book, self.admit)
        self._followed: dict[str, trio.Event] = {}
        self._nursery: trio.Nursery | None = None

    def learnt(self) -> trio.Event:
        """An event that is set when the next new offer comes in."""
        return self._learnt

    @property
    def followed(self) -> frozenset[str]:
        """Classes whose offers this node listens to."""
        return frozenset(self._followed)

    async def run(
        self,
        *,
        classes: tuple[str, ...],
        source: OfferSource | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Listen to ``classes``, answer for the book, and announce what ``source`` offers."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._exchange.register()
            for resource_class in classes:
                await self._listen_to(resource_class)
            nursery.start_soon(self._exchange.run)
            if source is not None:
                nursery.start_soon(self._announce, source)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    # --- listening ------------------------------------------------------------------------------

    async def follow(self, resource_class: str) -> None:
        """Listen to a class from now on, and give a peer's book of it a moment to come in.

        Does nothing for a class that is followed already.
        """
        if resource_class not in self._followed:
            await self._listen_to(resource_class)
            with trio.move_on_after(FIRST_BOOK_SECONDS):
                await self._exchange.heard(resource_class).wait()

    async def _listen_to(self, resource_class: str) -> None:
        assert self._nursery is not None
        listening = self._followed.setdefault(resource_class, trio.Event())
        if not listening.is_set():
            listening.set()
            await self._nursery.start(self._listen, resource_class)
            self._exchange.want(resource_class)

    async def _listen(
        self,
        resource_class: str,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        topic, validate = TOPIC_OFFERS + resource_class, partial(self._validate, resource_class)
        async with self._network.subscribe(topic, validate) as messages:
            task_status.started()
            async for _ in messages:
                pass  # it is in the book since it was validated

    def _validate(self, resource_class: str, forwarder: NodeKey, payload: bytes) -> bool:
        """Relay only what is well formed, signed by its provider, and news to this node."""
        now = self._clock.now_ms()
        if self._forgers.is_barred(forwarder, now / 1_000):
            return False
        try:
            signed = codec.decode(Signed, payload, limit=MAX_OFFER_BYTES)
            verdict = self.admit(
                signed, (resource_class,), allow=lambda: self._strangers.take(forwarder, now)
            )
        except RemoteProtocolError as exc:
            if self._forgers.note(forwarder, now / 1_000):
                log.warning("a peer that sends bad offers is not listened to: %s", exc)
            return False
        return verdict is Verdict.NEW

    def admit(
        self, signed: Signed, classes: tuple[str, ...], *, allow: Callable[[], bool]
    ) -> Verdict:
        """Put an offer into the book if it is news, and properly signed.

        One with no stake behind it, as far as is known, is looked at only while ``allow`` says so.

        Raises:
            RemoteProtocolError: it is no offer of one of ``classes`` signed by its provider.
        """
        offer = codec.decode(Offer, signed.body, limit=MAX_OFFER_BYTES)
        if offer.provider != signed.key:
            raise RemoteProtocolError("an offer signed by somebody else than its provider")
        if offer.resource_class not in classes:
            raise RemoteProtocolError("an offer of another class than was asked for")
        if offer.provider == self._key.node_key:
            return Verdict.KNOWN
        now = self._clock.now_ms()
        verdict = self.book.judge(offer, now)
        if verdict is not Verdict.NEW:
            return verdict
        if not self.book.is_backed(offer) and not allow():
            return Verdict.REFUSED
        open_signed(OFFER, signed, Offer, by=offer.provider)
        verdict = self.book.take(offer, signed, now)
        if verdict is Verdict.NEW:
            self._network.add_addresses(offer.provider, offer.addresses)
            self._learnt.set()
            self._learnt = trio.Event()
        return verdict

    # --- announcing -----------------------------------------------------------------------------

    async def _announce(self, source: OfferSource) -> None:
        while True:
            while source(Millis(0)) is None:  # noqa: ASYNC110 - many things may stand against it
                await trio.sleep(NOTHING_SECONDS)
            offer = source(self._sequences.next())
            if offer is not None:
                await self._publish(offer)
            await trio.sleep(ANNOUNCE_SECONDS)

    async def withdraw(self, source: OfferSource) -> None:
        """Gossip a tombstone: nobody needs to ask a provider that is going away."""
        if source(Millis(0)) is None:
            return
        offer = source(self._sequences.next())
        if offer is not None:
            await self._publish(msgspec.structs.replace(offer, ttl_ms=Millis(0)))

    def signed_offer(self, offer: Offer) -> Signed:
        """This node's offer as it is announced, and as it is shown to whom it fits."""
        return sign_message(OFFER, self._key, codec.encode(offer))

    async def _publish(self, offer: Offer) -> None:
        signed = self.signed_offer(offer)
        self.book.take(offer, signed, self._clock.now_ms())
        await self._network.publish(TOPIC_OFFERS + offer.resource_class, codec.encode(signed))
