"""The one way out of a sandbox without a network: a proxy on a unix socket, for HTTP and nothing else.

It lets through what its ``Way`` names and, where that says so, hosts on the public internet. This
machine's loopback and the networks around it stay out of reach: a name is resolved here, once, and
what is connected to is the very address that was looked at.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""At once. uv opens up to 50."""
MAX_HEAD: Final = 16_384
"""Bytes of a request up to its empty line: an order of magnitude above what uv sends."""
HEAD_SECONDS: Final = 10.0
"""For the whole head to arrive."""
CONNECT_SECONDS: Final = 20.0
"""For the name, the address and the other proxy together."""
IDLE_SECONDS: Final = 300.0
"""Without a byte either way; a package index that builds a page may take long."""
CHUNK: Final = 65_536
WEB_PORTS: Final = frozenset({80, 443})
"""The ports of hosts that are let through for being public."""

Host = tuple[str, int]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What may be reached."""

    named: frozenset[Host] = frozenset()
    """Wherever they are: whoever configured them meant it."""
    public: bool = False
    """Any host whose every address is on the public internet, at its web ports."""
    through: Host | None = None
    """Another HTTP proxy that stands between this machine and the internet."""
    direct: frozenset[str] = frozenset()
    """Hosts, and ends of host names, that are not asked of ``through``."""


class Refused(Exception):
    """The sandbox may not go there, or asked for nothing a proxy does. ``status`` is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What the head of a request asks for."""

    host: Host
    tunnel: bool
    head: bytes
    """What is passed on where this is no tunnel: the same request, without our name in it."""
    absolute: bytes
    """As it came, for another proxy."""


def host_of(url: str) -> Host | None:
    """Return where a URL leads; None where it is none of the web's."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    return parts.hostname.lower(), port or (443 if parts.scheme == "https" else 80)


