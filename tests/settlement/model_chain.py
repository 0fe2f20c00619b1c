"""A cluster in the test's own memory: slots by the clock, transactions that land late or never.

It knows payments only as signatures that landed. Its nodes answer JSON-RPC through httpx's own
transport seam, each from its own, possibly older, view, and spoil answers as a test orders.
"""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast

import base58
import httpx
import msgspec
import trio
from solders.transaction import VersionedTransaction

from robocompute_settlement.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOT_S: Final = 0.4
VALID_BLOCKS: Final = 150
FINAL_SLOTS: Final = 32
FIRST_SLOT: Final = 1_000
GENESIS: Final = sha256(b"model chain").digest()


class Trick(StrEnum):
    """What a node does with one request."""

    HONEST = "honest"
    UNREACHABLE = "unreachable"
    """The request never arrives."""
    ANSWER_LOST = "answer_lost"
    """It is acted on, and nobody hears of it."""
    UNHEALTHY = "unhealthy"
    GATEWAY = "gateway"
    """HTTP 502 after it was acted on."""
    THROTTLED = "throttled"
    HTML = "html"
    CUT = "cut"
    """Half of a JSON answer."""
    MIXED_UP = "mixed_up"
    """Another request's answer."""
    INTERNAL = "internal"
    """An internal error, after it was acted on."""
    FORGETS = "forgets"
    """A transaction is answered with its signature and dropped."""
    SILENT = "silent"
    """No answer for ever, after it was acted on."""


@dataclass(slots=True)
class ModelChain:
    """What the whole cluster agrees on."""

    started_at: float = field(default_factory=trio.current_time)
    landed: dict[str, int] = field(default_factory=dict[str, int])
    """Slots by signature."""
    waiting: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """(slot to land in, last valid height) by signature."""
    failing: set[str] = field(default_factory=set[str])
    """Landed, and failed there."""
    genesis: bytes = GENESIS
    delays: deque[int] = field(default_factory=deque[int])
    """Slots until the next transactions land; 0 when there are none left."""

    def slot(self) -> int:
        """The newest slot; what was to land by now has landed."""
        slot = FIRST_SLOT + int((trio.current_time() - self.started_at) / SLOT_S)
        for signature, (due, last_valid) in list(self.waiting.items()):
            if due <= slot:
                del self.waiting[signature]
                if self.height(due) <= last_valid:
                    self.landed.setdefault(signature, due)
        return slot

    @staticmethod
    def height(slot: int) -> int:
        """Blocks so far: every tenth slot had none."""
        return slot - slot // 10

    def blockhash(self, slot: int) -> bytes:
        return sha256(self.genesis + b"%d" % slot).digest()

    def take(self, wire: bytes) -> str:
        """Let a transaction land when its time comes, if it is not too late by then."""
        transaction = VersionedTransaction.from_bytes(wire)
        signature = str(transaction.signatures[0])
        slot = self.slot()
        named = bytes(transaction.message.recent_blockhash)
        first = slot - VALID_BLOCKS * 2
        known = [each for each in range(first, slot + 1) if self.blockhash(each) == named]
        if known and signature not in self.landed and signature not in self.waiting:
            delay = self.delays.popleft() if self.delays else 0
            last_valid = self.height(known[0]) + VALID_BLOCKS
            self.waiting[signature] = (slot + 1 + delay, last_valid)
        return signature


