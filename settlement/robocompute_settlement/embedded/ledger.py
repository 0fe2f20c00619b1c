"""The chain itself: executes transactions in LiteSVM, stores what they changed, and answers reads.

Everything here is synchronous and belongs to one task. Listeners are called after a transaction
is stored and before its sender is answered.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_settlement.embedded.genesis import (
    Genesis,
    genesis_accounts,
    genesis_hash,
)
from robocompute_settlement.embedded.storage import (
    ChainStore,
    Founding,
    Landed,
    Undo,
    pack_account,
    unpack_account,
)
from robocompute_settlement.embedded.timeline import (
    BLOCKHASH_SLOTS,
    SLOTS_PER_EPOCH,
    Timeline,
)
from robocompute_settlement.embedded.wire import (
    NotTaken,
    describe_error,
    fee_of,
    parse_transaction,
)

if TYPE_CHECKING:
    from solders.message import Message

LOOKUP_HEADER_BYTES: Final = 56
"""An address lookup table's addresses begin here."""
TOKEN_ACCOUNT_BYTES: Final = 165

Listener = Callable[[Landed, list[Pubkey]], None]
"""Called with a transaction that landed and the accounts it changed."""


class Level(IntEnum):
    """How sure a reader wants to be. With one voter, processed and confirmed are the same."""

    PROCESSED = 0
    CONFIRMED = 1
    FINALIZED = 2


@dataclass(slots=True, kw_only=True)
class Faults:
    """What a test may switch on. Each counts down, or lasts until it is reset."""

    drop: int = 0
    """This many transactions are answered with a signature and then forgotten."""
    expire_blockhashes: int = 0
    """This many times, the latest blockhash given out is one that has already expired."""
    clock_drift_s: int = 0
    """Added to the chain's clock, not to its slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a transaction would do."""

    error: Any
    logs: tuple[str, ...]
    units: int
    returned: tuple[bytes, bytes] | None
    accounts: dict[Pubkey, Account] = field(default_factory=dict[Pubkey, Account])


