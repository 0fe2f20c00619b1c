"""Instructions as JSON-RPC writes them; SOL and token movements spelled out where asked for."""

from __future__ import annotations

import struct
from typing import Any, Final

import base58
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM

from robocompute_settlement.embedded.account_json import ui_amount

SYSTEM: Final = str(Pubkey.default())
TOKEN: Final = str(TOKEN_PROGRAM)
MEMO: Final = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
SINGLE_AUTHORITY: Final = 4
"""Accounts of a checked transfer without multisignature."""


def instruction_json(
    program: int,
    accounts: bytes,
    data: bytes,
    keys: list[str],
    height: int,
    *,
    spelled: bool,
) -> dict[str, Any]:
    """One instruction.

    Args:
        program: the program's index in ``keys``.
        accounts: the accounts' indices in ``keys``.
        data: the instruction's data.
        keys: the transaction's accounts.
        height: 1 for an instruction of the transaction, more for one that a program made.
        spelled: whether names are asked for, instead of indices.
    """
    text = base58.b58encode(data).decode("ascii")
    if not spelled:
        return {
            "programIdIndex": program,
            "accounts": list(accounts),
            "data": text,
            "stackHeight": height,
        }
    named = [keys[index] for index in accounts]
    try:
        parsed = _parsed(keys[program], named, data)
    except (struct.error, IndexError):
        parsed = None
    if parsed is None:
        return {
            "programId": keys[program],
            "accounts": named,
            "data": text,
            "stackHeight": height,
        }
    return {
        "program": {SYSTEM: "system", TOKEN: "spl-token", MEMO: "spl-memo"}[keys[program]],
        "programId": keys[program],
        "parsed": parsed,
        "stackHeight": height,
    }


def _parsed(program: str, named: list[str], data: bytes) -> Any:
    if program == SYSTEM:
        kind, info = _system(named, data)
    elif program == TOKEN:
        kind, info = _token(named, data)
    elif program == MEMO:
        return data.decode("utf-8", "replace")
    else:
        return None
    return {"type": kind, "info": info} if kind else None


def _system(named: list[str], data: bytes) -> tuple[str, dict[str, Any]]:
    (number,) = struct.unpack_from("<I", data)
    match number:
        case 0:
            lamports, space, owner = struct.unpack_from("<QQ32s", data, 4)
            return "createAccount", {
                "source": named[0],
                "newAccount": named[1],
                "lamports": lamports,
                "space": space,
                "owner": str(Pubkey.from_bytes(owner)),
            }
        case 1:
            owner = Pubkey.from_bytes(data[4:36])
            return "assign", {"account": named[0], "owner": str(owner)}
        case 2:
            (lamports,) = struct.unpack_from("<Q", data, 4)
            return "transfer", {
                "source": named[0],
                "destination": named[1],
                "lamports": lamports,
            }
        case 8:
            (space,) = struct.unpack_from("<Q", data, 4)
            return "allocate", {"account": named[0], "space": space}
        case _:
            return "", {}


def _token(named: list[str], data: bytes) -> tuple[str, dict[str, Any]]:
    (amount,) = struct.unpack_from("<Q", data, 1)
    match data[0]:
        case 3 if len(named) == SINGLE_AUTHORITY - 1:
            return "transfer", {
                "source": named[0],
                "destination": named[1],
                "authority": named[2],
                "amount": str(amount),
            }
        case 7 if len(named) == SINGLE_AUTHORITY - 1:
            return "mintTo", {
                "mint": named[0],
                "account": named[1],
                "mintAuthority": named[2],
                "amount": str(amount),
            }
        case 12 if len(named) == SINGLE_AUTHORITY:
            return "transferChecked", {
                "source": named[0],
                "mint": named[1],
                "destination": named[2],
                "authority": named[3],
                "tokenAmount": ui_amount(amount, data[9]),
            }
        case _:
            return "", {}
