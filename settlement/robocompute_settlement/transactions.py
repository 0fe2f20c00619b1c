"""Transactions: compute budget, signature and the size that a network packet allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.message import Message
from solders.transaction import VersionedTransaction

from robocompute_protocol.errors import ChainRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solders.instruction import Instruction
    from solders.keypair import Keypair

    from robocompute_settlement.rpc import RecentBlockhash

MAX_TRANSACTION_BYTES: Final = 1_232
"""Solana's limit: one IPv6 packet."""
BUDGET_INSTRUCTIONS: Final = 2
"""Compute-budget instructions in front of ours, which shift the indices that ``settle`` names."""
DISTINCT: Final = 50_000
"""Equal requests that can be told apart within one block."""


@dataclass(frozen=True, slots=True)
class Priority:
    """What is offered for being taken early. The fee is the limit times the price."""

    compute_units: int = 150_000
    """Our costliest transaction needs half of it (PDA creation varies with the bump)."""
    micro_lamports: int = 1_000
    """A unit's price: with the limit above, 150 lamports, a thirtieth of the base fee."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A signed transaction: sending these bytes twice is taken once."""

    signature: str
    wire: bytes
    last_valid_height: int
    programs: tuple[str, ...]
    """What its instructions call, in order."""


def prepare(
    instructions: Sequence[Instruction],
    signer: Keypair,
    recent: RecentBlockhash,
    priority: Priority,
    *,
    distinct: int,
) -> Prepared:
    """Sign a transaction that the signer pays for.

    Two equal requests within one block would be one transaction, taken once: a different
    ``distinct`` makes them two, by a compute limit that differs in its last digits.

    Raises:
        ChainRefused: it is larger than the chain takes.
    """
    budget = [
        set_compute_unit_limit(priority.compute_units + distinct % DISTINCT),
        set_compute_unit_price(priority.micro_lamports),
    ]
    message = Message.new_with_blockhash(
        [*budget, *instructions], signer.pubkey(), Hash(recent.blockhash)
    )
    transaction = VersionedTransaction(message, [signer])
    wire = bytes(transaction)
    if len(wire) > MAX_TRANSACTION_BYTES:
        raise ChainRefused(
            f"a transaction of {len(wire)} bytes does not fit into {MAX_TRANSACTION_BYTES}"
        )
    return Prepared(
        signature=str(transaction.signatures[0]),
        wire=wire,
        last_valid_height=recent.last_valid_height,
        programs=tuple(str(each.program_id) for each in (*budget, *instructions)),
    )
