from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from robocompute_node.executor.shelf import Kept, Shelf, to_remove

if TYPE_CHECKING:
    from pathlib import Path

KEYS = st.lists(st.sampled_from("abcdefgh"), unique=True)


def test_the_longest_unused_goes_first():
    kept = [Kept("new", 10, 3), Kept("old", 10, 1), Kept("middle", 10, 2)]
    assert to_remove(kept, in_use=frozenset(), room_bytes=30) == ()
    assert to_remove(kept, in_use=frozenset(), room_bytes=29) == ("old",)
    assert to_remove(kept, in_use=frozenset({"old"}), room_bytes=29) == ("middle",)


@given(KEYS, st.data())
def test_what_is_in_use_stays_and_the_rest_fits_or_is_gone(keys: list[str], data: st.DataObject):
    numbers = st.integers(0, 100)
    kept = [Kept(key, data.draw(numbers), data.draw(numbers)) for key in keys]
    in_use = frozenset(data.draw(st.lists(st.sampled_from(keys)))) if keys else frozenset[str]()
    room = data.draw(st.integers(0, 300))
    gone = to_remove(kept, in_use=in_use, room_bytes=room)
    assert not in_use & set(gone)
    left = [one for one in kept if one.key not in gone]
    assert sum(one.size_bytes for one in left) <= room or {one.key for one in left} <= in_use
    # No more than needed: without the last one removed it would not have fitted.
    if gone:
        last = next(one for one in kept if one.key == gone[-1])
        assert sum(one.size_bytes for one in left) + last.size_bytes > room


def put(shelf: Shelf, key: str, kib: int, used: int) -> None:
    (shelf.root / key / "lib").mkdir(parents=True)
    (shelf.root / key / "lib" / "module.py").write_bytes(b"x" * (kib << 10))
    shelf.lock(key).touch()
    shelf.note_built(key)
    os.utime(shelf.lock(key), (used, used))


def test_what_is_removed_leaves_nothing_and_the_others_stay(tmp_path: Path):
    shelf = Shelf(tmp_path, 150 << 10)
    put(shelf, "a", 100, used=1)
    put(shelf, "b", 100, used=2)
    shelf.note_use("a")
    (gone,) = shelf.surplus(frozenset())
    assert gone == "b"
    shelf.remove(gone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.lock"]
    assert shelf.surplus(frozenset()) == ()


def test_an_environment_that_was_not_counted_is_counted_and_keeps_its_age(tmp_path: Path):
    shelf = Shelf(tmp_path, 1 << 20)
    put(shelf, "a", 100, used=7)
    shelf.lock("a").write_text("")
    os.utime(shelf.lock("a"), (7, 7))
    (kept,) = shelf.kept()
    assert kept.size_bytes >= 100 << 10
    assert kept.used_ns == 7 * 10**9


def test_a_removal_that_was_cut_short_is_no_environment_and_does_no_harm(tmp_path: Path):
    shelf = Shelf(tmp_path, 0)
    put(shelf, "a", 1, used=1)
    (tmp_path / "a").rename(tmp_path / ".removed-a")
    assert shelf.kept() == ()
    put(shelf, "a", 1, used=1)
    shelf.remove("a")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_emptied_once_it_has_outgrown_its_share(tmp_path: Path):
    shelf, cache = Shelf(tmp_path, 400 << 10), tmp_path / "cache"
    cache.mkdir()
    (cache / "wheel").write_bytes(b"x" * (50 << 10))
    shelf.empty_cache(cache)
    assert cache.exists()
    (cache / "more").write_bytes(b"x" * (100 << 10))
    shelf.empty_cache(cache)
    assert not cache.exists()
