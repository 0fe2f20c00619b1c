"""Before a channel is used again: does this node still know all that it signed on it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_node.services.conversation import expect, say
from robocompute_protocol.messages import PROTOCOL_PAY, PayMessage, Receipt, Sync
from robocompute_protocol.signing import RECEIPT, open_signed

if TYPE_CHECKING:
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.channels import ChannelKeeper, ChannelRecord
    from robocompute_node.services.rental_book import RentalBook
    from robocompute_protocol.identifiers import ChannelId
    from robocompute_protocol.messages import Signed

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

        What is open and this node no longer knows is closed by the receipts that the provider
        shows. Where one is missing, the channel is closed: the provider settles what it is owed,
        the rest comes back. So it is where it shows less than it has settled.

        Raises: PeerGone, PeerRefused, RemoteProtocolError, LocalProtocolError, ChainError.
        """
        name = channel.channel
        if name not in self._agreed and (channel.ledger.sequence > 0 or channel.unsure):
            async with self._network.open(channel.payee_node, PROTOCOL_PAY) as stream:
                await say(stream, Sync(channel=name, voucher=None))
                shown = await expect(stream, PayMessage, Sync, timeout_s=SYNC_SECONDS)
            if shown.voucher is not None:
                if channel.unsure and shown.voucher.cumulative < channel.ledger.cumulative:
                    await self._channels.request_close(name)
                    return False
                self._channels.adopt(name, shown.voucher)
                ledger = self._channels.learn_receipts(name, self._forgotten(channel, shown))
                if not all(self._book.knows(agreement) for agreement, _ in ledger.open):
                    await self._channels.request_close(name)
                    return False
            self._channels.make_sure(name)
        self._agreed.add(name)
        return True

    def _forgotten(self, channel: ChannelRecord, shown: Sync) -> tuple[Signed, ...]:
        """The receipts of agreements that this node does not know: the others have their own way."""
        return tuple(
            signed
            for signed in shown.receipts
            if not self._book.knows(
                open_signed(RECEIPT, signed, Receipt, by=channel.payee_node).agreement
            )
        )
