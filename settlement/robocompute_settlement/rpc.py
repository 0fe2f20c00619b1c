"""Solana's JSON-RPC methods as values in and out. What an answer means is decided here, once."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import base58
import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainUnknown
from robocompute_protocol.identifiers import ID_BYTES, Address, Digest, to_base58
from robocompute_settlement.endpoint import ErrorAnswer, Unanswered
from robocompute_settlement.port import Commitment
from robocompute_settlement.refusals import INTERNAL_ERROR, BlockhashExpired, error_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_settlement.endpoints import Endpoints, Standing

SEND_GRACE_S: Final = 0.5
"""Once one endpoint has a transaction, how long the others have to take it too."""
FINALITY_SLOTS: Final = 32
"""Slots by which a node's final state lags its newest."""
FIRST_SLOT: Final = 1
"""A ledger that has this one, or the genesis before it, has all there ever was."""
BLOCKHASH_BLOCKS: Final = 150
"""Blocks after the one that a transaction names which may take it."""
MAX_FEE_ACCOUNTS: Final = 128
"""Accounts that one request for recent fees may name."""


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
class ListedSignature:
    """A transaction in an address's list."""

    signature: str
    failed: bool


@dataclass(frozen=True, slots=True)
class LandedTransaction:
    """A transaction in a block, and what it said."""

    slot: int
    time_s: int
    logs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecentBlockhash:
    """What a transaction is signed with, and the last block height that takes it."""

    blockhash: bytes
    last_valid_height: int


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a transaction would do: its units, or why it would fail."""

    units: int
    refusal: ChainError | None


class Rpc:
    """The methods, over ``Endpoints``. Any number of tasks may use it; the caller closes it."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    @property
    def url(self) -> str:
        """The endpoints, for people."""
        return self._endpoints.name

    @property
    def endpoints(self) -> Endpoints:
        """For methods that are not here."""
        return self._endpoints

    async def aclose(self) -> None:
        """Close all connections. Repeatable."""
        await self._endpoints.aclose()

    # --- reads ----------------------------------------------------------------------------------

    async def genesis_hash(self) -> Digest:
        return await self._endpoints.genesis_hash()

    async def account(self, address: bytes, at: Commitment) -> ChainAccount | None:
        """The account, or ``None`` where there is none."""
        answer = await self._endpoints.ask(
            "getAccountInfo", to_base58(address), at=at, options={"encoding": "base64"}
        )
        return _account(_value(answer))

    async def accounts_of(
        self, program: bytes, *, at: Commitment, size: int | None = None,
        holding: Mapping[int, bytes] | None = None,
    ) -> tuple[tuple[Address, ChainAccount], ...]:  # fmt: skip
        """A program's accounts of this size that hold these bytes at these places."""
        filters: list[Any] = [] if size is None else [{"dataSize": size}]
        for offset, raw in (holding or {}).items():
            filters.append({"memcmp": {"offset": offset, "bytes": to_base58(raw)}})
        answer = await self._endpoints.ask(
            "getProgramAccounts", to_base58(program), at=at,
            options={"encoding": "base64", "filters": filters, "withContext": True},
        )  # fmt: skip
        found: list[tuple[Address, ChainAccount]] = []
        for each in _list(_value(answer)):
            match each:
                case {"pubkey": str(address), "account": held}:
                    account = _account(held)
                    if account is not None:
                        found.append((Address(_base58(address)), account))
                case _:
                    raise _malformed("getProgramAccounts")
        return tuple(found)

    async def lamports(self, address: bytes, at: Commitment) -> int:
        answer = await self._endpoints.ask("getBalance", to_base58(address), at=at)
        return _integer(_value(answer))

    async def signatures(
        self, address: bytes, *, limit: int, at: Commitment, before: str = "", until: str = ""
    ) -> tuple[ListedSignature, ...]:
        """Transactions that named the address, newest first, between the two named ones."""
        options: dict[str, Any] = {"limit": limit}
        options |= {name: text for name, text in (("before", before), ("until", until)) if text}
        answer = await self._endpoints.ask(
            "getSignaturesForAddress", to_base58(address), at=at, options=options
        )
        try:
            return tuple(
                ListedSignature(str(each["signature"]), each["err"] is not None)
                for each in _list(answer)
            )
        except (TypeError, KeyError):
            raise _malformed("getSignaturesForAddress") from None

    async def transaction(self, signature: str, at: Commitment) -> LandedTransaction | None:
        """A transaction by its signature; ``None`` when no endpoint has it."""
        options = {
            "encoding": "json", "commitment": at.value, "maxSupportedTransactionVersion": 0,
        }  # fmt: skip
        failure: ChainError | None = None
        for standing in self._endpoints.usable():
            try:
                answer = await self._endpoints.ask_one(
                    standing, "getTransaction", signature, options=options
                )
            except (Unanswered, ErrorAnswer) as exc:
                failure = ChainBusy(f"no answer about transaction {signature}: {exc}")
                continue
            if answer is not None:
                return _landed(answer)
        if failure is not None:
            raise failure
        return None

    # --- for sending ----------------------------------------------------------------------------

    async def recent_blockhash(self) -> RecentBlockhash:
        """A blockhash to sign with."""
        answer = await self._endpoints.ask(
            "getLatestBlockhash", at=Commitment.CONFIRMED, urgent=True
        )
        value = _value(answer)
        try:
            return RecentBlockhash(_base58(value["blockhash"]), int(value["lastValidBlockHeight"]))
        except (TypeError, KeyError, ValueError):
            raise _malformed("getLatestBlockhash") from None

    async def recent_fees(self, writable: tuple[bytes, ...]) -> tuple[int, ...]:
        """What was paid lately, in micro-lamports a unit, to write these accounts, per block."""
        named = [to_base58(each) for each in writable[:MAX_FEE_ACCOUNTS]]
        answer = await self._endpoints.ask("getRecentPrioritizationFees", named, urgent=True)
        try:
            return tuple(_integer(each["prioritizationFee"]) for each in _list(answer))
        except (TypeError, KeyError):
            raise _malformed("getRecentPrioritizationFees") from None

    async def simulate(self, wire: bytes, programs: tuple[str, ...]) -> Simulated:
        """Say what a transaction would do, by an endpoint that is not behind.

        Its blockhash and signatures are not looked at. Where one endpoint says that it would
        fail, the others are asked too: one that lets it through is believed, since an endpoint
        that lags refuses what is good more often than it lets through what is not.

        Raises:
            ChainBusy: no endpoint can say.
        """
        first = await self._simulate(wire, programs)
        others = self._endpoints.usable()[1:]
        if first.refusal is None or isinstance(first.refusal, ChainBusy) or not others:
            return first
        for standing in others:
            try:
                found = await self._simulate(wire, programs, standing)
            except (Unanswered, ErrorAnswer):
                continue
            if found.refusal is None:
                return found
        return first

    async def _simulate(
        self, wire: bytes, programs: tuple[str, ...], standing: Standing | None = None
    ) -> Simulated:
        params = ("simulateTransaction", base64.b64encode(wire).decode("ascii"))
        options = {"encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True}
        asked = (
            self._endpoints.ask(*params, at=Commitment.CONFIRMED, urgent=True, options=options)
            if standing is None
            else self._endpoints.ask_one(
                standing, *params, at=Commitment.CONFIRMED, urgent=True, options=options
            )
        )
        value = _value(await asked)
        match value:
            case {"err": None, "unitsConsumed": int(units)}:
                return Simulated(units, None)
            case {"err": error} if error is not None:
                data = {"err": error, "logs": value.get("logs")}
                return Simulated(0, error_of(0, "simulation", data, programs))
            case _:
                raise _malformed("simulateTransaction")

    async def send(self, wire: bytes) -> None:
        """Hand a transaction to every endpoint, once; return when one has taken it.

        Raises:
            BlockhashExpired: every endpoint refused it as too old; none has it.
            ChainBusy: none has it.
            ChainRefused: none has it, nor ever will.
            ChainUnknown: some may have it.
        """
        standings = self._endpoints.usable()
        failures: list[ChainError] = []
        with trio.CancelScope() as scope:

            async def hand(standing: Standing) -> None:
                failure = await self._hand(standing, wire)
                if failure is None:
                    scope.deadline = min(scope.deadline, trio.current_time() + SEND_GRACE_S)
                else:
                    failures.append(failure)

            async with trio.open_nursery() as nursery:
                for standing in standings:
                    nursery.start_soon(hand, standing)
        if len(failures) < len(standings):
            return
        # The one that leaves most open decides.
        for kind in (ChainUnknown, BlockhashExpired, ChainBusy):
            for failure in failures:
                if isinstance(failure, kind):
                    raise failure
        raise failures[0]

    async def _hand(self, standing: Standing, wire: bytes) -> ChainError | None:
        """Return ``None`` when the endpoint has it."""
        options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
        try:
            await self._endpoints.ask_one(
                standing, "sendTransaction", base64.b64encode(wire).decode("ascii"), urgent=True,
                options=options,
            )  # fmt: skip
        except Unanswered as exc:
            message = (
                f"the chain at {standing.endpoint.url} gave no answer to a transaction: {exc}"
            )
            return ChainUnknown(message) if exc.reached else ChainBusy(message)
        except ErrorAnswer as exc:
            return _send_error(exc)
        return None

    async def status(self, signature: str) -> SignatureStatus | None:
        """Where a transaction is; ``None`` when the endpoint asked has not seen it lately."""
        answer = await self._endpoints.ask("getSignatureStatuses", [signature], urgent=True)
        return _status(answer)

    async def fate(self, signature: str, last_valid_height: int) -> SignatureStatus | bool:
        """Search all endpoints for a transaction, in full.

        Returns its status; or ``True`` when it can never land: a final block is above the last
        height that takes it, and it is in none up to there; or ``False`` when it still may, or
        when no endpoint remembers every block that could have taken it.

        Raises:
            ChainBusy: no endpoint can tell.
        """
        failure: ChainError = ChainBusy("no endpoint can tell what became of a transaction")
        asked = over = False
        for standing in self._endpoints.usable():
            try:
                # The height first: what is in no block after it never will be.
                epoch = await self._endpoints.ask_one(
                    standing,
                    "getEpochInfo",
                    urgent=True,
                    options={"commitment": Commitment.FINALIZED.value},
                )
                answer = await self._endpoints.ask_one(
                    standing, "getSignatureStatuses", [signature], urgent=True,
                    options={"searchTransactionHistory": True},
                )  # fmt: skip
                status = _status(answer)
                if status is not None:
                    return status
                asked = True
                if not over and _is_over(epoch, answer, last_valid_height):
                    over = await self._remembers(standing, last_valid_height - BLOCKHASH_BLOCKS)
            except (Unanswered, ErrorAnswer, ChainBusy) as exc:
                failure = ChainBusy(f"no answer about a transaction: {exc}")
        if not asked:
            raise failure
        return over

    async def _remembers(self, standing: Standing, height: int) -> bool:
        """Whether the endpoint still has the block of this height, and all after it.

        Raises:
            ChainBusy, ErrorAnswer, Unanswered: it does not say.
        """
        first = _integer(
            await self._endpoints.ask_one(standing, "getFirstAvailableBlock", urgent=True)
        )
        # A block's height is its slot's number at most; and one that has the first has all.
        if first <= max(height, FIRST_SLOT):
            return True
        options = {
            "commitment": Commitment.FINALIZED.value, "transactionDetails": "none",
            "rewards": False, "maxSupportedTransactionVersion": 0,
        }  # fmt: skip
        block = await self._endpoints.ask_one(
            standing, "getBlock", first, urgent=True, options=options
        )
        match block:
            case {"blockHeight": int(oldest)}:
                return oldest <= height
            case _:
                raise _malformed("getBlock")

    async def request_airdrop(self, address: bytes, lamports: int) -> str:
        """Ask a test chain's faucet for SOL; returns the transfer's signature."""
        answer = await self._endpoints.ask("requestAirdrop", to_base58(address), lamports)
        return str(answer)


def _send_error(exc: ErrorAnswer) -> ChainError | None:
    match exc.data:
        case {"err": "AlreadyProcessed"}:
            return None
        case _ if exc.code == INTERNAL_ERROR:
            return ChainUnknown(f"the chain failed over a transaction: {exc}")
        case _:
            return error_of(exc.code, exc.message, exc.data)


def _is_over(epoch: Any, answer: Any, last_valid_height: int) -> bool:
    """Whether the endpoint that had no such transaction had seen every block that could take it.

    One URL may stand for several nodes, of which another may answer each time. So the second
    answer must come from a node whose final state is past the last block that could.
    """
    match epoch, answer:
        case (
            {"absoluteSlot": int(slot), "blockHeight": int(height)},
            {"context": {"slot": int(newest)}},
        ):
            final = newest >= slot + FINALITY_SLOTS
            return height > last_valid_height and (
                final or (newest >= slot and height > last_valid_height + 2 * FINALITY_SLOTS)
            )
        case _:
            raise _malformed("getEpochInfo")


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


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed("a read")
    return value  # pyright: ignore[reportUnknownVariableType]


def _base58(text: Any) -> bytes:
    try:
        raw = base58.b58decode(text)
    except (ValueError, TypeError, AttributeError):
        raw = b""
    if len(raw) != ID_BYTES:
        raise _malformed("a read")
    return raw


def _account(value: Any) -> ChainAccount | None:
    match value:
        case None:
            return None
        case {"owner": str(owner), "lamports": int(lamports), "data": [str(text), "base64"]}:
            try:
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise _malformed("getAccountInfo") from None
            return ChainAccount(Address(_base58(owner)), lamports, data)
        case _:
            raise _malformed("getAccountInfo")


def _status(answer: Any) -> SignatureStatus | None:
    match _value(answer):
        case [None]:
            return None
        case [{"slot": int(slot), "confirmationStatus": str(commitment), "err": error}]:
            return SignatureStatus(slot, commitment, error)
        case _:
            raise _malformed("getSignatureStatuses")


def _landed(answer: Any) -> LandedTransaction:
    match answer:
        case {"slot": int(slot), "meta": {"logMessages": logs}}:
            time_s = answer.get("blockTime")
            lines = tuple(str(line) for line in _list(logs))
            return LandedTransaction(slot, time_s if isinstance(time_s, int) else 0, lines)
        case _:
            raise _malformed("getTransaction")
