"""The JSON-RPC methods that send transactions, try them, and tell what became of them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.account_json import BadEncoding
from robocompute_settlement.embedded.block_methods import version_fault
from robocompute_settlement.embedded.ledger import Level, Simulated, token_amounts
from robocompute_settlement.embedded.requests import (
    PREFLIGHT_FAILURE,
    Arguments,
    RpcFault,
    in_context,
    invalid_params,
    read_address,
    read_level,
    read_signature,
)
from robocompute_settlement.embedded.transaction_json import (
    ENCODINGS,
    VersionNotSupported,
    error_json,
    inner_json,
    memo_of,
    returned_json,
    signature_text,
    status_json,
    token_balances_json,
    transaction_json,
)
from robocompute_settlement.embedded.wire import (
    MAX_TRANSACTION_BYTES,
    Malformed,
    describe_error,
    parse_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.account_methods import AccountMethods
    from robocompute_settlement.embedded.ledger import Ledger
    from robocompute_settlement.embedded.storage import Landed

MAX_STATUSES: Final = 256
MAX_SIGNATURES: Final = 1_000
"""Limits of one request, as a node has them."""
STATUS_SLOTS: Final = 300
"""How long a node knows a signature's status without looking into its history."""
MAX_BASE64_CHARS: Final = 1_644
MAX_BASE58_CHARS: Final = 1_683
"""The longest texts that decode to a packet."""
_TYPE: Final = "solana_transaction::versioned::VersionedTransaction"


