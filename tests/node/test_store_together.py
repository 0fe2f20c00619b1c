"""Works that share a commit: each whole or not at all, durable before anybody hears of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from cuttable import CuttableStore, FullDisk, PowerCut
from hypothesis import given, settings, strategies as st

from robocompute_node.store import MAX_TOGETHER, Store, Table
from robocompute_protocol.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Generator

    from robocompute_node.store import Transaction

TOTALS = Table("totals/1", int)
TASKS = 8
WRITER = f"""
import sys
from pathlib import Path
import trio
from robocompute_node.store import Store, Table
totals = Table("totals/1", int)
store = Store(Path(sys.argv[1]))
store.declare(totals)

async def count(key):
    for number in range(10**9):
        await store.together(key, lambda txn: txn.put(totals, key, number))
        print(key[0], number, flush=True)

async def main():
    async with trio.open_nursery() as nursery:
        for task in range({TASKS}):
            nursery.start_soon(count, bytes([task]))

trio.run(main)
"""


class Book:
    """A service's totals, in memory and in the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.totals: Counter[bytes] = Counter()
        store.declare(TOTALS)

    def add(self, key: bytes, amount: int, txn: Transaction) -> int:
        """Add to a total as it is in memory; a negative amount fails once it is written."""
        total = self.totals[key] + amount
        txn.put(TOTALS, key, total)
        txn.after(partial(self.totals.__setitem__, key, total))
        if amount < 0:
            raise ZeroDivisionError
        return total

    async def together(self, key: bytes, amount: int) -> int:
        return await self.store.together(key, partial(self.add, key, amount))

    def stored(self) -> dict[bytes, int]:
        return dict(self.store.all(TOTALS))


@contextmanager
def opened(folder: Path, *, after: int | None = None) -> Generator[tuple[Book, CuttableStore]]:
    store = CuttableStore(folder, after=after)
    try:
        yield Book(store), store
    finally:
        store.close()


async def test_what_is_handed_in_at_one_moment_shares_one_commit(tmp_path: Path) -> None:
    with opened(tmp_path) as (book, store):
        async with trio.open_nursery() as nursery:
            for key in range(MAX_TOGETHER + 1):
                nursery.start_soon(book.together, key.to_bytes(2), key)
        assert store.writes == 2
        assert book.stored() == {n.to_bytes(2): n for n in range(MAX_TOGETHER + 1)}


async def test_works_of_one_key_follow_one_another_each_on_what_the_last_left(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as (book, store):
        seen: list[int] = []

        async def add(amount: int) -> None:
            seen.append(await book.together(b"a", amount))

        async with trio.open_nursery() as nursery:
            for amount in (1, 2, 4, 8):
                nursery.start_soon(add, amount)
            nursery.start_soon(book.together, b"b", 5)
        assert max(seen) == 15
        assert len(set(seen)) == 4
        assert store.writes == 4
        assert book.stored() == book.totals == {b"a": 15, b"b": 5}


async def test_a_work_that_fails_undoes_itself_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as (book, store):
        failed: list[bytes] = []

        async def add(key: bytes, amount: int) -> None:
            try:
                await book.together(key, amount)
            except ZeroDivisionError:
                failed.append(key)

        async with trio.open_nursery() as nursery:
            for key, amount in ((b"a", 1), (b"b", -1), (b"c", 3)):
                nursery.start_soon(add, key, amount)
        assert failed == [b"b"]
        assert store.writes == 1
        assert book.stored() == book.totals == {b"a": 1, b"c": 3}


async def test_a_commit_that_fails_fails_for_all_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (book, store):
        disk, errors = FullDisk(store), list[StoreError]()

        async def add(key: bytes) -> None:
            with pytest.raises(StoreError, match="full") as caught:
                await book.together(key, 1)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for key in (b"a", b"b", b"c"):
                nursery.start_soon(add, key)
        assert len({id(error) for error in errors}) == 3
        assert book.totals == {}
        disk.emptied()
        assert book.stored() == {}
        assert await book.together(b"a", 1) == 1


async def test_who_is_cancelled_already_hands_nothing_in(tmp_path: Path) -> None:
    with opened(tmp_path) as (book, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.together, b"a", 1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await book.together(b"b", 1)
            nursery.start_soon(book.together, b"c", 1)
        assert scope.cancelled_caught
        assert book.stored() == book.totals == {b"a": 1, b"c": 1}


async def test_a_power_cut_in_a_commit_ends_all_who_waited_for_it(tmp_path: Path) -> None:
    with opened(tmp_path, after=1) as (book, _):
        cut: list[bytes] = []

        async def add(key: bytes) -> None:
            try:
                await book.together(key, 1)
            except PowerCut:
                cut.append(key)

        async with trio.open_nursery() as nursery:
            for key in (b"a", b"b", b"c"):
                nursery.start_soon(add, key)
        assert sorted(cut) == [b"a", b"b", b"c"]


STEPS = st.tuples(
    st.integers(0, 3),
    st.integers(-1, 3),
    st.integers(0, 3),
    st.none() | st.integers(0, 4),
)
"""A key, an amount, ticks before it is handed in, ticks before it is cancelled."""


@settings(deadline=None, max_examples=40)
@given(st.lists(STEPS, max_size=24), st.integers(0, 3))
def test_whatever_fails_or_is_cancelled_memory_and_store_hold_what_was_done(
    steps: list[tuple[int, int, int, int | None]], full: int
) -> None:
    told: Counter[bytes] = Counter()
    unsure: Counter[bytes] = Counter()

    async def one(book: Book, step: tuple[int, int, int, int | None]) -> None:
        number, amount, ticks, cancel = step
        key = bytes([number])
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        scope = trio.CancelScope()
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    if cancel is not None:
                        nursery.start_soon(later, cancel, scope)
                    await book.together(key, amount)
                    told[key] += amount
                    nursery.cancel_scope.cancel()
        except* (ZeroDivisionError, StoreError):
            pass
        if scope.cancelled_caught:
            unsure[key] += max(0, amount)

    async def later(ticks: int, scope: trio.CancelScope) -> None:
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def everything(book: Book) -> None:
        async with trio.open_nursery() as nursery:
            for step in steps:
                nursery.start_soon(one, book, step)
            disk = FullDisk(book.store)
            for _ in range(full):
                await trio.lowlevel.checkpoint()
            disk.emptied()

    with tempfile.TemporaryDirectory() as folder:
        with opened(Path(folder)) as (book, _):
            trio.run(everything, book)
            totals = dict(book.totals)
        with opened(Path(folder)) as (book, _):
            assert book.stored() == totals
        for key, total in totals.items():
            assert told[key] <= total <= told[key] + unsure[key]
        assert not [key for key, total in told.items() if total > totals.get(key, 0)]


def test_a_kill_loses_nothing_that_any_of_them_told_of(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(20 * TASKS)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait(30)
    process.stdout.close()
    told: Counter[int] = Counter()
    for line in lines:
        task, number = line.split()
        told[int(task)] = int(number)
    store = Store(tmp_path)
    store.declare(TOTALS)
    stored = {key[0]: number for key, number in store.all(TOTALS)}
    store.close()
    assert len(told) == TASKS
    assert [task for task in told if stored[task] < told[task]] == []
