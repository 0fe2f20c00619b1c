"""Leaves a provider's newest vouchers with its watchtowers, so that they can settle in its place."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, expect, say
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.messages import PROTOCOL_TOWER, Held, Leave, TowerMessage

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.earnings import EarningRecord, Earnings
    from robocompute_protocol.identifiers import ChannelId, NodeKey
    from robocompute_protocol.money import MicroUnits

log = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 5.0
"""Between looks for vouchers to leave: a claim grows at the end of a job."""
AWAY_SECONDS: Final = 60.0
"""Before a tower that was away is asked again, or about a voucher that it refused."""
BELIEVED_SECONDS: Final = 3_600.0
"""A tower may lose its store: what it said it holds is left with it anew after this."""
ANSWER_SECONDS: Final = 20.0
"""A tower looks the channel up before it answers."""
BUSY: Final = "tower_busy"
"""The refusal that is about this node's pace, and not about one voucher."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tower said about a channel: so long is it not asked again about so much."""

    claim: MicroUnits
    until: float


class VoucherDeposits:
    """What each tower holds of ours."""

    def __init__(self, network: Network, earnings: Earnings, config: NodeConfig) -> None:
        self._network = network
        self._earnings = earnings
        self._towers = config.watchtower.of

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
        # Kept in memory alone: after a restart here, as after one there, all is left anew.
        answers: dict[ChannelId, Answer] = {}
        while True:
            await trio.sleep(LEAVE_SECONDS)
            try:
                await self._leave_new(tower, answers)
            except PeerGone as exc:
                log.warning("watchtower %s is away: %s", to_base58(tower), exc)
                answers.clear()
                await trio.sleep(AWAY_SECONDS)

    async def _leave_new(self, tower: NodeKey, answers: dict[ChannelId, Answer]) -> None:
        """Raises: PeerGone."""
        owing = {each.channel: each for each in self._earnings.all() if _is_owing(each)}
        for channel in answers.keys() - owing.keys():
            del answers[channel]
        for channel, record in owing.items():
            claim, known = record.ledger.claimable, answers.get(channel)
            if known is not None and claim <= known.claim and trio.current_time() < known.until:
                continue
            try:
                await self._leave(tower, record)
            except (PeerRefused, RemoteProtocolError) as exc:
                name = to_base58(channel)
                log.warning("watchtower %s not given %s: %s", to_base58(tower), name, exc)
                if isinstance(exc, PeerRefused) and exc.refused.code == BUSY:
                    await trio.sleep(AWAY_SECONDS)
                    return
                answers[channel] = Answer(claim, trio.current_time() + AWAY_SECONDS)
            else:
                answers[channel] = Answer(claim, trio.current_time() + BELIEVED_SECONDS)

    async def _leave(self, tower: NodeKey, record: EarningRecord) -> None:
        """Raises: PeerGone, PeerRefused, RemoteProtocolError."""
        voucher, claim = record.ledger.voucher, record.ledger.claimable
        assert voucher is not None
        async with self._network.open(tower, PROTOCOL_TOWER) as stream:
            await say(stream, Leave(voucher=voucher, claim=claim))
            held = await expect(stream, TowerMessage, Held, timeout_s=ANSWER_SECONDS)
        if held.channel != record.channel or held.claim < claim:
            raise RemoteProtocolError("it holds something else than was left")


def _is_owing(record: EarningRecord) -> bool:
    return not record.closed and record.unsettled > 0
