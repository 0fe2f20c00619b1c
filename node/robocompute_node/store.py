"""The node's own memory: LMDB, typed tables, one transaction for state and what must follow from it.

Everything a node has promised is written here, and on disk, before it is said. A transaction is
short and never awaits; when ``transaction()`` leaves without an exception, it is durable. What a
service holds in memory beside it changes in ``Transaction.after``: a commit that fails (a full
disk) then leaves memory as the disk is.

A commit waits for the disk, so what many peers ask for at the same moment shares one: ``together``.
It waits in the event loop's own thread. LMDB binds a write transaction to its thread, and services
read their memory before they write: in another thread, what was committed but is not in memory yet
could be overwritten from old memory. So between a commit and its changes in memory nothing runs.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import lmdb
import msgspec
import trio

from robocompute_protocol.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

T = TypeVar("T")

MAP_BYTES: Final = 4 << 30
"""Address space reserved for the store, not disk: a million agreements are about a gigabyte."""
MAX_TABLES: Final = 32
"""Named tables LMDB reserves room for."""
MAX_TOGETHER: Final = 128
"""Works in one commit: at about 200 us each, the event loop is held for less than 30 ms."""


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

    @contextmanager
    def child(self) -> Generator[Transaction]:
        """A transaction in this one: where the block raises, what it did is undone, and only that.

        Raises: StoreError when it cannot be written.
        """
        try:
            with self._store.begin(self._raw) as raw:
                txn = Transaction(self._store, raw)
                yield txn
        except lmdb.Error as exc:
            raise StoreError(f"the store cannot be written: {exc}") from exc
        self._after += txn._after

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


class _Call:
    """A work that waits for the next commit, and what became of it."""

    def __init__(self, key: bytes, work: Callable[[Transaction], object]) -> None:
        self.key = key
        self.done = False
        self._work = work
        self._returned: Any = None
        self._raised: BaseException | None = None

    def attempt(self, txn: Transaction) -> None:
        """Do the work in a transaction of its own within ``txn``; what it raises is kept."""
        try:
            with txn.child() as child:
                self._returned = self._work(child)
        except Exception as exc:  # noqa: BLE001 - it is raised where the work came from
            self._raised = exc

    def undone(self, exc: BaseException) -> None:
        """Nothing of it happened, because the commit failed."""
        self._raised = exc

    def result(self) -> Any:
        """Return what the work returned, or raise what it raised."""
        if self._raised is not None:
            raise self._raised
        return self._returned


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
        self._calls: deque[_Call] = deque()

    def begin(self, parent: Any = None) -> Any:
        """LMDB's own write transaction, for ``Transaction``."""
        return self._env.begin(write=True, parent=parent)

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
            with self.begin() as raw:
                txn = Transaction(self, raw)
                yield txn
        except lmdb.Error as exc:
            raise StoreError(f"the store cannot be written: {exc}") from exc
        txn.committed()

    async def together(self, key: bytes, work: Callable[[Transaction], T]) -> T:
        """Do ``work`` in a transaction that others may share, and return what it returned.

        When this returns, it is durable and in memory. ``work`` runs once, opens no transaction
        of its own, and decides by what it finds then: others ran since it was handed in. Works of one ``key`` run
        in the order they came, each in a commit of its own, so that it finds in memory what those
        before it did; works of different keys must not build on each other's memory. One that
        raises undoes only itself. Cancelled, it either never ran or is wholly done;
        who is cancelled already hands nothing in.

        Raises:
            StoreError: the commit failed, and nothing of it happened.
            Whatever ``work`` raises.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(key, work)
        self._calls.append(call)
        try:
            # Whoever is ready now hands in as well; the first to go on commits for all.
            await trio.lowlevel.checkpoint()
        except BaseException:
            if not call.done:
                self._calls.remove(call)
            raise
        while not call.done:
            self._commit_next()
        return call.result()

    def _commit_next(self) -> None:
        """Commit what waits: of each key the oldest, and tell each what became of it."""
        group: dict[bytes, _Call] = {}
        left: deque[_Call] = deque()
        for call in self._calls:
            if call.key in group or len(group) == MAX_TOGETHER:
                left.append(call)
            else:
                group[call.key] = call
        self._calls = left
        try:
            with self.transaction() as txn:
                for call in group.values():
                    call.attempt(txn)
        except StoreError as exc:
            for call in group.values():
                call.undone(StoreError(str(exc)))  # one each: they are raised in several tasks
        except BaseException as exc:  # noqa: BLE001 - nobody goes on, and each is told
            for call in group.values():
                call.undone(exc)
        for call in group.values():
            call.done = True

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
