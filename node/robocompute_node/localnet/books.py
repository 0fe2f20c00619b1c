"""The books of a local world: is the money of its first mint all there, to the unit?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.chain_link import chain_link
from robocompute_settlement.audit import MintBooks, read_books
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig


async def read_world_books(config: NodeConfig) -> MintBooks:
    """Add up what the program holds of the mint that the node of ``config`` pays in, and for whom.

    Raises:
        ChainError: the chain does not answer.
    """
    async with SolanaSettlement(**chain_link(config.chain)) as chain:
        everything = await read_books(chain)
    return next(books for books in everything if books.mint == config.chain.mint)
