"""The chain itself: runs transactions, stores what they changed, and answers reads.

Everything here is synchronous and belongs to one task. What a transaction changed is on disk
before it is in memory, and listeners hear of it before its sender is answered.
"""

from __future__ import annotations

import secrets
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from solders.clock import Clock
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_settlement.embedded.execution import Machine, Outcome
from robocompute_settlement.embedded.faults import Faults
from robocompute_settlement.embedded.fees import RecentPrices, cost_of, unit_price
from robocompute_settlement.embedded.genesis import Genesis, genesis_accounts, genesis_hash
from robocompute_settlement.embedded.storage import (
    ChainStore,
    Founding,
    Landed,
    Undo,
    pack_account,
    unpack_account,
)
from robocompute_settlement.embedded.timeline import BLOCKHASH_SLOTS, SLOTS_PER_EPOCH, Timeline
from robocompute_settlement.embedded.wire import NotTaken, parse_transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from solders.account import Account

TOKEN_ACCOUNT_BYTES: Final = 165
MAX_LAG_SLOTS: Final = 150
"""How far behind an endpoint may be made to answer; accounts are remembered for so long."""
MAX_IN_THE_AIR: Final = 10_000
"""Transactions that wait for a slot. Only faults let one wait."""

Listener = Callable[[Landed, list[Pubkey]], None]
"""Called with a transaction that landed and the accounts it changed."""


