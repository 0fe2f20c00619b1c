"""A node that may have forgotten ticks knows it; one that was merely killed does not wait."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from robocompute_node.core.quiet import (
    HANDOVER,
    QUIET,
    Kept,
    Mark,
    quiet_after_clock,
    quiet_after_rotation,
    what_was_lost,
)
from robocompute_protocol.identifiers import NodeKey
from robocompute_protocol.money import Millis

KEY, FORMER = NodeKey(bytes([1]) * 32), NodeKey(bytes([2]) * 32)
NOW = Millis(1_000_000)
KEPT = Kept(instance="a", starts=3, ticks=10, keys=(KEY,))
MARK = Mark(instance="a", starts=3, ticks=10, machine="boot", written_ms=NOW)
FRESH = Mark(instance="", starts=0, ticks=0, machine="boot", written_ms=NOW)


def lost(
    kept: Kept | None, mark: Mark | None, *, machine: str = "boot", changed: int = NOW
) -> str | None:
    return what_was_lost(kept, mark, machine=machine, changed_ms=Millis(changed))


def test_a_new_node_and_one_that_was_killed_anywhere_do_not_wait() -> None:
    assert lost(None, FRESH) is None
    assert lost(KEPT, MARK) is None
    assert lost(replace(KEPT, ticks=11), MARK) is None  # killed between the store and the mark
    assert lost(replace(KEPT, starts=4), MARK) is None
    assert lost(replace(KEPT, starts=1, ticks=0), FRESH) is None  # killed at its first start


@pytest.mark.parametrize(
    ("kept", "mark", "words"),
    [
        (None, MARK, "lost"),
        (None, None, "no mark"),
        (KEPT, None, "no mark"),
        (replace(KEPT, ticks=9), MARK, "older copy"),
        (replace(KEPT, starts=2), MARK, "older copy"),
        (replace(KEPT, instance="b"), MARK, "another"),
    ],
)
def test_a_store_that_is_lost_older_or_another_is_noticed(
    kept: Kept | None, mark: Mark | None, words: str
) -> None:
    found = lost(kept, mark)
    assert found is not None
    assert words in found


def test_a_folder_that_was_copied_as_a_whole_is_noticed_by_its_files_dates() -> None:
    assert lost(KEPT, MARK, changed=NOW + 4_999) is None
    assert lost(KEPT, MARK, changed=NOW + 5_001) == "the node's folder was copied or restored"
    assert lost(None, FRESH, changed=NOW + 5_001) is not None


def test_another_start_of_the_machine_may_be_from_an_older_disk() -> None:
    found = lost(KEPT, MARK, machine="another boot")
    assert found is not None
    assert "machine" in found


def test_a_key_that_took_over_a_stake_waits_until_the_former_ones_ticks_cannot_count() -> None:
    assert quiet_after_rotation(rotated_at_s=0, prev_key=FORMER, keys=()) == 0
    until = quiet_after_rotation(rotated_at_s=1_000, prev_key=FORMER, keys=(KEY,))
    assert until == 1_000_000 + HANDOVER
    assert HANDOVER >= 2 * 300_000
    assert quiet_after_rotation(rotated_at_s=1_000, prev_key=FORMER, keys=(FORMER, KEY)) == 0


def test_the_wait_is_longer_than_any_tick() -> None:
    assert QUIET >= 330_000


def test_a_clock_that_was_set_back_is_waited_out_until_all_it_signed_is_over() -> None:
    kept = replace(KEPT, latest_ms=Millis(NOW + 90_000), signed_ms=Millis(NOW + 60_000))
    assert (
        quiet_after_clock(kept, now_ms=NOW) == NOW + 90_000
    )  # what was forgotten is over by then
    assert quiet_after_clock(kept, now_ms=Millis(NOW + 90_000)) == 0


def test_a_clock_that_was_years_ahead_and_signed_nothing_then_costs_no_years() -> None:
    ahead = Millis(NOW + 10 * 365 * 86_400_000)
    kept = replace(KEPT, latest_ms=ahead, signed_ms=Millis(NOW - 1_000))
    assert quiet_after_clock(kept, now_ms=NOW) == NOW - 1_000 + QUIET
    assert quiet_after_clock(kept, now_ms=Millis(NOW + QUIET)) == 0
    assert quiet_after_clock(replace(kept, signed_ms=Millis(0)), now_ms=NOW) == 0
