"""libp2p's gossip, made to survive its peers.

What a peer sends is read one message after the other, each one checked before the next is read: a
peer that sends faster than this node checks is slowed down, and nobody else is.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub import pubsub as pubsub_module
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator

from robocompute_protocol import limits

from .bounds import PeerBounds, Rates
from .guards import GuardedHost, GuardedSwarm, quietly
from .identity import node_key_of
from .metrics import Drop, Meters
from .tuning import GOSSIP_RPC_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import INetStream

    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

MESHSUB: Final = TProtocol("/meshsub/1.1.0")
"""The only version negotiated: 1.2 sends IDONTWANT for every message, at a third of the CPU."""
HEARTBEAT_S: Final = 1
"""Mesh upkeep. Stock says 120 s, in which a broken mesh stays broken."""
PEER_STREAM_CHECK_S: Final = 1.0
"""How soon a connected peer without a gossip stream, or with a dead one, is noticed."""
PEER_STREAM_BACKOFF_S: Final = 32.0
"""A peer that does not gossip is asked again at most this seldom."""
PENDING_MESSAGES: Final = 16
"""Messages kept for a peer whose topics are not known yet."""
MAX_TOPIC_BYTES: Final = 128
"""Length of a topic's name. Ours are under fifty; a peer may name 64 of them."""
MAX_BACKOFF_S: Final = 3_600
"""Longest that a peer may bar itself from a mesh: each such wish is kept until it is over."""


class GuardedPubsub(Pubsub):
    """A pubsub that hands what it accepted to ``deliver`` and counts what it did not."""

    deliver: Callable[[str, NodeKey, bytes], None]
    meters: Meters
    swarm: GuardedSwarm

    def use_bounds(self, bounds: PeerBounds) -> None:
        """Set the bounds. Called once, before it runs."""
        self._rates: Rates[NodeKey] = Rates(bounds.gossip_per_second, bounds.gossip_burst)
        self._changes: Rates[NodeKey] = Rates(
            bounds.topic_changes_per_second, bounds.topic_changes_burst
        )

    def drop(self, why: Drop) -> None:
        """Count one thing that went no further."""
        self.meters.gossip_dropped[why] += 1

    async def stream_handler(self, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        try:
            await super().stream_handler(stream)
        except Exception as exc:  # noqa: BLE001 DecodeError, UnicodeDecodeError and many more
            log.info("gossip of peer %s ended: %r", peer_id, exc)
            self.drop(Drop.UNREADABLE)
            await quietly(stream.reset)
            self._handle_dead_peer(peer_id)
            self.swarm.punish(node_key_of(peer_id), "its gossip cannot be read")

    async def continuously_read_stream(self, stream: INetStream) -> None:
        # Stock starts a task for each message at once, as many as a peer cares to send, and
        # stores the addresses it says it has: ours come in signed offers.
        peer_id = stream.muxed_conn.peer_id
        peer = node_key_of(peer_id)
        module: Any = pubsub_module
        while self.manager.is_running:
            try:
                data: bytes = await module.read_varint_prefixed_bytes_limited(
                    stream, self.max_inbound_rpc_size
                )
            except MessageTooLarge:
                raise  # an offence; the others are how streams end
            except (StreamError, IOException, RawConnError) as exc:
                log.debug("gossip of peer %s ended: %r", peer_id, exc)
                return
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(data)
            rpc.ClearField("senderRecord")
            for message in rpc.publish:
                if self._is_subscribed_to_msg(message):
                    await self._take(peer_id, peer, message)
            self._take_subscriptions(peer_id, peer, rpc)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, peer_id)

    async def _take(self, forwarder: ID, peer: NodeKey, message: rpc_pb2.Message) -> None:
        why = self._reason_against(forwarder, peer, message)
        if why is not None:
            self.drop(why)
            return
        if self._is_msg_seen(message) or message.from_id == self.my_id.to_bytes():
            return
        try:
            good = signature_validator(message)
        except Exception as exc:  # noqa: BLE001 junk keys fail anywhere in the crypto
            log.debug("a message from peer %s: %r", forwarder, exc)
            good = False
        if not good:
            self.drop(Drop.BAD_SIGNATURE)
            self.swarm.punish(peer, "it forwards forged messages")
            return
        validators: list[Any] = [each.validator for each in self.get_msg_validators(message)]
        if not all(valid(forwarder, message) for valid in validators):
            self.drop(Drop.INVALID)
            return
        self._mark_msg_seen(message)
        self.meters.gossip_in += 1
        self.swarm.table.note_useful(peer, trio.current_time())
        signer = node_key_of(ID(message.from_id))
        self.deliver(message.topicIDs[0], signer, message.data)
        try:
            await self.router.publish(forwarder, message)
        except Exception as exc:  # noqa: BLE001 the peer it came from is not to blame
            log.warning("a message was not relayed: %r", exc)

    def _reason_against(
        self, forwarder: ID, peer: NodeKey, message: rpc_pb2.Message
    ) -> Drop | None:
        if len(message.topicIDs) != 1 or len(message.data) > limits.MAX_GOSSIP_BYTES:
            return Drop.TOO_LARGE
        if not self._rates.take(peer, trio.current_time()):
            log.info("peer %s gossips too fast, a message was dropped", forwarder)
            return Drop.TOO_FAST
        try:
            node_key_of(ID(message.from_id))  # other kinds of key have no node key, or are junk
        except ValueError:
            return Drop.BAD_SIGNER
        return None

    def _take_subscriptions(self, peer_id: ID, peer: NodeKey, rpc: rpc_pb2.RPC) -> None:
        for wish in rpc.subscriptions[: self.max_subscriptions_per_rpc]:
            known = peer_id in self.peer_topics.get(wish.topicid, ())
            if known == wish.subscribe:
                continue
            too_long = len(wish.topicid.encode()) > MAX_TOPIC_BYTES
            if too_long or not self._changes.take(peer, trio.current_time()):
                self.drop(Drop.SUBSCRIPTION)
                self.swarm.punish(peer, "it changes its subscriptions too often")
                return
            self.handle_subscription(peer_id, wish)
        if len(rpc.subscriptions) > self.max_subscriptions_per_rpc:
            self.drop(Drop.SUBSCRIPTION)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        pass  # what this node publishes is not delivered to itself

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

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        self.meters.gossip_out += len(rpc_msg.publish)
        return await super().write_msg(stream, rpc_msg)


