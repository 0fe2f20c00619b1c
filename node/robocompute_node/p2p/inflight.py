"""Bytes in flight: what peers sent and nobody here has read yet, bounded for each and for all.

Yamux bounds one stream. A peer with a hundred streams, or a hundred peers with one each, would
still hold a hundred windows of this node's memory; beyond the bounds here their connections are
not read from, so that the bytes stay in their own.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary

import trio
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn, ISecureConn
    from libp2p.peer.id import ID

    from .bounds import PeerBounds

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1
"""How often a connection that waits looks whether others have freed what it needs."""


class Holder(Protocol):
    """Whatever holds unread bytes."""

    def unread(self) -> int: ...


class UnreadBudget:
    """How many unread bytes each connection holds, and whether it may take more.

    What is noted of a connection is as old as its last frame, and only ever too much; ``recount``
    asks all of them.
    """

    def __init__(self, bounds: PeerBounds) -> None:
        self._each = bounds.unread_per_connection
        self._all = bounds.unread_in_all
        self._held: WeakKeyDictionary[Holder, int] = WeakKeyDictionary()
        self.total = 0

    def may_take(self, holder: Holder, size: int) -> bool:
        """Whether ``holder`` may take ``size`` more; if so, they are noted.

        One frame of any size is taken by whoever holds nothing.
        """
        mine = holder.unread()
        self._note(holder, mine)
        if mine and mine + size > self._each:
            return False
        if self.total + size > self._all:
            self.recount()
            share = self._all // max(1, len(self._held))
            if mine and self.total + size > self._all and mine + size > share:
                return False
        self._note(holder, mine + size)
        return True

    def recount(self) -> None:
        for holder in list(self._held):
            self._note(holder, holder.unread())

    def forget(self, holder: Holder) -> None:
        self.total -= self._held.pop(holder, 0)

    def _note(self, holder: Holder, size: int) -> None:
        self.total += size - self._held.get(holder, 0)
        self._held[holder] = size


class BoundedYamux(Yamux):
    """A yamux connection that takes no more from its peer than the budget allows."""

    budget: UnreadBudget
    patience_s: float
    bytes_in = 0
    bytes_out = 0

    def unread(self) -> int:
        return sum(map(len, self.stream_buffers.values()))

    async def _read_data_body(self, length: int) -> bytes:
        if not self.budget.may_take(self, length):
            deadline = trio.current_time() + self.patience_s
            while not self.budget.may_take(self, length):
                if trio.current_time() >= deadline:
                    log.warning(
                        "peer %s filled its share of memory with bytes nobody reads, "
                        "its connection is closed",
                        self.peer_id,
                    )
                    # handle_incoming turns exactly this error into a closed connection
                    raise trio.TooSlowError("too many unread bytes")
                await trio.sleep(LOOK_S)
        self.bytes_in += length
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        self.bytes_out += len(data)
        await super()._write_frame(data)

    async def _cleanup_on_error(self) -> None:
        try:
            await super()._cleanup_on_error()
        finally:
            self.budget.forget(self)


class BoundedUpgrader(TransportUpgrader):
    """Makes bounded yamux connections, and no others."""

    budget: UnreadBudget
    patience_s: float

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        # Stock makes a plain Yamux whatever class was registered for its name.
        muxers: Any = self.muxer_multistream
        try:
            protocol, _ = await muxers._selector.select(
                conn, conn.is_initiator, muxers.negotiate_timeout
            )
        except (MultiselectError, MultiselectClientError) as exc:
            raise MuxerUpgradeFailure("failed to negotiate the multiplexer") from exc
        made = BoundedYamux(conn, peer_id, is_initiator=conn.is_initiator)
        made.budget = self.budget
        made.patience_s = self.patience_s
        return muxers._annotate_connection(made, conn, protocol)
