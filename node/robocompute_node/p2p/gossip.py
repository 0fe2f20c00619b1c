"""Gossip: signed messages of topics, validated before they are relayed.

Lossy by nature: senders announce again, receivers drop the oldest when they are slow.
Subscriptions outlive the libp2p host beneath them, which may be restarted.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError
from robocompute_protocol.identifiers import NodeKey

from .guards import GuardedHost, PeerBounds, PeerRates, quietly
from .identity import node_key_of
from .tuning import GOSSIP_RPC_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from libp2p.abc import INetStream
    from libp2p.pubsub.pb import rpc_pb2

    from .port import Validator

log = logging.getLogger(__name__)

MESHSUB: Final = TProtocol("/meshsub/1.1.0")
"""The only version negotiated: 1.2 sends IDONTWANT for every message, at a third of the CPU."""
HEARTBEAT_S: Final = 1
"""Mesh upkeep. Stock says 120 s, in which a broken mesh stays broken."""
SUBSCRIPTION_QUEUE: Final = 1_024
"""Messages waiting for one subscriber: five seconds at the rate a Python node can relay."""
PEER_STREAM_CHECK_S: Final = 1.0
"""How soon a connected peer without a gossip stream, or with a dead one, is noticed."""
PEER_STREAM_BACKOFF_S: Final = 32.0
"""A peer that does not gossip is asked again at most this seldom."""

PENDING_MESSAGES: Final = 16
"""Messages kept for a peer whose topics are not known yet."""
UNFOLLOW_S: Final = 1.0
"""Telling peers that a topic is no longer followed is a courtesy, and waits no longer."""

Message = tuple[NodeKey, bytes]


class GuardedPubsub(Pubsub):
    """A pubsub that survives what comes from the wire and hands messages to a ``Gossip``."""

    gossip: Gossip
    rates: PeerRates

    async def stream_handler(self, stream: INetStream) -> None:
        try:
            await super().stream_handler(stream)
        except Exception as exc:  # noqa: BLE001 DecodeError, UnicodeDecodeError and many more
            peer_id = stream.muxed_conn.peer_id
            log.info("gossip of peer %s ended: %r", peer_id, exc)
            await quietly(stream.reset)
            self._handle_dead_peer(peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        # Runs as a task of the service: whatever leaks from here stops the host.
        if msg_forwarder == self.my_id:
            await super().push_msg(msg_forwarder, msg)
            return
        try:
            node_key_of(ID(msg.from_id))  # other kinds of key have no node key, or are junk
            if len(msg.topicIDs) != 1 or len(msg.data) > limits.MAX_GOSSIP_BYTES:
                return
            if not self.rates.take(node_key_of(msg_forwarder), trio.current_time()):
                log.info("peer %s gossips too fast, a message was dropped", msg_forwarder)
                return
            await super().push_msg(msg_forwarder, msg)
        except Exception as exc:  # noqa: BLE001 junk keys fail anywhere in the crypto
            log.info("a message from peer %s was dropped: %r", msg_forwarder, exc)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        if publish_message.from_id == self.my_id.to_bytes():
            return
        signer = node_key_of(ID(publish_message.from_id))
        for topic in publish_message.topicIDs:
            self.gossip.deliver(topic, signer, publish_message.data)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        # Stock tells a new peer the topics it followed before the stream was open, and tells
        # changes only to peers whose stream is open: what changes in between nobody hears.
        told = set(self.topic_ids)
        await super()._handle_new_peer(peer_id)
        queue = self.peer_queues.get(peer_id)
        for topic in told.symmetric_difference(self.topic_ids):
            if queue is not None:
                announcement, _ = self._build_announce_rpc(topic, topic in self.topic_ids)
                queue.push(announcement)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        # One stream's death makes stock forget what the peer follows. When it lives on, on a
        # newer connection, it has said that already and will not say it again.
        followed: list[str] = []
        if self._peer_is_connected(peer_id):
            followed = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        super()._handle_dead_peer(peer_id)
        for topic in followed:
            self.peer_topics.setdefault(topic, set()).add(peer_id)
        if followed:
            self._peer_subscription_count[peer_id] = len(followed)

    async def repair_peers(self, backoff: dict[ID, tuple[float, float]]) -> None:
        """Give every connected peer a gossip stream; ``backoff`` is kept between calls.

        Needed because a peer that enables gossip late is never registered, and one that
        restarted on the same key keeps its dead stream until something is written to it.
        """
        connected = set(self.host.get_connected_peers())
        for peer_id in [known for known in backoff if known not in connected]:
            del backoff[peer_id]
        for peer_id, stream in list(self.peers.items()):
            muxed: Any = stream
            if muxed.muxed_stream.closed or muxed.muxed_conn.event_shutting_down.is_set():
                self._handle_dead_peer(peer_id)
        now = trio.current_time()
        for peer_id in connected - set(self.peers):
            due, delay = backoff.get(peer_id, (0.0, PEER_STREAM_CHECK_S))
            if now >= due:
                backoff[peer_id] = (now + delay, min(delay * 2, PEER_STREAM_BACKOFF_S))
                self.manager.run_task(self.ensure_peer_stream, peer_id, delay)


class GuardedRouter(GossipSub):
    """A gossipsub that dials nobody because somebody said so."""

    def _prune_pending_messages(self, peer_id: ID) -> None:
        # Stock holds 100 messages for every peer that does not follow the topic, and logs a
        # warning for each one more. A few bridge the moment until its topics are known.
        held = self._pending_messages.get(peer_id)
        if held is not None:
            del held[:-PENDING_MESSAGES]

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        # Stock dials whatever peers a PRUNE names, even with the exchange switched off.
        pass


def new_pubsub(host: GuardedHost, gossip: Gossip, bounds: PeerBounds) -> GuardedPubsub:
    """Return a pubsub for ``host``; its ``router`` is a service to be run beside it."""
    router = GuardedRouter(
        [MESHSUB],
        degree=6,
        degree_low=5,
        degree_high=12,
        heartbeat_interval=HEARTBEAT_S,
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,  # drops 60 % at 25 messages a second; ours is per peer
        eclipse_protection_enabled=False,  # counts addresses, and a rack has one
    )
    pubsub = GuardedPubsub(
        host,
        router,
        strict_signing=True,
        max_subscriptions_per_rpc=bounds.topics_per_peer,
        max_subscriptions_per_peer=bounds.topics_per_peer,
        max_inbound_rpc_size=2 * GOSSIP_RPC_BYTES,
    )
    # Stock counts from the second it started: after a quick restart peers take the new
    # messages for the old ones and drop them.
    pubsub.counter = time.time_ns()
    pubsub.gossip = gossip
    pubsub.rates = PeerRates(bounds.gossip_per_second, bounds.gossip_burst)
    return pubsub


class _Subscription:
    """One subscriber's queue. When it is full the oldest message gives way."""

    def __init__(self, validator: Validator) -> None:
        self.validator = validator
        self._send, self.receive = trio.open_memory_channel[Message](SUBSCRIPTION_QUEUE)

    def put(self, message: Message) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(message)

    def close(self) -> None:
        self._send.close()
        self.receive.close()