class Ledger:
    """One chain. ``now_ms`` is the wall clock; everything else comes from the store."""

    def __init__(self, store: ChainStore, founding: Founding, now_ms: Callable[[], int]) -> None:
        """Restore the chain that is in ``store``; ``open_ledger`` founds one where needed."""
        self._store = store
        self._now_ms = now_ms
        self._offset_ms = store.number(b"offset_ms")
        self.founding = founding
        self.faults = Faults()
        self.timeline = Timeline(founded_ms=founding.founded_ms, seed=founding.seed)
        self.timeline.advance_to(store.number(b"slot"))
        self._faucet = Keypair.from_bytes(founding.faucet)
        self._sequence = store.number(b"sequence")
        self._listeners: list[Listener] = []
        self._clocked: tuple[int, int] | None = None
        self._svm = (
            LiteSVM()
            .with_sigverify(False)  # checked here, so that a simulation may leave it out
            .with_blockhash_check(False)  # LiteSVM knows one blockhash; the timeline knows 150
            .with_transaction_history(0)  # duplicates are looked up in the store
        )
        self._by_owner: dict[Pubkey, set[Pubkey]] = defaultdict(set)
        for address, account in store.accounts():
            self._svm.set_account(address, account)
            self._by_owner[account.owner].add(address)
        self._undo: dict[Pubkey, list[Undo]] = defaultdict(list)
        for undo in store.undos():
            self._undo[Pubkey.from_bytes(undo.address)].append(undo)

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> int:
        """Move to the present slot and return it."""
        slot = self.timeline.advance(self._now_ms() + self._offset_ms)
        stamp = self.timeline.time_s(slot) + self.faults.clock_drift_s
        if self._clocked != (slot, stamp):
            self._clocked = (slot, stamp)
            epoch = slot // SLOTS_PER_EPOCH
            self._svm.warp_to_slot(slot)
            self._svm.set_clock(
                Clock(
                    slot=slot,
                    epoch_start_timestamp=self.timeline.time_s(epoch * SLOTS_PER_EPOCH),
                    epoch=epoch,
                    leader_schedule_epoch=epoch + 1,
                    unix_timestamp=stamp,
                )
            )
        return slot

    def skip(self, seconds: int) -> None:
        """Let time pass at once, slots and clock alike. Remembered over restarts."""
        self._offset_ms += seconds * 1000
        self._store.set_number(b"offset_ms", self._offset_ms)
        self.tick()

    def final_slot(self) -> int:
        """The newest slot that is final."""
        return max(0, self.tick() - self.founding.finality_slots)

    def slot(self, level: Level) -> int:
        return self.final_slot() if level is Level.FINALIZED else self.tick()

    def latest_blockhash(self, level: Level) -> tuple[bytes, int]:
        """A blockhash and the last slot whose blocks accept it."""
        slot = self.slot(level)
        if self.faults.expire_blockhashes > 0:
            self.faults.expire_blockhashes -= 1
            stale = slot - BLOCKHASH_SLOTS - 1
            return self.timeline.blockhash(max(stale, 0) if stale >= 0 else 2**63), slot
        return self.timeline.blockhash(slot), slot + BLOCKHASH_SLOTS

    def level_of(self, landed: Landed) -> Level:
        """How sure a landed transaction is by now."""
        return Level.FINALIZED if landed.slot <= self.final_slot() else Level.CONFIRMED

    # --- reads ----------------------------------------------------------------------------------

    def account(self, address: Pubkey, level: Level = Level.CONFIRMED) -> Account | None:
        """The account as it was at this level; ``None`` where there is none."""
        if level is Level.FINALIZED and address in self._undo:
            final = self.final_slot()
            kept = [undo for undo in self._undo[address] if undo.slot > final]
            if kept:
                self._undo[address] = kept
                first = kept[0].account
                return None if first is None else unpack_account(first)
            del self._undo[address]
        account = self._svm.get_account(address)
        return None if account is None or account.lamports == 0 else account

    def accounts_of(
        self, owner: Pubkey, level: Level = Level.CONFIRMED
    ) -> list[tuple[Pubkey, Account]]:
        """The accounts a program owned at this level, by address."""
        candidates = set(self._by_owner.get(owner, ()))
        if level is Level.FINALIZED:
            candidates |= set(self._undo)
        found = [(address, self.account(address, level)) for address in candidates]
        owned = [(key, account) for key, account in found if account and account.owner == owner]
        return sorted(owned, key=lambda pair: bytes(pair[0]))

    def transaction(self, signature: bytes) -> Landed | None:
        return self._store.transaction(signature)

    def touching(self, address: bytes) -> list[bytes]:
        """Signatures of transactions that named ``address``, newest first."""
        return list(self._store.touching(address))

    @property
    def transaction_count(self) -> int:
        return self._sequence

    @property
    def faucet(self) -> Pubkey:
        return self._faucet.pubkey()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for every transaction from now on."""
        self._listeners.append(listener)

    # --- writes ---------------------------------------------------------------------------------

    def simulate(
        self, transaction: VersionedTransaction, *, check_signatures: bool, any_blockhash: bool
    ) -> Simulated:
        """Say what a transaction would do; nothing changes."""
        self.tick()
        try:
            if check_signatures:
                self._check_signatures(transaction)
            if not any_blockhash:
                self._check_blockhash(transaction)
        except NotTaken as refused:
            return Simulated(error=refused.error, logs=(), units=0, returned=None)
        result = self._svm.simulate_transaction(transaction)
        raw = json.loads(result.to_json())
        meta: dict[str, Any] = raw["meta"]
        accounts: dict[Pubkey, Account] = {}
        if "err" not in raw:
            accounts = dict(result.post_accounts())  # type: ignore[union-attr]
        return Simulated(
            error=raw.get("err"),
            logs=tuple(meta["logs"]),
            units=meta["compute_units_consumed"],
            returned=_returned(meta),
            accounts=accounts,
        )

    def submit(self, wire: bytes, *, preflight: bool) -> bytes:
        """Put a transaction into a block, store all it changed, and return its signature.

        The same bytes again return the same signature and change nothing.

        Raises:
            NotTaken: it is in no block. With ``preflight``, that includes one that would fail.
        """
        transaction = parse_transaction(wire)
        signature = bytes(transaction.signatures[0])
        self.tick()
        self._check_signatures(transaction)
        if self._store.has_transaction(signature):
            if preflight:
                raise NotTaken("AlreadyProcessed", "This transaction has already been processed")
            return signature
        self._check_blockhash(transaction)
        if preflight:
            dry = self.simulate(transaction, check_signatures=False, any_blockhash=True)
            if dry.error is not None:
                raise NotTaken(
                    dry.error, describe_error(dry.error), logs=dry.logs, units=dry.units
                )
        if self.faults.drop > 0:
            self.faults.drop -= 1
            return signature
        self._execute(transaction, wire, signature)
        return signature

    def airdrop(self, address: Pubkey, lamports: int) -> bytes:
        """Send SOL from the faucet; returns the transfer's signature."""
        blockhash, _ = self.latest_blockhash(Level.CONFIRMED)
        unique = transfer(
            TransferParams(
                from_pubkey=self.faucet,
                to_pubkey=self.faucet,
                lamports=1 + secrets.randbelow(2**40),
            )
        )
        gift = transfer(
            TransferParams(from_pubkey=self.faucet, to_pubkey=address, lamports=lamports)
        )
        message = MessageV0.try_compile(self.faucet, [gift, unique], [], Hash(blockhash))
        return self.submit(bytes(VersionedTransaction(message, [self._faucet])), preflight=True)

    def roll_back(self, slots: int) -> int:
        """Undo the transactions of the last ``slots`` slots, as a dropped fork does.

        Final slots stay. Returns how many transactions are gone.
        """
        first = max(self.tick() - slots, self.final_slot())
        dropped = self._store.landed_after(first)
        restored: list[tuple[Pubkey, Account | None]] = []
        for address, undos in list(self._undo.items()):
            gone = [undo for undo in undos if undo.slot > first]
            if gone:
                before = gone[0].account
                restored.append((address, None if before is None else unpack_account(before)))
                self._undo[address] = [undo for undo in undos if undo.slot <= first]
        self._store.put_accounts(restored, dropped=dropped)
        for address, account in restored:
            self._index(address, account)
            self._svm.set_account(address, account or Account.default())
        return len(dropped)

    def set_account(self, address: Pubkey, account: Account) -> None:
        """Set an account without a transaction: for tests of donations and frozen accounts."""
        self._store.put_accounts([(address, account)], dropped=[])
        self._index(address, account)
        self._svm.set_account(address, account)

    # --- inside ---------------------------------------------------------------------------------

    def _check_signatures(self, transaction: VersionedTransaction) -> None:
        if not all(transaction.verify_with_results()):
            raise NotTaken("SignatureFailure", "Transaction signature verification failure")

    def _check_blockhash(self, transaction: VersionedTransaction) -> None:
        if not self.timeline.is_recent(bytes(transaction.message.recent_blockhash)):
            raise NotTaken("BlockhashNotFound", "Blockhash not found")

    def _execute(self, transaction: VersionedTransaction, wire: bytes, signature: bytes) -> None:
        keys, writable = self._named(transaction.message)
        addresses = [keys[index] for index in sorted(writable)]
        slot = self.timeline.slot
        old = {key: self.account(key) for key in keys}
        result = self._svm.send_transaction(transaction)
        raw = json.loads(result.to_json())
        error = raw.get("err")
        # LiteSVM wraps the metadata of a failed transaction and writes others bare.
        meta: dict[str, Any] = raw.get("meta", raw)
        new = {**old, **{key: self.account(key) for key in addresses}}
        changed = [(key, new[key]) for key in dict.fromkeys(addresses) if old[key] != new[key]]
        if error is not None and not changed:
            raise NotTaken(error, describe_error(error), logs=tuple(meta["logs"]))
        undo = [Undo(slot, bytes(key), _packed(old[key])) for key, _ in changed]
        landed = Landed(
            signature=signature,
            sequence=self._sequence,
            slot=slot,
            time_s=self.timeline.time_s(slot),
            wire=wire,
            keys=tuple(bytes(key) for key in keys),
            error=msgspec.json.encode(error),
            logs=tuple(meta["logs"]),
            inner=msgspec.json.encode(meta["inner_instructions"]),
            units=meta["compute_units_consumed"],
            returned=_returned(meta),
            fee=fee_of(transaction.message),
            before=tuple(_lamports(old[key]) for key in keys),
            after=tuple(_lamports(new[key]) for key in keys),
            tokens_before=_tokens(keys, old),
            tokens_after=_tokens(keys, new),
        )
        self._store.land(landed, changed, undo, final_slot=self.final_slot())
        self._sequence += 1
        for each in undo:
            self._undo[Pubkey.from_bytes(each.address)].append(each)
        for key, account in changed:
            self._index(key, account, old[key])
        for listener in self._listeners:
            listener(landed, [key for key, _ in changed])

    def _index(self, address: Pubkey, account: Account | None, old: Account | None = None) -> None:
        if old is None:
            for addresses in self._by_owner.values():
                addresses.discard(address)
        else:
            self._by_owner[old.owner].discard(address)
        if account is not None:
            self._by_owner[account.owner].add(address)

    def _named(self, message: Message | MessageV0) -> tuple[list[Pubkey], set[int]]:
        """Every account a message names, in the runtime's order, and which it may write."""
        keys = list(message.account_keys)
        header = message.header
        signers = header.num_required_signatures
        writable = set(range(signers - header.num_readonly_signed_accounts))
        writable |= set(range(signers, len(keys) - header.num_readonly_unsigned_accounts))
        if isinstance(message, MessageV0):
            tables = [
                (each, self._table(each.account_key)) for each in message.address_table_lookups
            ]
            for lookup, table in tables:
                for index in bytes(lookup.writable_indexes):
                    writable.add(len(keys))
                    keys.append(_entry(table, index))
            for lookup, table in tables:
                keys.extend(_entry(table, index) for index in bytes(lookup.readonly_indexes))
        return keys, writable

    def _table(self, address: Pubkey) -> bytes:
        account = self.account(address)
        if account is None:
            raise NotTaken(
                "AddressLookupTableNotFound",
                "Transaction loads an address table that is not there",
            )
        return account.data[LOOKUP_HEADER_BYTES:]


