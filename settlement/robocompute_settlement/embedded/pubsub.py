"""Subscriptions over a websocket: accounts, programs, signatures, logs and slots.

A client that does not read is disconnected rather than waited for: its notifications are in a
queue of bounded length, and it can reconnect and read the state it missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import base58
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

from robocompute_settlement.embedded.encoding import error_json
from robocompute_settlement.embedded.http import answer_one
from robocompute_settlement.embedded.ledger import Ledger, Level
from robocompute_settlement.embedded.requests import (
    INVALID_PARAMS,
    Arguments,
    RpcFault,
    read_level,
    read_signature,
)
from robocompute_settlement.embedded.timeline import SLOT_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.pubkey import Pubkey

    from robocompute_settlement.embedded.methods import Methods
    from robocompute_settlement.embedded.storage import Landed

QUEUE: Final = 1_024
"""Notifications a client may leave unread."""
MAX_SUBSCRIPTIONS: Final = 1_000
"""Subscriptions of one connection."""


@dataclass(slots=True, kw_only=True)
class Subscription:
    """One thing a client wants to hear of, at one commitment."""

    identifier: int
    kind: str
    level: Level
    key: bytes = b""
    """The account, program or signature; empty for all."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])


class Pubsub:
    """All websocket connections of one ledger. ``run`` must be running for finality to be told."""

    def __init__(self, ledger: Ledger, methods: Methods) -> None:
        self._ledger = ledger
        self._methods = methods
        self._connections: set[_Connection] = set()
        self._unfinal: list[tuple[Landed, list[Pubkey]]] = []
        self._next = 0
        ledger.listen(self._landed)

    def new_identifier(self) -> int:
        """A subscription number no other subscription has."""
        self._next += 1
        return self._next

    async def run(self) -> None:
        """Tell of slots, and of transactions that become final, until cancelled."""
        told = self._ledger.tick()
        while True:
            await trio.sleep(SLOT_MS / 1000)
            slot, final = self._ledger.tick(), self._ledger.final_slot()
            while self._unfinal and self._unfinal[0][0].slot <= final:
                landed, changed = self._unfinal.pop(0)
                if self._ledger.transaction(landed.signature) is None:
                    continue  # it was rolled back
                for connection in tuple(self._connections):
                    connection.landed(landed, changed, final=True)
            if slot > told:
                told = slot
                for connection in tuple(self._connections):
                    connection.slot(slot, final)

    async def handle(self, request: WebSocketRequest) -> None:
        """Serve one websocket until it closes."""
        socket = await request.accept()
        connection = _Connection(self._ledger, self._methods, self.new_identifier)
        self._connections.add(connection)
        try:
            await connection.serve(socket)
        except ConnectionClosed:
            return
        finally:
            self._connections.discard(connection)

    def _landed(self, landed: Landed, changed: list[Pubkey]) -> None:
        self._unfinal.append((landed, changed))
        for connection in tuple(self._connections):
            connection.landed(landed, changed, final=False)