class Level(IntEnum):
    """How sure a reader wants to be. Unless told otherwise, processed is confirmed at once."""

    PROCESSED = 0
    CONFIRMED = 1
    FINALIZED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a transaction would do. Without an ``outcome``, it would be in no block."""

    error: Any
    outcome: Outcome | None = None
    before: tuple[Account | None, ...] | None = None
    """The accounts it names; ``None`` where nobody looked them up."""
    after: tuple[Account | None, ...] | None = None


class Ledger:
    """One chain. ``now_ms`` is the wall clock; everything else comes from the store."""

    def __init__(self, store: ChainStore, founding: Founding, now_ms: Callable[[], int]) -> None:
        """Restore the chain that is in ``store``; ``open_ledger`` founds one where needed."""
        self._store = store
        self._now_ms = now_ms
        self._offset_ms = store.number(b"offset_ms")
        self.founding = founding
        self.faults = Faults()
        self.prices = RecentPrices()
        self.timeline = Timeline(
            founded_ms=founding.founded_ms, seed=founding.seed, forks=store.forks()
        )
        self.timeline.advance_to(store.number(b"slot"))
        self._faucet = Keypair.from_bytes(founding.faucet)
        self._sequence = store.number(b"sequence")
        self._final = 0
        self._listeners: list[Listener] = []
        self._air: deque[tuple[int, bytes]] = deque()
        self._clocked: tuple[int, int] | None = None
        self._machine = Machine()
        self._by_owner: dict[Pubkey, set[Pubkey]] = defaultdict(set)
        for address, account in store.accounts():
            self._machine.put(address, account)
            self._by_owner[account.owner].add(address)
        self._undo: dict[Pubkey, list[Undo]] = defaultdict(list)
        self._undo_order: deque[Undo] = deque()
        for undo in store.undos():
            self._remember(undo)

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> int:
        """Move to the present slot, land what was waiting for it, and return it."""
        slot = self.timeline.advance(self._now_ms() + self._offset_ms)
        stamp = self.timeline.time_s(slot) + self.faults.clock_drift_s
        if self._clocked != (slot, stamp):
            self._clocked = (slot, stamp)
            epoch = slot // SLOTS_PER_EPOCH
            self._machine.set_clock(
                Clock(
                    slot=slot,
                    epoch_start_timestamp=self.timeline.time_s(epoch * SLOTS_PER_EPOCH),
                    epoch=epoch,
                    leader_schedule_epoch=epoch + 1,
                    unix_timestamp=stamp,
                )
            )
            finality = self.faults.finality_slots
            if finality is None:
                finality = self.founding.finality_slots
            self._final = max(self._final, slot - finality)
            self._forget_undo()
        while self._air and self._air[0][0] <= slot:
            _, wire = self._air.popleft()
            self._land(wire)
        return slot

    def skip(self, seconds: int) -> None:
        """Let time pass at once, slots and clock alike. Remembered over restarts."""
        self._offset_ms += seconds * 1000
        self._store.set_number(b"offset_ms", self._offset_ms)
        self.tick()

    def slot(self, level: Level) -> int:
        """The newest slot that is this sure, as the endpoint sees it."""
        processed = self.tick() - self.faults.lag_slots
        match level:
            case Level.PROCESSED:
                slot = processed
            case Level.CONFIRMED:
                slot = processed - self.faults.confirm_slots
            case Level.FINALIZED:
                slot = min(processed, self._final - self.faults.lag_slots)
        return max(0, slot)

    def latest_blockhash(self, level: Level) -> tuple[bytes, int]:
        """A blockhash and the last slot whose blocks accept it."""
        slot = self.slot(level)
        if self.faults.expire_blockhashes > 0:
            self.faults.expire_blockhashes -= 1
            stale = slot - BLOCKHASH_SLOTS - 1
            return self.timeline.blockhash(max(stale, 0) if stale >= 0 else 2**63), slot
        return self.timeline.blockhash(slot), slot + BLOCKHASH_SLOTS

    def knows_blockhash(self, blockhash: bytes, level: Level) -> bool:
        """Whether a block after the newest of this level may hold transactions that name it."""
        slot = self.slot(level)
        named = self.timeline.slot_of(blockhash)
        return named is not None and named <= slot

    def level_of(self, landed: Landed) -> Level | None:
        """How sure a landed transaction is by now; ``None`` where the endpoint lags behind it."""
        for level in (Level.FINALIZED, Level.CONFIRMED, Level.PROCESSED):
            if landed.slot <= self.slot(level):
                return level
        return None

    # --- reads ----------------------------------------------------------------------------------

    def account(self, address: Pubkey, level: Level = Level.CONFIRMED) -> Account | None:
        """The account as it was at this level; ``None`` where there is none."""
        slot, undos = self.slot(level), self._undo.get(address)
        if undos and undos[-1].slot > slot:
            before = next(undo.account for undo in undos if undo.slot > slot)
            return None if before is None else unpack_account(before)
        return self._machine.account(address)

    def accounts_of(
        self, owner: Pubkey, level: Level = Level.CONFIRMED
    ) -> list[tuple[Pubkey, Account]]:
        """The accounts a program owned at this level, by address."""
        candidates = set(self._by_owner.get(owner, ()))
        if self.slot(level) < self.timeline.slot:
            candidates |= set(self._undo)
        found = [(address, self.account(address, level)) for address in candidates]
        owned = [(key, account) for key, account in found if account and account.owner == owner]
        return sorted(owned, key=lambda pair: bytes(pair[0]))

    def all_accounts(self, level: Level) -> Iterable[tuple[Pubkey, Account]]:
        """Every account but the built-in ones."""
        for owner in tuple(self._by_owner):
            yield from self.accounts_of(owner, level)

    def transaction(self, signature: bytes) -> Landed | None:
        """A transaction the endpoint has seen."""
        landed = self._store.transaction(signature)
        return None if landed is None or self.level_of(landed) is None else landed

    def touching(self, address: bytes, *, before: bytes | None = None) -> Iterable[bytes]:
        """Signatures of transactions that named ``address``, newest first.

        Args:
            address: the account.
            before: only transactions older than this one; unknown ones have none before them.
        """
        if before is None:
            return self._store.touching(address)
        start = self._store.transaction(before)
        return () if start is None else self._store.touching(address, before=start.sequence)

    def block(self, slot: int) -> list[Landed]:
        """The transactions of one slot, in order."""
        return self._store.in_slots(slot, slot)

    def first_slot(self) -> int:
        """The first slot whose transactions are remembered."""
        return self._store.first_slot()

    @property
    def transaction_count(self) -> int:
        """Transactions that ever landed."""
        return self._sequence

    @property
    def faucet(self) -> Pubkey:
        """Whose SOL airdrops are."""
        return self._faucet.pubkey()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for every transaction from now on."""
        self._listeners.append(listener)

    # --- writes ---------------------------------------------------------------------------------

    def simulate(
        self,
        transaction: VersionedTransaction,
        *,
        level: Level,
        check_signatures: bool,
        any_blockhash: bool,
    ) -> Simulated:
        """Say what a transaction would do now; nothing changes.

        Args:
            transaction: what would be executed.
            level: whose blockhashes it may name.
            check_signatures: whether a wrong one counts.
            any_blockhash: whether it may name any blockhash.
        """
        self.tick()
        before = None
        try:
            if check_signatures:
                _check_signatures(transaction)
            before = self._machine.named(transaction)
            if not any_blockhash:
                self._check_new(transaction, level)
            outcome = self._machine.run(transaction)
        except NotTaken as refused:
            return Simulated(error=refused.error, before=before, after=before)
        return Simulated(
            error=outcome.error, outcome=outcome, before=outcome.before, after=outcome.after
        )

    def submit(self, wire: bytes) -> bytes:
        """Hand a transaction to the network and return its signature.

        It is in a block when this returns, unless it is one that no block takes, which nobody is
        told, or a fault keeps it in the air. The same bytes again change nothing.

        Raises:
            Malformed: the bytes are no transaction.
        """
        signature = bytes(parse_transaction(wire).signatures[0])
        slot, faults = self.tick(), self.faults
        if faults.drop > 0:
            faults.drop -= 1
            return signature
        if faults.land_slots > 0:
            self._throw(slot + faults.land_slots, wire)
        else:
            self._land(wire)
        if faults.duplicate > 0:
            faults.duplicate -= 1
            self._throw(slot + faults.land_slots + 1, wire)
        return signature

    def airdrop(self, address: Pubkey, lamports: int, blockhash: bytes | None = None) -> bytes:
        """Send SOL from the faucet; returns the transfer's signature."""
        if blockhash is None:
            blockhash, _ = self.latest_blockhash(Level.CONFIRMED)
        unique = TransferParams(
            from_pubkey=self.faucet, to_pubkey=self.faucet, lamports=1 + secrets.randbelow(2**40)
        )
        gift = TransferParams(from_pubkey=self.faucet, to_pubkey=address, lamports=lamports)
        message = MessageV0.try_compile(
            self.faucet, [transfer(gift), transfer(unique)], [], Hash(blockhash)
        )
        return self.submit(bytes(VersionedTransaction(message, [self._faucet])))

    def roll_back(self, slots: int, *, resend: bool = False) -> int:
        """Undo the transactions of the last ``slots`` slots, as a dropped fork does.

        Final slots stay. The dropped slots' blockhashes are gone with them. Returns how many
        transactions are gone.

        Args:
            slots: how many.
            resend: whether the transactions are in the air again, for the next slot to take.
        """
        present = self.tick()
        first = max(present - slots, self._final)
        dropped = self._store.in_slots(first + 1, present)
        restored: dict[Pubkey, Account | None] = {}
        for address, undos in tuple(self._undo.items()):
            before = next((undo for undo in undos if undo.slot > first), None)
            if before is not None:
                raw = before.account
                restored[address] = None if raw is None else unpack_account(raw)
        self.timeline.fork(first)
        self.prices.forget_after(first)
        self._store.take_back(
            dropped, list(restored.items()), after_slot=first, forks=self.timeline.forks
        )
        for address in restored:
            self._undo[address] = [undo for undo in self._undo[address] if undo.slot <= first]
        self._undo_order = deque(undo for undo in self._undo_order if undo.slot <= first)
        self._put(list(restored.items()))
        if resend:
            for landed in dropped:
                self._throw(present + 1, landed.wire)
        return len(dropped)

    def expire_blockhashes(self) -> None:
        """Take no transaction any more that names a blockhash given out until now."""
        self.timeline.fork(self.tick() - 1, expires=True)
        self._store.set_forks(self.timeline.forks)

    def set_accounts(self, accounts: list[tuple[Pubkey, Account | None]]) -> None:
        """Set accounts without a transaction, at every level and for good."""
        self._store.put_accounts(accounts)
        for address, _ in accounts:
            self._undo.pop(address, None)
        self._put(accounts)

    # --- inside ---------------------------------------------------------------------------------

    def _check_new(self, transaction: VersionedTransaction, level: Level) -> None:
        if not self.knows_blockhash(bytes(transaction.message.recent_blockhash), level):
            raise NotTaken("BlockhashNotFound")
        if self._store.has_transaction(bytes(transaction.signatures[0])):
            raise NotTaken("AlreadyProcessed")

    def _throw(self, slot: int, wire: bytes) -> None:
        if len(self._air) < MAX_IN_THE_AIR:
            self._air.append((slot, wire))
            self._air = deque(sorted(self._air, key=lambda each: each[0]))

    def _land(self, wire: bytes) -> None:
        """Put a transaction into the present block, unless no block takes it."""
        transaction = parse_transaction(wire)
        signature = bytes(transaction.signatures[0])
        if self._store.has_transaction(signature):
            return
        blockhash = bytes(transaction.message.recent_blockhash)
        try:
            _check_signatures(transaction)
            if self.timeline.slot_of(blockhash) is None:
                return
            outcome = self._machine.run(transaction)
        except NotTaken:
            return
        self._commit(transaction, wire, signature, outcome)

    def _commit(
        self, transaction: VersionedTransaction, wire: bytes, signature: bytes, outcome: Outcome
    ) -> None:
        slot, message, keys = self.timeline.slot, transaction.message, outcome.keys
        old = dict(zip(keys, outcome.before, strict=True))
        changed = outcome.changed
        undo = [
            Undo(slot, bytes(key), _packed(old[key]))
            for key, _ in changed
            if not self._undo.get(key) or self._undo[key][-1].slot < slot
        ]
        landed = Landed(
            signature=signature,
            sequence=self._sequence,
            slot=slot,
            time_s=self.timeline.time_s(slot),
            wire=wire,
            keys=tuple(bytes(key) for key in keys),
            error=msgspec.json.encode(outcome.error),
            logs=outcome.logs,
            inner=msgspec.json.encode(outcome.inner),
            units=outcome.units,
            cost=cost_of(
                message,
                writable=len(outcome.writable),
                units=outcome.units,
                loaded_bytes=outcome.loaded_bytes,
            ),
            returned=outcome.returned,
            fee=outcome.fee.total,
            before=tuple(0 if each is None else each.lamports for each in outcome.before),
            after=tuple(0 if each is None else each.lamports for each in outcome.after),
            tokens_before=token_amounts(outcome.before),
            tokens_after=token_amounts(outcome.after),
        )
        self._store.land(landed, changed, undo, undo_from=self._final - MAX_LAG_SLOTS)
        self._sequence += 1
        self.prices.note(slot, unit_price(message), [keys[index] for index in outcome.writable])
        for each in undo:
            self._remember(each)
        self._put(changed)
        for listener in self._listeners:
            listener(landed, [key for key, _ in changed])

    def _put(self, accounts: list[tuple[Pubkey, Account | None]]) -> None:
        for address, account in accounts:
            old = self._machine.account(address)
            if old is not None:
                self._by_owner[old.owner].discard(address)
            self._machine.put(address, account)
            if account is not None:
                self._by_owner[account.owner].add(address)

    def _remember(self, undo: Undo) -> None:
        self._undo[Pubkey.from_bytes(undo.address)].append(undo)
        self._undo_order.append(undo)

    def _forget_undo(self) -> None:
        horizon = self._final - MAX_LAG_SLOTS
        while self._undo_order and self._undo_order[0].slot <= horizon:
            address = Pubkey.from_bytes(self._undo_order.popleft().address)
            kept = [undo for undo in self._undo.get(address, ()) if undo.slot > horizon]
            if kept:
                self._undo[address] = kept
            else:
                self._undo.pop(address, None)


def open_ledger(store: ChainStore, genesis: Genesis, now_ms: Callable[[], int]) -> Ledger:
    """Restore the chain in ``store``, or found it from ``genesis`` where the store is empty.

    Raises:
        ConfigError: founding needs something the genesis file does not give.
        StoreError: the store cannot be read or written.
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


def token_amounts(
    accounts: tuple[Account | None, ...],
) -> tuple[tuple[int, bytes, bytes, int], ...]:
    """(index, mint, owner, amount) of the token accounts among these."""
    found: list[tuple[int, bytes, bytes, int]] = []
    for index, account in enumerate(accounts):
        if (
            account is not None
            and account.owner == TOKEN_PROGRAM
            and len(account.data) == TOKEN_ACCOUNT_BYTES
        ):
            data = account.data
            amount = int.from_bytes(data[64:72], "little")
            found.append((index, bytes(data[:32]), bytes(data[32:64]), amount))
    return tuple(found)


def _check_signatures(transaction: VersionedTransaction) -> None:
    if not all(transaction.verify_with_results()):
        raise NotTaken("SignatureFailure")


def _packed(account: Account | None) -> bytes | None:
    return None if account is None else pack_account(account)
