"""The books of a local world: is the money of its first mint all there, to the unit?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_settlement.audit import MintBooks, read_books
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig


async def read_world_books(config: NodeConfig) -> MintBooks:
    """Add up what the program holds of the mint that the node of ``config`` pays in, and for whom.

    Raises:
        ChainError: the chain does not answer.
    """
    async with SolanaSettlement(
        rpc_urls=(config.chain.rpc_url,),
        program_id=config.chain.program_id,
    ) as chain:
        everything = await read_books(chain)
    return next(books for books in everything if books.mint == config.chain.mint)
