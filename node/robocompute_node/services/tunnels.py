"""``/robocompute/tunnel/1``: a port on the client's loopback that leads to a port of its job.

One stream carries one connection. The provider connects inside the job's own network, for the
agreement's client alone, and only while the job runs; all connections end with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.api.port import InvalidRequest
from robocompute_node.executor.port import Executor, PortClosed
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, hear, say
from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.errors import ProtocolError, RemoteProtocolError
from robocompute_protocol.messages import (
    PROTOCOL_TUNNEL,
    OpenTunnel,
    Refused,
    TunnelData,
    TunnelEnd,
    TunnelMessage,
    TunnelOpened,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.abc import HalfCloseableStream

    from robocompute_node.services.lettings import Lettings
    from robocompute_protocol.identifiers import AgreementId, NodeKey

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 15.0
"""To say which port, and to be told whether somebody listens there."""
IDLE_SECONDS: Final = 3_600.0
"""Without a byte from the other side: longer than any keep-alive of a page or notebook."""
PIECE_BYTES: Final = 65_000
"""Bytes of one message: with its envelope it fits one transport frame of 65,507."""
BYTES_PER_SECOND: Final = 33_554_432
"""Each way, for one agreement: a quarter of a gigabit line, so that jobs and ticks keep theirs."""
CONNECTIONS_PER_AGREEMENT: Final = 32
"""Connections into one job at once: a notebook page opens about ten."""
CONNECTIONS: Final = 256
"""The same for all jobs of this node."""
TUNNELS: Final = 64
"""Ports that a client's node listens on at once for all its jobs."""
BACKLOG: Final = 32
BUSY: Final = Refused(code="tunnel_busy", message="too many connections to this job at once")
NOT_YOURS: Final = Refused(code="unknown_agreement", message="no such agreement with you")


class Pace:
    """Lets so many bytes a second through, over all connections that share it."""

    def __init__(self, per_second: int = BYTES_PER_SECOND) -> None:
        self._per_second = per_second
        self._free_at = 0.0

    async def spend(self, count: int) -> None:
        """Return when ``count`` bytes more may go, a second's worth ahead of time at most."""
        now = trio.current_time()
        self._free_at = max(self._free_at, now - 1.0) + count / self._per_second
        if self._free_at > now:
            await trio.sleep(self._free_at - now)


async def carry(frames: FrameStream, local: HalfCloseableStream, pace: Pace) -> None:
    """Pass bytes both ways until both sides have ended theirs. Whoever does not read is not read to.

    Raises: PeerGone, RemoteProtocolError; what happens to ``local`` ends the connection quietly.
    """

    async def out() -> None:
        while data := await local.receive_some(PIECE_BYTES):
            await pace.spend(len(data))
            await say(frames, TunnelData(data=bytes(data)))
        await say(frames, TunnelEnd())

    async def back() -> None:
        while True:
            message = await hear(frames, TunnelMessage, timeout_s=IDLE_SECONDS)
            match message:
                case TunnelData():
                    await local.send_all(message.data)
                case TunnelEnd():
                    await local.send_eof()
                    return
                case _:
                    raise RemoteProtocolError("neither bytes nor their end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(out)
        nursery.start_soon(back)


class TunnelDesk:
    """Lets clients into the ports of their own jobs."""

    def __init__(self, network: Network, executor: Executor, lettings: Lettings) -> None:
        self._network = network
        self._executor = executor
        self._lettings = lettings
        self._open: Counter[AgreementId] = Counter()
        self._paces: dict[AgreementId, Pace] = {}

    def register(self) -> None:
        """Answer ``/tunnel/1``."""
        self._network.serve(PROTOCOL_TUNNEL, self._serve)

    async def _serve(self, stream: FrameStream) -> None:
        ask = await hear(stream, TunnelMessage, timeout_s=ASK_SECONDS)
        if not isinstance(ask, OpenTunnel):
            raise RemoteProtocolError("a tunnel stream begins with OpenTunnel")
        record = self._lettings.get(ask.agreement)
        if record is None or record.terms.payer_node != stream.peer:
            await say(stream, NOT_YOURS)
            return
        if record.state.phase is not ProviderPhase.LEASED:
            await say(stream, Refused(code="port_closed", message="the job does not run"))
            return
        agreement = ask.agreement
        if self._open[agreement] >= CONNECTIONS_PER_AGREEMENT or self._open.total() >= CONNECTIONS:
            await say(stream, BUSY)
            return
        self._open[agreement] += 1
        try:
            await self._connect(stream, ask, record.job_id)
        finally:
            self._open[agreement] -= 1
            if not self._open[agreement]:
                del self._open[agreement]
                self._paces.pop(agreement, None)

    async def _connect(self, stream: FrameStream, ask: OpenTunnel, job_id: str) -> None:
        try:
            inside = await self._executor.connect(job_id, ask.port)
        except PortClosed as exc:
            await say(stream, Refused(code=exc.code, message=str(exc)))
            return
        pace = self._paces.setdefault(ask.agreement, Pace())
        async with inside:
            await say(stream, TunnelOpened())
            cut: PeerGone | None = None
            async with trio.open_nursery() as nursery:

                async def until_ended() -> None:
                    await self._lettings.ended(ask.agreement)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_ended)
                try:
                    await _carry_quietly(stream, inside, pace)
                except PeerGone as exc:
                    cut = exc
                nursery.cancel_scope.cancel()
            if cut is not None:
                raise cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A port of this machine's loopback that leads to a port of a job."""

    task_id: str
    port: int
    local_port: int
    scope: trio.CancelScope


