"""Making and keeping connections: dials, and the peers to stay connected to.

Stock dialling is not used: it tries one TCP address a peer, retries with waits, and blocks a
peer that failed once for a minute.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ConfigError

from .addresses import CIRCUIT, AddressBook, by_turns, parse_address
from .guards import GuardedSwarm, quietly
from .identity import node_key_of, peer_id_of
from .port import PeerGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from libp2p.abc import INetConn
    from multiaddr import Multiaddr

    from robocompute_protocol.identifiers import NodeKey

    from .peerstore import PeerStore

log = logging.getLogger(__name__)

STAGGER_S: Final = 0.25
"""Head start of one address before the next is tried as well."""
DIAL_S: Final = 8.0
"""Seconds for one dial with its handshake: five round trips on the slowest link, and spare."""
RACE_S: Final = 10.0
"""Seconds for all addresses of a peer together, and for a turn to dial at all."""
REDIAL_MIN_S: Final = 0.5
"""First wait after a lost connection: a daemon restarts in about a second."""
REDIAL_MAX_S: Final = 30.0
"""Longest wait between dials of a bootstrap peer."""
REDIALS: Final = 12
"""A peer that is no bootstrap peer is given up after so many failures: four minutes."""
MAX_KEPT: Final = 128
"""Peers to stay connected to at once: a mesh needs six."""
DIALS_AT_ONCE: Final = 8
"""Background dials under way: each handshake costs 10 ms of CPU."""
LOOK_S: Final = 0.5
"""How often lost connections are looked for."""


@dataclass(slots=True)
class _Kept:
    """One peer to stay connected to."""

    forever: bool
    due: float = 0.0
    failures: int = 0
    dialling: bool = False


class Dialer:
    """Makes connections, at most one dial a peer at a time, and keeps the wanted ones up."""

    def __init__(
        self, key: NodeKey, bootstrap: Iterable[str] = (), *, remembered: PeerStore
    ) -> None:
        """Know ``bootstrap``, multiaddrs with /p2p/, as peers to stay connected to for ever.

        What ``remembered`` holds can be dialled; dials that end in a handshake are added to it.

        Raises:
            ConfigError: a bootstrap peer is no such address.
        """
        self._key = key
        self.book = AddressBook()
        self._remembered = remembered
        self.circuits: Callable[[Multiaddr, NodeKey], Awaitable[INetConn]] = _no_circuits
        """Connects through the relay in the address. Set by what knows relays."""
        for known in reversed(remembered.known()):
            self.book.add(known.key, known.addresses)
        self._locks: dict[NodeKey, tuple[trio.Lock, int]] = {}
        self._kept: OrderedDict[NodeKey, _Kept] = OrderedDict()
        for text in bootstrap:
            try:
                named, _ = parse_address(text)
                peer = node_key_of(named) if named is not None else None
            except ValueError as exc:
                raise ConfigError(f"bootstrap peer: {exc}") from None
            if peer is None:
                raise ConfigError(
                    f"bootstrap peer {text!r} needs /p2p/ and its peer id at the end"
                )
            if peer != key:
                self.book.add(peer, (text,))
                self._kept[peer] = _Kept(forever=True)

    @property
    def bootstrap(self) -> frozenset[NodeKey]:
        """The peers to stay connected to for ever."""
        return frozenset(peer for peer, kept in self._kept.items() if kept.forever)

    def connection(self, swarm: GuardedSwarm, peer: NodeKey) -> INetConn | None:
        """The newest connection that works as far as is known."""
        live = swarm.live_connections(peer_id_of(peer))
        return live[0] if live else None

    async def connect(
        self, swarm: GuardedSwarm, peer: NodeKey, *, instead_of: INetConn | None = None
    ) -> INetConn:
        """Return a connection other than ``instead_of``, dialling if there is none.

        Raises:
            PeerGone: no address is known, or none answers.
        """
        if peer == self._key:
            raise PeerGone("that is this node itself")
        lock, users = self._locks.get(peer, (trio.Lock(), 0))
        self._locks[peer] = (lock, users + 1)
        try:
            async with lock:
                found = self.connection(swarm, peer)
                if found is not None and found is not instead_of:
                    return found
                made = await self._dial(swarm, peer)
        finally:
            users = self._locks[peer][1] - 1
            if users:
                self._locks[peer] = (lock, users)
            else:
                del self._locks[peer]
        self._keep(peer)
        return made

    async def _dial(self, swarm: GuardedSwarm, peer: NodeKey) -> INetConn:
        peer_id = peer_id_of(peer)
        addresses = self.book.of(peer)
        if not addresses:
            raise PeerGone(f"no address of peer {peer_id} is known and it is not connected")
        if not swarm.make_room():
            raise PeerGone("this node has all the connections it may have, and needs them")
        made, failures = await self._race(swarm, peer, by_turns(addresses))
        for _, surplus in made[1:]:
            await quietly(surplus.close)
        if not made:
            self._remembered.failed(peer)
            raise PeerGone(f"peer {peer_id} cannot be reached at {'; '.join(failures)}")
        address, conn = made[0]
        self._remembered.reached(peer, str(address))
        return conn

    async def _race(
        self, swarm: GuardedSwarm, peer: NodeKey, addresses: tuple[Multiaddr, ...]
    ) -> tuple[list[tuple[Multiaddr, INetConn]], list[str]]:
        """Dial all addresses, each with a head start on the next; the first to answer ends it."""
        made: list[tuple[Multiaddr, INetConn]] = []
        failures: list[str] = []

        async def attempt(address: Multiaddr, failed: trio.Event) -> None:
            try:
                with trio.fail_after(DIAL_S):
                    if str(address).endswith(CIRCUIT):
                        conn = await self.circuits(address, peer)
                    else:
                        conn = await swarm.dial_in_turn(address, peer_id_of(peer))
            except Exception as exc:  # noqa: BLE001 every layer of libp2p has its own errors
                swarm.meters.dial_failures += 1
                failures.append(f"{address}: {_root_of(exc)}")
                failed.set()
                return
            made.append((address, conn))
            nursery.cancel_scope.cancel()

        with trio.move_on_after(RACE_S) as race:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(STAGGER_S):
                        await failed.wait()
        if race.cancelled_caught:
            failures.append(f"no answer within {RACE_S:g} s")
        return made, failures

    def _keep(self, peer: NodeKey) -> None:
        kept = self._kept.get(peer)
        if kept is not None:
            kept.failures = 0
            return
        if len(self._kept) >= MAX_KEPT:
            for old, each in self._kept.items():
                if not each.forever:
                    del self._kept[old]
                    break
            else:
                return
        self._kept[peer] = _Kept(forever=False)

    async def keep_connected(self, swarm: GuardedSwarm) -> None:
        """Dial bootstrap peers, and peers once dialled and lost, again and again."""
        slots = trio.CapacityLimiter(DIALS_AT_ONCE)

        async def redial(peer: NodeKey, kept: _Kept) -> None:
            try:
                async with slots:
                    await self.connect(swarm, peer)
                kept.failures = 0
            except PeerGone as exc:
                kept.failures += 1
                wait = min(REDIAL_MAX_S, REDIAL_MIN_S * 2 ** min(kept.failures, 10))
                kept.due = trio.current_time() + wait
                log.debug("will dial again in %.1f s: %s", wait, exc)
                if kept.failures >= REDIALS and not kept.forever:
                    self._kept.pop(peer, None)
            finally:
                kept.dialling = False

        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for peer, kept in list(self._kept.items()):
                    if self.connection(swarm, peer) is not None:
                        kept.due = now + REDIAL_MIN_S
                    elif not kept.dialling and now >= kept.due:
                        kept.dialling = True
                        nursery.start_soon(redial, peer, kept)
                await trio.sleep(LOOK_S)


async def _no_circuits(address: Multiaddr, peer: NodeKey) -> INetConn:
    raise PeerGone(f"nothing here dials {peer_id_of(peer)} through {address}")


def _root_of(exc: BaseException) -> str:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc) or type(exc).__name__
