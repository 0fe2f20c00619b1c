"""``/robocompute/reach/1``: peers try each other's doors, so that a node learns whether it has one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.p2p.bounds import Rates
from robocompute_node.p2p.identity import peer_id_of
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, say
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import (
    PROTOCOL_REACH,
    DialBack,
    DialledBack,
    ReachMessage,
    Refused,
)

from .places import Scope, host_of, ip_address_of, scope_of

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.p2p.port import FrameStream, Network
    from robocompute_protocol.identifiers import NodeKey

    from .web import Web
    from .witnesses import Witnesses

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 30.0
"""One question of a peer in so long, in the long run: each costs a connection attempt."""
ASK_BURST: Final = 2
AT_ONCE: Final = 4
"""Doors tried at once for all peers together."""
ANSWER_S: Final = 25.0
"""Four ports that do not answer, five seconds each, and the way."""


class DialBackDesk:
    """Answers and asks ``DialBack``."""

    def __init__(self, network: Network, web: Web, clock: Clock) -> None:
        self._network = network
        self._web = web
        self._clock = clock
        self._asked: Rates[NodeKey] = Rates(1 / ASK_SECONDS, ASK_BURST)
        self._hosts: Rates[str] = Rates(1 / ASK_SECONDS * AT_ONCE, ASK_BURST * AT_ONCE)
        self._trying = trio.CapacityLimiter(AT_ONCE)

    def register(self) -> None:
        """Answer peers from now on."""
        self._network.serve(PROTOCOL_REACH, self._serve)

    async def _serve(self, stream: FrameStream) -> None:
        question = await expect(stream, ReachMessage, DialBack, timeout_s=ANSWER_S)
        ip = next(
            (link.ip for link in self._web.all() if link.peer == stream.peer and link.ip), None
        )
        if ip is None:
            raise RemoteProtocolError("dialling back needs a connection that runs on no relay")
        now = trio.current_time()
        free = self._asked.take(stream.peer, now) and self._hosts.take(host_of(ip), now)
        if not free or not self._trying.available_tokens:
            await say(stream, Refused(code="busy", message="asked too often; ask again later"))
            return
        # Only where the question came from: nobody can be made to knock at somebody else's door.
        async with self._trying:
            answered = [
                port
                for port in dict.fromkeys(question.ports)
                if await self._web.probe(stream.peer, ip_address_of(ip, port))
            ]
        await say(stream, DialledBack(address=ip, ports=tuple(answered)))

    async def ask(self, peer: NodeKey, ports: tuple[int, ...], witnesses: Witnesses) -> None:
        """Ask ``peer`` to dial back, and put its answer into ``witnesses``.

        No answer is no testimony.
        """
        try:
            async with self._network.open(peer, PROTOCOL_REACH) as stream:
                await say(stream, DialBack(ports=ports))
                answer = await expect(stream, ReachMessage, DialledBack, timeout_s=ANSWER_S)
        except (PeerGone, PeerRefused, RemoteProtocolError) as exc:
            log.debug("%s did not dial back: %s", peer_id_of(peer), exc)
            return
        found = tuple(port for port in answer.ports if port in ports)
        witnesses.note(peer, answer.address, found, self._clock.now_ms())


def may_testify(ip: str | None) -> bool:
    """Whether a peer at ``ip`` can know whether others reach this node."""
    return ip is not None and scope_of(ip) > Scope.LOOPBACK
