"""The node's own memory: LMDB, typed tables, one transaction for state and what must follow from it.

Everything a node has promised is written here, and on disk, before it is said. A transaction is
short and never awaits; when ``transaction()`` leaves without an exception, it is durable. What a
service holds in memory beside it changes in ``Transaction.after``: a commit that fails (a full
disk) then leaves memory as the disk is.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import lmdb
import msgspec

from robocompute_protocol.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

T = TypeVar("T")

MAP_BYTES: Final = 4 << 30
"""Address space reserved for the store, not disk: a million agreements are about a gigabyte."""
MAX_TABLES: Final = 32
"""Named tables LMDB reserves room for."""


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """A named table of one record type. The version is part of the name from the first commit."""

    name: str
    record: type[T]


class Transaction:
    """Reads and writes of one LMDB transaction."""

    def __init__(self, store: Store, raw: Any) -> None:
        self._store = store
        self._raw = raw
        self._after: list[Callable[[], None]] = []

    def after(self, change: Callable[[], None]) -> None:
        """Make a change in memory once all of this is durable; never, where it does not become so.

        Changes are made in the order they were asked for. They must not fail.
        """
        self._after.append(change)

    def committed(self) -> None:
        """Make the changes that waited. The store calls this."""
        for change in self._after:
            change()

    def get(self, table: Table[T], key: bytes) -> T | None:
        raw = self._raw.get(key, db=self._store.handle(table.name))
        return None if raw is None else decode_record(table, raw)

    def put(self, table: Table[T], key: bytes, record: T) -> None:
        self._raw.put(key, msgspec.msgpack.encode(record), db=self._store.handle(table.name))

    def delete(self, table: Table[Any], key: bytes) -> None:
        self._raw.delete(key, db=self._store.handle(table.name))

    def scan(self, table: Table[T], *, reverse: bool = False) -> Iterator[tuple[bytes, T]]:
        """All records in key order."""
        cursor = self._raw.cursor(db=self._store.handle(table.name))
        rows = cursor.iterprev() if reverse else cursor.iternext()
        for key, raw in rows:
            yield bytes(key), decode_record(table, raw)


def decode_record(table: Table[T], raw: bytes) -> T:
    """Raises: StoreError when the bytes are not a record of this table."""
    try:
        return msgspec.msgpack.decode(raw, type=table.record)
    except msgspec.MsgspecError as exc:
        raise StoreError(
            f"the store's table {table.name} has an unreadable record: {exc}"
        ) from exc


class Store:
    """One LMDB environment, used by one process. Close it to release the folder."""

    def __init__(self, folder: Path) -> None:
        """Open or create the store.

        Raises:
            ConfigError: another process uses this folder.
            StoreError: the folder cannot be used.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StoreError(f"cannot use the store folder {folder}: {exc}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise ConfigError(
                f"another robocompute-node (pid {holder or 'unknown'}) uses {folder.parent}; "
                "stop it, or give this one its own --data"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        try:
            self._env: Any = lmdb.open(
                str(folder / "data"), map_size=MAP_BYTES, max_dbs=MAX_TABLES, mode=0o600
            )
        except lmdb.Error as exc:
            os.close(self._lock)
            raise StoreError(f"cannot open the store in {folder}: {exc}") from exc
        self._handles: dict[str, Any] = {}

    def handle(self, name: str) -> Any:
        """LMDB's handle of a declared table."""
        return self._handles[name]

    def declare(self, *tables: Table[Any]) -> None:
        """Create tables before they are used: inside a transaction LMDB would wait for itself."""
        for table in tables:
            self._handles[table.name] = self._env.open_db(table.name.encode())

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        """All of it is durable afterwards, or none of it happened.

        Raises: StoreError when it cannot be written.
        """
        try:
            with self._env.begin(write=True) as raw:
                txn = Transaction(self, raw)
                yield txn
        except lmdb.Error as exc:
            raise StoreError(f"the store cannot be written: {exc}") from exc
        txn.committed()

    @contextmanager
    def view(self) -> Generator[Transaction]:
        """A consistent snapshot, read only."""
        with self._env.begin() as raw:
            yield Transaction(self, raw)

    def get(self, table: Table[T], key: bytes) -> T | None:
        with self.view() as txn:
            return txn.get(table, key)

    def all(self, table: Table[T]) -> list[tuple[bytes, T]]:
        with self.view() as txn:
            return list(txn.scan(table))

    def close(self) -> None:
        """Release the folder. Calling it again is harmless."""
        if self._lock >= 0:
            self._env.close()
            os.close(self._lock)
            self._lock = -1
