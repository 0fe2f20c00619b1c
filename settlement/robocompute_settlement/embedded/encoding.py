"""Accounts and transactions as JSON-RPC writes them."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_settlement.embedded.ledger import TOKEN_ACCOUNT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.account import Account
    from solders.message import Message

    from robocompute_settlement.embedded.storage import Landed

RENT_EXEMPT_EPOCH: Final = 2**64 - 1
"""What a node reports for every account that pays no rent."""
MINT_BYTES: Final = 82
MAX_BASE58_BYTES: Final = 128
"""Larger data are refused in base58, as a node does: the encoding is quadratic."""


class BadEncoding(Exception):
    """The encoding asked for is unknown, or not for data of this size."""


def account_json(
    account: Account | None,
    encoding: str,
    data_slice: dict[str, int] | None,
    decimals_of: Callable[[Pubkey], int],
) -> dict[str, Any] | None:
    """An account in the encoding asked for.

    Raises:
        BadEncoding: see there.
    """
    if account is None:
        return None
    data: Any = None
    if encoding == "jsonParsed":
        data = parsed_data(account, decimals_of)
        encoding = "base64"
    if data is None:
        raw = account.data
        if data_slice is not None:
            raw = raw[data_slice["offset"] : data_slice["offset"] + data_slice["length"]]
        data = encoded_data(raw, encoding)
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "data": data,
        "executable": account.executable,
        "rentEpoch": RENT_EXEMPT_EPOCH,
        "space": len(account.data),
    }


def encoded_data(raw: bytes, encoding: str) -> Any:
    """Bytes in one of the plain encodings."""
    match encoding:
        case "base64":
            return [base64.b64encode(raw).decode("ascii"), "base64"]
        case "base58" | "binary":
            if len(raw) > MAX_BASE58_BYTES:
                raise BadEncoding(
                    f"Encoded binary (base 58) data should be less than {MAX_BASE58_BYTES} bytes, "
                    "please use Base64 encoding."
                )
            text = base58.b58encode(raw).decode("ascii")
            return text if encoding == "binary" else [text, "base58"]
        case _:
            raise BadEncoding(f"unsupported encoding {encoding!r}")


def ui_amount(amount: int, decimals: int) -> dict[str, Any]:
    """A token amount in all the forms clients look for."""
    exact = Decimal(amount).scaleb(-decimals)
    text = f"{exact:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": float(exact),
        "uiAmountString": text,
    }


def parsed_data(account: Account, decimals_of: Callable[[Pubkey], int]) -> dict[str, Any] | None:
    """Token accounts and mints spelled out; ``None`` for any other account."""
    data = account.data
    if account.owner != TOKEN_PROGRAM:
        return None
    if len(data) == TOKEN_ACCOUNT_BYTES:
        mint = Pubkey.from_bytes(data[:32])
        info: dict[str, Any] = {
            "mint": str(mint),
            "owner": str(Pubkey.from_bytes(data[32:64])),
            "state": ("uninitialized", "initialized", "frozen")[min(data[108], 2)],
            "isNative": data[109] == 1,
            "tokenAmount": ui_amount(int.from_bytes(data[64:72], "little"), decimals_of(mint)),
        }
        if data[72] == 1:
            info["delegate"] = str(Pubkey.from_bytes(data[76:108]))
            info["delegatedAmount"] = ui_amount(
                int.from_bytes(data[121:129], "little"), decimals_of(mint)
            )
        kind = "account"
    elif len(data) == MINT_BYTES:
        info = {
            "mintAuthority": str(Pubkey.from_bytes(data[4:36])) if data[0] else None,
            "supply": str(int.from_bytes(data[36:44], "little")),
            "decimals": data[44],
            "isInitialized": data[45] == 1,
            "freezeAuthority": str(Pubkey.from_bytes(data[50:82])) if data[46] else None,
        }
        kind = "mint"
    else:
        return None
    return {
        "program": "spl-token",
        "parsed": {"type": kind, "info": info},
        "space": len(data),
    }


def error_json(landed: Landed) -> Any:
    """The error of a landed transaction, ``None`` where it succeeded."""
    return json.loads(landed.error)


def status_json(error: Any) -> dict[str, Any]:
    """An outcome in the older form, which some clients still read."""
    return {"Ok": None} if error is None else {"Err": error}


def transaction_json(
    landed: Landed, encoding: str, decimals_of: Callable[[Pubkey], int]
) -> dict[str, Any]:
    """A landed transaction as ``getTransaction`` answers it.

    Raises:
        BadEncoding: see there.
    """
    parsed = VersionedTransaction.from_bytes(landed.wire)
    message = parsed.message
    keys = [str(Pubkey.from_bytes(key)) for key in landed.keys]
    static = len(message.account_keys)
    body: Any
    if encoding in ("base64", "base58"):
        body = encoded_data(landed.wire, encoding) if encoding == "base64" else [
            base58.b58encode(landed.wire).decode("ascii"), "base58",
        ]  # fmt: skip
    elif encoding in ("json", "jsonParsed"):
        body = {
            "signatures": [str(signature) for signature in parsed.signatures],
            "message": _message_json(message, keys, spelled=encoding == "jsonParsed"),
        }
    else:
        raise BadEncoding(f"unsupported encoding {encoding!r}")
    error = error_json(landed)
    meta: dict[str, Any] = {
        "err": error,
        "status": status_json(error),
        "fee": landed.fee,
        "preBalances": list(landed.before),
        "postBalances": list(landed.after),
        "innerInstructions": _inner_json(landed, keys, spelled=encoding == "jsonParsed"),
        "logMessages": list(landed.logs),
        "preTokenBalances": _token_balances(landed.tokens_before, decimals_of),
        "postTokenBalances": _token_balances(landed.tokens_after, decimals_of),
        "rewards": [],
        "computeUnitsConsumed": landed.units,
    }
    if encoding != "jsonParsed":
        writable = len(_lookup_writable(message))
        meta["loadedAddresses"] = {
            "writable": keys[static : static + writable],
            "readonly": keys[static + writable :],
        }
    if landed.returned is not None:
        program, data = landed.returned
        meta["returnData"] = {
            "programId": str(Pubkey.from_bytes(program)),
            "data": encoded_data(data, "base64"),
        }
    return {
        "slot": landed.slot,
        "blockTime": landed.time_s,
        "transaction": body,
        "meta": meta,
        "version": 0 if isinstance(message, MessageV0) else "legacy",
    }


def _lookup_writable(message: Message | MessageV0) -> bytes:
    if not isinstance(message, MessageV0):
        return b""
    return b"".join(bytes(each.writable_indexes) for each in message.address_table_lookups)


def _message_json(
    message: Message | MessageV0, keys: list[str], *, spelled: bool
) -> dict[str, Any]:
    header = message.header
    out: dict[str, Any] = {"recentBlockhash": str(message.recent_blockhash)}
    instructions = [
        (each.program_id_index, bytes(each.accounts), bytes(each.data))
        for each in message.instructions
    ]
    out["instructions"] = [
        _instruction_json(*each, keys, 1, spelled=spelled) for each in instructions
    ]
    static = len(message.account_keys)
    if spelled:
        signers = header.num_required_signatures
        loaded_writable = len(_lookup_writable(message))
        out["accountKeys"] = [
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
    else:
        out["accountKeys"] = keys[:static]
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


def _instruction_json(
    program: int, accounts: bytes, data: bytes, keys: list[str], height: int, *, spelled: bool
) -> dict[str, Any]:
    text = base58.b58encode(data).decode("ascii")
    if spelled:
        return {
            "programId": keys[program],
            "accounts": [keys[index] for index in accounts],
            "data": text,
            "stackHeight": height,
        }
    return {
        "programIdIndex": program,
        "accounts": list(accounts),
        "data": text,
        "stackHeight": height,
    }


def _inner_json(landed: Landed, keys: list[str], *, spelled: bool) -> list[dict[str, Any]]:
    # In LiteSVM's JSON a short vector's length stands before its elements.
    groups: list[list[dict[str, Any]]] = json.loads(landed.inner)
    return [
        {
            "index": index,
            "instructions": [
                _instruction_json(
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


def _token_balances(
    balances: tuple[tuple[int, bytes, bytes, int], ...], decimals_of: Callable[[Pubkey], int]
) -> list[dict[str, Any]]:
    return [
        {
            "accountIndex": index,
            "mint": str(Pubkey.from_bytes(mint)),
            "owner": str(Pubkey.from_bytes(owner)),
            "programId": str(TOKEN_PROGRAM),
            "uiTokenAmount": ui_amount(amount, decimals_of(Pubkey.from_bytes(mint))),
        }
        for index, mint, owner, amount in balances
    ]
