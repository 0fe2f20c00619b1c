from __future__ import annotations

from hypothesis import given, strategies as st

from robocompute_node.executor.lines import PATIENCE_S, LineSplitter
from robocompute_node.executor.segments import CR, LINE, MAX_RECORD, PART

ENDS = {LINE: b"\n", CR: b"\r", PART: b""}


def cut(*pieces: bytes) -> list[tuple[int, bytes]]:
    splitter = LineSplitter()
    records = [record for piece in pieces for record in splitter.feed(piece, 0.0)]
    return records + splitter.finish()


def shown(records: list[tuple[int, bytes]]) -> bytes:
    return b"".join(data + ENDS[kind] for kind, data in records)


def test_lines_lose_their_newline_and_keep_their_bytes():
    assert cut(b"a\nb", b"\xff\n\n") == [(LINE, b"a"), (LINE, b"b\xff"), (LINE, b"")]


def test_a_line_end_of_two_bytes_is_one_line_end_even_in_two_pieces():
    assert cut(b"a\r", b"\nb\r\n") == [(LINE, b"a\r"), (LINE, b"b\r")]


def test_redraws_of_a_progress_bar_are_records_of_their_own():
    assert cut(b"\r10%", b"\r20%\rdone\n") == [
        (CR, b""),
        (CR, b"10%"),
        (CR, b"20%"),
        (LINE, b"done"),
    ]


def test_a_redraw_after_a_part_is_kept_so_that_nothing_is_shown_twice():
    splitter = LineSplitter()
    splitter.feed(b"10%", 0.0)
    assert splitter.expire(PATIENCE_S) == [(PART, b"10%")]
    assert splitter.feed(b"\r20%\n", 1.0) == [(CR, b""), (LINE, b"20%")]


def test_a_prompt_is_shown_after_a_moment_and_its_line_goes_on():
    splitter = LineSplitter()
    assert splitter.feed(b"Name? ", 5.0) == []
    assert splitter.due_at() == 5.0 + PATIENCE_S
    assert splitter.expire(5.0) == []
    assert splitter.expire(5.0 + PATIENCE_S) == [(PART, b"Name? ")]
    assert splitter.due_at() is None
    assert splitter.feed(b"Ada\n", 6.0) == [(LINE, b"Ada")]


def test_a_piece_waits_from_its_first_byte():
    splitter = LineSplitter()
    splitter.feed(b"a", 1.0)
    splitter.feed(b"b", 1.05)
    assert splitter.due_at() == 1.0 + PATIENCE_S


def test_a_long_line_is_cut_into_parts():
    records = cut(b"x" * (MAX_RECORD + 5) + b"\n")
    assert [(kind, len(data)) for kind, data in records] == [(PART, MAX_RECORD), (LINE, 5)]


@given(st.lists(st.text("ab\n\r", max_size=6).map(str.encode), max_size=8), st.booleans())
def test_output_comes_back_byte_for_byte(pieces: list[bytes], slow: bool):
    splitter = LineSplitter()
    records: list[tuple[int, bytes]] = []
    for number, piece in enumerate(pieces):
        records += splitter.feed(piece, float(number))
        records += splitter.expire(number + PATIENCE_S) if slow else []
    assert shown(records + splitter.finish()) == b"".join(pieces)
