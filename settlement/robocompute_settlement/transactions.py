"""Transactions: compute budget, signature and the size that a network packet allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.errors import SignerError
from solders.hash import Hash
from solders.message import Message
from solders.transaction import VersionedTransaction

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solders.instruction import Instruction
    from solders.keypair import Keypair

    from robocompute_settlement.rpc import RecentBlockhash

MAX_TRANSACTION_BYTES: Final = 1_232
"""Solana's limit: one IPv6 packet."""
BUDGET_INSTRUCTIONS: Final = 2
"""Compute-budget instructions in front of ours, which shift the indices that ``settle`` names."""
DISTINCT_UNITS: Final = 4_096
DISTINCT_PRICES: Final = 16
DISTINCT: Final = DISTINCT_UNITS * DISTINCT_PRICES
"""Equal requests that can be told apart within one block: by a compute limit and a price that are
higher by as little as that."""


@dataclass(frozen=True, slots=True)
class Priority:
    """What is offered for being taken early, in micro-lamports for a compute unit."""

    least_micro_lamports: int = 1_000
    """Where nobody pays: about 20 lamports a transaction, next to 5,000 for a signature."""
    most_micro_lamports: int = 1_000_000
    """However busy the chain is: about 0.00002 SOL a transaction."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The compute budget of one transaction. Its priority fee is the limit times the price."""

    units: int
    micro_lamports: int

    def distinct(self, number: int) -> Budget:
        """Return one that is higher by a little, differently for each ``number``."""
        prices, units = divmod(number % DISTINCT, DISTINCT_UNITS)
        return Budget(self.units + units, self.micro_lamports + prices)


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
    budget: Budget,
    *,
    also: Sequence[Keypair] = (),
) -> Prepared:
    """Sign a transaction that the signer pays for, and that ``also`` sign.

    Equal arguments are one transaction, taken once: see ``Budget.distinct``.

    Raises:
        ChainRefused: it is larger than the chain takes, or another key has to sign too.
    """
    every = [
        set_compute_unit_limit(budget.units),
        set_compute_unit_price(budget.micro_lamports),
        *instructions,
    ]
    message = Message.new_with_blockhash(every, signer.pubkey(), Hash(recent.blockhash))
    try:
        transaction = VersionedTransaction(message, [signer, *also])
    except SignerError as exc:
        raise ChainRefused(f"the transaction needs another key's signature: {exc}") from exc
    wire = bytes(transaction)
    if len(wire) > MAX_TRANSACTION_BYTES:
        raise ChainRefused(
            f"a transaction of {len(wire)} bytes does not fit into {MAX_TRANSACTION_BYTES}"
        )
    return Prepared(
        signature=str(transaction.signatures[0]),
        wire=wire,
        last_valid_height=recent.last_valid_height,
        programs=tuple(str(each.program_id) for each in every),
    )


def received(wire: bytes, last_valid_height: int) -> Prepared:
    """Take over a transaction that was signed elsewhere.

    Raises:
        ChainRefused: it is no transaction, or a signature is missing or wrong.
    """
    try:
        transaction = VersionedTransaction.from_bytes(wire)
    except ValueError as exc:
        raise ChainRefused(f"the bytes are no transaction: {exc}") from exc
    if len(wire) > MAX_TRANSACTION_BYTES:
        raise ChainRefused("the transaction is larger than the chain takes")
    if not all(transaction.verify_with_results()):
        raise ChainRefused("a signature of the transaction is missing or wrong")
    message = transaction.message
    return Prepared(
        signature=str(transaction.signatures[0]),
        wire=wire,
        last_valid_height=last_valid_height,
        programs=tuple(
            str(message.account_keys[each.program_id_index]) for each in message.instructions
        ),
    )


def writable(instructions: Sequence[Instruction], signer: Keypair) -> tuple[bytes, ...]:
    """The accounts that a transaction of these instructions writes, each once."""
    found = [bytes(signer.pubkey())]
    found += [
        bytes(meta.pubkey) for each in instructions for meta in each.accounts if meta.is_writable
    ]
    return tuple(dict.fromkeys(found))


def payer_of(wire: bytes) -> Address:
    """Return who pays the fee of a transaction that ``received`` took."""
    return Address(bytes(VersionedTransaction.from_bytes(wire).message.account_keys[0]))
