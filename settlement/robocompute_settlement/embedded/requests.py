"""JSON-RPC as the methods see it: parameters checked, results in context, faults as objects.

Error numbers and sentences are those of Agave's validator: clients match on both.
"""

from __future__ import annotations

from typing import Any, Final

import base58
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.ledger import Level

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
BLOCK_CLEANED_UP: Final = -32001
PREFLIGHT_FAILURE: Final = -32002
BLOCK_NOT_AVAILABLE: Final = -32004
NODE_UNHEALTHY: Final = -32005
NO_SNAPSHOT: Final = -32008
VERSION_NOT_SUPPORTED: Final = -32015
MIN_CONTEXT_SLOT: Final = -32016
SOLANA_VERSION: Final = "3.1.8"
"""What tools are told they speak to: the version whose answers these were compared with."""
FEATURE_SET: Final = 1_620_780_344

_LEVELS: Final = {
    "processed": Level.PROCESSED,
    "confirmed": Level.CONFIRMED,
    "finalized": Level.FINALIZED,
}
_WRONG_SIZE: Final = "Invalid param: WrongSize"
_INVALID: Final = "Invalid param: Invalid"


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


def invalid_params(message: str) -> RpcFault:
    """A fault of the client's own."""
    return RpcFault(INVALID_PARAMS, message)


class Arguments:
    """One request's parameters: positions, and the options object that comes last."""

    def __init__(self, params: list[Any]) -> None:
        self.positions = params
        last = params[-1] if params else None
        self.options: dict[str, Any] = last if isinstance(last, dict) else {}

    def at(self, position: int) -> Any:
        """A parameter of any type; ``None`` where it is absent."""
        return self.positions[position] if position < len(self.positions) else None

    def text(self, position: int) -> str:
        """A string that must be there."""
        self._need(position)
        value = self.positions[position]
        if not isinstance(value, str):
            raise invalid_params(
                f"Invalid params: invalid type: {_kind(value)}, expected a string."
            )
        return value

    def number(self, position: int) -> int:
        """A non-negative integer that must be there."""
        self._need(position)
        return _number(self.positions[position], "u64")

    def address(self, position: int) -> Pubkey:
        """A base58 address that must be there."""
        return read_address(self.text(position))

    def texts(self, position: int, most: int) -> list[str]:
        """A list of at most ``most`` strings that must be there."""
        self._need(position)
        value = self.positions[position]
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):  # pyright: ignore[reportUnknownVariableType]
            raise invalid_params(
                f"Invalid params: invalid type: {_kind(value)}, expected a sequence of strings."
            )
        if len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
            raise invalid_params(f"Too many inputs provided; max {most}")
        return value  # pyright: ignore[reportUnknownVariableType]

    def option_number(self, name: str) -> int | None:
        """A non-negative integer among the options; ``None`` where it is absent."""
        value = self.options.get(name)
        return None if value is None else _number(value, "u64")

    def flag(self, name: str) -> bool:
        """A boolean among the options; false where it is absent."""
        value = self.options.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid_params(
                f"Invalid params: invalid type: {_kind(value)}, expected a boolean."
            )
        return bool(value)

    @property
    def level(self) -> Level:
        """The commitment asked for; a node's default is finalized."""
        return read_level(self.options.get("commitment"))

    @property
    def settled_level(self) -> Level:
        """The commitment, for methods about blocks: processed is refused there."""
        if self.level is Level.PROCESSED:
            raise invalid_params("Method does not support commitment below `confirmed`")
        return self.level

    @property
    def encoding(self) -> str:
        """The encoding asked for; empty where none was."""
        value = self.options.get("encoding")
        if value is not None and not isinstance(value, str):
            raise invalid_params(
                f"Invalid params: invalid type: {_kind(value)}, expected an encoding."
            )
        return value or ""

    @property
    def data_slice(self) -> tuple[int, int] | None:
        """Offset and length of the data asked for."""
        value = self.options.get("dataSlice")
        match value:
            case None:
                return None
            case {"offset": offset, "length": length}:
                return _number(offset, "usize"), _number(length, "usize")
            case _:
                raise invalid_params("Invalid params: invalid dataSlice.")

    def _need(self, position: int) -> None:
        if position >= len(self.positions):
            raise invalid_params(f"`params` should have at least {position + 1} argument(s)")


def in_context(slot: int, value: Any) -> dict[str, Any]:
    """A result that says at which slot it is true."""
    return {"context": {"slot": slot, "apiVersion": SOLANA_VERSION}, "value": value}


def read_level(name: Any) -> Level:
    """A commitment by its name. A node takes absent and unknown ones for finalized."""
    return _LEVELS.get(name, Level.FINALIZED) if isinstance(name, str) else Level.FINALIZED


def read_address(text: str) -> Pubkey:
    """An address from its base58 form."""
    try:
        raw = base58.b58decode(text)
    except ValueError:
        raise invalid_params(_INVALID) from None
    if len(raw) != 32:
        raise invalid_params(_WRONG_SIZE)
    return Pubkey.from_bytes(raw)


def read_signature(text: str) -> bytes:
    """A signature from its base58 form."""
    try:
        raw = base58.b58decode(text)
    except ValueError:
        raise invalid_params(_INVALID) from None
    if len(raw) != 64:
        raise invalid_params(_WRONG_SIZE)
    return raw


def _number(value: Any, kind: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise invalid_params(f"Invalid params: invalid type: {_kind(value)}, expected {kind}.")
    return value


def _kind(value: Any) -> str:
    match value:
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value[:64]}"'
        case None:
            return "null"
        case list():
            return "sequence"
        case _:
            return "map"
