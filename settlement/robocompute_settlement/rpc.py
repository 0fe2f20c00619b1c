"""Solana JSON-RPC over HTTP, under trio. Answers become values; faults become the chain errors.

A read that met a transport error is repeated a few times within its deadline. Sending a
transaction is repeated only by ``solana.py``, which knows how to do that without paying twice.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import logging
from dataclasses import dataclass
from typing import Any, Final

import base58
import httpx
import msgspec
import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Address, Digest, to_base58
from robocompute_settlement.port import Commitment
from robocompute_settlement.program_errors import describe

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10.0
"""One HTTP request: public endpoints answer in well under a second or not at all."""
CONNECT_TIMEOUT_S: Final = 3.0
ATTEMPTS: Final = 3
"""Tries of one read."""
RETRY_AFTER_S: Final = 0.1
"""Before the second try; twice as long before each further one."""
MAX_ANSWER_BYTES: Final = 16_777_216
"""An answer larger than this is a broken or hostile endpoint."""

PREFLIGHT_FAILURE: Final = -32002
NODE_UNHEALTHY: Final = -32005
NODE_BEHIND: Final = -32016
TOO_MANY_REQUESTS: Final = 429
HTTP_OK: Final = 200
_BUSY_CODES: Final = frozenset({NODE_UNHEALTHY, NODE_BEHIND, -32004, -32014, TOO_MANY_REQUESTS})

CLASSIC_TOKENS: Final = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
SYSTEM: Final = "11111111111111111111111111111111"
ED25519: Final = "Ed25519SigVerify111111111111111111111111111"
_SYSTEM_INSUFFICIENT: Final = 1
_TOKEN_INSUFFICIENT: Final = 1


class BlockhashExpired(ChainBusy):
    """The endpoint refused a transaction as too old, so these bytes are never taken."""


@dataclass(frozen=True, slots=True)
class ChainAccount:
    """An account as an endpoint reports it."""

    owner: Address
    lamports: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SignatureStatus:
    """Where a transaction is. ``error`` is ``None`` for one that succeeded."""

    slot: int
    commitment: str
    error: Any

    def reached(self, commitment: Commitment) -> bool:
        """Whether it is at least this sure."""
        wanted = (
            ("finalized",) if commitment is Commitment.FINALIZED else ("confirmed", "finalized")
        )
        return self.commitment in wanted


@dataclass(frozen=True, slots=True)
class RecentBlockhash:
    """What a transaction is signed with, and the last block height that takes it."""

    blockhash: bytes
    last_valid_height: int


class Rpc:
    """One endpoint. Any number of tasks may use it; the caller closes it."""

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(timeout=timeout, transport=transport, trust_env=False)
        self._numbers = itertools.count(1)

    async def aclose(self) -> None:
        """Close all connections. Repeatable."""
        await self._client.aclose()

    # --- reads ----------------------------------------------------------------------------------

    async def genesis_hash(self) -> Digest:
        return Digest(_base58(await self.call("getGenesisHash")))

    async def account(self, address: bytes, at: Commitment) -> ChainAccount | None:
        """The account, or ``None`` where there is none."""
        options = {"encoding": "base64", "commitment": at.value}
        answer = await self.call("getAccountInfo", to_base58(address), options)
        return _account(_value(answer))

    async def lamports(self, address: bytes, at: Commitment) -> int:
        answer = await self.call("getBalance", to_base58(address), {"commitment": at.value})
        return _integer(_value(answer))

    async def signatures(self, address: bytes, limit: int, at: Commitment) -> tuple[str, ...]:
        """Transactions that named the address, newest first."""
        options = {"limit": limit, "commitment": at.value}
        answer = await self.call("getSignaturesForAddress", to_base58(address), options)
        try:
            return tuple(str(each["signature"]) for each in answer)
        except (TypeError, KeyError):
            raise _malformed("getSignaturesForAddress") from None

    async def recent_blockhash(self) -> RecentBlockhash:
        """A blockhash to sign with."""
        answer = await self.call("getLatestBlockhash", {"commitment": Commitment.CONFIRMED.value})
        value = _value(answer)
        try:
            return RecentBlockhash(_base58(value["blockhash"]), int(value["lastValidBlockHeight"]))
        except (TypeError, KeyError, ValueError):
            raise _malformed("getLatestBlockhash") from None

    async def block_height(self, at: Commitment) -> int:
        return _integer(await self.call("getBlockHeight", {"commitment": at.value}))

    async def status(self, signature: str, *, history: bool = False) -> SignatureStatus | None:
        """Where a transaction is; ``None`` when the endpoint knows nothing of it."""
        options = {"searchTransactionHistory": history}
        answer = await self.call("getSignatureStatuses", [signature], options)
        try:
            found = _value(answer)[0]
            if found is None:
                return None
            return SignatureStatus(
                int(found["slot"]), str(found["confirmationStatus"]), found["err"]
            )
        except (TypeError, KeyError, IndexError, ValueError):
            raise _malformed("getSignatureStatuses") from None

    # --- writes ---------------------------------------------------------------------------------

    async def send(self, wire: bytes, *, preflight: bool, programs: tuple[str, ...] = ()) -> None:
        """Hand a transaction to the endpoint, once. ``programs``: see ``refusal_of``.

        Raises:
            ChainBusy: it did not reach the endpoint, or was not taken and may be sent again.
            ChainRefused: it would fail.
            ChainUnknown: no answer came: it may have been taken.
        """
        options = {
            "encoding": "base64",
            "skipPreflight": not preflight,
            "preflightCommitment": Commitment.CONFIRMED.value,
            "maxRetries": 0,
        }
        try:
            await self._post(
                "sendTransaction", (base64.b64encode(wire).decode("ascii"), options), programs
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
            raise self._unreachable(exc) from exc
        except httpx.TransportError as exc:
            raise ChainUnknown(
                f"the chain at {self.url} gave no answer to a transaction: {_reason(exc)}"
            ) from exc

    async def request_airdrop(self, address: bytes, lamports: int) -> str:
        """Ask a test chain's faucet for SOL; returns the transfer's signature."""
        return str(await self.call("requestAirdrop", to_base58(address), lamports))

    # --- inside ---------------------------------------------------------------------------------

    async def call(self, method: str, *params: Any) -> Any:
        """Call a read-only method, repeating it on transport errors.

        Raises:
            ChainBusy: the endpoint cannot be reached, or is not able to answer now.
            ChainRefused: it will never answer this.
        """
        pause = RETRY_AFTER_S
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._post(method, params)
            except httpx.TransportError as exc:
                log.warning("will ask %s again: %s", self.url, _reason(exc))
            await trio.sleep(pause)
            pause *= 2
        try:
            return await self._post(method, params)
        except httpx.TransportError as exc:
            raise self._unreachable(exc) from exc

    async def _post(
        self, method: str, params: tuple[Any, ...], programs: tuple[str, ...] = ()
    ) -> Any:
        number = next(self._numbers)
        body = msgspec.json.encode(
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        )
        response = await self._client.post(
            self.url, content=body, headers={"Content-Type": "application/json"}
        )
        if response.status_code != HTTP_OK:
            raise ChainBusy(f"the chain at {self.url} answered HTTP {response.status_code}")
        if len(response.content) > MAX_ANSWER_BYTES:
            raise _malformed(method)
        try:
            answer: Any = msgspec.json.decode(response.content)
        except msgspec.DecodeError:
            raise _malformed(method) from None
        match answer:
            case {"error": {"code": int(code), "message": str(message), **rest}}:
                raise error_of(code, message, rest.get("data"), programs)
            case {"result": result}:
                return result
            case _:
                raise _malformed(method)

    def _unreachable(self, exc: Exception) -> ChainBusy:
        return ChainBusy(f"the chain at {self.url} cannot be reached: {_reason(exc)}")


def error_of(code: int, message: str, data: Any, programs: tuple[str, ...] = ()) -> ChainError:
    """What an endpoint's error object means for the caller."""
    error = data.get("err") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if error is not None:
        return refusal_of(error, logs=_logs(data), programs=programs)
    if code in _BUSY_CODES:
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
        case "AlreadyProcessed":
            return ChainUnknown("the transaction was sent before", details=details)
        case "AccountNotFound" | "InsufficientFundsForFee" | {"InsufficientFundsForRent": _}:
            return ChainRefused("the signer has no SOL for the fee: send it some", details=details)
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
        return ChainRefused("the signer has too little SOL: send it some", details=details)
    if number < 6000:
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


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _malformed(method: str) -> ChainBusy:
    return ChainBusy(f"the chain gave an answer to {method} that cannot be read")


def _value(answer: Any) -> Any:
    try:
        return answer["value"]
    except (TypeError, KeyError):
        raise _malformed("a read") from None


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        raise _malformed("a read")
    return value


def _base58(text: Any) -> bytes:
    try:
        return base58.b58decode(text)
    except (ValueError, TypeError):
        raise _malformed("a read") from None


def _account(value: Any) -> ChainAccount | None:
    match value:
        case None:
            return None
        case {"owner": str(owner), "lamports": int(lamports), "data": [str(text), "base64"]}:
            try:
                data = base64.b64decode(text, validate=True)
            except binascii.Error:
                raise _malformed("getAccountInfo") from None
            return ChainAccount(Address(_base58(owner)), lamports, data)
        case _:
            raise _malformed("getAccountInfo")