class GuardedRouter(GossipSub):
    """A gossipsub that dials nobody because somebody said so, and remembers no stranger."""

    bounds: PeerBounds

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        # Stock keeps something for every topic a peer makes up, sends a message as often as it
        # is asked for in one breath, and asks for as many as a peer says it has.
        control, told = rpc_pb2.ControlMessage(), rpc.control
        entries, wanted = self.bounds.control_entries, self.bounds.wanted_per_rpc
        for have in told.ihave[:entries]:
            if have.topicID in self.mesh:
                ids = list(dict.fromkeys(have.messageIDs))[:wanted]
                control.ihave.append(rpc_pb2.ControlIHave(topicID=have.topicID, messageIDs=ids))
        asked = dict.fromkeys(each for want in told.iwant[:entries] for each in want.messageIDs)
        if asked:
            control.iwant.append(rpc_pb2.ControlIWant(messageIDs=list(asked)[:wanted]))
        control.graft.extend(each for each in told.graft[:entries] if each.topicID in self.mesh)
        for prune in told.prune[:entries]:
            if prune.topicID in self.mesh:
                backoff = min(prune.backoff, MAX_BACKOFF_S)
                control.prune.append(rpc_pb2.ControlPrune(topicID=prune.topicID, backoff=backoff))
        if control.ByteSize() or told.graft:
            await self._refuse_grafts(told, sender_peer_id)
            await super().handle_rpc(rpc_pb2.RPC(control=control), sender_peer_id)

    async def _refuse_grafts(self, told: rpc_pb2.ControlMessage, sender: ID) -> None:
        unknown = [each.topicID for each in told.graft if each.topicID not in self.mesh]
        for topic in unknown[: self.bounds.topics_per_peer]:
            if len(topic.encode()) <= MAX_TOPIC_BYTES:
                await self.emit_prune(topic, sender, False, False)

    def forget_strangers(self, connected: set[ID]) -> None:
        """Drop what is kept of peers that are gone, and of waits that are over."""
        kept_by_peer: tuple[dict[ID, Any], ...] = (
            self.peer_protocol,
            self.iwant_request_limits,
            self.ihave_message_limits,
            self.graft_flood_tracking,
            self.dont_send_message_ids,
            self._pending_messages,
            self._pending_control,
        )
        for kept in kept_by_peer:
            for peer_id in [each for each in kept if each not in connected]:
                del kept[peer_id]
        now = time.time_ns() // 1_000_000_000  # the clock that libp2p wrote there
        for topic, waits in list(self.back_off.items()):
            for peer_id in [each for each, until in waits.items() if until <= now]:
                del waits[peer_id]
            if not waits:
                del self.back_off[topic]
        self.recent_message_deliveries.clear()  # grows for ever where nothing adapts

    def _prune_pending_messages(self, peer_id: ID) -> None:
        # Stock holds 100 messages for every peer that does not follow the topic, and logs a
        # warning for each one more. A few bridge the moment until its topics are known.
        held = self._pending_messages.get(peer_id)
        if held is not None:
            del held[:-PENDING_MESSAGES]

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        # Stock dials whatever peers a PRUNE names, even with the exchange switched off.
        pass


def new_pubsub(
    host: GuardedHost,
    swarm: GuardedSwarm,
    bounds: PeerBounds,
    meters: Meters,
    deliver: Callable[[str, NodeKey, bytes], None],
) -> tuple[GuardedPubsub, GuardedRouter]:
    """Return a pubsub for ``host`` and its router: two services to be run beside it."""
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
    router.bounds = bounds
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
    pubsub.use_bounds(bounds)
    pubsub.deliver = deliver
    pubsub.meters = meters
    pubsub.swarm = swarm
    return pubsub, router
