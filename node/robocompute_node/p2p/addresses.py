"""Addresses of peers: which can be dialled, in which order, and those heard of."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from .identity import peer_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

MAX_ADDRESSES: Final = 8
"""Addresses kept for one peer, newest first: a few interfaces, old and new."""
CIRCUIT: Final = "/p2p-circuit"
"""What follows is reached through the relay named before."""
MAX_PEERS: Final = 4_096
"""Peers whose addresses are kept; the one not named for longest is forgotten first."""


def parse_address(text: str) -> tuple[ID | None, Multiaddr]:
    """Split a multiaddr into the peer id at its end, where it has one, and the rest.

    Through a relay, the rest ends with the relay's /p2p/ and /p2p-circuit.

    Raises:
        ValueError: it is none that can be dialled: TCP at an address or name.
    """
    before, circuit, behind = text.partition(CIRCUIT)
    if circuit:
        relay, at = parse_address(before)
        if relay is None or (behind and not behind.startswith("/p2p/")):
            raise ValueError(f"names no relay: {text!r}")
        peer = ID.from_base58(behind.removeprefix("/p2p/")) if behind else None
        return peer, Multiaddr(f"{at}/p2p/{relay}{CIRCUIT}")
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
        peer = ID.from_base58(address.value_for_protocol("p2p") or "") if "p2p" in names else None
    except (MultiaddrError, ValueError, KeyError) as exc:
        raise ValueError(f"not a multiaddr: {text!r}: {exc}") from None
    if peer is not None and names[-1] != "p2p":
        raise ValueError(f"goes on behind the peer id: {text!r}")
    if peer is not None:
        address = address.decapsulate(Multiaddr(f"/p2p/{peer}"))
        names = names[: names.index("p2p")]
    if (
        len(names) != 2
        or names[1] != "tcp"
        or names[0] not in {"ip4", "ip6", "dns", "dns4", "dns6"}
    ):
        raise ValueError(f"cannot be dialled: {text!r}")
    host, port = address.value_for_protocol(names[0]), address.value_for_protocol("tcp")
    if port in {None, "0"}:
        raise ValueError(f"no port: {text!r}")
    if names[0].startswith("ip"):
        ip = ipaddress.ip_address(host or "")
        if ip.is_unspecified or ip.is_multicast:
            raise ValueError(f"no host has this address: {text!r}")
    return peer, address


class AddressBook:
    """Where peers may be dialled, newest address first."""

    def __init__(self) -> None:
        self._known: OrderedDict[NodeKey, tuple[Multiaddr, ...]] = OrderedDict()

    def add(self, peer: NodeKey, addresses: Iterable[str]) -> None:
        """Remember addresses of ``peer``. Bad ones, and those of another peer, are ignored."""
        wanted = peer_id_of(peer)
        good: list[Multiaddr] = []
        for text in addresses:
            try:
                named, address = parse_address(text)
            except ValueError as exc:
                log.debug("address of %s ignored: %s", wanted, exc)
                continue
            if named in {None, wanted} and address not in good:
                good.append(address)
        if not good:
            return
        old = [each for each in self._known.pop(peer, ()) if each not in good]
        self._known[peer] = tuple([*good, *old][:MAX_ADDRESSES])
        while len(self._known) > MAX_PEERS:
            self._known.popitem(last=False)

    def of(self, peer: NodeKey) -> tuple[Multiaddr, ...]:
        return self._known.get(peer, ())


def by_turns(addresses: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    """The same addresses in order, the two families taking turns, the first one's first.

    So that a family that is down costs one head start, not one for each of its addresses. What
    goes through a relay comes last: it is slower, and somebody else's gift.
    """
    relayed = tuple(each for each in addresses if str(each).endswith(CIRCUIT))
    direct = [each for each in addresses if each not in relayed]
    first = [each for each in direct if _is_ip6(each) == _is_ip6(direct[0])]
    other = [each for each in direct if each not in first]
    turns = chain.from_iterable(zip_longest(first, other))
    return tuple(each for each in turns if each is not None) + relayed


def _is_ip6(address: Multiaddr) -> bool:
    return str(address).startswith(("/ip6/", "/dns6/"))
