"""The network in memory, for tests of services: same promises, no libp2p, no sockets.

Passes the contract tests the real one passes. Real enough to have links, streams that can be
cut, bounded queues and relays that validate; not a model of timing or loss.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol import limits
from robocompute_protocol.errors import LocalProtocolError
from robocompute_protocol.identifiers import NodeKey

from .port import FrameStream, PeerGone, StreamHandler, Validator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

log = logging.getLogger(__name__)

STREAM_QUEUE: Final = 16
"""Frames in flight one way: about what the real stream's window holds."""
SUBSCRIPTION_QUEUE: Final = 1_024
"""As in the real one."""
WRITE_DEADLINE_S: Final = 30.0
"""As in the real one."""
CLOSED: Final = "the stream is closed for sending"

Message = tuple[NodeKey, bytes]


class FakeHub:
    """What the fake nodes of one test have in common."""

    def __init__(self) -> None:
        self.nodes: dict[NodeKey, FakeNetwork] = {}
        self.published = 0

    def cut(self, one: NodeKey, other: NodeKey) -> None:
        """Break the link between two nodes and every stream over it; they may dial anew."""
        for key, peer in ((one, other), (other, one)):
            node = self.nodes.get(key)
            if node is not None:
                node.drop_link(peer)


class _Pair:
    """Both ends of one stream."""

    def __init__(self, caller: NodeKey, callee: NodeKey, write_deadline_s: float) -> None:
        to_callee = trio.open_memory_channel[bytes](STREAM_QUEUE)
        to_caller = trio.open_memory_channel[bytes](STREAM_QUEUE)
        self.is_cut = False
        self.caller = _FakeStream(self, callee, to_callee[0], to_caller[1], write_deadline_s)
        self.callee = _FakeStream(self, caller, to_caller[0], to_callee[1], write_deadline_s)

    def cut(self) -> None:
        self.is_cut = True
        for end in (self.caller, self.callee):
            end.hang_up()


class _FakeStream:
    """One end of a stream."""

    def __init__(
        self,
        pair: _Pair,
        peer: NodeKey,
        out: trio.MemorySendChannel[bytes],
        into: trio.MemoryReceiveChannel[bytes],
        write_deadline_s: float,
    ) -> None:
        self._pair = pair
        self._peer = peer
        self._out = out
        self._into = into
        self._write_deadline_s = write_deadline_s

    @property
    def peer(self) -> NodeKey:
        return self._peer

    async def send(self, frame: bytes) -> None:
        if len(frame) > limits.MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"a frame holds {limits.MAX_FRAME_BYTES} bytes, this one {len(frame)}"
            )
        try:
            with trio.fail_after(self._write_deadline_s):
                await self._out.send(bytes(frame))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone(CLOSED) from None
        except trio.TooSlowError:
            self._pair.cut()
            raise PeerGone(f"the peer did not read for {self._write_deadline_s:g} s") from None

    async def receive(self, *, timeout_s: float | None = None) -> bytes | None:
        try:
            with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
                return await self._into.receive()
        except trio.TooSlowError:
            raise PeerGone(f"nothing came from the peer for {timeout_s:g} s") from None
        except (trio.EndOfChannel, trio.ClosedResourceError):
            if self._pair.is_cut:
                raise PeerGone("the connection to the peer was lost") from None
            return None

    async def close(self) -> None:
        self._out.close()
        await trio.lowlevel.checkpoint()

    def hang_up(self) -> None:
        self._out.close()
        self._into.close()


@dataclass(slots=True, eq=False)
class _Subscription:
    validator: Validator
    send: trio.MemorySendChannel[Message]
    receive: trio.MemoryReceiveChannel[Message]

    def put(self, message: Message) -> None:
        try:
            self.send.send_nowait(message)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self.send.send_nowait(message)


@dataclass(slots=True)
class _Link:
    """This node's side of a connection."""

    pairs: set[_Pair] = field(default_factory=set[_Pair])


