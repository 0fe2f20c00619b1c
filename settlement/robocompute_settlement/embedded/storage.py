"""The embedded chain on disk: accounts, what happened to them, and how to undo it.

One LMDB write transaction for everything one Solana transaction changed: after ``kill -9`` the
chain is where it was before that transaction, or after it, and never between.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import lmdb
import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from robocompute_protocol.errors import StoreError
from robocompute_settlement.embedded.timeline import BLOCKHASH_SLOTS, Fork

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

MAP_BYTES: Final = 64 << 30
"""Address space reserved for the store, not disk: LMDB's file grows as it is used."""
FORMAT: Final = b"embedded-chain/2"
HISTORY_TRANSACTIONS: Final = 100_000
"""Transactions remembered: about 300 MB, and weeks of a busy local world."""
PRUNED_AT_ONCE: Final = 16
"""Old transactions forgotten with each new one: more than one, so that a lowered bound is met."""

_ACCOUNT: Final = struct.Struct("<Q32s?Q")
_LAST: Final = 2**64 - 1


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided once, when a chain is founded."""

    founded_ms: int
    seed: bytes
    genesis_hash: bytes
    faucet: bytes
    finality_slots: int


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that is in a block, whether it succeeded or failed after paying its fee."""

    signature: bytes
    sequence: int
    slot: int
    time_s: int
    wire: bytes
    keys: tuple[bytes, ...]
    """Every account it named, lookups included, in the runtime's order."""
    error: bytes
    """JSON, as JSON-RPC writes it; ``null`` where it succeeded."""
    logs: tuple[str, ...]
    inner: bytes
    """JSON, as LiteSVM writes it: a list of inner instructions for each instruction."""
    units: int
    cost: int
    returned: tuple[bytes, bytes] | None
    fee: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    tokens_before: tuple[tuple[int, bytes, bytes, int], ...]
    """(index, mint, owner, amount) of the token accounts it named."""
    tokens_after: tuple[tuple[int, bytes, bytes, int], ...]


class Undo(msgspec.Struct, frozen=True, array_like=True):
    """What an account was before ``slot`` changed it; ``None`` where it was not there."""

    slot: int
    address: bytes
    account: bytes | None


def pack_account(account: Account) -> bytes:
    """Encode an account for the store."""
    head = _ACCOUNT.pack(
        account.lamports, bytes(account.owner), account.executable, account.rent_epoch
    )
    return head + account.data


def unpack_account(raw: bytes) -> Account:
    """Decode an account of the store.

    Raises:
        ValueError: it is none.
    """
    try:
        lamports, owner, executable, rent_epoch = _ACCOUNT.unpack_from(raw)
    except struct.error as exc:
        raise ValueError(f"an account of {len(raw)} bytes is too short") from exc
    return Account(lamports, raw[_ACCOUNT.size :], _address(owner), executable, rent_epoch)


