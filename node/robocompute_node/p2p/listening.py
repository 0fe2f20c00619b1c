"""Listening: both families side by side, and which addresses to name to others."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import errno
import logging
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.abc import IListener
from libp2p.io.trio import TrioTCPStream
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.utils.multiaddr_utils import multiaddr_from_socket

if TYPE_CHECKING:
    from libp2p.custom_types import THandler
    from multiaddr import Multiaddr

log = logging.getLogger(__name__)

BACKLOG: Final = 256
"""Connections the kernel keeps until they are accepted: an inbound table's worth."""
NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""What the kernel says where a family is switched off, or its address is not this machine's."""
FAMILIES: Final = (
    (socket.AF_INET, "ip4", "0.0.0.0", "127.0.0.1", "192.0.2.1"),  # noqa: S104 compared with
    (socket.AF_INET6, "ip6", "::", "::1", "2001:db8::1"),
)
"""Family, its name in a multiaddr, its address that means all, its loopback, and one outside."""


class GuardedListener(IListener):
    """Listens in the swarm's own nursery, so that its failure is the host's.

    Stock runs each listener in a system task of trio, where an error ends the whole process and
    which holds the port after the host was cancelled.
    """

    background_nursery: trio.Nursery
    """Set by the swarm before ``listen``."""

    def __init__(self, handler: THandler) -> None:
        self._handler = handler
        self._listeners: list[trio.SocketListener] = []
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Accept connections at ``maddr`` until ``close``.

        Raises:
            OpenConnectionError: it is taken, or no address of this machine.
        """
        listener = await open_listener(maddr)
        self._listeners.append(listener)
        self.background_nursery.start_soon(self._serve, listener)

    async def _serve(self, listener: trio.SocketListener) -> None:
        with self._scope:
            async with listener:
                await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            await self._handler(TrioTCPStream(stream))
        except Exception as exc:  # noqa: BLE001 every layer of libp2p has its own errors
            log.debug("an inbound connection failed: %r", exc)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(multiaddr_from_socket(listener.socket) for listener in self._listeners)

    async def close(self) -> None:
        self._scope.cancel()
        for listener in self._listeners:
            await listener.aclose()
        self._listeners.clear()


class GuardedTCP(TCP):
    """TCP whose listeners are guarded."""

    def create_listener(self, handler_function: THandler) -> Any:
        return GuardedListener(handler_function)


async def open_listener(maddr: Multiaddr) -> trio.SocketListener:
    """Return a listener at ``maddr``, for its own family only.

    Stock lets the kernel answer IPv4 on an IPv6 socket too, so that both families cannot share a
    port number, and lets a second process share the port, which then gets half the dials.

    Raises:
        OpenConnectionError: it is taken, or no address of this machine.
    """
    name = _family_name(maddr)
    family = socket.AF_INET6 if name == "ip6" else socket.AF_INET
    host, port = maddr.value_for_protocol(name), int(maddr.value_for_protocol("tcp") or 0)
    try:
        made = trio.socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise OpenConnectionError(f"cannot listen on {maddr}: {exc}") from exc
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await made.bind((host, port))
        made.listen(BACKLOG)
        return trio.SocketListener(made)
    except OSError as exc:
        made.close()
        raise OpenConnectionError(f"cannot listen on {maddr}: {exc}") from exc


def _family_name(maddr: Multiaddr) -> str:
    return str(maddr).split("/")[1]


def has_family(maddr: Multiaddr) -> bool:
    """Whether this machine has ``maddr``'s family at all: IPv6 may be switched off."""
    name = _family_name(maddr)
    for family, of_name, _, loopback, _ in FAMILIES:
        if name != of_name:
            continue
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((loopback, 0))
        except OSError as exc:
            return exc.errno not in NO_SUCH_FAMILY
    return True


def dialable(address: str) -> tuple[str, ...]:
    """Real addresses for the one that means all of this machine's."""
    for family, name, every, loopback, outside in FAMILIES:
        if f"/{name}/{every}/" not in address:
            continue
        found = [loopback]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((outside, 9))  # sends nothing: asks the routing table
                found.insert(0, probe.getsockname()[0])
            except OSError:
                pass  # no route out: loopback is all there is
        return tuple(
            address.replace(f"/{name}/{every}/", f"/{name}/{host}/")
            for host in OrderedDict.fromkeys(found)
        )
    return (address,)
