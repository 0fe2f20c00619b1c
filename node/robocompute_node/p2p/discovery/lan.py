"""Nodes in the same local network, by multicast DNS.

As libp2p has it: the service ``_p2p._udp``, each node under a random name, its multiaddrs as
``dnsaddr`` in the TXT record. Beside them ``n``, the network's name, so that nodes of two chains
leave each other alone. The packets are zeroconf's business, in a thread of its own, with bounds of
its own (10,000 records); libp2p's wrapper around it is not used: it writes what anybody on the wire says into the peer store, sleeps
in zeroconf's thread, and follows the names of all services there are.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from robocompute_node.p2p.addresses import CIRCUIT, parse_address
from robocompute_node.p2p.identity import node_key_of, peer_id_of

from .known import Found
from .places import Scope, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_protocol.identifiers import Digest, NodeKey

log = logging.getLogger(__name__)

SERVICE: Final = "_p2p._udp.local."
MAX_NAMES: Final = 256
"""Names heard and not looked up yet: what is more waits for its next announcement."""
LOOK_UPS_AT_ONCE: Final = 4
"""Names looked up at once: each may take the time-out below."""
LOOK_UP_MS: Final = 3_000
MAX_ADDRESSES: Final = 8
START_S: Final = 10.0
"""Seconds until a failed start is repeated: an interface may come up later."""
LOOK_S: Final = 1.0
"""How often the addresses to announce and the size of the cache are looked at."""
NETWORK_BYTES: Final = 16
"""Of the network's name: enough to tell networks apart, not to authenticate them."""


class LanBeacon:
    """Announces this node in the local network, and reports others of its own network there."""

    def __init__(
        self,
        key: NodeKey,
        addresses: Callable[[], tuple[str, ...]],
        network_id: Callable[[], Digest | None],
        found: Callable[[NodeKey, tuple[str, ...], Found], None],
    ) -> None:
        """Call ``found`` for each, again whenever it announces itself.

        Nothing of it is true for sure: whoever is dialled must still answer with that key.
        """
        self._key = key
        self._addresses = addresses
        self._network_id = network_id
        self._found = found
        self._name = f"{secrets.token_hex(16)}.{SERVICE}"

    async def run(self) -> None:
        """Work until cancelled. What goes wrong is logged and tried again."""
        while True:
            network = self._network_id()
            if network is not None:
                try:
                    await self._session(network)
                except Exception as exc:  # noqa: BLE001 sockets and zeroconf raise what they like
                    log.warning("no multicast in the local network just now: %r", exc)
            await trio.sleep(START_S if network is not None else LOOK_S)

    async def _session(self, network: Digest) -> None:
        send, heard = trio.open_memory_channel[str](MAX_NAMES)
        token = trio.lowlevel.current_trio_token()

        def on_change(
            zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
        ) -> None:  # in zeroconf's thread: only hands over
            del zeroconf, service_type
            if state_change is not ServiceStateChange.Removed and name != self._name:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(offer, name)

        def offer(name: str) -> None:
            with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                send.send_nowait(name)

        zeroconf = await trio.to_thread.run_sync(lambda: Zeroconf(InterfaceChoice.All))
        try:
            browser = await trio.to_thread.run_sync(
                lambda: ServiceBrowser(zeroconf, SERVICE, handlers=[on_change])
            )
            del browser  # ends with zeroconf
            async with trio.open_nursery() as nursery, heard:
                nursery.start_soon(self._announce, zeroconf, network)
                for _ in range(LOOK_UPS_AT_ONCE):
                    nursery.start_soon(self._look_up, zeroconf, heard.clone(), network)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + START_S):
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    async def _announce(self, zeroconf: Zeroconf, network: Digest) -> None:
        told: ServiceInfo | None = None
        shown: tuple[str, ...] = ()
        while True:
            fit = lan_addresses(self._addresses())
            if fit and fit != shown:
                info = self._info(fit, network)
                register = zeroconf.register_service if told is None else zeroconf.update_service
                await trio.to_thread.run_sync(register, info, abandon_on_cancel=True)
                told, shown = info, fit
            await trio.sleep(LOOK_S)

    def _info(self, addresses: tuple[str, ...], network: Digest) -> ServiceInfo:
        properties: dict[str | bytes, str | bytes | None] = {"n": network[:NETWORK_BYTES].hex()}
        for number, address in enumerate(addresses):
            properties[f"dnsaddr{number or ''}"] = address
        first = parse_address(addresses[0])[1]
        port = int(first.value_for_protocol("tcp") or 0)
        host = self._name.split(".", 1)[0]
        return ServiceInfo(
            SERVICE, self._name, port=port, properties=properties, server=f"{host}.local."
        )

    async def _look_up(
        self, zeroconf: Zeroconf, names: trio.MemoryReceiveChannel[str], network: Digest
    ) -> None:
        lately: OrderedDict[str, float] = OrderedDict()
        async with names:
            async for name in names:
                if lately.get(name, 0.0) > trio.current_time():
                    continue
                lately[name] = trio.current_time() + LOOK_S
                while len(lately) > MAX_NAMES:
                    lately.popitem(last=False)
                try:
                    properties = await trio.to_thread.run_sync(
                        _properties_of, zeroconf, name, abandon_on_cancel=True
                    )
                except Exception as exc:  # noqa: BLE001 a name from the wire may be anything
                    log.debug("a name in the local network is none: %r", exc)
                    continue
                self._take(properties, network)

    def _take(self, properties: dict[bytes, bytes | None], network: Digest) -> None:
        peer, addresses = read_announcement(properties, network)
        if peer is not None and peer != self._key:
            log.debug("%s is in the local network", peer_id_of(peer))
            self._found(peer, addresses, Found.LAN)


def _properties_of(zeroconf: Zeroconf, name: str) -> dict[bytes, bytes | None]:
    """The TXT record of ``name``: mostly heard with the name, else asked for.

    Not by ``get_service_info``: that waits for the host's addresses too, which nobody needs here.
    """
    info = ServiceInfo(SERVICE, name)
    info.load_from_cache(zeroconf)
    if not info.properties:
        info.request(zeroconf, LOOK_UP_MS)
    return info.properties


def lan_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``addresses`` that neighbours can use."""
    fit: list[str] = []
    for each in addresses:
        if CIRCUIT in each:
            continue
        with suppress(ValueError):
            if place_of(each).scope > Scope.LOOPBACK:
                fit.append(each)
    return tuple(fit[:MAX_ADDRESSES])


def read_announcement(
    properties: dict[bytes, bytes | None], network: Digest
) -> tuple[NodeKey | None, tuple[str, ...]]:
    """Return who announces itself, and where; nobody where it is of another network, or nonsense."""
    named = properties.get(b"n")
    if named is None or named != network[:NETWORK_BYTES].hex().encode():
        return None, ()
    peer: NodeKey | None = None
    addresses: list[str] = []
    for name, value in properties.items():
        if not name.startswith(b"dnsaddr") or value is None or len(addresses) >= MAX_ADDRESSES:
            continue
        try:
            text = value.decode("ascii")
            peer_id, _ = parse_address(text)
            if peer_id is None or CIRCUIT in text:
                continue
            found = node_key_of(peer_id)
        except ValueError:
            continue
        if peer in {None, found}:
            peer = found
            addresses.append(text)
    return (peer, tuple(addresses)) if addresses else (None, ())
