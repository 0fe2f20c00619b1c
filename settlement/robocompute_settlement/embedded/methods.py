"""The JSON-RPC methods: parameters in, results out, over one ledger."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.message import from_bytes_versioned
from solders.pubkey import Pubkey

from robocompute_settlement.embedded import encoding as forms
from robocompute_settlement.embedded.account_methods import AccountMethods
from robocompute_settlement.embedded.genesis import rent_exempt
from robocompute_settlement.embedded.ledger import Ledger, Level, Simulated
from robocompute_settlement.embedded.requests import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MIN_CONTEXT_SLOT,
    PREFLIGHT_FAILURE,
    SIGNATURE_FAILURE,
    SOLANA_VERSION,
    VERSION_NOT_SUPPORTED,
    Arguments,
    RpcFault,
    in_context,
    read_address,
    read_signature,
)
from robocompute_settlement.embedded.storage import unpack_account
from robocompute_settlement.embedded.timeline import SLOTS_PER_EPOCH
from robocompute_settlement.embedded.wire import NotTaken, fee_of, parse_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.storage import Landed

FEATURE_SET: Final = 3640012085
MAX_STATUSES: Final = 256
MAX_SIGNATURES: Final = 1000
"""Limits of one request, as a node has them."""


class Methods:
    """What a client may call. ``call`` looks the name up; the table is ``names``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.accounts = AccountMethods(ledger)
        self._table: dict[str, Callable[[Arguments], Any]] = {
            "getHealth": lambda _: "ok",
            "getVersion": lambda _: {"solana-core": SOLANA_VERSION, "feature-set": FEATURE_SET},
            "getGenesisHash": lambda _: str(Pubkey.from_bytes(ledger.founding.genesis_hash)),
            "getIdentity": lambda _: {"identity": str(ledger.faucet)},
            "getClusterNodes": self._get_cluster_nodes,
            "getSlot": lambda a: ledger.slot(a.level),
            "getBlockHeight": lambda a: ledger.slot(a.level),
            "getTransactionCount": lambda _: ledger.transaction_count,
            "getFirstAvailableBlock": lambda _: 0,
            "minimumLedgerSlot": lambda _: 0,
            "getSlotLeader": lambda _: str(ledger.faucet),
            "getEpochInfo": self._get_epoch_info,
            "getEpochSchedule": self._get_epoch_schedule,
            "getBlockTime": self._get_block_time,
            "getLatestBlockhash": self._get_latest_blockhash,
            "isBlockhashValid": self._is_blockhash_valid,
            "getFeeForMessage": self._get_fee_for_message,
            "getRecentPrioritizationFees": lambda _: [],
            "getMinimumBalanceForRentExemption": lambda a: rent_exempt(a.number(0)),
            **self.accounts.table,
            "getSignatureStatuses": self._get_signature_statuses,
            "getSignaturesForAddress": self._get_signatures_for_address,
            "getTransaction": self._get_transaction,
            "sendTransaction": self._send_transaction,
            "simulateTransaction": self._simulate_transaction,
            "requestAirdrop": self._request_airdrop,
            "embeddedSkip": self._embedded_skip,
            "embeddedFaults": self._embedded_faults,
            "embeddedFaultsLeft": lambda _: asdict(ledger.faults),
            "embeddedRollback": lambda a: ledger.roll_back(a.number(0)),
            "embeddedSetAccount": self._embedded_set_account,
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def call(self, name: str, params: Any) -> Any:
        """Answer one request.

        Raises:
            RpcFault: the answer is an error object.
        """
        method = self._table.get(name)
        if method is None:
            raise RpcFault(METHOD_NOT_FOUND, f"Method not found: {name[:64]}")
        if params is None:
            params = []
        if not isinstance(params, list):
            raise RpcFault(INVALID_PARAMS, "Invalid params: a list is needed")
        arguments = Arguments(params)  # pyright: ignore[reportUnknownArgumentType]
        floor = arguments.options.get("minContextSlot")
        if isinstance(floor, int) and floor > self._ledger.slot(arguments.level):
            raise RpcFault(
                MIN_CONTEXT_SLOT,
                "Minimum context slot has not been reached",
                {"contextSlot": self._ledger.slot(arguments.level)},
            )
        try:
            return method(arguments)
        except forms.BadEncoding as exc:
            raise RpcFault(INVALID_PARAMS, str(exc)) from exc

    # --- forms others use too -------------------------------------------------------------------

    def in_context(self, level: Level, value: Any) -> dict[str, Any]:
        """An answer that says at which slot it is true."""
        return in_context(self._ledger.slot(level), value)

    # --- the chain ------------------------------------------------------------------------------

    def _get_cluster_nodes(self, _: Arguments) -> Any:
        return [
            {
                "pubkey": str(self._ledger.faucet),
                "gossip": None,
                "tpu": None,
                "tpuQuic": None,
                "rpc": None,
                "pubsub": None,
                "version": SOLANA_VERSION,
                "featureSet": FEATURE_SET,
                "shredVersion": 1,
            }
        ]

    def _get_epoch_info(self, arguments: Arguments) -> Any:
        slot = self._ledger.slot(arguments.level)
        return {
            "absoluteSlot": slot,
            "blockHeight": slot,
            "epoch": slot // SLOTS_PER_EPOCH,
            "slotIndex": slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": self._ledger.transaction_count,
        }

    def _get_epoch_schedule(self, _: Arguments) -> Any:
        return {
            "slotsPerEpoch": SLOTS_PER_EPOCH,
            "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
            "warmup": False,
            "firstNormalEpoch": 0,
            "firstNormalSlot": 0,
        }

    def _get_block_time(self, arguments: Arguments) -> Any:
        slot = arguments.number(0)
        return None if slot > self._ledger.tick() else self._ledger.timeline.time_s(slot)

    def _get_latest_blockhash(self, arguments: Arguments) -> Any:
        blockhash, last = self._ledger.latest_blockhash(arguments.level)
        value = {"blockhash": str(Pubkey.from_bytes(blockhash)), "lastValidBlockHeight": last}
        return self.in_context(arguments.level, value)

    def _is_blockhash_valid(self, arguments: Arguments) -> Any:
        self._ledger.tick()
        valid = self._ledger.timeline.is_recent(bytes(arguments.address(0)))
        return self.in_context(arguments.level, valid)

    def _get_fee_for_message(self, arguments: Arguments) -> Any:
        try:
            raw = base64.b64decode(arguments.text(0), validate=True)
            # Solders reads the version prefix from the first byte, as the wire has it.
            message = from_bytes_versioned(raw)
        except (ValueError, binascii.Error) as exc:
            raise RpcFault(INVALID_PARAMS, f"Invalid params: no message: {exc}") from exc
        self._ledger.tick()
        recent = self._ledger.timeline.is_recent(bytes(message.recent_blockhash))
        return self.in_context(arguments.level, fee_of(message) if recent else None)

    # --- transactions ---------------------------------------------------------------------------

    def _get_signature_statuses(self, arguments: Arguments) -> Any:
        statuses = [
            self.status_json(read_signature(text)) for text in arguments.texts(0, MAX_STATUSES)
        ]
        return self.in_context(Level.CONFIRMED, statuses)

    def status_json(self, signature: bytes) -> dict[str, Any] | None:
        """What is known of a signature; ``None`` where it is in no block."""
        landed = self._ledger.transaction(signature)
        if landed is None:
            return None
        level = self._ledger.level_of(landed)
        error = forms.error_json(landed)
        return {
            "slot": landed.slot,
            "confirmations": (
                None if level is Level.FINALIZED else self._ledger.tick() - landed.slot
            ),
            "err": error,
            "status": forms.status_json(error),
            "confirmationStatus": level.name.lower(),
        }

    def _get_signatures_for_address(self, arguments: Arguments) -> Any:
        limit = arguments.options.get("limit") or MAX_SIGNATURES
        if not isinstance(limit, int) or not 1 <= limit <= MAX_SIGNATURES:
            raise RpcFault(INVALID_PARAMS, f"Invalid limit; max {MAX_SIGNATURES}")
        before = arguments.options.get("before")
        until = arguments.options.get("until")
        skipping = before is not None
        out: list[dict[str, Any]] = []
        for signature in self._ledger.touching(bytes(arguments.address(0))):
            text = base58.b58encode(signature).decode("ascii")
            if text == until or len(out) == limit:
                break
            if skipping:
                skipping = text != before
                continue
            landed = self._ledger.transaction(signature)
            if landed is not None and self._ledger.level_of(landed) >= arguments.level:
                out.append(self._signature_json(text, landed))
        return out

    def _signature_json(self, text: str, landed: Landed) -> dict[str, Any]:
        return {
            "signature": text,
            "slot": landed.slot,
            "err": forms.error_json(landed),
            "memo": None,
            "blockTime": landed.time_s,
            "confirmationStatus": self._ledger.level_of(landed).name.lower(),
        }

    def _get_transaction(self, arguments: Arguments) -> Any:
        signature = read_signature(arguments.text(0))
        encoding = arguments.encoding
        if len(arguments.positions) > 1 and isinstance(arguments.positions[1], str):
            encoding = arguments.positions[1]
        landed = self._ledger.transaction(signature)
        if landed is None or self._ledger.level_of(landed) < arguments.level:
            return None
        out = forms.transaction_json(landed, encoding or "json", self.accounts.decimals)
        newest = arguments.options.get("maxSupportedTransactionVersion")
        if newest is None:
            if out["version"] != "legacy":
                raise RpcFault(
                    VERSION_NOT_SUPPORTED,
                    "Transaction version (0) is not supported by the requesting client. Please "
                    "try the request again with the following configuration parameter: "
                    '"maxSupportedTransactionVersion": 0',
                )
            del out["version"]
        return out

    def _wire(self, arguments: Arguments) -> bytes:
        text = arguments.text(0)
        try:
            if arguments.encoding == "base64":
                return base64.b64decode(text, validate=True)
            return base58.b58decode(text)
        except (ValueError, binascii.Error) as exc:
            raise RpcFault(INVALID_PARAMS, f"invalid encoding: {exc}") from exc

    def _send_transaction(self, arguments: Arguments) -> Any:
        preflight = not arguments.options.get("skipPreflight", False)
        try:
            signature = self._ledger.submit(self._wire(arguments), preflight=preflight)
        except NotTaken as refused:
            raise self._refusal(refused) from refused
        return base58.b58encode(signature).decode("ascii")

    def _refusal(self, refused: NotTaken) -> RpcFault:
        if refused.error in ("SanitizeFailure", "TooLarge"):
            return RpcFault(INVALID_PARAMS, str(refused))
        if refused.error == "SignatureFailure":
            return RpcFault(SIGNATURE_FAILURE, str(refused))
        return RpcFault(
            PREFLIGHT_FAILURE,
            f"Transaction simulation failed: {refused}",
            {
                "err": refused.error,
                "logs": list(refused.logs),
                "accounts": None,
                "unitsConsumed": refused.units,
                "returnData": None,
                "innerInstructions": None,
                "replacementBlockhash": None,
            },
        )

    def _simulate_transaction(self, arguments: Arguments) -> Any:
        options = arguments.options
        try:
            transaction = parse_transaction(self._wire(arguments))
        except NotTaken as refused:
            raise self._refusal(refused) from refused
        done = self._ledger.simulate(
            transaction,
            check_signatures=bool(options.get("sigVerify", False)),
            any_blockhash=bool(options.get("replaceRecentBlockhash", False)),
        )
        value: dict[str, Any] = {
            "err": done.error,
            "logs": list(done.logs),
            "accounts": self._simulated_accounts(done, options.get("accounts")),
            "unitsConsumed": done.units,
            "returnData": None,
            "innerInstructions": None,
            "replacementBlockhash": None,
        }
        if done.returned is not None:
            program, data = done.returned
            value["returnData"] = {
                "programId": str(Pubkey.from_bytes(program)),
                "data": forms.encoded_data(data, "base64"),
            }
        if options.get("replaceRecentBlockhash"):
            blockhash, last = self._ledger.latest_blockhash(arguments.level)
            value["replacementBlockhash"] = {
                "blockhash": str(Pubkey.from_bytes(blockhash)),
                "lastValidBlockHeight": last,
            }
        return self.in_context(arguments.level, value)

    def _simulated_accounts(self, done: Simulated, wanted: Any) -> Any:
        match wanted:
            case None:
                return None
            case {"addresses": list(texts), **rest}:  # pyright: ignore[reportUnknownVariableType]
                return [
                    self.accounts.account_json(
                        done.accounts.get(address) or self._ledger.account(address),
                        str(rest.get("encoding", "base64")),
                    )
                    for address in map(read_address, texts)  # pyright: ignore[reportUnknownArgumentType]
                ]
            case _:
                raise RpcFault(INVALID_PARAMS, "Invalid params: accounts")

    def _request_airdrop(self, arguments: Arguments) -> Any:
        try:
            signature = self._ledger.airdrop(arguments.address(0), arguments.number(1))
        except NotTaken as refused:
            raise RpcFault(INVALID_PARAMS, f"airdrop refused: {refused}") from refused
        return base58.b58encode(signature).decode("ascii")

    # --- for tests ------------------------------------------------------------------------------

    def _embedded_skip(self, arguments: Arguments) -> Any:
        self._ledger.skip(arguments.number(0))
        return self._ledger.tick()

    def _embedded_faults(self, arguments: Arguments) -> Any:
        for name, value in arguments.options.items():
            if name not in ("drop", "expire_blockhashes", "clock_drift_s"):
                raise RpcFault(INVALID_PARAMS, f"Invalid params: no such fault {name!r}")
            setattr(self._ledger.faults, name, int(value))
        return None

    def _embedded_set_account(self, arguments: Arguments) -> Any:
        try:
            account = unpack_account(base64.b64decode(arguments.text(1), validate=True))
        except (ValueError, binascii.Error) as exc:
            raise RpcFault(INVALID_PARAMS, f"Invalid params: {exc}") from exc
        self._ledger.set_account(arguments.address(0), account)
        return None