@dataclass(slots=True)
class ModelNode(httpx.AsyncBaseTransport):
    """One node: a view that may lag, and tricks in the order in which requests come."""

    chain: ModelChain
    name: str = "node"
    lag: int = 0
    tricks: deque[Trick] = field(default_factory=deque[Trick])
    always: Trick = Trick.HONEST
    """When no trick is left."""
    spoiled: dict[str, deque[Trick]] = field(default_factory=dict[str, deque[Trick]])
    """Tricks for one method alone, before all others."""
    asked: list[str] = field(default_factory=list[str])
    refusal: Any = None
    """What a simulation ends in, as a transaction error."""
    fees: tuple[int, ...] = ()
    keeps: int = 10**9
    """Slots of the past that it remembers."""

    def endpoint(self, *, requests_per_s: float = 1e6) -> Endpoint:
        """The endpoint that asks this node."""
        return Endpoint(f"http://{self.name}/", requests_per_s=requests_per_s, transport=self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = msgspec.json.decode(await request.aread())
        await trio.sleep(0.01)
        trick = self._next(body["method"])
        if trick is Trick.UNREACHABLE:
            raise httpx.ConnectError("no route")
        self.asked.append(body["method"])
        match trick:
            case Trick.UNHEALTHY:
                return _json(body["id"], error={"code": -32005, "message": "Node is behind"})
            case Trick.THROTTLED:
                return httpx.Response(429, headers={"Retry-After": "1"})
            case Trick.FORGETS if body["method"] == "sendTransaction":
                sent = VersionedTransaction.from_bytes(base64.b64decode(body["params"][0]))
                return _json(body["id"], str(sent.signatures[0]))
            case _:
                answer = self._answer(body)
        match trick:
            case Trick.ANSWER_LOST:
                raise httpx.ReadError("connection reset")
            case Trick.SILENT:
                await trio.sleep_forever()
            case Trick.GATEWAY:
                return httpx.Response(502, text="<html>Bad Gateway</html>")
            case Trick.HTML:
                return httpx.Response(200, text="<html>Please sign in</html>")
            case Trick.CUT:
                return httpx.Response(200, content=answer.content[: len(answer.content) // 2])
            case Trick.MIXED_UP:
                return _json(body["id"] + 1, None)
            case Trick.INTERNAL:
                return _json(body["id"], error={"code": -32603, "message": "Internal error"})
            case _:
                return answer

    def spoil(self, method: str, *tricks: Trick) -> None:
        """Meet the next requests of this method so."""
        self.spoiled.setdefault(method, deque()).extend(tricks)

    def _next(self, method: str) -> Trick:
        if self.spoiled.get(method):
            return self.spoiled[method].popleft()
        return self.tricks.popleft() if self.tricks else self.always

    def _answer(self, body: Any) -> httpx.Response:
        params: list[Any] = body["params"]
        last = params[-1] if params else None
        options = cast("dict[str, Any]", last) if isinstance(last, dict) else {}
        newest = self.chain.slot() - self.lag
        final = options.get("commitment") == "finalized"
        slot = newest - FINAL_SLOTS if final else newest
        if options.get("minContextSlot", 0) > slot:
            return _json(
                body["id"],
                error={
                    "code": -32016,
                    "message": "Minimum context slot has not been reached",
                    "data": {"contextSlot": slot},
                },
            )
        handler = getattr(self, "_" + body["method"])
        return _json(body["id"], handler(body["params"], slot))

    def _getGenesisHash(self, _params: Any, _slot: int) -> Any:
        return base58.b58encode(self.chain.genesis).decode()

    def _getSlot(self, _params: Any, slot: int) -> Any:
        return slot

    def _getBalance(self, _params: Any, slot: int) -> Any:
        """As many lamports as the slot has."""
        return _context(slot, slot)

    def _getAccountInfo(self, _params: Any, slot: int) -> Any:
        return _context(slot, None)

    def _getEpochInfo(self, _params: Any, slot: int) -> Any:
        return {"absoluteSlot": slot, "blockHeight": self.chain.height(slot)}

    def _first(self, slot: int) -> int:
        return max(0, slot - self.keeps)

    def _getFirstAvailableBlock(self, _params: Any, slot: int) -> Any:
        return self._first(slot)

    def _getBlock(self, params: Any, _slot: int) -> Any:
        return {"blockHeight": self.chain.height(params[0])}

    def _getLatestBlockhash(self, _params: Any, slot: int) -> Any:
        value = {
            "blockhash": base58.b58encode(self.chain.blockhash(slot)).decode(),
            "lastValidBlockHeight": self.chain.height(slot) + VALID_BLOCKS,
        }
        return _context(slot, value)

    def _getRecentPrioritizationFees(self, _params: Any, slot: int) -> Any:
        return [{"slot": slot, "prioritizationFee": fee} for fee in self.fees]

    def _simulateTransaction(self, _params: Any, slot: int) -> Any:
        if self.refusal is not None:
            return _context(slot, {"err": self.refusal, "logs": [], "unitsConsumed": 9})
        return _context(slot, {"err": None, "logs": [], "unitsConsumed": 1_000})

    def _sendTransaction(self, params: Any, _slot: int) -> Any:
        return self.chain.take(base64.b64decode(params[0]))

    def _getSignatureStatuses(self, params: Any, slot: int) -> Any:
        statuses: list[Any] = []
        for signature in params[0]:
            landed = self.chain.landed.get(signature)
            if landed is None or not self._first(slot) <= landed <= slot:
                statuses.append(None)
                continue
            sure = "finalized" if landed <= slot - FINAL_SLOTS else "confirmed"
            error = {"InstructionError": [2, {"Custom": 1}]} if signature in self.chain.failing else None  # fmt: skip
            statuses.append({"slot": landed, "confirmationStatus": sure, "err": error})
        return _context(slot, statuses)


def _context(slot: int, value: Any) -> Any:
    return {"context": {"slot": slot}, "value": value}


def _json(number: int, result: Any = None, error: Any = None) -> httpx.Response:
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": number}
    body |= {"result": result} if error is None else {"error": error}
    return httpx.Response(200, content=msgspec.json.encode(body))


def nodes(chain: ModelChain, lags: Iterable[int]) -> tuple[ModelNode, ...]:
    """Nodes of one chain, each behind by so many slots."""
    return tuple(ModelNode(chain, name=f"node{n}", lag=lag) for n, lag in enumerate(lags))
