"""Keeps vouchers that other providers leave here, and settles them should their payers close.

A provider that is away for good loses nothing then: anybody may settle a voucher, and the money
goes to the payee alone. The tower pays the fee.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.settling import SETTLES_A_TRANSACTION, look_every
from robocompute_node.services.conversation import hear_or_end, say
from robocompute_node.store import Store, Table
from robocompute_protocol.errors import ChainError, ChainRefused, RemoteProtocolError
from robocompute_protocol.identifiers import Address, ChannelId, NodeKey, to_base58
from robocompute_protocol.messages import (
    PROTOCOL_TOWER,
    Held,
    Leave,
    Refused,
    SignedVoucher,
    TowerMessage,
)
from robocompute_protocol.money import MicroUnits, Millis, format_amount
from robocompute_protocol.vouchers import verify_voucher
from robocompute_settlement.port import Commitment, SettleClaim

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.p2p.port import FrameStream, Network
    from robocompute_settlement.port import Settlement

log = logging.getLogger(__name__)

MAX_HELD: Final = 8_192
"""Channels in all: a voucher with 64 open agreements is under 5 KB, so 40 MB on disk."""
MAX_HELD_A_PEER: Final = 256
"""Channels of one provider: it has one for each of its clients."""
LEAVES_A_MINUTE: Final = 60
"""Of one peer: each costs this node an account read."""
MINUTE: Final = Millis(60_000)
LEAVE_SECONDS: Final = 30.0
"""A stream that says nothing for this long is over."""
FOUND_WAITS: Final = Millis(2_000)
"""A closing channel waits so long for others, which then share a transaction with it."""
NOT_CLOSING: Final = 2**63
"""Sorts after every second at which a channel may end."""


class HeldVoucher(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's highest claim."""

    peer: NodeKey
    payee: Address
    mint: Address
    voucher_key: NodeKey
    challenge_s: int
    voucher: SignedVoucher
    claim: MicroUnits


HELD: Final = Table("tower/1", HeldVoucher)


