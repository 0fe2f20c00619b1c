"""Leases by gossip, and what a double sale comes to: whoever sees one takes it to the chain.

A client tells the network of the first and every tenth lease tick that it is given, and compares all
of them itself with what others tell. What is found is on disk before it is acted on; the first report
that lands is paid for, and the others see by the stake that it was.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import trio

from robocompute_node.core.lease_watch import (
    DoubleSale,
    LeaseBook,
    objection_to_evidence,
    signers_of,
)
from robocompute_node.services.gossip_gate import GossipGate
from robocompute_node.store import Store, Table
from robocompute_protocol import codec, leases
from robocompute_protocol.errors import ChainError, RemoteProtocolError
from robocompute_protocol.identifiers import Address, NodeKey, digest, to_base58
from robocompute_protocol.messages import TOPIC_LEASES, LeaseTick

if TYPE_CHECKING:
    from robocompute_node.clocks import Clock
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.stake_mirror import StakeMirror
    from robocompute_protocol.money import Millis
    from robocompute_settlement.port import Settlement, StakeView

log = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A double sale that is to be taken to the chain."""

    owner: Address
    """Whose stake it is."""
    mint: Address
    first: LeaseTick
    second: LeaseTick


REPORTS: Final = Table("double-sales/1", Report)
"""By stake: one penalty covers everything before it, so one report a stake is enough."""
MAX_LEASE_BYTES: Final = 512
"""One gossiped lease: it has 280 bytes."""
EVERY: Final = 10
"""Of a lease's ticks the first and every tenth is gossiped: one in five minutes, and enough."""
UNSENT: Final = 64
"""Leases waiting to be gossiped; beyond that they are only compared here."""
LEASES_OF_ONE: Final = 50.0
"""Leases that one forwarder may have looked at, a second: a quarter of its gossip."""
LEASES_IN_ALL: Final = 150.0
"""The same of all forwarders: their signatures are checked in a fiftieth of a core."""
LEASES_BURST: Final = 1_000
"""The same at once, after a quiet time."""
SPREAD_S: Final = 4.0
"""Nodes that see the same double sale report it at different moments within so long: all but the
first then see that it is done, and pay no fee for a report that comes too late."""
AGAIN_S: Final = 5.0
"""Between tries to reach the chain: evidence is good for days."""
MAX_REPORTS: Final = 256
"""Double sales that wait for the chain: it is a rare thing."""


class LeaseWatch:
    """Compares leases, and reports what they prove."""

    def __init__(
        self,
        network: Network,
        store: Store,
        chain: Settlement,
        clock: Clock,
        stakes: StakeMirror,
        *,
        share: bool,
    ) -> None:
        """``share`` says whether this node's own leases may be gossiped."""
        self._network = network
        self._store = store
        self._chain = chain
        self._clock = clock
        self._stakes = stakes
        self._share = share
        self._book = LeaseBook()
        self._gate = GossipGate(
            of_one=LEASES_OF_ONE,
            of_one_burst=LEASES_BURST / 5,
            in_all=LEASES_IN_ALL,
            burst=LEASES_BURST,
        )
        self._send, self._unsent = trio.open_memory_channel[LeaseTick](UNSENT)
        store.declare(REPORTS)
        self._reports = {Address(key): report for key, report in store.all(REPORTS)}
        self._found = trio.Event()

    @property
    def open_reports(self) -> tuple[Report, ...]:
        """Double sales that are not on chain yet."""
        return tuple(self._reports.values())

    def heed(self, tick: LeaseTick, number: int) -> None:
        """Compare a tick that this node was given, its ``number``-th from 1, and tell others of it."""
        self._take(tick, self._clock.now_ms())
        if self._share and number % EVERY == 1:
            try:
                self._send.send_nowait(tick)
            except trio.WouldBlock:
                log.info("a lease is not gossiped: too many are waiting")

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Listen, gossip and report until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            nursery.start_soon(self._gossip)
            nursery.start_soon(self._report)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    # --- gossip ---------------------------------------------------------------------------------

    async def _gossip(self) -> None:
        async for tick in self._unsent:
            await self._network.publish(TOPIC_LEASES, codec.encode(tick))

    async def _listen(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with self._network.subscribe(TOPIC_LEASES, self._validate) as messages:
            task_status.started()
            async for _ in messages:
                pass  # it was compared as it was validated

    def _validate(self, forwarder: NodeKey, payload: bytes) -> bool:
        """Relay a lease once, if a stake that is known answers for it."""
        now = self._clock.now_ms()
        try:
            tick = codec.decode(LeaseTick, payload, limit=MAX_LEASE_BYTES)
        except RemoteProtocolError:
            return False
        stake = self._stakes.get(tick.stake)
        if stake is None or not self._book.is_news(tick, now // 1_000):
            return False
        if not self._gate.take(forwarder, now) or not _is_signed(tick, stake):
            return False
        self._take(tick, now)
        return True

    def _take(self, tick: LeaseTick, now: Millis) -> None:
        sale = self._book.take(tick, now // 1_000)
        stake = self._stakes.get(tick.stake)
        if sale is None or stake is None or len(self._reports) >= MAX_REPORTS:
            return
        if stake.stake in self._reports or min(_starts(sale)) <= stake.watermark_s:
            return
        log.warning("provider %s sold one slot twice: it is reported", to_base58(stake.node_key))
        report = Report(owner=stake.owner, mint=stake.mint, first=sale.first, second=sale.second)
        with self._store.transaction() as txn:
            txn.put(REPORTS, stake.stake, report)
        self._reports[stake.stake] = report
        self._found.set()

    # --- the chain ------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            if not self._reports:
                await self._found.wait()
            self._found = trio.Event()
            for stake, report in tuple(self._reports.items()):
                await trio.sleep(self._turn(stake))
                try:
                    done = await self._try(report)
                except ChainError as exc:
                    log.warning("a double sale cannot be reported now, will retry: %s", exc)
                    done = ""
                if done:
                    log.info("the double sale of stake %s: %s", to_base58(stake), done)
                    with self._store.transaction() as txn:
                        txn.delete(REPORTS, stake)
                    del self._reports[stake]
                    await self._stakes.look()  # older evidence against it is worth nothing now
            if self._reports:
                await trio.sleep(AGAIN_S)

    def _turn(self, stake: Address) -> float:
        """How long this node lets others go first: each stake has another order of nodes."""
        return digest(stake, self._network.key)[0] / 256 * SPREAD_S

    async def _try(self, report: Report) -> str:
        """Report it, or find out that it is done; return what became of it, "" for not yet.

        Raises: ChainError.
        """
        stake = await self._chain.stake_of(report.owner, report.mint)
        if stake is None:
            return "the stake is gone"
        config = await self._chain.config()
        now_s = self._clock.now_ms() // 1_000
        sale = DoubleSale(report.first, report.second)
        objection = objection_to_evidence(
            sale, stake, now_s=now_s, unbond_s=config.unbond_s, slash_bps=config.slash_bps
        )
        if objection is not None:
            return objection
        if max(_starts(sale)) > now_s:
            return ""
        sent = await self._chain.slash(stake=stake, first=report.first, second=report.second)
        return f"a part of the stake was taken by transaction {sent.signature}"


def _starts(sale: DoubleSale) -> tuple[int, int]:
    return sale.first.start_s, sale.second.start_s


def _is_signed(tick: LeaseTick, stake: StakeView) -> bool:
    for key in signers_of(stake, tick):
        try:
            leases.verify_tick(tick, key)
        except RemoteProtocolError:
            continue
        return True
    return False
