"""The embedded chain on disk: accounts, what happened to them, and how to undo it.

One LMDB write transaction for everything one Solana transaction changed: after ``kill -9`` the
chain is where it was before that transaction, or after it, and never between.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Self

import lmdb
import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from robocompute_protocol.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAP_BYTES: Final = 64 << 30
"""Address space reserved for the store, not disk: LMDB's file grows as it is used."""
FORMAT: Final = b"embedded-chain/1"

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
    returned: tuple[bytes, bytes] | None
    fee: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    tokens_before: tuple[tuple[int, bytes, bytes, int], ...]
    """(index, mint, owner, amount) of the token accounts it named."""
    tokens_after: tuple[tuple[int, bytes, bytes, int], ...]

    @property
    def failed(self) -> bool:
        return self.error != b"null"


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
    """Decode an account of the store."""
    lamports, owner, executable, rent_epoch = _ACCOUNT.unpack_from(raw)
    return Account(
        lamports, raw[_ACCOUNT.size :], Pubkey.from_bytes(owner), executable, rent_epoch
    )


class ChainStore:
    """Opened by one process; the caller closes it (a context manager does)."""

    def __init__(self, folder: Path) -> None:
        """Open or create the store in ``folder``.

        Raises:
            StoreError: it cannot be opened, or another version wrote it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=8, subdir=True)
        except lmdb.Error as exc:
            raise StoreError(f"cannot open the chain in {folder}: {exc}") from exc
        self._meta = self._env.open_db(b"meta")
        self._accounts = self._env.open_db(b"accounts")
        self._transactions = self._env.open_db(b"transactions")
        self._touched = self._env.open_db(b"touched")
        self._undo = self._env.open_db(b"undo")
        with self._env.begin(write=True) as txn:
            found = txn.get(b"format", db=self._meta)
            if found is None:
                txn.put(b"format", FORMAT, db=self._meta)
            elif found != FORMAT:
                self._env.close()
                raise StoreError(f"the chain in {folder} was written by another version")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._env.close()

    def founding(self) -> Founding | None:
        """What the chain was founded with; ``None`` for an empty store."""
        with self._env.begin() as txn:
            raw = txn.get(b"founding", db=self._meta)
        return None if raw is None else msgspec.msgpack.decode(raw, type=Founding)

    def found(self, founding: Founding, accounts: list[tuple[Pubkey, Account]]) -> None:
        """Store a new chain's genesis."""
        with self._env.begin(write=True) as txn:
            for address, account in accounts:
                txn.put(bytes(address), pack_account(account), db=self._accounts)
            txn.put(b"founding", msgspec.msgpack.encode(founding), db=self._meta)

    def accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Every stored account; a program's data comes before the program that points to it."""
        with self._env.begin() as txn:
            late: list[tuple[Pubkey, Account]] = []
            for key, raw in txn.cursor(db=self._accounts):
                pair = Pubkey.from_bytes(key), unpack_account(raw)
                if pair[1].executable:
                    late.append(pair)
                else:
                    yield pair
            yield from late

    def undos(self) -> Iterator[Undo]:
        """Every undo record still kept, oldest first."""
        with self._env.begin() as txn:
            for _, raw in txn.cursor(db=self._undo):
                yield msgspec.msgpack.decode(raw, type=Undo)

    def number(self, name: bytes) -> int:
        """A stored counter; 0 before it was first stored."""
        with self._env.begin() as txn:
            raw = txn.get(name, db=self._meta)
        return 0 if raw is None else int.from_bytes(raw, "big", signed=True)

    def set_number(self, name: bytes, value: int) -> None:
        """Store a counter."""
        with self._env.begin(write=True) as txn:
            txn.put(name, value.to_bytes(16, "big", signed=True), db=self._meta)

    def land(
        self,
        landed: Landed,
        changed: list[tuple[Pubkey, Account | None]],
        undo: list[Undo],
        *,
        final_slot: int,
    ) -> None:
        """Store one transaction with all it changed, and forget undo records that are final."""
        with self._env.begin(write=True) as txn:
            self._put_accounts(txn, changed)
            txn.put(landed.signature, msgspec.msgpack.encode(landed), db=self._transactions)
            order = (_LAST - landed.sequence).to_bytes(8, "big")
            for key in dict.fromkeys(landed.keys):
                txn.put(key + order, landed.signature, db=self._touched)
            for position, each in enumerate(undo):
                key = struct.pack(">QQI", each.slot, landed.sequence, position)
                txn.put(key, msgspec.msgpack.encode(each), db=self._undo)
            txn.put(
                b"sequence", (landed.sequence + 1).to_bytes(16, "big", signed=True), db=self._meta
            )
            txn.put(b"slot", landed.slot.to_bytes(16, "big", signed=True), db=self._meta)
            self._drop_undo(txn, final_slot)

    def put_accounts(
        self, changed: list[tuple[Pubkey, Account | None]], *, dropped: list[Landed]
    ) -> None:
        """Set accounts without a transaction, and forget transactions that were rolled back."""
        with self._env.begin(write=True) as txn:
            self._put_accounts(txn, changed)
            for landed in dropped:
                txn.delete(landed.signature, db=self._transactions)
                order = (_LAST - landed.sequence).to_bytes(8, "big")
                for key in dict.fromkeys(landed.keys):
                    txn.delete(key + order, db=self._touched)
                cursor = txn.cursor(db=self._undo)
                first = struct.pack(">QQI", landed.slot, landed.sequence, 0)
                found = cursor.set_range(first)
                while found and cursor.key()[:16] == first[:16]:
                    found = cursor.delete()

    def transaction(self, signature: bytes) -> Landed | None:
        with self._env.begin() as txn:
            raw = txn.get(signature, db=self._transactions)
        return None if raw is None else msgspec.msgpack.decode(raw, type=Landed)

    def has_transaction(self, signature: bytes) -> bool:
        with self._env.begin() as txn:
            return txn.get(signature, db=self._transactions) is not None

    def touching(self, address: bytes) -> Iterator[bytes]:
        """Signatures of the transactions that named ``address``, newest first."""
        with self._env.begin() as txn:
            cursor = txn.cursor(db=self._touched)
            found = cursor.set_range(address)
            while found and cursor.key()[:32] == address:
                yield cursor.value()
                found = cursor.next()

    def landed_after(self, slot: int) -> list[Landed]:
        """Transactions of later slots than ``slot``, oldest first. Reads all: for faults only."""
        with self._env.begin() as txn:
            found = [
                msgspec.msgpack.decode(raw, type=Landed)
                for _, raw in txn.cursor(db=self._transactions)
            ]
        return sorted((each for each in found if each.slot > slot), key=lambda each: each.sequence)

    def _put_accounts(
        self, txn: lmdb.Transaction, changed: list[tuple[Pubkey, Account | None]]
    ) -> None:
        for address, account in changed:
            if account is None:
                txn.delete(bytes(address), db=self._accounts)
            else:
                txn.put(bytes(address), pack_account(account), db=self._accounts)

    def _drop_undo(self, txn: lmdb.Transaction, final_slot: int) -> None:
        cursor = txn.cursor(db=self._undo)
        found = cursor.first()
        while found and int.from_bytes(cursor.key()[:8], "big") <= final_slot:
            found = cursor.delete()
