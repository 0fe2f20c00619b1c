"""Transactions and blocks as JSON-RPC writes them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_settlement.embedded.account_json import BadEncoding, encoded_data, ui_amount
from robocompute_settlement.embedded.instruction_json import MEMO, instruction_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.message import Message

    from robocompute_settlement.embedded.storage import Landed

ENCODINGS: Final = ("binary", "base64", "base58", "json", "jsonParsed")

TokenAmounts = tuple[tuple[int, bytes, bytes, int], ...]


class VersionNotSupported(Exception):
    """The client did not say that it can read versioned transactions."""


def signature_text(signature: bytes) -> str:
    """A signature as JSON-RPC writes it."""
    return base58.b58encode(signature).decode("ascii")


def error_json(landed: Landed) -> Any:
    """The error of a landed transaction, ``None`` where it succeeded."""
    return json.loads(landed.error)


def status_json(error: Any) -> dict[str, Any]:
    """An outcome in the older form, which some clients still read."""
    return {"Ok": None} if error is None else {"Err": error}


def memo_of(landed: Landed) -> str | None:
    """The notes of a transaction's memo instructions, as a node lists them."""
    message = VersionedTransaction.from_bytes(landed.wire).message
    keys = message.account_keys
    notes = [
        bytes(each.data).decode("utf-8", "replace")
        for each in message.instructions
        if str(keys[each.program_id_index]) == MEMO
    ]
    return "; ".join(f"[{len(note.encode())}] {note}" for note in notes) or None


def transaction_json(
    landed: Landed, encoding: str, newest: int | None, decimals_of: Callable[[Pubkey], int]
) -> dict[str, Any]:
    """A landed transaction as ``getTransaction`` answers it.

    Args:
        landed: the transaction.
        encoding: one of ``ENCODINGS``.
        newest: the newest version of transactions the client reads.
        decimals_of: a mint's decimals.

    Raises:
        BadEncoding: see there.
        VersionNotSupported: it is newer than ``newest``.
    """
    out = in_block_json(landed, encoding, newest, decimals_of)
    out["meta"]["rewards"] = []
    return {"slot": landed.slot, "blockTime": landed.time_s, **out}


def in_block_json(
    landed: Landed, encoding: str, newest: int | None, decimals_of: Callable[[Pubkey], int]
) -> dict[str, Any]:
    """A landed transaction as ``getBlock`` lists it in full. Raises as ``transaction_json``."""
    parsed = VersionedTransaction.from_bytes(landed.wire)
    message = parsed.message
    version = _version(message, newest)
    keys = [str(Pubkey.from_bytes(key)) for key in landed.keys]
    static = len(message.account_keys)
    body: Any
    match encoding:
        case "base64":
            body = encoded_data(landed.wire, encoding)
        case "base58":
            body = [base58.b58encode(landed.wire).decode("ascii"), "base58"]
        case "binary":
            body = base58.b58encode(landed.wire).decode("ascii")
        case "json" | "jsonParsed":
            body = {
                "signatures": [str(signature) for signature in parsed.signatures],
                "message": _message_json(message, keys, spelled=encoding == "jsonParsed"),
            }
        case _:
            raise BadEncoding(encoding)
    meta: dict[str, Any] = {
        **_short_meta(landed, decimals_of),
        "innerInstructions": inner_json(
            json.loads(landed.inner), keys, spelled=encoding == "jsonParsed"
        ),
        "logMessages": list(landed.logs),
        "rewards": None,
        "computeUnitsConsumed": landed.units,
        "costUnits": landed.cost,
    }
    if encoding != "jsonParsed":
        writable = len(_lookup_writable(message))
        meta["loadedAddresses"] = {
            "writable": keys[static : static + writable],
            "readonly": keys[static + writable :],
        }
    if landed.returned is not None:
        meta["returnData"] = returned_json(landed.returned)
    return {"transaction": body, "meta": meta, **version}


def accounts_in_block_json(
    landed: Landed, newest: int | None, decimals_of: Callable[[Pubkey], int]
) -> dict[str, Any]:
    """A landed transaction as ``getBlock`` lists it where only accounts are asked for."""
    parsed = VersionedTransaction.from_bytes(landed.wire)
    keys = [str(Pubkey.from_bytes(key)) for key in landed.keys]
    return {
        "transaction": {
            "signatures": [str(signature) for signature in parsed.signatures],
            "accountKeys": _spelled_keys(parsed.message, keys),
        },
        "meta": _short_meta(landed, decimals_of),
        **_version(parsed.message, newest),
    }


