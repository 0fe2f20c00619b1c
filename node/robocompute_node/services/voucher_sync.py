"""Before a channel is used again: does this node still know all that it signed on it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_node.services.conversation import expect, say
from robocompute_protocol.messages import PROTOCOL_PAY, PayMessage, Sync

if TYPE_CHECKING:
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.channels import ChannelKeeper, ChannelRecord
    from robocompute_node.services.rental_book import RentalBook
    from robocompute_protocol.identifiers import ChannelId

SYNC_SECONDS: Final = 10.0
"""A provider that does not show its vouchers by then is away."""


class VoucherSync:
    """Asks each provider once a start which voucher it holds: our store may be an older copy."""

    def __init__(self, network: Network, channels: ChannelKeeper, book: RentalBook) -> None:
        self._network = network
        self._channels = channels
        self._book = book
        self._agreed: set[ChannelId] = set()

    async def agrees(self, channel: ChannelRecord) -> bool:
        """Compare, and adopt what we signed and forgot; False when another channel is needed.

        A channel with open agreements that this node no longer knows is closed: the provider
        settles what it is owed, the rest comes back.

        Raises: PeerGone, PeerRefused, RemoteProtocolError, LocalProtocolError, ChainError.
        """
        name = channel.channel
        if name not in self._agreed and channel.ledger.sequence > 0:
            async with self._network.open(channel.payee_node, PROTOCOL_PAY) as stream:
                await say(stream, Sync(channel=name, voucher=None))
                shown = await expect(stream, PayMessage, Sync, timeout_s=SYNC_SECONDS)
            if shown.voucher is not None:
                ledger = self._channels.adopt(name, shown.voucher)
                if not all(self._book.knows(agreement) for agreement, _ in ledger.open):
                    await self._channels.request_close(name)
                    return False
        self._agreed.add(name)
        return True