class TransactionMethods:
    """``table`` has the methods by name."""

    def __init__(
        self, ledger: Ledger, accounts: AccountMethods, behind: Callable[[], RpcFault | None]
    ) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._behind = behind
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "getSignatureStatuses": self._get_signature_statuses,
            "getSignaturesForAddress": self._get_signatures_for_address,
            "getTransaction": self._get_transaction,
            "requestAirdrop": self._request_airdrop,
            "sendTransaction": self._send_transaction,
            "simulateTransaction": self._simulate_transaction,
        }

    # --- what became of one ---------------------------------------------------------------------

    def _get_signature_statuses(self, arguments: Arguments) -> Any:
        history = arguments.flag("searchTransactionHistory")
        signatures = [read_signature(text) for text in arguments.texts(0, MAX_STATUSES)]
        statuses = [self._status(signature, history=history) for signature in signatures]
        return in_context(self._ledger.slot(Level.PROCESSED), statuses)

    def _status(self, signature: bytes, *, history: bool) -> dict[str, Any] | None:
        landed = self._ledger.transaction(signature)
        if landed is None:
            return None
        present = self._ledger.slot(Level.PROCESSED)
        if not history and landed.slot < present - STATUS_SLOTS:
            return None
        final = self._ledger.level_of(landed) is Level.FINALIZED
        error = error_json(landed)
        return {
            "slot": landed.slot,
            "confirmations": None if final else present - landed.slot,
            "err": error,
            "status": status_json(error),
            "confirmationStatus": self._level_name(landed),
        }

    def _level_name(self, landed: Landed) -> str:
        return (self._ledger.level_of(landed) or Level.PROCESSED).name.lower()

    def _get_signatures_for_address(self, arguments: Arguments) -> Any:
        address = bytes(arguments.address(0))
        level = arguments.settled_level
        limit = arguments.option_number("limit")
        limit = MAX_SIGNATURES if limit is None else limit
        if not 1 <= limit <= MAX_SIGNATURES:
            raise invalid_params(f"Invalid limit; max {MAX_SIGNATURES}")
        before, until = arguments.options.get("before"), arguments.options.get("until")
        start = None if before is None else read_signature(str(before))
        end = None if until is None else read_signature(str(until))
        out: list[dict[str, Any]] = []
        for signature in self._ledger.touching(address, before=start):
            if signature == end or len(out) == limit:
                break
            landed = self._ledger.transaction(signature)
            if landed is not None and landed.slot <= self._ledger.slot(level):
                out.append(
                    {
                        "signature": signature_text(signature),
                        "slot": landed.slot,
                        "err": error_json(landed),
                        "memo": memo_of(landed),
                        "blockTime": landed.time_s,
                        "confirmationStatus": self._level_name(landed),
                    }
                )
        return out

    def _get_transaction(self, arguments: Arguments) -> Any:
        signature = read_signature(arguments.text(0))
        level = arguments.settled_level
        second = arguments.at(1)
        encoding = second if isinstance(second, str) else arguments.encoding or "json"
        landed = self._ledger.transaction(signature)
        if landed is None or landed.slot > self._ledger.slot(level):
            return None
        newest = arguments.option_number("maxSupportedTransactionVersion")
        try:
            return transaction_json(landed, encoding, newest, self._accounts.decimals)
        except VersionNotSupported:
            raise version_fault() from None
        except BadEncoding:
            raise _unknown_encoding(encoding) from None

    # --- sending --------------------------------------------------------------------------------

    def _wire(self, arguments: Arguments) -> bytes:
        text, encoding = arguments.text(0), arguments.encoding or "base58"
        if encoding == "base64":
            _check_length(text, MAX_BASE64_CHARS, encoding)
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                raise invalid_params(f"invalid base64 encoding: {_bad_base64(text)}") from None
        if encoding not in ("base58", "binary"):
            raise _unknown_encoding(encoding)
        _check_length(text, MAX_BASE58_CHARS, "base58")
        try:
            return base58.b58decode(text)
        except ValueError:
            raise invalid_params(f"invalid base58 encoding: {_bad_base58(text)}") from None

    def _send_transaction(self, arguments: Arguments) -> Any:
        wire = self._wire(arguments)
        try:
            transaction = parse_transaction(wire)
        except Malformed as exc:
            raise invalid_params(str(exc)) from exc
        if not arguments.flag("skipPreflight"):
            fault = self._behind()
            if fault is not None:
                raise fault
            done = self._ledger.simulate(
                transaction,
                level=read_level(arguments.options.get("preflightCommitment")),
                check_signatures=True,
                any_blockhash=False,
            )
            if done.error is not None:
                message = f"Transaction simulation failed: {describe_error(done.error)}"
                raise RpcFault(PREFLIGHT_FAILURE, message, _refused(done))
        return signature_text(self._ledger.submit(wire))

    def _request_airdrop(self, arguments: Arguments) -> Any:
        address, lamports = arguments.address(0), arguments.number(1)
        named = arguments.options.get("recentBlockhash")
        blockhash = None if named is None else bytes(read_address(str(named)))
        faucet = self._ledger.account(self._ledger.faucet)
        if faucet is None or lamports > faucet.lamports // 2:
            raise invalid_params("Invalid param: the faucet has not so much")
        return signature_text(self._ledger.airdrop(address, lamports, blockhash))

    # --- trying ---------------------------------------------------------------------------------

    def _simulate_transaction(self, arguments: Arguments) -> Any:
        checked = arguments.flag("sigVerify")
        replaced = arguments.flag("replaceRecentBlockhash")
        if checked and replaced:
            raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
        try:
            transaction = parse_transaction(self._wire(arguments))
        except Malformed as exc:
            raise invalid_params(str(exc)) from exc
        done = self._ledger.simulate(
            transaction,
            level=arguments.level,
            check_signatures=checked,
            any_blockhash=replaced,
        )
        value: dict[str, Any] = {
            **_summary(done),
            "accounts": self._simulated_accounts(
                done, arguments.options.get("accounts"), len(transaction.message.account_keys)
            ),
            "loadedAddresses": {"writable": [], "readonly": []},
            **self._balances(done),
        }
        outcome = done.outcome
        if outcome is not None:
            static = len(transaction.message.account_keys)
            for index, key in enumerate(outcome.keys[static:], static):
                side = "writable" if index in outcome.writable else "readonly"
                value["loadedAddresses"][side].append(str(key))
            if arguments.flag("innerInstructions"):
                keys = [str(key) for key in outcome.keys]
                value["innerInstructions"] = inner_json(outcome.inner, keys, spelled=True)
        if replaced:
            blockhash, last = self._ledger.latest_blockhash(arguments.level)
            value["replacementBlockhash"] = {
                "blockhash": str(Pubkey.from_bytes(blockhash)),
                "lastValidBlockHeight": last,
            }
        return in_context(self._ledger.slot(arguments.level), value)

    def _balances(self, done: Simulated) -> dict[str, Any]:
        if done.before is None or done.after is None:
            names = ("preBalances", "postBalances", "preTokenBalances", "postTokenBalances")
            return dict.fromkeys(names)
        decimals = self._accounts.decimals
        return {
            "preBalances": [0 if each is None else each.lamports for each in done.before],
            "postBalances": [0 if each is None else each.lamports for each in done.after],
            "preTokenBalances": token_balances_json(token_amounts(done.before), decimals),
            "postTokenBalances": token_balances_json(token_amounts(done.after), decimals),
        }

    def _simulated_accounts(self, done: Simulated, wanted: Any, most: int) -> Any:
        match wanted:
            case None:
                return None
            case {"addresses": list(texts), **rest}:  # pyright: ignore[reportUnknownVariableType]
                encoding = str(rest.get("encoding", "base64"))
            case _:
                raise invalid_params("Invalid params: accounts: expected addresses.")
        if encoding in ("binary", "base58"):
            raise invalid_params("base58 encoding not supported")
        if len(texts) > most:  # pyright: ignore[reportUnknownArgumentType]
            raise invalid_params(f"Too many accounts provided; max {most}")
        addresses = [read_address(str(text)) for text in texts]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if done.outcome is None or done.error is not None:
            return [None for _ in addresses]
        after = dict(zip(done.outcome.keys, done.outcome.after, strict=True))
        return [
            self._accounts.account_json(
                address,
                after[address] if address in after else self._ledger.account(address),
                encoding,
            )
            for address in addresses
        ]