class Gossip:
    """The topics this node follows, whatever host is running."""

    def __init__(self) -> None:
        self._topics: dict[str, list[_Subscription]] = {}
        self._pubsub: GuardedPubsub | None = None
        self._changing = trio.Lock()

    async def attach(self, pubsub: GuardedPubsub) -> None:
        """Follow all topics through ``pubsub``, which runs."""
        self._pubsub = pubsub
        for topic in list(self._topics):
            await self._settle(topic)

    def detach(self) -> None:
        """The host is gone; until the next ``attach`` nothing is sent or comes."""
        self._pubsub = None

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send to whoever follows ``topic``. While no host runs, nothing is sent.

        Raises:
            LocalProtocolError: the payload is over the limit.
        """
        if len(payload) > limits.MAX_GOSSIP_BYTES:
            raise LocalProtocolError(
                f"gossip carries {limits.MAX_GOSSIP_BYTES} bytes, not {len(payload)}"
            )
        pubsub = self._pubsub
        if pubsub is None:
            log.warning("no network just now, a message of %s was not sent", topic)
            return
        try:
            await pubsub.publish(topic, payload)
        except Exception as exc:  # noqa: BLE001 the host is falling over; it will be restarted
            log.warning("a message of %s was not sent: %r", topic, exc)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: Validator
    ) -> AsyncGenerator[AsyncIterator[Message]]:
        """Follow ``topic`` while the context lasts.

        A message is relayed and delivered if the validators of all subscribers of the topic
        allow it; one that raises refuses. Own messages are neither validated nor delivered.
        """
        subscription = _Subscription(validator)
        followers = self._topics.setdefault(topic, [])
        followers.append(subscription)
        try:
            await quietly(partial(self._settle, topic))  # a host that falls over is restarted
            yield subscription.receive
        finally:
            followers.remove(subscription)
            subscription.close()
            if not followers and self._topics.get(topic) is followers:
                del self._topics[topic]
                with trio.CancelScope(shield=True, deadline=trio.current_time() + UNFOLLOW_S):
                    await quietly(partial(self._settle, topic))

    async def _settle(self, topic: str) -> None:
        # under a lock, because leaving and joining again must not overtake one another
        async with self._changing:
            pubsub = self._pubsub
            if pubsub is None:
                return
            if topic not in self._topics:
                pubsub.remove_topic_validator(topic)
                await pubsub.unsubscribe(topic)
                return

            def valid(forwarder: ID, message: rpc_pb2.Message) -> bool:
                return forwarder == pubsub.my_id or self._allowed(topic, forwarder, message.data)

            pubsub.set_topic_validator(topic, valid, False)
            await pubsub.subscribe(topic)

    def _allowed(self, topic: str, forwarder: ID, payload: bytes) -> bool:
        try:
            peer = node_key_of(forwarder)
            return all(each.validator(peer, payload) for each in self._topics.get(topic, ()))
        except Exception:
            log.exception("the validator of %s failed, the message was refused", topic)
            return False

    def deliver(self, topic: str, signer: NodeKey, payload: bytes) -> None:
        """Hand a validated message to all subscribers."""
        for subscription in self._topics.get(topic, ()):
            subscription.put((signer, payload))