def read_head(head: bytes) -> Request:
    """Understand a request's head.

    Raises:
        Refused: it is no request to a proxy.
    """
    line, _, rest = head.partition(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
    except ValueError:
        raise Refused(400, "this is no HTTP request") from None
    if method == "CONNECT":
        host = host_of(f"https://{target}")
        if host is None or "/" in target or "@" in target:
            raise Refused(400, f"{target!r} is no host and port")
        return Request(host, tunnel=True, head=b"", absolute=head)
    host = host_of(target)
    if host is None or not target.startswith("http://"):
        raise Refused(400, "this is a proxy: ask for http://host/path, or CONNECT")
    path = target[len("http://") :].partition("/")[2]
    fields = [
        field
        for field in rest.split(b"\r\n")
        if not field.lower().startswith((b"proxy-", b"connection:"))
    ]
    # One request a connection: a second one on it would not be looked at.
    lines = [f"{method} /{path} {version}".encode(), b"Connection: close", *fields]
    return Request(host, tunnel=False, head=b"\r\n".join(lines), absolute=head)


def check(way: Way, host: Host, addresses: Iterable[Address]) -> None:
    """Let ``host``, found at ``addresses``, be connected to.

    Raises:
        Refused: it may not.
    """
    if host in way.named:
        return
    name, port = host
    if not way.public:
        raise Refused(403, f"{name}:{port} is not among what may be reached from here")
    if port not in WEB_PORTS:
        raise Refused(403, f"port {port} of {name} may not be reached from here")
    inside = [str(address) for address in addresses if not is_public(address)]
    if inside:
        raise Refused(403, f"{name} is at {inside[0]}, which is not on the public internet")


def is_public(address: Address) -> bool:
    """Whether an address can only be somebody else's machine, out in the internet."""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped or address.sixtofour
        if mapped is not None:
            return is_public(mapped)
        if address in _TRANSLATED:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and not address.is_multicast


_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""Where a NAT64 gateway shows IPv4: the address in it is the one that counts."""


def goes_through(way: Way, host: Host) -> bool:
    """Whether another proxy is asked for ``host``."""
    if way.through is None or "*" in way.direct:
        return False
    name = host[0]
    ends = (end.lstrip(".") for end in way.direct)
    return not any(name == end or name.endswith("." + end) for end in ends if end)


class Egress:
    """The proxy of one sandbox. ``serve`` until it is cancelled; the socket is the caller's folder's."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve(
        self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on ``path``, which anybody in its folder's sandbox may connect to."""
        listener = await _listen(path)
        task_status.started()
        await trio.serve_listeners(self._one, [listener])

    async def _one(self, stream: trio.SocketStream) -> None:
        """See one connection through. Whatever goes wrong ends this connection alone."""
        async with stream:
            try:
                self._limit.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                await _answer(stream, 503, "too many connections at once")
                return
            try:
                await self._relay(stream)
            except Refused as exc:
                log.warning("sandbox: %s", exc)
                await _answer(stream, exc.status, str(exc))
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                log.info("sandbox: connection ended: %s", exc)
            finally:
                self._limit.release_on_behalf_of(stream)

    async def _relay(self, stream: trio.SocketStream) -> None:
        with trio.fail_after(HEAD_SECONDS):
            head, more = await _receive_head(stream)
        request = read_head(head)
        through = goes_through(self._way, request.host)
        try:
            with trio.fail_after(CONNECT_SECONDS):
                other = await (self._other_proxy(request) if through else self._dial(request.host))
        except (OSError, trio.TooSlowError) as exc:
            why = str(exc) or f"no answer within {CONNECT_SECONDS:.0f} s"
            raise Refused(502, f"{request.host[0]} cannot be reached: {why}") from exc
        async with other:
            if through:
                await other.send_all(request.absolute)
            elif request.tunnel:
                await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                await other.send_all(request.head)
            if more:
                await other.send_all(more)
            await _join(stream, other)

    async def _dial(self, host: Host) -> trio.SocketStream:
        """Connect to the first address that answers, of those that were checked."""
        found = await trio.socket.getaddrinfo(*host, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        check(self._way, host, addresses)
        failure: OSError = OSError("it has no address")
        for family, kind, protocol, _, address in found:
            sock = trio.socket.socket(family, kind, protocol)
            try:
                await sock.connect(address)
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
            else:
                return trio.SocketStream(sock)
        raise failure

    async def _other_proxy(self, request: Request) -> trio.SocketStream:
        """Connect to the proxy that resolves names for this machine: only the name can be checked."""
        name, _ = request.host
        try:
            addresses = [ipaddress.ip_address(name)]
        except ValueError:
            inside = name == "localhost" or name.endswith((".localhost", ".local", ".internal"))
            addresses = [ipaddress.IPv4Address("127.0.0.1")] if inside else []
        check(self._way, request.host, addresses)
        assert self._way.through is not None
        return await trio.open_tcp_stream(*self._way.through)


async def _listen(path: Path) -> trio.SocketListener:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Socket addresses hold 107 bytes; a descriptor's path is always short enough.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(folder)
    os.chmod(path, 0o666)  # noqa: S103 (whoever may enter its folder)
    sock.listen(MAX_CONNECTIONS)
    return trio.SocketListener(sock)


async def _receive_head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > MAX_HEAD:
            raise Refused(431, f"a request's head may have {MAX_HEAD:,} bytes")
        data = await stream.receive_some(CHUNK)
        if not data:
            raise Refused(400, "the request ended in its head")
        received += data
    head, end, more = received.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD:
        raise Refused(431, f"a request's head may have {MAX_HEAD:,} bytes")
    return head + end, more


async def _answer(stream: trio.SocketStream, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with trio.move_on_after(HEAD_SECONDS):
        try:
            await stream.send_all(head.encode() + body)
        except (OSError, trio.BrokenResourceError):
            return


async def _join(one: trio.SocketStream, other: trio.SocketStream) -> None:
    """Pass bytes both ways until both sides have ended, or nothing came for too long."""
    async with trio.open_nursery() as nursery:

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            while True:
                idle.deadline = trio.current_time() + IDLE_SECONDS
                data = await source.receive_some(CHUNK)
                if not data:
                    break
                await sink.send_all(data)
            await sink.send_eof()

        with trio.CancelScope(deadline=trio.current_time() + IDLE_SECONDS) as idle:
            async with trio.open_nursery() as pumps:
                pumps.start_soon(pump, one, other)
                pumps.start_soon(pump, other, one)
        nursery.cancel_scope.cancel()