def _summary(done: Simulated) -> dict[str, Any]:
    outcome = done.outcome
    returned = None if outcome is None else outcome.returned
    return {
        "accounts": None,
        "err": done.error,
        "fee": None if outcome is None else outcome.fee.total,
        "innerInstructions": None,
        "loadedAccountsDataSize": 0 if outcome is None else outcome.loaded_bytes,
        "logs": [] if outcome is None else list(outcome.logs),
        "replacementBlockhash": None,
        "returnData": None if returned is None else returned_json(returned),
        "unitsConsumed": 0 if outcome is None else outcome.units,
    }


def _refused(done: Simulated) -> dict[str, Any]:
    """What a failed preflight tells of the simulation."""
    absent = ("loadedAddresses", "preBalances", "postBalances", "preTokenBalances",
              "postTokenBalances")  # fmt: skip
    return {**_summary(done), **dict.fromkeys(absent)}


def _check_length(text: str, most: int, encoding: str) -> None:
    if len(text) > most:
        raise invalid_params(
            f"{encoding} encoded {_TYPE} too large: {len(text)} bytes "
            f"(max: encoded/raw {most}/{MAX_TRANSACTION_BYTES})"
        )


def _bad_base64(text: str) -> str:
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    for index, each in enumerate(text):
        if each not in allowed:
            return f"InvalidByte({index}, {ord(each)})"
    return "InvalidPadding"


def _bad_base58(text: str) -> str:
    for index, each in enumerate(text):
        if each not in base58.BITCOIN_ALPHABET.decode():
            return f"InvalidCharacter {{ character: '{each}', index: {index} }}"
    return "InvalidCharacter"


def _unknown_encoding(encoding: str) -> RpcFault:
    known = ", ".join(f"`{each}`" for each in ENCODINGS)
    return invalid_params(
        f"Invalid params: unknown variant `{encoding[:64]}`, expected one of {known}."
    )
