"""Task bids: a client asks everybody when nobody in its book fits, and providers that can serve answer.

A bid says what is needed and the most that is paid. A provider that can serve dials the client, shows
its offer, and from then on the client asks for a quote on that stream as on any other.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.core.bids import BID_SPACING, MAX_BID_BYTES, BidBook
from robocompute_node.core.matching import fits, slots_needed
from robocompute_node.p2p.bounds import Offences, TokenBucket
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import expect, say
from robocompute_node.services.gossip_gate import GossipGate
from robocompute_node.services.market import FORGERIES, Market
from robocompute_node.services.sequences import Sequences
from robocompute_node.store import Store, Table
from robocompute_protocol import codec
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.messages import (
    PROTOCOL_BID,
    TOPIC_BIDS,
    Bid,
    BidAnswer,
    BidMessage,
    Offer,
    Refused,
    Requirements,
    Signed,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import BID, SigningKey, open_signed, sign_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from robocompute_node.clocks import Clock
    from robocompute_node.services.front_desk import FrontDesk
    from robocompute_node.services.offering import Offering
    from robocompute_protocol.identifiers import Address, NodeKey

log = logging.getLogger(__name__)

BID_SEQUENCES: Final = Table("bid-sequences/1", int)
BID_TTL: Final = Millis(10_000)
"""Nobody is waited for that long; later answers would find nobody asking."""
ANSWER_SECONDS: Final = 1.5
"""A bid's answers are waited for: gossip takes some tenths of a second, and a dial two more."""
MORE_SECONDS: Final = 0.3
"""Once there is an answer with stake behind it, others have so long to come."""
MAX_ANSWERS: Final = 16
"""Answers to one bid that are listened to: more choice is not worth more dials."""
MAX_STRANGERS: Final = MAX_ANSWERS // 2
"""Of these, from providers with no stake behind their offer, as far as is known: keys cost nothing,
and whoever has many of them would answer before everybody else."""
SPEAK_SECONDS: Final = 5.0
"""A provider that dialled says its answer by then."""
ASK_SECONDS: Final = 10.0
"""The stream of an answer is kept for the client's questions so long, and no longer."""
BIDS_OF_ONE: Final = 5.0
"""Bids that one forwarder may have looked at, a second: a bid costs its sender nothing."""
BIDS_IN_ALL: Final = 50.0
"""The same of all forwarders: their signatures are checked in half a hundredth of a core."""
BIDS_BURST: Final = 200
"""The same at once, after a quiet time."""
ANSWERS_PER_SECOND: Final = 1.0
"""Bids that this provider answers: whoever bids chooses where it dials, so seldom."""
ANSWERS_BURST: Final = 8
"""The same at once."""
NOT_ASKED: Final = Refused(code="no_bid", message="no bid waits for this answer")


@dataclass(slots=True, eq=False)
class Answered:
    """A provider that answered a bid, and its stream, on which it may be asked."""

    stream: FrameStream
    offer: Offer
    done: trio.Event = field(default_factory=trio.Event)
    cut: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[FrameStream]:
        """The stream, as a network's ``open`` gives one: reset where this is left by an exception."""
        try:
            yield self.stream
        except BaseException:
            self.cut = True
            raise
        finally:
            self.done.set()


@dataclass(slots=True, eq=False)
class _OpenBid:
    """A bid of this node's own, and who answered it."""

    bid: Bid
    answers: list[Answered] = field(default_factory=list[Answered])
    strangers: int = 0
    """Answers with no stake behind them."""
    providers: set[NodeKey] = field(default_factory=set["NodeKey"])
    first: trio.Event = field(default_factory=trio.Event)


class Bids:
    """A client's bids."""

    def __init__(
        self,
        network: Network,
        store: Store,
        clock: Clock,
        key: SigningKey,
        market: Market,
        mint: Address,
    ) -> None:
        self._network = network
        self._clock = clock
        self._key = key
        self._market = market
        self._mint = mint
        self._open: dict[int, _OpenBid] = {}
        self._sequences = Sequences(store, clock, BID_SEQUENCES, b"bid", spacing=BID_SPACING)

    def register(self) -> None:
        """Take answers to this node's bids."""
        self._network.serve(PROTOCOL_BID, self._take_answer)

    @asynccontextmanager
    async def asking(
        self, wanted: Requirements, max_price: MicroUnits
    ) -> AsyncGenerator[tuple[Answered, ...]]:
        """Gossip a bid; give who answered it in time. Their streams end with the context.

        Asks nobody while this node knows nobody: then nobody would hear.
        """
        if not self._network.peers():
            yield ()
            return
        bid = Bid(
            client=self._key.node_key,
            sequence=self._sequences.next(),
            requirements=wanted,
            max_price_per_hour=max_price,
            mint=self._mint,
            ttl_ms=BID_TTL,
            addresses=self._network.addresses[:8],
        )
        asked = self._open[bid.sequence] = _OpenBid(bid)
        try:
            signed = sign_message(BID, self._key, codec.encode(bid))
            await self._network.publish(TOPIC_BIDS + wanted.resource_class, codec.encode(signed))
            with trio.move_on_after(ANSWER_SECONDS):
                await asked.first.wait()
                await trio.sleep(MORE_SECONDS)
            yield tuple(asked.answers)
        finally:
            del self._open[bid.sequence]
            for answered in asked.answers:
                answered.done.set()

    async def _take_answer(self, stream: FrameStream) -> None:
        answer = await expect(stream, BidMessage, BidAnswer, timeout_s=SPEAK_SECONDS)
        asked = self._open.get(answer.sequence)
        if (
            asked is None
            or len(asked.answers) >= MAX_ANSWERS
            or stream.peer in asked.providers
            or answer.offer.key != stream.peer
        ):
            await say(stream, NOT_ASKED)
            return
        asked.providers.add(stream.peer)
        wanted, price = asked.bid.requirements, asked.bid.max_price_per_hour
        self._market.admit(answer.offer, (wanted.resource_class,), allow=lambda: True)
        entry = self._market.book.get(stream.peer, wanted.resource_class, self._clock.now_ms())
        if entry is None or not fits(entry.offer, wanted, price):
            await say(stream, NOT_ASKED)
            return
        if not entry.backed and asked.strangers >= MAX_STRANGERS:
            await say(stream, NOT_ASKED)
            return
        asked.strangers += not entry.backed
        answered = Answered(stream, entry.offer)
        asked.answers.append(answered)
        if entry.backed:  # nobody else's answer cuts the others' time short
            asked.first.set()
        with trio.move_on_after(ASK_SECONDS):
            await answered.done.wait()
        if answered.cut:
            raise PeerGone("another provider was taken")