class ChainStore:
    """Opened by one process; the caller closes it (a context manager does).

    Every method raises StoreError where the disk is full or what is stored is not readable: the
    chain must then stop, for what it holds in memory is no longer what it would come back with.
    """

    def __init__(self, folder: Path, *, history: int = HISTORY_TRANSACTIONS) -> None:
        """Open or create the store in ``folder``.

        Args:
            folder: made where it is missing.
            history: transactions to remember; older ones are forgotten as new ones land.

        Raises:
            StoreError: it cannot be opened, is damaged, or another version wrote it.
        """
        self._folder = folder
        self._history = history
        with self._explained("opened"):
            folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=8, subdir=True)
        try:
            self._check_whole()
            with self._explained("opened"):
                self._meta = self._env.open_db(b"meta")
                self._accounts = self._env.open_db(b"accounts")
                self._transactions = self._env.open_db(b"transactions")
                self._touched = self._env.open_db(b"touched")
                self._blocks = self._env.open_db(b"blocks")
                self._undo = self._env.open_db(b"undo")
            self._check_format()
        except StoreError:
            self._env.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._env.close()

    # --- founding and small facts ---------------------------------------------------------------

    def founding(self) -> Founding | None:
        """What the chain was founded with; ``None`` for an empty store."""
        with self._reading() as txn:
            raw = txn.get(b"founding", db=self._meta)
            return None if raw is None else msgspec.msgpack.decode(raw, type=Founding)

    def found(self, founding: Founding, accounts: list[tuple[Pubkey, Account]]) -> None:
        """Store a new chain's genesis."""
        with self._writing() as txn:
            self._put_accounts(txn, list(accounts))
            txn.put(b"founding", msgspec.msgpack.encode(founding), db=self._meta)

    def number(self, name: bytes) -> int:
        """A stored counter; 0 before it was first stored."""
        with self._reading() as txn:
            return self._number(txn, name)

    def set_number(self, name: bytes, value: int) -> None:
        """Store a counter."""
        with self._writing() as txn:
            self._set_number(txn, name, value)

    def forks(self) -> list[Fork]:
        """The turns in the chain's history, oldest first."""
        with self._reading() as txn:
            raw = txn.get(b"forks", db=self._meta)
            return [] if raw is None else msgspec.msgpack.decode(raw, type=list[Fork])

    def set_forks(self, forks: list[Fork]) -> None:
        """Store the turns in the chain's history."""
        with self._writing() as txn:
            txn.put(b"forks", msgspec.msgpack.encode(forks), db=self._meta)

    # --- state ----------------------------------------------------------------------------------

    def accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Every stored account; a program's data comes before the program that points to it."""
        with self._reading() as txn:
            late: list[tuple[Pubkey, Account]] = []
            for key, raw in txn.cursor(db=self._accounts):
                pair = _address(key), unpack_account(raw)
                if pair[1].executable:
                    late.append(pair)
                else:
                    yield pair
            yield from late

    def undos(self) -> Iterator[Undo]:
        """Every undo record still kept, oldest first."""
        with self._reading() as txn:
            for _, raw in txn.cursor(db=self._undo):
                undo = msgspec.msgpack.decode(raw, type=Undo)
                _address(undo.address)
                yield undo

    def land(
        self,
        landed: Landed,
        changed: list[tuple[Pubkey, Account | None]],
        undo: list[Undo],
        *,
        undo_from: int,
    ) -> None:
        """Store one transaction with all it changed, and forget what is too old.

        Args:
            landed: the transaction.
            changed: its accounts as they are now.
            undo: its accounts as they were, as far as this slot had not changed them before.
            undo_from: undo records of slots up to this one are forgotten.
        """
        with self._writing() as txn:
            self._put_accounts(txn, changed)
            order = landed.sequence.to_bytes(8, "big")
            txn.put(landed.signature, msgspec.msgpack.encode(landed), db=self._transactions)
            txn.put(landed.slot.to_bytes(8, "big") + order, landed.signature, db=self._blocks)
            for key in dict.fromkeys(landed.keys):
                txn.put(_touch(key, landed.sequence), landed.signature, db=self._touched)
            for position, each in enumerate(undo):
                key = struct.pack(">QQI", each.slot, landed.sequence, position)
                txn.put(key, msgspec.msgpack.encode(each), db=self._undo)
            self._set_number(txn, b"sequence", landed.sequence + 1)
            self._set_number(txn, b"slot", landed.slot)
            kept = self._number(txn, b"kept") + 1
            self._set_number(txn, b"kept", kept - self._prune(txn, kept, landed.slot))
            self._drop_undo(txn, undo_from)

    def put_accounts(self, changed: list[tuple[Pubkey, Account | None]]) -> None:
        """Set accounts without a transaction."""
        with self._writing() as txn:
            self._put_accounts(txn, changed)

    def take_back(
        self,
        dropped: list[Landed],
        restored: list[tuple[Pubkey, Account | None]],
        *,
        after_slot: int,
        forks: list[Fork],
    ) -> None:
        """Forget transactions that were rolled back, and all that later slots changed."""
        with self._writing() as txn:
            self._put_accounts(txn, restored)
            for landed in dropped:
                self._forget(txn, landed)
            self._set_number(txn, b"kept", self._number(txn, b"kept") - len(dropped))
            txn.put(b"forks", msgspec.msgpack.encode(forks), db=self._meta)
            cursor = txn.cursor(db=self._undo)
            found = cursor.set_range((after_slot + 1).to_bytes(8, "big"))
            while found:
                found = cursor.delete()

    # --- history --------------------------------------------------------------------------------

    def transaction(self, signature: bytes) -> Landed | None:
        """A remembered transaction."""
        with self._reading() as txn:
            return self._transaction(txn, signature)

    def has_transaction(self, signature: bytes) -> bool:
        """Whether a transaction is remembered: each is, while its blockhash could be taken."""
        with self._reading() as txn:
            return txn.get(signature, db=self._transactions) is not None

    def touching(self, address: bytes, *, before: int | None = None) -> Iterator[bytes]:
        """Signatures of the transactions that named ``address``, newest first.

        Args:
            address: the account.
            before: only transactions older than this sequence number.
        """
        with self._reading() as txn:
            cursor = txn.cursor(db=self._touched)
            found = cursor.set_range(address if before is None else _touch(address, before - 1))
            while found and cursor.key()[:32] == address:
                yield cursor.value()
                found = cursor.next()

    def in_slots(self, first: int, last: int) -> list[Landed]:
        """The remembered transactions of these slots, oldest first."""
        out: list[Landed] = []
        with self._reading() as txn:
            cursor = txn.cursor(db=self._blocks)
            found = cursor.set_range(first.to_bytes(8, "big"))
            while found and int.from_bytes(cursor.key()[:8], "big") <= last:
                landed = self._transaction(txn, cursor.value())
                if landed is not None:
                    out.append(landed)
                found = cursor.next()
        return out

    def first_slot(self) -> int:
        """The first slot whose transactions are all remembered."""
        return self.number(b"first_slot")

    # --- inside ---------------------------------------------------------------------------------

    def _check_whole(self) -> None:
        """Refuse a cut-off file before LMDB reads past its end, which would end the process."""
        with self._explained("read"):
            pages = self._env.info()["last_pgno"] + 1
            needed = pages * self._env.stat()["psize"]
            held = (self._folder / "data.mdb").stat().st_size
        if held < needed:
            raise StoreError(
                f"the chain in {self._folder} is damaged: {held} of {needed} bytes are there; "
                "restore the folder, or remove it to found a new chain"
            )

    def _check_format(self) -> None:
        with self._writing() as txn:
            found = txn.get(b"format", db=self._meta)
            if found is None:
                txn.put(b"format", FORMAT, db=self._meta)
        if found not in (None, FORMAT):
            raise StoreError(
                f"the chain in {self._folder} was written by another version; "
                "remove the folder to found a new chain"
            )

    @contextmanager
    def _explained(self, doing: str) -> Generator[None]:
        try:
            yield
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as exc:
            raise StoreError(
                f"the chain in {self._folder} is damaged: {exc}; "
                "restore the folder, or remove it to found a new chain"
            ) from exc
        except (msgspec.DecodeError, ValueError) as exc:
            raise StoreError(
                f"the chain in {self._folder} is damaged: it holds what is no record: {exc}"
            ) from exc
        except (lmdb.Error, OSError) as exc:
            raise StoreError(
                f"the chain in {self._folder} cannot be {doing}: {exc}; "
                "see that the disk has room and the folder is yours"
            ) from exc

    @contextmanager
    def _reading(self) -> Generator[Any]:
        with self._explained("read"), self._env.begin() as txn:
            yield txn

    @contextmanager
    def _writing(self) -> Generator[Any]:
        with self._explained("written"), self._env.begin(write=True) as txn:
            yield txn

    def _number(self, txn: Any, name: bytes) -> int:
        raw = txn.get(name, db=self._meta)
        return 0 if raw is None else int.from_bytes(raw, "big", signed=True)

    def _set_number(self, txn: Any, name: bytes, value: int) -> None:
        txn.put(name, value.to_bytes(16, "big", signed=True), db=self._meta)

    def _transaction(self, txn: Any, signature: bytes) -> Landed | None:
        raw = txn.get(signature, db=self._transactions)
        return None if raw is None else msgspec.msgpack.decode(raw, type=Landed)

    def _put_accounts(self, txn: Any, changed: list[tuple[Pubkey, Account | None]]) -> None:
        for address, account in changed:
            if account is None:
                txn.delete(bytes(address), db=self._accounts)
            else:
                txn.put(bytes(address), pack_account(account), db=self._accounts)

    def _prune(self, txn: Any, kept: int, slot: int) -> int:
        """Forget the oldest transactions over the bound; how many."""
        gone = 0
        cursor = txn.cursor(db=self._blocks)
        while gone < min(kept - self._history, PRUNED_AT_ONCE) and cursor.first():
            oldest = int.from_bytes(cursor.key()[:8], "big")
            # One whose blockhash may still be taken must be known, or it could land twice.
            if oldest >= slot - 2 * BLOCKHASH_SLOTS:
                break
            landed = self._transaction(txn, cursor.value())
            if landed is None:
                cursor.delete()
            else:
                self._forget(txn, landed)
            self._set_number(txn, b"first_slot", oldest + 1)
            gone += 1
        return gone

    def _forget(self, txn: Any, landed: Landed) -> None:
        txn.delete(landed.signature, db=self._transactions)
        order = landed.sequence.to_bytes(8, "big")
        txn.delete(landed.slot.to_bytes(8, "big") + order, db=self._blocks)
        for key in dict.fromkeys(landed.keys):
            txn.delete(_touch(key, landed.sequence), db=self._touched)

    def _drop_undo(self, txn: Any, final_slot: int) -> None:
        cursor = txn.cursor(db=self._undo)
        found = cursor.first()
        while found and int.from_bytes(cursor.key()[:8], "big") <= final_slot:
            found = cursor.delete()


def _address(raw: bytes) -> Pubkey:
    """An address as a key of the store."""
    if len(raw) != Pubkey.LENGTH:
        raise ValueError(f"an address of {len(raw)} bytes")
    return Pubkey.from_bytes(raw)


def _touch(address: bytes, sequence: int) -> bytes:
    """The key that sorts an address's transactions newest first."""
    return address + (_LAST - sequence).to_bytes(8, "big")
