"""What an address says before anybody dials it: how far it reaches, whose host it is, by which relay."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from robocompute_node.p2p.addresses import CIRCUIT, parse_address
from robocompute_node.p2p.identity import node_key_of

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey

GROUP_BITS: Final = 64
"""Leading bits of an IPv6 address that are one host here: whoever has one address has the /64."""


class Scope(IntEnum):
    """How far an address reaches. What reaches wider is greater."""

    LOOPBACK = 0
    LINK = 1
    PRIVATE = 2
    PUBLIC = 3


@dataclass(frozen=True, slots=True)
class Place:
    """An address taken apart."""

    host: str
    """The IP address, or its /64: what one party is sure to hold."""
    scope: Scope
    relay: NodeKey | None
    """Who connects through, where it is no address of the peer's own."""
    direct: str
    """The address to dial: the peer's, or the relay's. Without any /p2p/."""


def scope_of(ip: str) -> Scope:
    """Return how far ``ip`` reaches.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(ip)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return Scope.LOOPBACK
    if found.is_link_local:
        return Scope.LINK
    return Scope.PUBLIC if found.is_global else Scope.PRIVATE


def host_of(ip: str) -> str:
    """Return the name under which addresses of one party are counted together.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(ip)
    if isinstance(found, ipaddress.IPv4Address):
        return ip
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, GROUP_BITS), strict=False))


def place_of(text: str) -> Place:
    """Take an address that a stranger named apart.

    Raises:
        ValueError: it cannot be dialled, or holds a name: resolving names for strangers would
            let them aim this node at anybody's resolver and hosts.
    """
    peer, address = parse_address(text)
    del peer
    try:
        names = [protocol.name for protocol in address.protocols()]
        ip = address.value_for_protocol(names[0])
        relay = None
        if "p2p-circuit" in names:
            at = str(address).removesuffix(CIRCUIT)
            named, address = parse_address(at)
            if named is None:
                raise ValueError(f"names no relay: {text!r}")
            relay = node_key_of(named)
    except (MultiaddrError, KeyError) as exc:
        raise ValueError(f"not a multiaddr: {text!r}: {exc}") from None
    if names[0] not in {"ip4", "ip6"} or ip is None:
        raise ValueError(f"a name, not an address: {text!r}")
    return Place(host=host_of(ip), scope=scope_of(ip), relay=relay, direct=str(address))


def ip_address_of(ip: str, port: int) -> str:
    """Write ``ip`` and a TCP port as a multiaddr."""
    found = ipaddress.ip_address(ip)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(Multiaddr(f"/ip{found.version}/{found}/tcp/{port}"))