class _Connection:
    """One client: its subscriptions and its unread notifications."""

    def __init__(
        self, ledger: Ledger, methods: Methods, new_identifier: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._methods = methods
        self._new_identifier = new_identifier
        self._subscriptions: dict[int, Subscription] = {}
        self._send, self._receive = trio.open_memory_channel[bytes](QUEUE)
        self._scope = trio.CancelScope()

    async def serve(self, socket: WebSocketConnection) -> None:
        """Answer requests and send notifications until either side closes."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, socket)
                try:
                    while True:
                        message = await socket.get_message()
                        raw = message.encode() if isinstance(message, str) else message
                        self._put(self._answer(raw))
                        self._tell_known_signatures()
                except ConnectionClosed:
                    nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught:
            with trio.move_on_after(1):
                await socket.aclose(1008, "too slow")

    async def _write(self, socket: WebSocketConnection) -> None:
        try:
            async for message in self._receive:
                await socket.send_message(message.decode())
        except ConnectionClosed:
            self._scope.cancel()

    def _put(self, message: bytes) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self._scope.cancel()

    # --- requests -------------------------------------------------------------------------------

    def _answer(self, raw: bytes) -> bytes:
        try:
            request: Any = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            fault = RpcFault(-32700, "Parse error")
            return msgspec.json.encode({"jsonrpc": "2.0", "error": fault.as_json(), "id": None})
        match request:
            case {"method": str(name), **rest} if name.endswith(("Subscribe", "Unsubscribe")):
                out: dict[str, Any] = {"jsonrpc": "2.0", "id": rest.get("id")}
                try:
                    out["result"] = self._subscribe(name, Arguments(rest.get("params") or []))
                except RpcFault as fault:
                    out["error"] = fault.as_json()
                return msgspec.json.encode(out)
            case _:
                return msgspec.json.encode(answer_one(self._methods, request))

    def _subscribe(self, name: str, arguments: Arguments) -> int | bool:
        if name.endswith("Unsubscribe"):
            return self._subscriptions.pop(arguments.number(0), None) is not None
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise RpcFault(INVALID_PARAMS, f"Too many subscriptions; max {MAX_SUBSCRIPTIONS}")
        kind = name.removesuffix("Subscribe")
        match kind:
            case "account" | "program":
                key = bytes(arguments.address(0))
            case "signature":
                key = read_signature(arguments.text(0))
            case "logs":
                key = _mentioned(arguments)
            case "slot" | "root":
                key = b""
            case _:
                raise RpcFault(-32601, f"Method not found: {name[:64]}")
        identifier = self._new_identifier()
        self._subscriptions[identifier] = Subscription(
            identifier=identifier,
            kind=kind,
            level=read_level(arguments.options.get("commitment")),
            key=key,
            options=arguments.options,
        )
        return identifier

    # --- notifications --------------------------------------------------------------------------

    def slot(self, slot: int, final: int) -> None:
        """Tell of a new slot."""
        for each in tuple(self._subscriptions.values()):
            if each.kind == "slot":
                self._notify(each, {"parent": slot - 1, "root": final, "slot": slot})
            elif each.kind == "root":
                self._notify(each, final)

    def landed(self, landed: Landed, changed: list[Pubkey], *, final: bool) -> None:
        """Tell of a transaction, when it lands and again when it is final."""
        for each in tuple(self._subscriptions.values()):
            if (each.level is Level.FINALIZED) != final:
                continue
            match each.kind:
                case "signature":
                    if each.key == landed.signature:
                        self._tell_signature(each, landed)
                case "account":
                    self._tell_accounts(each, [key for key in changed if bytes(key) == each.key])
                case "program":
                    self._tell_accounts(each, changed)
                case "logs":
                    if not each.key or each.key in landed.keys:
                        self._tell_logs(each, landed)
                case _:
                    pass

    def _tell_known_signatures(self) -> None:
        for each in tuple(self._subscriptions.values()):
            if each.kind == "signature":
                landed = self._ledger.transaction(each.key)
                if landed is not None and self._ledger.level_of(landed) >= each.level:
                    self._tell_signature(each, landed)

    def _tell_signature(self, subscription: Subscription, landed: Landed) -> None:
        del self._subscriptions[subscription.identifier]
        self._notify(
            subscription,
            {"context": {"slot": landed.slot}, "value": {"err": error_json(landed)}},
        )

    def _tell_accounts(self, subscription: Subscription, changed: list[Pubkey]) -> None:
        encoding = str(subscription.options.get("encoding") or "base64")
        accounts = self._methods.accounts
        for key in changed:
            account = self._ledger.account(key, subscription.level)
            value: Any
            if subscription.kind == "program":
                if account is None or bytes(account.owner) != subscription.key:
                    continue
                if not accounts.matches(account, subscription.options.get("filters")):
                    continue
                value = {
                    "pubkey": str(key),
                    "account": accounts.account_json(account, encoding),
                }
            elif account is None:
                value = {
                    "lamports": 0,
                    "owner": "1" * 32,
                    "data": ["", "base64"],
                    "executable": False,
                    "rentEpoch": 0,
                    "space": 0,
                }
            else:
                value = accounts.account_json(account, encoding)
            self._notify(subscription, self._methods.in_context(subscription.level, value))

    def _tell_logs(self, subscription: Subscription, landed: Landed) -> None:
        value = {
            "signature": base58.b58encode(landed.signature).decode("ascii"),
            "err": error_json(landed),
            "logs": list(landed.logs),
        }
        self._notify(subscription, {"context": {"slot": landed.slot}, "value": value})

    def _notify(self, subscription: Subscription, result: Any) -> None:
        self._put(
            msgspec.json.encode(
                {
                    "jsonrpc": "2.0",
                    "method": f"{subscription.kind}Notification",
                    "params": {"result": result, "subscription": subscription.identifier},
                }
            )
        )


def _mentioned(arguments: Arguments) -> bytes:
    match arguments.positions[:1]:
        case ["all" | "allWithVotes"]:
            return b""
        case [{"mentions": [str(text)]}]:
            return bytes(Arguments([text]).address(0))
        case _:
            raise RpcFault(INVALID_PARAMS, 'Invalid params: "all" or one mention is needed')
