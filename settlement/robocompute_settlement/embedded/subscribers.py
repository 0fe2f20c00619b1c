"""One websocket client: what it wants to hear of, and what it has not read yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from solders.pubkey import Pubkey
from trio_websocket import ConnectionClosed, WebSocketConnection

from robocompute_settlement.embedded.account_json import (
    ENCODINGS,
    BadEncoding,
    TooLargeForBase58,
)
from robocompute_settlement.embedded.account_methods import read_filters
from robocompute_settlement.embedded.http import error_answer
from robocompute_settlement.embedded.requests import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Arguments,
    RpcFault,
    invalid_params,
    read_signature,
)
from robocompute_settlement.embedded.transaction_json import error_json, signature_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.ledger import Ledger, Level
    from robocompute_settlement.embedded.methods import Methods
    from robocompute_settlement.embedded.storage import Landed

QUEUE: Final = 1_024
"""Notifications a client may leave unread."""
MAX_SUBSCRIPTIONS: Final = 1_000
"""Subscriptions of one connection."""
CLOSE_S: Final = 1.0
"""How long a client that is thrown out may take to say goodbye."""
KINDS: Final = ("account", "logs", "program", "root", "signature", "slot")
"""``<kind>Subscribe`` and ``<kind>Unsubscribe`` are the methods of a websocket."""
_NO_ACCOUNT: Final = {
    "lamports": 0,
    "owner": str(Pubkey.default()),
    "data": ["", "base64"],
    "executable": False,
    "rentEpoch": 0,
    "space": 0,
}


@dataclass(slots=True, kw_only=True)
class Subscription:
    """One thing a client wants to hear of, at one commitment."""

    identifier: int
    kind: str
    level: Level
    key: bytes = b""
    """The account, program, signature or mentioned address; empty for all."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    received: bool = False
    """Whether the client was told that a signature is known, where it asked for that."""


