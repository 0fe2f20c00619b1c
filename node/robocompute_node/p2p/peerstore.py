"""Peers remembered on disk: those that were really reached.

With them a node finds back after a restart without any bootstrap peer.
Nobody can write here by talking: an address is kept once a dial of it ended in a handshake with
that peer's key, and no network gets more than its share of the places.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from .addresses import parse_address
from .connections import NOWHERE, origin_of
from .identity import node_key_of, peer_id_from, peer_id_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from robocompute_protocol.identifiers import NodeKey
    from robocompute_protocol.money import Millis

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 1_024
"""Peers on disk: enough to find one that is still up, and a file of a few hundred kB."""
MAX_PER_NETWORK: Final = 32
"""Of those, in one /24 or /48: whoever owns a network cannot fill the memory of this node."""
MAX_KEPT_ADDRESSES: Final = 4
"""Addresses kept for one peer, the one reached last first."""
MAX_FAILURES: Final = 20
"""Dials in a row that failed until a peer is forgotten: about two days of a node's starts."""
MAX_FILE_BYTES: Final = 1_048_576
"""A larger file was not written by this node."""
SAVE_EVERY_S: Final = 10.0
"""Longest that a change waits for the disk: what is lost by a crash is learned again."""
VERSION: Final = 1


class KnownPeer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A peer that this node reached."""

    peer: str
    """Its peer id."""
    addresses: tuple[str, ...]
    """Multiaddrs without /p2p/, the one reached last first."""
    last_seen: int
    """Wall clock of the last handshake, milliseconds since 1970."""
    failures: int = 0
    """Dials that failed since."""

    @property
    def key(self) -> NodeKey:
        return node_key_of(peer_id_from(self.peer))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    peers: list[KnownPeer]


class PeerStore:
    """The peers remembered, in memory and, where there is a path, on disk."""

    def __init__(self, path: Path | None, now_ms: Callable[[], Millis]) -> None:
        """Read ``path``. One that is missing or no such file is an empty memory, with a word."""
        self._path = path
        self._now_ms = now_ms
        self._peers: dict[NodeKey, KnownPeer] = {}
        self._changed = trio.Event()
        for known in _read(path):
            self._peers[known.key] = known
        self._trim()

    def __len__(self) -> int:
        return len(self._peers)

    def reached(self, peer: NodeKey, address: str) -> None:
        """A dial of ``address`` ended in a handshake with ``peer``."""
        old = self._peers.get(peer)
        others = [each for each in (old.addresses if old else ()) if each != address]
        self._peers[peer] = KnownPeer(
            str(peer_id_of(peer)),
            (address, *others)[:MAX_KEPT_ADDRESSES],
            self._now_ms(),
        )
        self._trim()
        self._changed.set()

    def failed(self, peer: NodeKey) -> None:
        """No address of ``peer`` answered."""
        old = self._peers.get(peer)
        if old is None:
            return
        if old.failures + 1 >= MAX_FAILURES:
            del self._peers[peer]
        else:
            self._peers[peer] = msgspec.structs.replace(old, failures=old.failures + 1)
        self._changed.set()

    def known(self) -> tuple[KnownPeer, ...]:
        """All peers remembered, the likeliest to answer first."""
        return tuple(sorted(self._peers.values(), key=_rank))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the file up to date until cancelled; then once more. A full disk is a warning."""
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                data = self._encoded()
                await trio.to_thread.run_sync(self._write, data)
                await trio.sleep(SAVE_EVERY_S)
        finally:
            if self._changed.is_set():
                self._write(self._encoded())

    def _trim(self) -> None:
        """Drop the unlikeliest beyond the bounds, of each network and in all."""
        networks: Counter[str] = Counter()
        kept: dict[NodeKey, KnownPeer] = {}
        for known in self.known():
            network = _network_of(known)
            if len(kept) < MAX_REMEMBERED and networks[network] < MAX_PER_NETWORK:
                networks[network] += 1
                kept[known.key] = known
        self._peers = kept

    def _encoded(self) -> bytes:
        return msgspec.json.encode(_File(VERSION, list(self.known())))

    def _write(self, data: bytes) -> None:
        if self._path is None:
            return
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as exc:
            log.warning("peers cannot be remembered: %s", exc)
            with suppress(OSError):
                draft.unlink()


def _read(path: Path | None) -> list[KnownPeer]:
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return _decoded(data)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, msgspec.MsgspecError) as exc:
        log.warning("%s is not readable, no peer is remembered: %s", path, exc)
        return []


def _decoded(data: bytes) -> list[KnownPeer]:
    """Raises: ValueError, MsgspecError."""
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    found = msgspec.json.decode(data, type=_File)
    if found.version != VERSION:
        raise ValueError(f"version {found.version}, not {VERSION}")
    for known in found.peers:
        node_key_of(peer_id_from(known.peer))
        if not known.addresses:
            raise ValueError(f"no address of {known.peer}")
        for address in known.addresses:
            parse_address(address)
    return found.peers


def _rank(known: KnownPeer) -> tuple[int, int]:
    return known.failures, -known.last_seen


def _network_of(known: KnownPeer) -> str:
    host = known.addresses[0].split("/")[2]
    origin = origin_of(host)
    return host if origin is NOWHERE else origin.network