def open_ledger(store: ChainStore, genesis: Genesis, now_ms: Callable[[], int]) -> Ledger:
    """Restore the chain in ``store``, or found it from ``genesis`` where the store is empty.

    Raises:
        ConfigError: founding needs something the genesis file does not give.
    """
    founding = store.founding()
    if founding is None:
        faucet = Keypair.from_bytes(bytes(genesis.faucet))
        accounts = genesis_accounts(genesis, faucet.pubkey())
        seed = secrets.token_bytes(32)
        founding = Founding(
            founded_ms=now_ms(),
            seed=seed,
            genesis_hash=genesis_hash(accounts, seed),
            faucet=bytes(faucet),
            finality_slots=genesis.finality_slots,
        )
        store.found(founding, accounts)
    return Ledger(store, founding, now_ms)


def _entry(table: bytes, index: int) -> Pubkey:
    raw = table[index * 32 : index * 32 + 32]
    if len(raw) != 32:
        raise NotTaken(
            "InvalidAddressLookupTableIndex", "Transaction address table index is wrong"
        )
    return Pubkey.from_bytes(raw)


def _returned(meta: dict[str, Any]) -> tuple[bytes, bytes] | None:
    data = meta["return_data"]["data"]
    return (bytes(meta["return_data"]["program_id"]), bytes(data)) if data else None


def _packed(account: Account | None) -> bytes | None:
    return None if account is None else pack_account(account)


def _lamports(account: Account | None) -> int:
    return 0 if account is None else account.lamports


def _tokens(
    keys: list[Pubkey], accounts: dict[Pubkey, Account | None]
) -> tuple[tuple[int, bytes, bytes, int], ...]:
    found: list[tuple[int, bytes, bytes, int]] = []
    for index, key in enumerate(keys):
        account = accounts[key]
        if (
            account is not None
            and account.owner == TOKEN_PROGRAM
            and len(account.data) == TOKEN_ACCOUNT_BYTES
        ):
            data = account.data
            amount = int.from_bytes(data[64:72], "little")
            found.append((index, bytes(data[:32]), bytes(data[32:64]), amount))
    return tuple(found)
