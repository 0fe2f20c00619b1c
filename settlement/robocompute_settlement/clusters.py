"""Solana's public clusters, told by their genesis hash, and SOL as people write it."""

from __future__ import annotations

from typing import Final

from robocompute_protocol.identifiers import Digest, address_from_base58

LAMPORTS_PER_SOL: Final = 10**9
MAINNET: Final = Digest(address_from_base58("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"))
TESTNET: Final = Digest(address_from_base58("4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"))
DEVNET: Final = Digest(address_from_base58("EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"))
_NAMES: Final = {MAINNET: "mainnet-beta", TESTNET: "testnet", DEVNET: "devnet"}


def cluster_name(genesis_hash: Digest) -> str:
    """Return the cluster's name; ``other`` for everybody's own."""
    return _NAMES.get(genesis_hash, "other")


def sol_text(lamports: int) -> str:
    """Write lamports as SOL, to the lamport, without zeros that say nothing."""
    whole, rest = divmod(lamports, LAMPORTS_PER_SOL)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