class FakeNetwork:
    """A node on a ``FakeHub``. Implements ``port.Network``; ``run`` puts it on the air."""

    def __init__(
        self, hub: FakeHub, key: NodeKey, *, write_deadline_s: float = WRITE_DEADLINE_S
    ) -> None:
        self._hub = hub
        self._key = key
        self._write_deadline_s = write_deadline_s
        self._handlers: dict[str, StreamHandler] = {}
        self._known: set[NodeKey] = set()
        self._links: dict[NodeKey, _Link] = {}
        self._topics: dict[str, list[_Subscription]] = {}
        self._seen: set[int] = set()
        self._nursery: trio.Nursery | None = None

    @property
    def key(self) -> NodeKey:
        return self._key

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/{self._key.hex()}",)

    def peers(self) -> tuple[NodeKey, ...]:
        return tuple(self._links)

    def add_addresses(self, peer: NodeKey, addresses: tuple[str, ...]) -> None:
        if f"/memory/{peer.hex()}" in addresses:
            self._known.add(peer)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    @asynccontextmanager
    async def open(
        self, peer: NodeKey, protocol: str, *, timeout_s: float = 10.0
    ) -> AsyncGenerator[FrameStream]:
        del timeout_s  # nothing here takes time
        await trio.lowlevel.checkpoint()
        pair = self._dial(peer, protocol)
        try:
            yield pair.caller
        except BaseException:
            pair.cut()
            raise
        await pair.caller.close()

    def _dial(self, peer: NodeKey, protocol: str) -> _Pair:
        if peer == self._key:
            raise PeerGone("that is this node itself")
        if peer not in self._links and peer not in self._known:
            raise PeerGone(f"no address of peer {peer.hex()} is known and it is not connected")
        callee = self._hub.nodes.get(peer)
        if callee is None or self._hub.nodes.get(self._key) is not self:
            raise PeerGone(f"peer {peer.hex()} cannot be reached")
        mine, theirs = self.link_to(peer), callee.link_to(self._key)
        if protocol not in callee._handlers:
            raise PeerGone(f"the peer does not speak {protocol}")
        pair = _Pair(self._key, peer, self._write_deadline_s)
        mine.pairs.add(pair)
        theirs.pairs.add(pair)
        callee.answer(pair, protocol)
        return pair

    def link_to(self, peer: NodeKey) -> _Link:
        return self._links.setdefault(peer, _Link())

    def drop_link(self, peer: NodeKey) -> None:
        link = self._links.pop(peer, None)
        for pair in link.pairs if link is not None else ():
            pair.cut()

    def answer(self, pair: _Pair, protocol: str) -> None:
        """Run the handler of ``protocol`` on a stream that a peer opened."""

        async def run_handler() -> None:
            try:
                await self._handlers[protocol](pair.callee)
            except Exception:
                log.exception("%s failed", protocol)
                pair.cut()
            else:
                await pair.callee.close()
            finally:
                for link in self._links.values():
                    link.pairs.discard(pair)

        if self._nursery is not None:
            self._nursery.start_soon(run_handler)

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) > limits.MAX_GOSSIP_BYTES:
            raise LocalProtocolError(
                f"gossip carries {limits.MAX_GOSSIP_BYTES} bytes, not {len(payload)}"
            )
        await trio.lowlevel.checkpoint()
        self._hub.published += 1
        self._relay(topic, self._key, payload, self._hub.published, None)

    def _relay(
        self,
        topic: str,
        signer: NodeKey,
        payload: bytes,
        message_id: int,
        came_from: NodeKey | None,
    ) -> None:
        for peer in list(self._links):
            node = self._hub.nodes.get(peer)
            if node is not None and peer not in {came_from, signer}:
                node.hear(topic, self._key, signer, payload, message_id)

    def hear(
        self, topic: str, forwarder: NodeKey, signer: NodeKey, payload: bytes, message_id: int
    ) -> None:
        """Validate, deliver and relay a message, once."""
        subscriptions = self._topics.get(topic)
        if not subscriptions or message_id in self._seen:
            return
        try:
            allowed = all(each.validator(forwarder, payload) for each in subscriptions)
        except Exception:
            log.exception("the validator of %s failed, the message was refused", topic)
            allowed = False
        if not allowed:
            return
        self._seen.add(message_id)
        for each in subscriptions:
            each.put((signer, payload))
        self._relay(topic, signer, payload, message_id, forwarder)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: Validator
    ) -> AsyncGenerator[AsyncIterator[Message]]:
        send, receive = trio.open_memory_channel[Message](SUBSCRIPTION_QUEUE)
        subscription = _Subscription(validator, send, receive)
        self._topics.setdefault(topic, []).append(subscription)
        try:
            await trio.lowlevel.checkpoint()
            yield receive
        finally:
            self._topics[topic].remove(subscription)
            send.close()
            receive.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be reachable until cancelled; then every stream is cut, as when a process dies."""
        async with trio.open_nursery() as nursery:
            try:
                self._nursery = nursery
                self._hub.nodes[self._key] = self
                task_status.started()
                await trio.sleep_forever()
            finally:  # off the air before the handlers end: who dials now finds nobody
                self._nursery = None
                del self._hub.nodes[self._key]
                for peer in list(self._links):
                    self._hub.cut(self._key, peer)
                    self.drop_link(peer)
