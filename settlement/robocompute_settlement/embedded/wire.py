"""Transactions as they arrive: what is refused before anything runs, and what they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.message import Message

MAX_TRANSACTION_BYTES: Final = 1_232
"""What one network packet carries. LiteSVM itself would run larger ones."""
LOOKUP_HEADER_BYTES: Final = 56
"""An address lookup table's addresses begin here."""


class NotTaken(Exception):
    """A transaction that is in no block. ``error`` is as JSON-RPC writes it."""

    def __init__(self, error: Any) -> None:
        super().__init__(describe_error(error))
        self.error = error


class Malformed(Exception):
    """Bytes that are no transaction."""


def parse_transaction(wire: bytes) -> VersionedTransaction:
    """Read a transaction.

    Raises:
        Malformed: it is too large, unreadable or inconsistent.
    """
    if len(wire) > MAX_TRANSACTION_BYTES:
        raise Malformed(
            "decoded solana_transaction::versioned::VersionedTransaction too large: "
            f"{len(wire)} bytes (max: {MAX_TRANSACTION_BYTES} bytes)"
        )
    try:
        transaction = VersionedTransaction.from_bytes(wire)
    except Exception as exc:
        raise Malformed(
            "failed to deserialize solana_transaction::versioned::VersionedTransaction: "
            "io error: failed to fill whole buffer"
        ) from exc
    try:
        transaction.sanitize()
    except Exception as exc:
        raise Malformed(f"invalid transaction: {exc}") from exc
    if not transaction.signatures:
        raise Malformed("invalid transaction: it has no signature")
    return transaction


def named_accounts(
    message: Message | MessageV0, table_of: Callable[[Pubkey], bytes | None]
) -> tuple[list[Pubkey], set[int]]:
    """Every account a message names, in the runtime's order, and the places it may write.

    Args:
        message: what is executed.
        table_of: an address lookup table's data; ``None`` where there is none.

    Raises:
        NotTaken: a lookup table is missing, or too short.
    """
    keys = list(message.account_keys)
    header = message.header
    signers = header.num_required_signatures
    writable = set(range(signers - header.num_readonly_signed_accounts))
    writable |= set(range(signers, len(keys) - header.num_readonly_unsigned_accounts))
    if not isinstance(message, MessageV0):
        return keys, writable
    tables: list[tuple[bytes, bytes, bytes]] = []
    for lookup in message.address_table_lookups:
        table = table_of(lookup.account_key)
        if table is None:
            raise NotTaken("AddressLookupTableNotFound")
        tables.append((table, bytes(lookup.writable_indexes), bytes(lookup.readonly_indexes)))
    for table, written, _ in tables:
        for index in written:
            writable.add(len(keys))
            keys.append(_entry(table, index))
    keys += [_entry(table, index) for table, _, read in tables for index in read]
    return keys, writable


def _entry(table: bytes, index: int) -> Pubkey:
    start = LOOKUP_HEADER_BYTES + index * 32
    raw = table[start : start + 32]
    if len(raw) != 32:
        raise NotTaken("InvalidAddressLookupTableIndex")
    return Pubkey.from_bytes(raw)


_SENTENCES: Final = {
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidAccountForFee": "This account may not be used to pay transaction fees",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "SignatureFailure": "Transaction did not pass signature verification",
    "AddressLookupTableNotFound": "Transaction loads an address table account that doesn't exist",
    "InvalidAddressLookupTableIndex": ("Transaction address table lookup uses an invalid index"),
}


def describe_error(error: Any) -> str:
    """The sentence Solana's own tools print for an error."""
    match error:
        case {"InstructionError": [index, {"Custom": number}]}:
            return f"Error processing Instruction {index}: custom program error: {number:#x}"
        case {"InstructionError": [index, detail]}:
            return f"Error processing Instruction {index}: {detail}"
        case {"InsufficientFundsForRent": {"account_index": index}}:
            return f"Transaction results in an account ({index}) with insufficient funds for rent"
        case str():
            return _SENTENCES.get(error, error)
        case _:
            return str(error)
