"""JSON-RPC as the methods see it: parameters checked, results in context, faults as objects."""

from __future__ import annotations

from typing import Any, Final

import base58
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.ledger import Level

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
PREFLIGHT_FAILURE: Final = -32002
SIGNATURE_FAILURE: Final = -32003
VERSION_NOT_SUPPORTED: Final = -32015
MIN_CONTEXT_SLOT: Final = -32016
"""The numbers a node uses; clients match on them."""
SOLANA_VERSION: Final = "2.3.0"
"""What tools are told they speak to: they choose their features by it."""

_LEVELS: Final = {
    "processed": Level.PROCESSED,
    "recent": Level.PROCESSED,
    "single": Level.CONFIRMED,
    "singleGossip": Level.CONFIRMED,
    "confirmed": Level.CONFIRMED,
    "root": Level.FINALIZED,
    "max": Level.FINALIZED,
    "finalized": Level.FINALIZED,
}


class RpcFault(Exception):
    """An answer with an error object."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    def as_json(self) -> dict[str, Any]:
        """The error object."""
        out: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.data is not None:
            out["data"] = self.data
        return out


class Arguments:
    """One request's parameters: positions, and the options object that comes last."""

    def __init__(self, params: list[Any]) -> None:
        self.positions = params
        last = params[-1] if params else None
        self.options: dict[str, Any] = last if isinstance(last, dict) else {}

    def text(self, position: int) -> str:
        """A string that must be there."""
        value = self.positions[position] if position < len(self.positions) else None
        if not isinstance(value, str):
            raise RpcFault(INVALID_PARAMS, f"Invalid params: a string is missing at {position}")
        return value

    def number(self, position: int) -> int:
        """A non-negative integer that must be there."""
        value = self.positions[position] if position < len(self.positions) else None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
            raise RpcFault(INVALID_PARAMS, f"Invalid params: a number is missing at {position}")
        return value

    def address(self, position: int) -> Pubkey:
        return read_address(self.text(position))

    def texts(self, position: int, most: int) -> list[str]:
        """A list of strings of at most ``most``."""
        value = self.positions[position] if position < len(self.positions) else None
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):  # pyright: ignore[reportUnknownVariableType]
            raise RpcFault(INVALID_PARAMS, f"Invalid params: a list is missing at {position}")
        if len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
            raise RpcFault(INVALID_PARAMS, f"Too many inputs provided; max {most}")
        return value  # pyright: ignore[reportUnknownVariableType]

    @property
    def level(self) -> Level:
        """The commitment asked for; a node's default is finalized."""
        return read_level(self.options.get("commitment"))

    @property
    def encoding(self) -> str:
        return str(self.options.get("encoding", ""))

    @property
    def data_slice(self) -> dict[str, int] | None:
        value = self.options.get("dataSlice")
        if value is None:
            return None
        try:
            return {"offset": int(value["offset"]), "length": int(value["length"])}
        except (KeyError, TypeError, ValueError):
            raise RpcFault(INVALID_PARAMS, "Invalid params: dataSlice") from None


def in_context(slot: int, value: Any) -> dict[str, Any]:
    """A result that says at which slot it is true."""
    return {"context": {"slot": slot, "apiVersion": SOLANA_VERSION}, "value": value}


def read_level(name: Any) -> Level:
    """A commitment by its name; absent means finalized."""
    if name is None:
        return Level.FINALIZED
    try:
        return _LEVELS[name]
    except (KeyError, TypeError):
        raise RpcFault(INVALID_PARAMS, f"Invalid params: unknown commitment {name!r}") from None


def read_address(text: str) -> Pubkey:
    """An address from its base58 form."""
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise RpcFault(INVALID_PARAMS, f"Invalid param: not an address: {text[:64]!r}") from None


def read_signature(text: str) -> bytes:
    """A signature from its base58 form."""
    try:
        raw = base58.b58decode(text)
    except ValueError:
        raw = b""
    if len(raw) != 64:
        raise RpcFault(INVALID_PARAMS, f"Invalid param: not a signature: {text[:100]!r}")
    return raw