class Watchtower:
    """Vouchers of others."""

    def __init__(self, store: Store, chain: Settlement, clock: Clock, config: NodeConfig) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._least = config.watchtower.min_claim
        store.declare(HELD)
        self._held = {ChannelId(key): held for key, held in store.all(HELD)}
        self._close_at: dict[ChannelId, int] = {}
        """In seconds, of those that close."""
        self._leaves: dict[NodeKey, tuple[int, int]] = {}

    def register(self, network: Network) -> None:
        """Answer ``/tower/1``."""
        network.serve(PROTOCOL_TOWER, self._serve)

    def held(self) -> int:
        """Of how many channels a voucher is here."""
        return len(self._held)

    async def _serve(self, stream: FrameStream) -> None:
        while True:
            request = await hear_or_end(stream, TowerMessage, timeout_s=LEAVE_SECONDS)
            if request is None:
                return
            if not isinstance(request, Leave):
                raise RemoteProtocolError("a tower's stream carries Leave")
            try:
                answer = await self._take(stream.peer, request)
            except (ChainError, RemoteProtocolError) as exc:
                answer = Refused(code=exc.code, message=str(exc))
            await say(stream, answer)

    async def _take(self, peer: NodeKey, leave: Leave) -> Held | Refused:
        """Check a voucher as its payee would, and store it where it is the highest."""
        if not self._may_ask(peer):
            return Refused(code="tower_busy", message="too many vouchers in a minute")
        name = leave.voucher.channel
        known = self._held.get(name)
        if known is not None and known.claim >= leave.claim:
            return Held(channel=name, claim=known.claim)
        if known is None and not self._has_room(peer):
            return Refused(code="tower_full", message="this watchtower keeps no more vouchers")
        view = await self._chain.channel(name)
        if view is None:
            return Refused(code="tower_unknown_channel", message="no such channel on chain")
        verify_voucher(leave.voucher, view.voucher_key)
        if not view.settled < leave.claim <= min(leave.voucher.cumulative, view.deposit):
            return Refused(
                code="tower_nothing_due",
                message="settled already, or more than the voucher or the deposit carries",
            )
        known = self._held.get(name)  # others may have come while the chain was asked
        if known is not None and known.claim >= leave.claim:
            return Held(channel=name, claim=known.claim)
        if known is None and not self._has_room(peer):
            return Refused(code="tower_full", message="this watchtower keeps no more vouchers")
        held = HeldVoucher(
            peer=peer,
            payee=view.payee,
            mint=view.mint,
            voucher_key=view.voucher_key,
            challenge_s=view.challenge_s,
            voucher=leave.voucher,
            claim=leave.claim,
        )
        with self._store.transaction() as txn:
            txn.put(HELD, name, held)
            txn.after(lambda: self._held.__setitem__(name, held))
        return Held(channel=name, claim=held.claim)

    def _may_ask(self, peer: NodeKey) -> bool:
        minute = self._clock.now_ms() // MINUTE
        self._leaves = {k: seen for k, seen in self._leaves.items() if seen[0] == minute}
        _, count = self._leaves.get(peer, (minute, 0))
        self._leaves[peer] = (minute, count + 1)
        return count < LEAVES_A_MINUTE

    def _has_room(self, peer: NodeKey) -> bool:
        of_peer = sum(held.peer == peer for held in self._held.values())
        return len(self._held) < MAX_HELD and of_peer < MAX_HELD_A_PEER

    # --- watching -------------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Look at every channel from time to time, and settle for those that close."""
        task_status.started()
        while True:
            await self._look_around()
            waits = [look_every(held.challenge_s) for held in self._held.values()]
            await trio.sleep(min(waits, default=look_every(10**6)) / 1000)

    async def _look_around(self) -> None:
        """Look at each channel, the one that ends next first; settle while the round goes on."""
        found: list[ChannelId] = []
        settle_at = Millis(0)
        for name in sorted(self._held, key=lambda each: self._close_at.get(each, NOT_CLOSING)):
            try:
                if await self._is_to_settle(name):
                    settle_at = settle_at if found else Millis(self._clock.now_ms() + FOUND_WAITS)
                    found.append(name)
            except ChainError as exc:
                log.warning("channel %s not looked at: %s", to_base58(name), exc)
            if found and (
                len(found) == SETTLES_A_TRANSACTION or self._clock.now_ms() >= settle_at
            ):
                await self._settle(tuple(found))
                found.clear()
        if found:
            await self._settle(tuple(found))

    async def _is_to_settle(self, name: ChannelId) -> bool:
        """Whether its payer closes it. What the voucher is of no use for any more is forgotten.

        Raises:
            ChainError: the chain does not say.
        """
        held = self._held[name]
        view = await self._chain.channel(name)
        if view is None:
            gone = await self._chain.channel(name, at=Commitment.FINALIZED) is None
        else:
            gone = view.settled >= held.claim
        if gone:
            if self._held[name] is held:  # nobody left a higher claim meanwhile
                self._forget(name)
            return False
        if view is None or not view.closing:
            self._close_at.pop(name, None)
            return False
        self._close_at[name] = view.close_at_s
        return self._held[name].claim - view.settled >= self._least

    def _forget(self, name: ChannelId) -> None:
        with self._store.transaction() as txn:
            txn.delete(HELD, name)
        del self._held[name]
        self._close_at.pop(name, None)

    async def _settle(self, batch: tuple[ChannelId, ...]) -> None:
        claims = tuple(self._claim(name) for name in batch)
        names = ", ".join(to_base58(name) for name in batch)
        try:
            sent = await self._chain.settle(claims)
        except ChainRefused as exc:
            if len(batch) == 1:
                log.error("voucher on %s not taken: %s", names, exc)
                return
            for name in batch:
                await self._settle((name,))
            return
        except ChainError as exc:
            log.warning("others' vouchers on %s not settled, will retry: %s", names, exc)
            return
        for claim in claims:
            log.info(
                "settled %s for another provider: %s", format_amount(claim.claim), sent.signature
            )

    def _claim(self, name: ChannelId) -> SettleClaim:
        held = self._held[name]
        return SettleClaim(
            channel=name,
            payee=held.payee,
            mint=held.mint,
            voucher_key=held.voucher_key,
            voucher=held.voucher,
            claim=held.claim,
        )