class Subscriber:
    """A connection. Whatever is told of goes into its queue; nothing here waits for the client."""

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
                        self._put(msgspec.json.encode(self._answer(raw)))
                        self._tell_known_signatures()
                except ConnectionClosed:
                    nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught:
            with trio.move_on_after(CLOSE_S):
                await socket.aclose(1008, "too slow")

    def cut(self) -> None:
        """Close the connection."""
        self._scope.cancel()

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

    def _answer(self, raw: bytes) -> dict[str, Any]:
        try:
            request: Any = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            return error_answer(None, RpcFault(PARSE_ERROR, "Parse error"))
        match request:
            case {"method": str(name), **rest}:
                identifier = rest.get("id")
                params: Any = rest.get("params") or []
                if not isinstance(params, list):
                    return error_answer(identifier, invalid_params("Invalid params"))
                try:
                    result = self._subscribe(name, Arguments(params))  # pyright: ignore[reportUnknownArgumentType]
                except RpcFault as fault:
                    return error_answer(identifier, fault)
                return {"jsonrpc": "2.0", "result": result, "id": identifier}
            case _:
                return error_answer(None, RpcFault(INVALID_REQUEST, "Invalid request"))

    def _subscribe(self, name: str, arguments: Arguments) -> int | bool:
        kind, _, verb = name.partition("Unsubscribe" if "Unsubscribe" in name else "Subscribe")
        if kind not in KINDS or verb:
            raise RpcFault(METHOD_NOT_FOUND, "Method not found")
        if name.endswith("Unsubscribe"):
            if self._subscriptions.pop(arguments.number(0), None) is None:
                raise invalid_params("Invalid subscription id.")
            return True
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise invalid_params(f"Too many subscriptions; max {MAX_SUBSCRIPTIONS}")
        match kind:
            case "account" | "program":
                key = bytes(arguments.address(0))
                read_filters(arguments.options.get("filters"))
                if (arguments.encoding or "base64") not in ENCODINGS:
                    raise invalid_params("Invalid params: unknown encoding.")
            case "signature":
                key = read_signature(arguments.text(0))
            case "logs":
                key = _mentioned(arguments)
            case _:
                key = b""
        subscription = Subscription(
            identifier=self._new_identifier(),
            kind=kind,
            level=arguments.level,
            key=key,
            options=arguments.options,
        )
        self._subscriptions[subscription.identifier] = subscription
        return subscription.identifier

    # --- notifications --------------------------------------------------------------------------

    def tell_slot(self, slot: int, root: int) -> None:
        """Tell of a new slot."""
        for each in tuple(self._subscriptions.values()):
            if each.kind == "slot":
                self._notify(each, {"parent": max(0, slot - 1), "root": root, "slot": slot})
            elif each.kind == "root":
                self._notify(each, root)

    def tell_landed(self, landed: Landed, changed: list[Pubkey], level: Level) -> None:
        """Tell of a transaction that has just become this sure."""
        for each in tuple(self._subscriptions.values()):
            if each.kind == "signature" and each.key == landed.signature:
                self._tell_signature(each, landed, level)
            if each.level is not level:
                continue
            match each.kind:
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
                level = None if landed is None else self._ledger.level_of(landed)
                if landed is not None and level is not None:
                    self._tell_signature(each, landed, level)

    def _tell_signature(self, subscription: Subscription, landed: Landed, level: Level) -> None:
        wanted = subscription.options.get("enableReceivedNotification") is True
        if wanted and not subscription.received:
            subscription.received = True
            self._notify(subscription, _at_slot(landed.slot, "receivedSignature"))
        if level >= subscription.level and self._subscriptions.pop(subscription.identifier, None):
            self._notify(subscription, _at_slot(landed.slot, {"err": error_json(landed)}))

    def _tell_accounts(self, subscription: Subscription, changed: list[Pubkey]) -> None:
        level = subscription.level
        for key in changed:
            account = self._ledger.account(key, level)
            if subscription.kind == "account":
                value = _NO_ACCOUNT if account is None else self._account(subscription, key)
            elif (
                account is None
                or bytes(account.owner) != subscription.key
                or not self._methods.accounts.matches(account, subscription.options.get("filters"))
            ):
                continue
            else:
                value = {"pubkey": str(key), "account": self._account(subscription, key)}
            self._notify(subscription, _at_slot(self._ledger.slot(level), value))

    def _account(self, subscription: Subscription, key: Pubkey) -> Any:
        arguments = Arguments([subscription.options])
        account = self._ledger.account(key, subscription.level)
        write = self._methods.accounts.account_json
        try:
            return write(key, account, arguments.encoding or "binary", arguments.data_slice)
        except (BadEncoding, TooLargeForBase58, RpcFault):
            return write(key, account, "base64")

    def _tell_logs(self, subscription: Subscription, landed: Landed) -> None:
        value = {
            "signature": signature_text(landed.signature),
            "err": error_json(landed),
            "logs": list(landed.logs),
        }
        self._notify(subscription, _at_slot(landed.slot, value))

    def _notify(self, subscription: Subscription, result: Any) -> None:
        if self._ledger.faults.mute_subscriptions:
            return
        self._put(
            msgspec.json.encode(
                {
                    "jsonrpc": "2.0",
                    "method": f"{subscription.kind}Notification",
                    "params": {"result": result, "subscription": subscription.identifier},
                }
            )
        )


def _at_slot(slot: int, value: Any) -> dict[str, Any]:
    """A notification that says at which slot it is true."""
    return {"context": {"slot": slot}, "value": value}


def _mentioned(arguments: Arguments) -> bytes:
    match arguments.positions[:1]:
        case ["all" | "allWithVotes"]:
            return b""
        case [{"mentions": [str(text)]}]:
            return bytes(Arguments([text]).address(0))
        case [{"mentions": list()}]:
            raise invalid_params("Invalid Request: Only 1 address supported")
        case _:
            raise invalid_params("Invalid params: expected all, allWithVotes or mentions.")
