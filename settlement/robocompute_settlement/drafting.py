"""The adapter of a wallet whose secret is elsewhere: it reads, and drafts what would be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey

from robocompute_settlement.drafts import Draft
from robocompute_settlement.port import Sent
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from typing import Any

    from solders.instruction import Instruction

    from robocompute_protocol.identifiers import Address


class DraftingSettlement(SolanaSettlement):
    """Sends nothing: each write leaves a transaction in ``drafts``, to be signed by ``wallet``."""

    def __init__(self, *, wallet: Address, **options: Any) -> None:
        super().__init__(signer=wallet, **options)
        self.drafts: list[Draft] = []

    async def send(self, *instructions: Instruction, **_options: Any) -> Sent:
        """Keep the transaction as a draft. What is returned was not sent: it has no signature."""
        recent = await self.rpc.recent_blockhash()
        message = Message.new_with_blockhash(
            list(instructions), Pubkey.from_bytes(self.signer), Hash(recent.blockhash)
        )
        self.drafts.append(
            Draft(message=bytes(message), last_valid_height=recent.last_valid_height)
        )
        return Sent(signature="", slot=0)
