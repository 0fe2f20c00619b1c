"""The node's store: whole transactions, one process, and nothing lost to a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from robocompute_node.store import Store, Table
from robocompute_protocol.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pathlib import Path


class Row(msgspec.Struct, frozen=True):
    number: int


ROWS = Table("rows/1", Row)
WRITER = """
import sys
from pathlib import Path
from robocompute_node.store import Store, Table
rows = Table("numbers/1", int)
store = Store(Path(sys.argv[1]))
store.declare(rows)
for number in range(10**9):
    with store.transaction() as txn:
        txn.put(rows, number.to_bytes(8), number)
        txn.put(rows, b"last", number)
    print(number, flush=True)
"""


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.declare(ROWS)
    return store


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store.transaction() as txn:
        for n in (3, 1, 2):
            txn.put(ROWS, bytes([n]), Row(n))
        txn.delete(ROWS, bytes([2]))
    store.close()
    store.close()
    store = opened(tmp_path)
    assert [row.number for _, row in store.all(ROWS)] == [1, 3]
    with store.view() as txn:
        assert [key for key, _ in txn.scan(ROWS, reverse=True)] == [b"\x03", b"\x01"]
    store.close()


def test_a_transaction_that_raises_did_not_happen(tmp_path: Path) -> None:
    store = opened(tmp_path)

    def fail() -> None:
        with store.transaction() as txn:
            txn.put(ROWS, b"a", Row(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get(ROWS, b"a") is None
    store.close()


def test_a_second_process_is_told_who_uses_the_store(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    with pytest.raises(ConfigError, match=rf"pid {os.getpid()}\) uses {tmp_path}"):
        Store(tmp_path / "store")
    store.close()
    opened(tmp_path / "store").close()


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store.transaction() as txn:
        txn.put(Table("rows/1", str), b"a", "not a row")
    with pytest.raises(StoreError, match="rows/1"):
        store.get(ROWS, b"a")
    store.close()


def test_a_folder_that_cannot_be_used_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use"):
        Store(tmp_path / "file")


def test_a_killed_writer_loses_nothing_that_it_told_of(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines()]
    process.wait(30)
    process.stdout.close()
    numbers = Table("numbers/1", int)
    store = Store(tmp_path)
    store.declare(numbers)
    rows = dict(store.all(numbers))
    last = rows.pop(b"last")
    assert last >= told[-1]
    assert sorted(rows.values()) == list(range(last + 1))
    store.close()
