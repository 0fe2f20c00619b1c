"""Leaves a provider's newest vouchers with its watchtowers, so that they can settle in its place."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, say
from robocompute_node.store import Store, Table
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.messages import PROTOCOL_TOWER, Held, Leave, TowerMessage

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.earnings import EarningRecord, Earnings
    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 5.0
"""Between looks for vouchers to leave: a claim grows at the end of a job."""
AWAY_SECONDS: Final = 60.0
"""Before a tower that was away, or refused, is asked again."""
ANSWER_SECONDS: Final = 20.0
"""A tower looks the channel up before it answers."""

LEFT: Final = Table("left-vouchers/1", int)
"""Key: tower, then channel; the claim that the tower said it holds."""


class VoucherDeposits:
    """What each tower holds of ours."""

    def __init__(
        self, store: Store, network: Network, earnings: Earnings, config: NodeConfig
    ) -> None:
        self._store = store
        self._network = network
        self._earnings = earnings
        self._towers = config.watchtower.of
        store.declare(LEFT)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Leave what is new with every tower until cancelled."""
        async with trio.open_nursery() as nursery:
            for tower in self._towers:
                nursery.start_soon(self._keep_up, tower)
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def _keep_up(self, tower: NodeKey) -> NoReturn:
        while True:
            await trio.sleep(LEAVE_SECONDS)
            try:
                for record in self._earnings.all():
                    if not record.closed and record.unsettled and self._is_new(tower, record):
                        await self._leave(tower, record)
            except (PeerGone, PeerRefused, RemoteProtocolError) as exc:
                log.warning("watchtower %s takes no voucher: %s", to_base58(tower), exc)
                await trio.sleep(AWAY_SECONDS)

    def _is_new(self, tower: NodeKey, record: EarningRecord) -> bool:
        left = self._store.get(LEFT, tower + record.channel) or 0
        return record.ledger.claimable > left

    async def _leave(self, tower: NodeKey, record: EarningRecord) -> None:
        """Raises: PeerGone, PeerRefused, RemoteProtocolError."""
        voucher, claim = record.ledger.voucher, record.ledger.claimable
        assert voucher is not None
        async with self._network.open(tower, PROTOCOL_TOWER) as stream:
            await say(stream, Leave(voucher=voucher, claim=claim))
            held = await expect(stream, TowerMessage, Held, timeout_s=ANSWER_SECONDS)
        if held.channel != record.channel or held.claim < claim:
            raise RemoteProtocolError("it holds something else than was left")
        with self._store.transaction() as txn:
            txn.put(LEFT, tower + record.channel, held.claim)
