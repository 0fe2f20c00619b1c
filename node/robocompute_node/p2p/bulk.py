"""The direct way for much data: a TLS 1.3 connection of its own beside libp2p's.

Who asks does so over an authenticated libp2p stream: both sides show their certificates there,
and the server names its addresses and a token for one connection. What arrives on the port is then
held against exactly that. Whatever goes wrong, the libp2p stream is still there.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import ssl
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol import codec, limits
from robocompute_protocol.errors import ConfigError, ProtocolError, RemoteProtocolError
from robocompute_protocol.messages import PROTOCOL_BULK, BulkAsk, BulkAt, BulkMessage, Refused

from .certificates import Certificate, check_certificate
from .dialing import parse_address
from .framing import PipeFrames
from .port import FrameStream, Network, PeerGone, StreamHandler
from .tls import TlsPipe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from multiaddr import Multiaddr

    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.signing import SigningKey

log = logging.getLogger(__name__)

ASK_S: Final = 5.0
"""Seconds for the question over libp2p and its answer."""
DIAL_S: Final = 3.0
"""Seconds for reaching an address and for the handshake: where this is not enough, a direct way
brings little, and the job waits."""
HANDSHAKE_S: Final = 5.0
"""Seconds a stranger's connection may take to become a known peer's."""
TOKEN_S: Final = 10.0
"""Seconds a token waits for its connection: more than asking and dialling take together."""
UNREACHABLE_S: Final = 60.0
"""Seconds that a peer is not tried again after no address of it answered."""
MAX_HALF_OPEN: Final = 64
"""Connections that have not shown who they are yet, each up to ``HANDSHAKE_S``."""
MAX_HALF_OPEN_PER_HOST: Final = 8
"""Of those, from one address: strangers at one place leave room for others."""
MAX_CONNECTIONS: Final = 64
"""Known peers' connections in all: each may hold a credit's worth of memory."""
MAX_PER_PEER: Final = 4
"""Connections and tokens of one peer: an upload, a download, and one of each that just broke."""
MAX_TOKENS: Final = 256
"""Tokens waiting in all; more are refused, and the libp2p stream does."""
MAX_UNREACHABLE: Final = 1_024
"""Peers remembered as unreachable; the oldest is forgotten first."""
MAX_DIALLED: Final = 4
"""Addresses tried of one answer, all at once."""
BACKLOG: Final = 64
TOKEN_BYTES: Final = 32
NAME_BYTES: Final = 16
"""A connection begins with this much of the token's digest: it says which context to shake hands
with, and is worth nothing to whoever sees it."""
BUSY: Final = Refused(code="bulk_busy", message="no direct connection now; use the stream")
OFF: Final = Refused(code="bulk_off", message="no direct connections here; use the stream")


@dataclass(frozen=True, slots=True)
class _Expected:
    """A connection that was agreed upon."""

    peer: NodeKey
    protocol: str
    certificate: bytes
    token: bytes
    until: float


class Bulk:
    """Direct connections of one node, both ways. Without ``run`` it only opens them."""

    def __init__(
        self,
        network: Network,
        key: SigningKey,
        *,
        listen: Iterable[str],
        port: int = 0,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        """Prepare; nothing happens before ``register`` and ``run``.

        Args:
            network: Over which connections are agreed upon.
            key: The node's.
            listen: Multiaddrs of libp2p's own listeners: the same hosts are listened on.
            port: TCP port on all of them; 0 takes a free one.
            handshake_s: What a stranger's connection is given.

        Raises:
            ConfigError: an address is no such thing.
        """
        try:
            self._hosts = tuple(dict.fromkeys(_host_of(text) for text in listen))
        except ValueError as exc:
            raise ConfigError(f"network settings: {exc}") from exc
        self._network = network
        self._port = port
        self._handshake_s = handshake_s
        self._certificate = Certificate(key)
        self._handlers: dict[str, StreamHandler] = {}
        self._ports: dict[int, int] = {}
        self._expected: OrderedDict[bytes, _Expected] = OrderedDict()
        self._half_open = trio.CapacityLimiter(MAX_HALF_OPEN)
        self._strangers: Counter[str] = Counter()
        self._open: Counter[NodeKey] = Counter()
        self._unreachable: OrderedDict[NodeKey, float] = OrderedDict()

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Answer direct connections for ``protocol`` too. Whoever opens one must also end it."""
        self._handlers[protocol] = handler

    def register(self) -> None:
        """Answer ``/bulk/1``."""
        self._network.serve(PROTOCOL_BULK, self._agree)

    def connections(self) -> int:
        """How many known peers' connections are open here."""
        return self._open.total()

    def strangers(self) -> int:
        """How many connections have not shown yet who they are."""
        return self._half_open.borrowed_tokens

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. A host that cannot be listened on is left out, in words."""
        listeners: list[trio.SocketListener] = []
        for host in self._hosts:
            try:
                made = await trio.open_tcp_listeners(
                    self._ports.get(_version(host)) or self._port, host=host, backlog=BACKLOG
                )
            except OSError as exc:
                log.warning("no direct connections at %s: %s", host, exc)
                continue
            listeners += made
            self._ports.setdefault(_version(host), made[0].socket.getsockname()[1])
        self.register()
        task_status.started()
        if listeners:
            await trio.serve_listeners(self._accept, listeners)
        else:
            await trio.sleep_forever()

    # --- the side that connects -----------------------------------------------------------------

    @asynccontextmanager
    async def open(self, peer: NodeKey, protocol: str) -> AsyncGenerator[FrameStream]:
        """Open a direct connection; aborted on exception, closed otherwise.

        Raises:
            PeerGone: there is none to be had; the libp2p stream may still do.
        """
        tls = await self._connect(peer, protocol)
        frames = PipeFrames(tls, peer)
        try:
            yield frames
        except BaseException:
            await frames.abort()
            raise
        await frames.close()

    async def _connect(self, peer: NodeKey, protocol: str) -> TlsPipe:
        now = trio.current_time()
        if now < self._unreachable.get(peer, now):
            raise PeerGone("the peer was not reachable directly a moment ago")
        answer = await self._ask(peer, protocol)
        try:
            context = self._certificate.context(server=False, peer=answer.certificate)
            with trio.fail_after(DIAL_S):
                return await self._reach(answer, context)
        except (OSError, trio.TooSlowError, trio.BrokenResourceError, ssl.SSLError) as exc:
            self._note_unreachable(peer)
            raise PeerGone(f"no direct connection to the peer: {exc!r}") from exc

    def _note_unreachable(self, peer: NodeKey) -> None:
        self._unreachable.pop(peer, None)
        while len(self._unreachable) >= MAX_UNREACHABLE:
            self._unreachable.popitem(last=False)
        self._unreachable[peer] = trio.current_time() + UNREACHABLE_S

    async def _ask(self, peer: NodeKey, protocol: str) -> BulkAt:
        async with self._network.open(peer, PROTOCOL_BULK, timeout_s=ASK_S) as stream:
            ask = BulkAsk(protocol=protocol, certificate=self._certificate.der)
            await stream.send(codec.encode(ask))
            frame = await stream.receive(timeout_s=ASK_S)
        if frame is None:
            raise PeerGone("the peer does not answer about direct connections")
        answer = codec.decode(BulkMessage, frame, limit=limits.MAX_FRAME_BYTES)
        if isinstance(answer, Refused):
            raise PeerGone(f"no direct connection: {answer.message}")
        if not isinstance(answer, BulkAt):
            raise RemoteProtocolError("not an answer about direct connections")
        check_certificate(answer.certificate, peer)
        return answer

    async def _reach(self, answer: BulkAt, context: ssl.SSLContext) -> TlsPipe:
        """Shake hands with whoever answers first. Raises as the layers below do."""
        stream = await _dial(answer.addresses[:MAX_DIALLED])
        try:
            await stream.send_all(_name_of(answer.token))
            tls = TlsPipe(stream, context, server=False)
            await tls.shake_hands()
            _check_shown(tls, answer.certificate)
            await tls.write(answer.token)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return tls

    # --- the side that listens ------------------------------------------------------------------

    async def _agree(self, stream: FrameStream) -> None:
        frame = await stream.receive(timeout_s=ASK_S)
        if frame is None:
            return
        ask = codec.decode(BulkMessage, frame, limit=limits.MAX_FRAME_BYTES)
        if not isinstance(ask, BulkAsk):
            raise RemoteProtocolError("a direct connection is asked for first")
        check_certificate(ask.certificate, stream.peer)
        await stream.send(codec.encode(self._answer(stream.peer, ask)))

    def _answer(self, peer: NodeKey, ask: BulkAsk) -> BulkAt | Refused:
        addresses = self._addresses()
        if not addresses or ask.protocol not in self._handlers:
            return OFF
        now = trio.current_time()
        while self._expected and next(iter(self._expected.values())).until <= now:
            self._expected.popitem(last=False)
        waiting = sum(one.peer == peer for one in self._expected.values())
        if waiting + self._open[peer] >= MAX_PER_PEER or len(self._expected) >= MAX_TOKENS:
            return BUSY
        token = secrets.token_bytes(TOKEN_BYTES)
        self._expected[_name_of(token)] = _Expected(
            peer, ask.protocol, ask.certificate, token, now + TOKEN_S
        )
        return BulkAt(addresses=addresses, token=token, certificate=self._certificate.der)

    def _addresses(self) -> tuple[str, ...]:
        """libp2p's own addresses, with this port in place of libp2p's."""
        found: list[str] = []
        for text in self._network.addresses:
            try:
                _, address = parse_address(text)
            except ValueError:
                continue  # by way of a relay, for one
            kind, host = str(address).split("/")[1:3]
            port = self._ports.get(6 if kind in {"ip6", "dns6"} else 4)
            if port is not None:
                found.append(f"/{kind}/{host}/tcp/{port}")
        return tuple(dict.fromkeys(found))[:MAX_DIALLED]

    async def _accept(self, stream: trio.SocketStream) -> None:
        """See one connection through. Whatever it does ends this connection alone."""
        async with stream:
            try:
                host = str(stream.socket.getpeername()[0])
            except OSError:
                return  # reset before it was looked at
            known = await self._greet(stream, host)
            if known is None:
                return
            expected, tls = known
            try:
                await self._talk(expected, tls)
            finally:
                self._open[expected.peer] -= 1
                if not self._open[expected.peer]:
                    del self._open[expected.peer]

    async def _greet(
        self, stream: trio.SocketStream, host: str
    ) -> tuple[_Expected, TlsPipe] | None:
        """Find out who it is; the peer is then counted."""
        if self._strangers[host] >= MAX_HALF_OPEN_PER_HOST:
            return None
        try:
            self._half_open.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            return None
        self._strangers[host] += 1
        try:
            with trio.fail_after(self._handshake_s):
                expected, tls = await self._shake(stream)
        except Exception as exc:  # noqa: BLE001 sockets, TLS and messages fail in words of their own
            log.info("a direct connection from %s ended: %r", host, exc)
            return None
        finally:
            self._half_open.release_on_behalf_of(stream)
            self._strangers[host] -= 1
            if not self._strangers[host]:
                del self._strangers[host]
        if self._open.total() >= MAX_CONNECTIONS or self._open[expected.peer] >= MAX_PER_PEER:
            return None
        self._open[expected.peer] += 1
        return expected, tls

    async def _shake(self, stream: trio.SocketStream) -> tuple[_Expected, TlsPipe]:
        # Once named, a token is gone, whether the connection turns out well or not.
        expected = self._expected.pop(await _exactly(stream.receive_some, NAME_BYTES), None)
        if expected is None or expected.until <= trio.current_time():
            raise RemoteProtocolError("nobody agreed upon this connection")
        context = self._certificate.context(server=True, peer=expected.certificate)
        tls = TlsPipe(stream, context, server=True)
        await tls.shake_hands()
        _check_shown(tls, expected.certificate)
        if not secrets.compare_digest(await _exactly(tls.read, TOKEN_BYTES), expected.token):
            raise RemoteProtocolError("not the token that was agreed upon")
        return expected, tls

    async def _talk(self, expected: _Expected, tls: TlsPipe) -> None:
        frames = PipeFrames(tls, expected.peer)
        what = f"{expected.protocol} with {expected.peer.hex()}, directly,"
        try:
            await self._handlers[expected.protocol](frames)
        except (PeerGone, ProtocolError) as exc:
            log.info("%s ended: %s", what, exc)
        except Exception:
            log.exception("%s failed", what)
        else:
            await frames.close()


async def _dial(addresses: tuple[str, ...]) -> trio.SocketStream:
    """Connect to the one of ``addresses`` that answers first. Raises: OSError."""
    dialled: list[trio.SocketStream] = []
    try:
        async with trio.open_nursery() as nursery:

            async def attempt(address: Multiaddr) -> None:
                try:
                    dialled.append(await trio.open_tcp_stream(*_target(address)))
                except OSError as exc:
                    log.debug("no direct connection to %s: %s", address, exc)
                else:
                    nursery.cancel_scope.cancel()

            for text in addresses:
                try:
                    nursery.start_soon(attempt, parse_address(text)[1])
                except ValueError as exc:
                    log.debug("address of a direct connection ignored: %s", exc)
        if not dialled:
            raise OSError("no address of it answers")
        return dialled.pop(0)
    finally:
        for surplus in dialled:
            await trio.aclose_forcefully(surplus)


def _check_shown(tls: TlsPipe, certificate: bytes) -> None:
    if tls.shown() != certificate:
        raise RemoteProtocolError("another certificate than was agreed upon")


async def _exactly(read: Callable[[int], Awaitable[bytes | bytearray]], count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = await read(count - len(received))
        if not data:
            raise RemoteProtocolError("the connection ended before it said what it is")
        received += data
    return received


def _name_of(token: bytes) -> bytes:
    return sha256(token).digest()[:NAME_BYTES]


def _host_of(multiaddr: str) -> str:
    """The address that a listener's multiaddr names."""
    _, kind, host, *_ = [*multiaddr.split("/"), "", "", ""]
    if kind not in {"ip4", "ip6"}:
        raise ValueError(f"no address to listen on: {multiaddr!r}")
    return str(ipaddress.ip_address(host))


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version


def _target(address: Multiaddr) -> tuple[str, int]:
    _, _, host, _, port = str(address).split("/")[:5]
    return host, int(port)
