"""What only a deployment's administration does: set the program up, change it, hand it over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol.errors import ChainBusy
from robocompute_settlement.instructions import Instructions

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import Sent
    from robocompute_settlement.solana import SolanaSettlement


class Administration:
    """The administration through an adapter whose signer is the admin, or will be."""

    def __init__(self, chain: SolanaSettlement) -> None:
        self._chain = chain

    async def init_config(
        self, *, mints: tuple[Address, Address], treasury: Address, slot_stake: MicroUnits,
        unbond_s: int, min_challenge_s: int, fee_bps: int, slash_bps: int,
        admin: Address | None = None,
    ) -> Sent:  # fmt: skip
        """Set a new deployment up, once. The signer must be the program's upgrade authority.

        ``admin`` is the signer where nobody else is named.
        """
        build = await self._instructions()
        genesis_hash = self._chain.genesis_hash
        if genesis_hash is None:
            raise ChainBusy("the chain has not answered yet")
        return await self._chain.send(
            build.init_config(
                authority=self._chain.signer, mints=mints, genesis_hash=genesis_hash,
                admin=admin or self._chain.signer, treasury=treasury, slot_stake=slot_stake,
                unbond_s=unbond_s, min_challenge_s=min_challenge_s, fee_bps=fee_bps,
                slash_bps=slash_bps,
            )
        )  # fmt: skip

    async def update_config(
        self, *, treasury: Address, slot_stake: MicroUnits, unbond_s: int, min_challenge_s: int,
        fee_bps: int, slash_bps: int, paused: bool,
    ) -> Sent:  # fmt: skip
        """Replace every setting. The signer is the admin."""
        build = await self._instructions()
        return await self._chain.send(
            build.update_config(
                admin=self._chain.signer, treasury=treasury, slot_stake=slot_stake,
                unbond_s=unbond_s, min_challenge_s=min_challenge_s, fee_bps=fee_bps,
                slash_bps=slash_bps, paused=paused,
            )
        )  # fmt: skip

    async def propose_admin(self, new_admin: Address) -> Sent:
        """Offer the administration to another key; the zero address takes the offer back."""
        build = await self._instructions()
        return await self._chain.send(
            build.propose_admin(admin=self._chain.signer, new_admin=new_admin)
        )

    async def accept_admin(self) -> Sent:
        """Take over what was offered to the signer."""
        build = await self._instructions()
        return await self._chain.send(build.accept_admin(new_admin=self._chain.signer))

    async def _instructions(self) -> Instructions:
        await self._chain.connect()
        return Instructions(self._chain.addresses)
