"""Transactions as they arrive: what is refused before anything runs, and what one costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

if TYPE_CHECKING:
    from solders.message import Message, MessageV0

MAX_TRANSACTION_BYTES: Final = 1_232
"""What one network packet carries. LiteSVM itself would run larger ones."""
LAMPORTS_PER_SIGNATURE: Final = 5_000
ED25519_PROGRAM: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
SECP256K1_PROGRAM: Final = Pubkey.from_string("KeccakSecp256k11111111111111111111111111111")


class NotTaken(Exception):
    """A transaction that is in no block. ``error`` is as JSON-RPC writes it."""

    def __init__(
        self, error: Any, message: str, *, logs: tuple[str, ...] = (), units: int = 0
    ) -> None:
        super().__init__(message)
        self.error = error
        self.logs = logs
        self.units = units


def parse_transaction(wire: bytes) -> VersionedTransaction:
    """Read a transaction.

    Raises:
        NotTaken: it is too large, malformed or inconsistent.
    """
    if len(wire) > MAX_TRANSACTION_BYTES:
        raise NotTaken("TooLarge", f"too large: {len(wire)} bytes (max: {MAX_TRANSACTION_BYTES})")
    try:
        transaction = VersionedTransaction.from_bytes(wire)
        transaction.sanitize()
    except Exception as exc:
        raise NotTaken("SanitizeFailure", f"invalid transaction: {exc}") from exc
    if not transaction.signatures:
        raise NotTaken("SanitizeFailure", "invalid transaction: it has no signature")
    return transaction


def fee_of(message: Message | MessageV0) -> int:
    """Lamports a transaction costs: LiteSVM knows no priority fees."""
    signatures = message.header.num_required_signatures
    for instruction in message.instructions:
        program = message.account_keys[instruction.program_id_index]
        if program in (ED25519_PROGRAM, SECP256K1_PROGRAM) and instruction.data:
            signatures += instruction.data[0]
    return signatures * LAMPORTS_PER_SIGNATURE


def describe_error(error: Any) -> str:
    """The sentence Solana's own tools print for the commonest errors."""
    match error:
        case {"InstructionError": [index, {"Custom": number}]}:
            return f"Error processing Instruction {index}: custom program error: {number:#x}"
        case {"InstructionError": [index, detail]}:
            return f"Error processing Instruction {index}: {detail}"
        case "AccountNotFound":
            return "Attempt to debit an account but found no record of a prior credit."
        case _:
            return str(error)