class Tunnels:
    """The client's side: listens on loopback, and opens a stream for each connection."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._nursery: trio.Nursery | None = None
        self._tunnels: dict[tuple[str, int], Tunnel] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep tunnels open until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def of(self, task_id: str) -> tuple[Tunnel, ...]:
        """The open tunnels of a task."""
        return tuple(one for one in self._tunnels.values() if one.task_id == task_id)

    def close(self, task_id: str, port: int | None = None) -> None:
        """Close one tunnel of a task, or all of them, with their connections. Repeatable."""
        for tunnel in self.of(task_id):
            if port in {None, tunnel.port}:
                tunnel.scope.cancel()
                self._tunnels.pop((task_id, tunnel.port), None)

    async def open(
        self,
        task_id: str,
        provider: NodeKey,
        agreement: AgreementId,
        port: int,
        *,
        local_port: int,
        until: Callable[[], Awaitable[None]],
    ) -> Tunnel:
        """Listen on loopback for ``port`` of a task's job. Opening the same again is free.

        Closed when ``until`` returns, by ``close``, or with this node.

        Raises:
            InvalidRequest: there are too many, or the local port is taken.
        """
        assert self._nursery is not None
        known = self._tunnels.get((task_id, port))
        if known is not None and local_port in {0, known.local_port}:
            return known
        if known is not None:
            raise InvalidRequest(
                f"port {port} is open already, at {known.local_port}; close it first"
            )
        if len(self._tunnels) >= TUNNELS:
            raise InvalidRequest(f"{TUNNELS} tunnels are open; close one first")
        try:
            listeners = await trio.open_tcp_listeners(
                local_port, host="127.0.0.1", backlog=BACKLOG
            )
        except OSError as exc:
            raise InvalidRequest(
                f"cannot listen on 127.0.0.1:{local_port}: {exc.strerror or exc}; "
                "without local_port a free one is taken"
            ) from exc
        tunnel = Tunnel(
            task_id=task_id,
            port=port,
            local_port=listeners[0].socket.getsockname()[1],
            scope=trio.CancelScope(),
        )
        self._tunnels[task_id, port] = tunnel
        ask = OpenTunnel(agreement=agreement, port=port)
        self._nursery.start_soon(self._listen, tunnel, provider, ask, listeners, until)
        return tunnel

    async def _listen(
        self,
        tunnel: Tunnel,
        provider: NodeKey,
        ask: OpenTunnel,
        listeners: list[trio.SocketListener],
        until: Callable[[], Awaitable[None]],
    ) -> None:
        pace, limit = Pace(), trio.CapacityLimiter(CONNECTIONS_PER_AGREEMENT)

        async def one(local: trio.SocketStream) -> None:
            async with local:
                try:
                    limit.acquire_on_behalf_of_nowait(local)
                except trio.WouldBlock:
                    return
                try:
                    await self._lead(local, provider, ask, pace)
                finally:
                    limit.release_on_behalf_of(local)

        with tunnel.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, one, listeners)
                await until()
                nursery.cancel_scope.cancel()
        self.close(tunnel.task_id, tunnel.port)

    async def _lead(
        self, local: trio.SocketStream, provider: NodeKey, ask: OpenTunnel, pace: Pace
    ) -> None:
        try:
            async with self._network.open(provider, PROTOCOL_TUNNEL) as stream:
                await say(stream, ask)
                await expect(stream, TunnelMessage, TunnelOpened, timeout_s=ASK_SECONDS)
                await _carry_quietly(stream, local, pace)
        except (PeerGone, PeerRefused, ProtocolError) as exc:
            log.info("a connection to port %d of a job ended: %s", ask.port, exc)


async def _carry_quietly(frames: FrameStream, local: HalfCloseableStream, pace: Pace) -> None:
    """``carry``; a local end that breaks is the peer's to see as a cut, and nobody's error.

    Raises: PeerGone.
    """
    cut = ""
    try:
        await carry(frames, local, pace)
    except* (PeerGone, ProtocolError) as group:
        log.info("a tunnel's connection ended: %s", group.exceptions[0])
        cut = "the connection through the tunnel is over"
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        cut = "the other program hung up"
    if cut:  # raised in there, it would come out in a group, which nobody expects
        raise PeerGone(cut)
