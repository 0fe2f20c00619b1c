"""What an endpoint's or a transaction's error means for whoever asked."""

from __future__ import annotations

from typing import Any, Final

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused
from robocompute_settlement.program_errors import describe

PREFLIGHT_FAILURE: Final = -32002
NODE_UNHEALTHY: Final = -32005
NODE_BEHIND: Final = -32016
INTERNAL_ERROR: Final = -32603
METHOD_NOT_FOUND: Final = -32601
TOO_MANY_REQUESTS: Final = 429
BLOCK_NOT_AVAILABLE: Final = -32004
BLOCK_STATUS_NOT_AVAILABLE: Final = -32014
BUSY_CODES: Final = frozenset(
    {
        NODE_UNHEALTHY, NODE_BEHIND, INTERNAL_ERROR, BLOCK_NOT_AVAILABLE,
        BLOCK_STATUS_NOT_AVAILABLE, TOO_MANY_REQUESTS, -32429,
    }
)  # fmt: skip
"""Numbers of error answers that another endpoint, or this one later, need not give."""

CLASSIC_TOKENS: Final = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
SYSTEM: Final = "11111111111111111111111111111111"
ED25519: Final = "Ed25519SigVerify111111111111111111111111111"
_SYSTEM_INSUFFICIENT: Final = 1
_TOKEN_INSUFFICIENT: Final = 1
FIRST_PROGRAM_ERROR: Final = 6_000
"""Smaller numbers are other programs'."""


class BlockhashExpired(ChainBusy):
    """The blockhash is not known, or no more: to be signed with another one."""


class OutOfSol(ChainRefused):
    """Whoever signs and pays cannot."""


def error_of(code: int, message: str, data: Any, programs: tuple[str, ...] = ()) -> ChainError:
    """What an endpoint's error object means for the caller. ``programs``: see ``refusal_of``."""
    error = data.get("err") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if error is not None:
        return refusal_of(error, logs=_logs(data), programs=programs)
    if code in BUSY_CODES:
        return ChainBusy(f"the chain is not able to answer now: {message}")
    return ChainRefused(f"the chain refused: {message} ({code})")


def refusal_of(
    error: Any, *, logs: tuple[str, ...] = (), programs: tuple[str, ...] = ()
) -> ChainError:
    """What a transaction's own error means for the caller.

    ``programs`` are those that its instructions call, in order. ``ChainRefused.number`` is set
    only where the settlement program itself refused.
    """
    details: dict[str, object] = {"error": error}
    match error:
        case "BlockhashNotFound":
            return BlockhashExpired("the transaction's blockhash has expired", details=details)
        case (
            "AccountInUse" | "TooManyAccountLocks" | "WouldExceedMaxBlockCostLimit"
            | "WouldExceedMaxAccountCostLimit" | "WouldExceedMaxVoteCostLimit" | "ClusterMaintenance"
            | "WouldExceedAccountDataBlockLimit"
        ):  # fmt: skip
            return ChainBusy(
                f"the chain has no room for the transaction: {error}", details=details
            )
        case "AccountNotFound" | "InsufficientFundsForFee" | {"InsufficientFundsForRent": _}:
            return OutOfSol("the signer has no SOL for the fee: send it some", details=details)
        case {"InstructionError": [int(), "ComputationalBudgetExceeded"]}:
            # The accounts changed after the simulation; the next one sees that.
            return ChainBusy("the transaction needed more than it was given", details=details)
        case {"InstructionError": [int(index), {"Custom": int(number)}]}:
            named = programs[index] if index < len(programs) else None
            return _custom(number, _failed_program(logs) or named, details)
        case {"InstructionError": [int(index), reason]}:
            return ChainRefused(f"instruction {index} failed: {reason}", details=details)
        case _:
            return ChainRefused(f"the transaction failed: {error}", details=details)


def _custom(number: int, program: str | None, details: dict[str, object]) -> ChainRefused:
    if program == CLASSIC_TOKENS and number == _TOKEN_INSUFFICIENT:
        return ChainRefused("the wallet does not hold that many tokens", details=details)
    if program == ED25519:
        return ChainRefused("a voucher's signature is not valid", details=details)
    if program == SYSTEM and number == _SYSTEM_INSUFFICIENT:
        return OutOfSol("the signer has too little SOL: send it some", details=details)
    if number < FIRST_PROGRAM_ERROR:
        return ChainRefused(f"program {program or '?'} refused: error {number}", details=details)
    return ChainRefused(f"refused: {describe(number)}", number=number, details=details)


def _failed_program(logs: tuple[str, ...]) -> str | None:
    """The innermost program that failed: the first one whose failure is logged."""
    for line in logs:
        words = line.split(" ", 3)
        if len(words) >= 3 and words[0] == "Program" and words[2] == "failed:":
            return words[1]
    return None


def _logs(data: Any) -> tuple[str, ...]:
    found = data.get("logs")
    return tuple(str(line) for line in found) if isinstance(found, list) else ()  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
