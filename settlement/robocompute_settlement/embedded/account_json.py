"""Accounts as JSON-RPC writes them."""

from __future__ import annotations

import base64
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM

from robocompute_settlement.embedded.genesis import BPF_LOADER_UPGRADEABLE
from robocompute_settlement.embedded.ledger import TOKEN_ACCOUNT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.account import Account

RENT_EXEMPT_EPOCH: Final = 2**64 - 1
"""What a node reports for every account that pays no rent."""
MINT_BYTES: Final = 82
MAX_BASE58_BYTES: Final = 128
"""Larger data are refused in base58, as a node does: the encoding is quadratic."""
ENCODINGS: Final = ("binary", "base58", "base64", "jsonParsed", "base64+zstd")

_CLOCK: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_BLOCK_BYTES: Final = 131_072
"""The format's limit of one block."""


class BadEncoding(Exception):
    """The encoding asked for is unknown."""


class TooLargeForBase58(Exception):
    """The encoding asked for is not for data of this size."""


def account_json(
    address: Pubkey,
    account: Account | None,
    encoding: str,
    data_slice: tuple[int, int] | None,
    decimals_of: Callable[[Pubkey], int],
) -> dict[str, Any] | None:
    """An account in the encoding asked for.

    Raises:
        BadEncoding: see there.
        TooLargeForBase58: see there.
    """
    if encoding not in ENCODINGS:
        raise BadEncoding(encoding)
    if account is None:
        return None
    data: Any = None
    if encoding == "jsonParsed":
        data = _parsed(address, account, decimals_of)
        encoding = "base64"
    if data is None:
        raw = account.data
        if data_slice is not None:
            offset, length = data_slice
            raw = raw[offset : offset + length]
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
    """Bytes in one of the plain encodings.

    Raises:
        BadEncoding: see there.
        TooLargeForBase58: see there.
    """
    match encoding:
        case "base64":
            return [base64.b64encode(raw).decode("ascii"), "base64"]
        case "base64+zstd":
            return [base64.b64encode(zstd_frame(raw)).decode("ascii"), "base64+zstd"]
        case "base58" | "binary":
            if len(raw) > MAX_BASE58_BYTES:
                raise TooLargeForBase58
            text = base58.b58encode(raw).decode("ascii")
            return text if encoding == "binary" else [text, "base58"]
        case _:
            raise BadEncoding(encoding)


def zstd_frame(raw: bytes) -> bytes:
    """A Zstandard frame that holds the bytes as they are.

    Solana's command line asks for accounts in this form. Nothing here needs them smaller, so no
    compressor is needed: the format (RFC 8878) has blocks of plain bytes.
    """
    one_segment_with_4_byte_size = 0b1010_0000
    out = struct.pack("<IBI", _ZSTD_MAGIC, one_segment_with_4_byte_size, len(raw))
    starts = range(0, max(len(raw), 1), _ZSTD_BLOCK_BYTES)
    for start in starts:
        block = raw[start : start + _ZSTD_BLOCK_BYTES]
        last = start == starts[-1]
        out += (len(block) << 3 | last).to_bytes(3, "little") + block
    return out


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


def _parsed(
    address: Pubkey, account: Account, decimals_of: Callable[[Pubkey], int]
) -> dict[str, Any] | None:
    """Tokens, programs and the clock spelled out; ``None`` for any other account."""
    data = account.data
    if account.owner == TOKEN_PROGRAM and len(data) == TOKEN_ACCOUNT_BYTES:
        program, kind, info = "spl-token", "account", _token_info(data, decimals_of)
    elif account.owner == TOKEN_PROGRAM and len(data) == MINT_BYTES:
        program, kind, info = "spl-token", "mint", _mint_info(data)
    elif account.owner == BPF_LOADER_UPGRADEABLE and data[:4] == b"\x02\0\0\0":
        info = {"programData": str(Pubkey.from_bytes(data[4:36]))}
        program, kind = "bpf-upgradeable-loader", "program"
    elif account.owner == BPF_LOADER_UPGRADEABLE and data[:4] == b"\x03\0\0\0":
        info = {
            "slot": int.from_bytes(data[4:12], "little"),
            "authority": str(Pubkey.from_bytes(data[13:45])) if data[12] else None,
            "data": [base64.b64encode(data[45:]).decode("ascii"), "base64"],
        }
        program, kind = "bpf-upgradeable-loader", "programData"
    elif address == _CLOCK:
        slot, start, epoch, leaders, now = struct.unpack("<QqQQq", data)
        info = {
            "slot": slot,
            "epochStartTimestamp": start,
            "epoch": epoch,
            "leaderScheduleEpoch": leaders,
            "unixTimestamp": now,
        }
        program, kind = "sysvar", "clock"
    else:
        return None
    return {"program": program, "parsed": {"type": kind, "info": info}, "space": len(data)}


def _token_info(data: bytes, decimals_of: Callable[[Pubkey], int]) -> dict[str, Any]:
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
        delegated = int.from_bytes(data[121:129], "little")
        info["delegatedAmount"] = ui_amount(delegated, decimals_of(mint))
    return info


def _mint_info(data: bytes) -> dict[str, Any]:
    return {
        "mintAuthority": str(Pubkey.from_bytes(data[4:36])) if data[0] else None,
        "supply": str(int.from_bytes(data[36:44], "little")),
        "decimals": data[44],
        "isInitialized": data[45] == 1,
        "freezeAuthority": str(Pubkey.from_bytes(data[50:82])) if data[46] else None,
    }
