"""Gossip: signed messages of topics, validated before they are relayed.

Lossy by nature: senders announce again, receivers drop the oldest when they are slow.
Subscriptions outlive the libp2p host beneath them, which may be restarted.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError
from robocompute_protocol.identifiers import NodeKey

from .guards import quietly
from .identity import node_key_of
from .metrics import Drop, Meters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from libp2p.peer.id import ID
    from libp2p.pubsub.pb import rpc_pb2

    from .port import Validator
    from .pubsub import GuardedPubsub

log = logging.getLogger(__name__)

SUBSCRIPTION_QUEUE: Final = 1_024
"""Messages waiting for one subscriber: five seconds at the rate a Python node can relay."""
MAX_UNSENT: Final = 64
"""Messages kept while no host runs: a restart takes a second, and what is older is said again."""
CATCH_UP_S: Final = 10.0
"""After a restart, how long a peer is waited for that follows a topic with something unsent."""
LOOK_S: Final = 0.1
"""How often it is looked for."""
UNFOLLOW_S: Final = 1.0
"""Telling peers that a topic is no longer followed is a courtesy, and waits no longer."""

Message = tuple[NodeKey, bytes]


class _Subscription:
    """One subscriber's queue. When it is full the oldest message gives way."""

    def __init__(self, validator: Validator) -> None:
        self.validator = validator
        self._send, self.receive = trio.open_memory_channel[Message](SUBSCRIPTION_QUEUE)

    def put(self, message: Message) -> bool:
        """Queue ``message``; False when an older one had to go for it."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(message)
            return False
        return True

    def close(self) -> None:
        self._send.close()
        self.receive.close()


class Gossip:
    """The topics this node follows, whatever host is running."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._topics: dict[str, list[_Subscription]] = {}
        self._pubsub: GuardedPubsub | None = None
        self._unsent: deque[tuple[str, bytes]] = deque(maxlen=MAX_UNSENT)
        self._changing = trio.Lock()

    async def attach(self, pubsub: GuardedPubsub) -> None:
        """Follow all topics through ``pubsub``, which runs."""
        self._pubsub = pubsub
        for topic in list(self._topics):
            await self._settle(topic)

    async def catch_up(self) -> None:
        """Send what was published while no host ran, once somebody follows it."""
        with trio.move_on_after(CATCH_UP_S):
            while self._unsent and not self._somebody_follows(self._unsent[0][0]):  # noqa: ASYNC110 libp2p's tables have no event
                await trio.sleep(LOOK_S)
        for _ in range(len(self._unsent)):
            topic, payload = self._unsent.popleft()
            await self.publish(topic, payload)

    def _somebody_follows(self, topic: str) -> bool:
        return self._pubsub is not None and bool(self._pubsub.peer_topics.get(topic))

    def detach(self) -> None:
        """The host is gone; until the next ``attach`` nothing is sent or comes."""
        self._pubsub = None

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send to whoever follows ``topic``. While no host runs, the newest few are kept.

        Raises:
            LocalProtocolError: the payload is over the limit.
        """
        if len(payload) > limits.MAX_GOSSIP_BYTES:
            raise LocalProtocolError(
                f"gossip carries {limits.MAX_GOSSIP_BYTES} bytes, not {len(payload)}"
            )
        pubsub = self._pubsub
        if pubsub is None:
            log.warning("no network just now, a message of %s waits", topic)
            self._unsent.append((topic, payload))
            return
        try:
            await pubsub.publish(topic, payload)
        except Exception as exc:  # noqa: BLE001 the host is falling over; it will be restarted
            log.warning("a message of %s was not sent, it waits: %r", topic, exc)
            self._unsent.append((topic, payload))

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
            if not subscription.put((signer, payload)):
                self._meters.gossip_dropped[Drop.SLOW_SUBSCRIBER] += 1