def returned_json(returned: tuple[bytes, bytes]) -> dict[str, Any]:
    """What a program returned."""
    program, data = returned
    return {
        "programId": str(Pubkey.from_bytes(program)),
        "data": [base64.b64encode(data).decode("ascii"), "base64"],
    }


def token_balances_json(
    amounts: TokenAmounts, decimals_of: Callable[[Pubkey], int]
) -> list[dict[str, Any]]:
    """Token balances before or after a transaction."""
    out: list[dict[str, Any]] = []
    for index, mint, owner, amount in amounts:
        shown = ui_amount(amount, decimals_of(Pubkey.from_bytes(mint)))
        # A node stores no zero here.
        shown["uiAmount"] = shown["uiAmount"] or None
        out.append(
            {
                "accountIndex": index,
                "mint": str(Pubkey.from_bytes(mint)),
                "owner": str(Pubkey.from_bytes(owner)),
                "programId": str(TOKEN_PROGRAM),
                "uiTokenAmount": shown,
            }
        )
    return out


def inner_json(
    groups: list[list[dict[str, Any]]], keys: list[str], *, spelled: bool
) -> list[dict[str, Any]]:
    """Inner instructions of a transaction, as LiteSVM writes them."""
    # In LiteSVM's JSON a short vector's length stands before its elements.
    return [
        {
            "index": index,
            "instructions": [
                instruction_json(
                    each["instruction"]["programIdIndex"],
                    bytes(each["instruction"]["accounts"][1:]),
                    bytes(each["instruction"]["data"][1:]),
                    keys,
                    each["stackHeight"],
                    spelled=spelled,
                )
                for each in group
            ],
        }
        for index, group in enumerate(groups)
        if group
    ]


def _version(message: Message | MessageV0, newest: int | None) -> dict[str, Any]:
    if isinstance(message, MessageV0):
        if newest is None:
            raise VersionNotSupported
        return {"version": 0}
    return {} if newest is None else {"version": "legacy"}


def _short_meta(landed: Landed, decimals_of: Callable[[Pubkey], int]) -> dict[str, Any]:
    error = error_json(landed)
    return {
        "err": error,
        "status": status_json(error),
        "fee": landed.fee,
        "preBalances": list(landed.before),
        "postBalances": list(landed.after),
        "preTokenBalances": token_balances_json(landed.tokens_before, decimals_of),
        "postTokenBalances": token_balances_json(landed.tokens_after, decimals_of),
    }


def _lookup_writable(message: Message | MessageV0) -> bytes:
    if not isinstance(message, MessageV0):
        return b""
    return b"".join(bytes(each.writable_indexes) for each in message.address_table_lookups)


def _message_json(
    message: Message | MessageV0, keys: list[str], *, spelled: bool
) -> dict[str, Any]:
    header = message.header
    out: dict[str, Any] = {
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            instruction_json(
                each.program_id_index,
                bytes(each.accounts),
                bytes(each.data),
                keys,
                1,
                spelled=spelled,
            )
            for each in message.instructions
        ],
    }
    if spelled:
        out["accountKeys"] = _spelled_keys(message, keys)
    else:
        out["accountKeys"] = keys[: len(message.account_keys)]
        out["header"] = {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        }
    if isinstance(message, MessageV0):
        out["addressTableLookups"] = [
            {
                "accountKey": str(each.account_key),
                "writableIndexes": list(bytes(each.writable_indexes)),
                "readonlyIndexes": list(bytes(each.readonly_indexes)),
            }
            for each in message.address_table_lookups
        ]
    return out


def _spelled_keys(message: Message | MessageV0, keys: list[str]) -> list[dict[str, Any]]:
    header, static = message.header, len(message.account_keys)
    signers = header.num_required_signatures
    loaded_writable = len(_lookup_writable(message))
    return [
        {
            "pubkey": key,
            "signer": index < signers,
            "writable": (
                index < signers - header.num_readonly_signed_accounts
                or signers <= index < static - header.num_readonly_unsigned_accounts
                or static <= index < static + loaded_writable
            ),
            "source": "transaction" if index < static else "lookupTable",
        }
        for index, key in enumerate(keys)
    ]