class BidRelay:
    """Passes bids of a class on, each once, and hands them to whoever wants to answer."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        *,
        heard: Callable[[Bid], None] = lambda _bid: None,
    ) -> None:
        """``heard`` is called with each bid that is news and its client's own."""
        self._network = network
        self._clock = clock
        self._heard = heard
        self._book = BidBook()
        self._gate = GossipGate(
            of_one=BIDS_OF_ONE, of_one_burst=BIDS_BURST / 5, in_all=BIDS_IN_ALL, burst=BIDS_BURST
        )
        self._forgers = Offences(FORGERIES)

    async def run(
        self, resource_class: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and pass on until cancelled."""
        topic, validate = TOPIC_BIDS + resource_class, partial(self._validate, resource_class)
        async with self._network.subscribe(topic, validate) as messages:
            task_status.started()
            async for _signer, payload in messages:
                # Validated, or it would not be here.
                self._heard(codec.decode(Bid, codec.decode(Signed, payload).body))

    def _validate(self, resource_class: str, forwarder: NodeKey, payload: bytes) -> bool:
        """Relay a bid once, if it is one, of this class, and its client's own."""
        now = self._clock.now_ms()
        if self._forgers.is_barred(forwarder, now / 1_000):
            return False
        try:
            signed = codec.decode(Signed, payload, limit=MAX_BID_BYTES)
            bid = codec.decode(Bid, signed.body, limit=MAX_BID_BYTES)
            if bid.requirements.resource_class != resource_class:
                return False
            if not self._book.is_news(bid, now) or not self._gate.take(forwarder, now):
                return False
            open_signed(BID, signed, Bid, by=bid.client)
        except RemoteProtocolError as exc:
            if self._forgers.note(forwarder, now / 1_000):
                log.warning("a peer that sends bad bids is not listened to: %s", exc)
            return False
        return self._book.take(bid, now)


class BidDesk:
    """Answers the bids that this provider can serve."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        market: Market,
        offering: Offering,
        desk: FrontDesk,
        *,
        free: Callable[[], int],
    ) -> None:
        """``free`` tells how many slots could be let now."""
        self._network = network
        self._clock = clock
        self._market = market
        self._offering = offering
        self._desk = desk
        self._free = free
        self._answers = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST)

    async def run(
        self, resource_class: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Relay bids of a class and answer those that can be served, until cancelled."""
        async with trio.open_nursery() as nursery:

            def heard(bid: Bid) -> None:
                offer = self._offer_for(bid)
                if offer is not None and self._answers.take(self._clock.now_ms() / 1_000):
                    nursery.start_soon(self._answer, bid, offer)

            relay = BidRelay(self._network, self._clock, heard=heard)
            await nursery.start(relay.run, resource_class)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    def _offer_for(self, bid: Bid) -> Offer | None:
        """This node's offer, where it serves ``bid`` now."""
        offer = self._offering.offer()
        if offer is None or bid.mint != offer.mint or bid.client == self._network.key:
            return None
        if not fits(offer, bid.requirements, bid.max_price_per_hour):
            return None
        return offer if slots_needed(bid.requirements) <= self._free() else None

    async def _answer(self, bid: Bid, offer: Offer) -> None:
        entry = self._market.book.get(offer.provider, offer.resource_class, self._clock.now_ms())
        if entry is None:
            return  # not announced yet: the announcement is as good as an answer
        self._network.add_addresses(bid.client, bid.addresses)
        try:
            async with self._network.open(bid.client, PROTOCOL_BID) as stream:
                await say(stream, BidAnswer(sequence=bid.sequence, offer=entry.signed))
                await self._desk.serve_agreement(stream)
        except (PeerGone, RemoteProtocolError) as exc:
            log.info("bid of %s not answered: %s", to_base58(bid.client), exc)
        except Exception:
            # As a network ends a stream whose handler fails: this one is served here, not there.
            log.exception("the answer to a bid of %s failed", to_base58(bid.client))
