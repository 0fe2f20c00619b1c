"""Events in transaction logs: told by our program, while it ran, in calls that did not fail."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given, strategies as st

from robocompute_protocol.identifiers import Address, ChannelId, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.events import (
    LOG_TRUNCATED,
    ChainEvent,
    ToppedUp,
    decode_event,
    events_of,
)
from robocompute_settlement.localworld import local_address

if TYPE_CHECKING:
    from collections.abc import Iterable

IDL_PATH = Path(__file__).parents[2] / "programs" / "settlement" / "idl" / "settlement.json"
IDL: dict[str, Any] = json.loads(IDL_PATH.read_text())
PROGRAM = local_address("program")
OURS, THEIRS = to_base58(PROGRAM), to_base58(local_address("another program"))
CHANNEL = ChannelId(local_address("a channel"))


def bytes_of(amount: int) -> bytes:
    numbers = amount.to_bytes(8, "little") + (2 * amount).to_bytes(8, "little")
    return sha256(b"event:ToppedUp").digest()[:8] + CHANNEL + numbers


def line_of(amount: int) -> str:
    return f"Program data: {base64.b64encode(bytes_of(amount)).decode()}"


def topped_up(amount: int) -> ToppedUp:
    return ToppedUp(channel=CHANNEL, amount=MicroUnits(amount), deposit=MicroUnits(2 * amount))


def told(*lines: str) -> tuple[list[int], bool]:
    """The amounts of the events in these lines, and whether that was all."""
    found = events_of(lines, PROGRAM)
    assert all(isinstance(each, ToppedUp) for each in found.events)
    return [each.amount for each in found.events if isinstance(each, ToppedUp)], found.complete


def packed(type_: Any) -> tuple[bytes, Any]:
    """A value of an IDL type: its bytes, and what it is read as."""
    match type_:
        case "publicKey" | {"array": ["u8", 32]}:
            return bytes(range(32)), bytes(range(32))
        case "u64":
            return (2**64 - 2).to_bytes(8, "little"), 2**64 - 2
        case "i64":
            return (-5).to_bytes(8, "little", signed=True), -5
        case "u16":
            return (65_000).to_bytes(2, "little"), 65_000
        case "u8":
            return b"\x07", 7
        case "bool":
            return b"\x01", True
        case _:
            raise AssertionError(type_)


@pytest.mark.parametrize("described", IDL["events"], ids=lambda each: each["name"])
def test_an_event_is_read_as_the_idl_describes_it(described: dict[str, Any]) -> None:
    tag = sha256(f"event:{described['name']}".encode()).digest()[:8]
    values = [packed(each["type"]) for each in described["fields"]]
    data = tag + b"".join(raw for raw, _ in values)
    event = decode_event(data)
    assert event is not None
    assert type(event).__name__ == described["name"]
    assert list(asdict(event).values()) == [value for _, value in values]
    snakes = ["".join(f"_{c.lower()}" if c.isupper() else c for c in each["name"]) for each in described["fields"]]  # fmt: skip
    assert [each.name for each in fields(event)] == snakes
    assert decode_event(data + b"\0") is None
    assert decode_event(data[:-1]) is None


def test_every_event_that_is_read_is_one_of_the_program() -> None:
    assert {each.__name__ for each in get_args(ChainEvent)} == {
        each["name"] for each in IDL["events"]
    }


def test_events_keep_their_order_over_calls_inside_calls() -> None:
    assert told(
        f"Program {THEIRS} invoke [1]",
        f"Program {OURS} invoke [2]",
        line_of(1),
        f"Program {THEIRS} invoke [3]",
        f"Program {THEIRS} success",
        line_of(2),
        f"Program {OURS} consumed 700 of 1000 compute units",
        f"Program {OURS} success",
        f"Program {THEIRS} success",
        f"Program {OURS} invoke [1]",
        line_of(3),
        f"Program {OURS} success",
    ) == ([1, 2, 3], True)


def test_another_program_cannot_tell_our_events() -> None:
    assert told(
        f"Program {THEIRS} invoke [1]",
        line_of(1),
        f"Program log: Program {OURS} invoke [1]",
        f"Program log: x\nProgram {OURS} invoke [2]",
        line_of(2),
        f"Program {OURS} invoke [2]",
        f"Program {THEIRS} invoke [3]",
        line_of(3),
        f"Program {THEIRS} success",
        f"Program {OURS} success",
        line_of(4),
        f"Program {THEIRS} success",
        line_of(5),
    ) == ([], True)


def test_what_a_failed_call_told_did_not_happen() -> None:
    assert told(
        f"Program {THEIRS} invoke [1]",
        f"Program {OURS} invoke [2]",
        line_of(1),
        f"Program {OURS} failed: custom program error: 0x1770",
        f"Program {THEIRS} success",
        f"Program {OURS} invoke [1]",
        line_of(2),
        f"Program {OURS} success",
    ) == ([2], True)


def test_a_log_that_was_cut_short_says_so_and_keeps_what_it_has() -> None:
    lines = (f"Program {OURS} invoke [1]", line_of(1), LOG_TRUNCATED, line_of(2))
    assert told(*lines) == ([1], False)
    assert told(f"Program {OURS} invoke [1]", line_of(1)) == ([1], False)


def test_an_event_of_a_later_program_is_no_silent_loss() -> None:
    later = base64.b64encode(b"later..." + bytes(40)).decode()
    assert told(
        f"Program {OURS} invoke [1]",
        f"Program data: {later}",
        line_of(1),
        "Program data: !!",
        f"Program {OURS} success",
    ) == ([1], False)


WORDS = st.sampled_from(
    [
        f"Program {OURS} invoke [1]", f"Program {OURS} invoke [2]", f"Program {THEIRS} invoke [1]",
        f"Program {THEIRS} invoke [2]", f"Program {OURS} success", f"Program {THEIRS} success",
        f"Program {OURS} failed: x", f"Program {THEIRS} failed: x", line_of(1), line_of(2),
        LOG_TRUNCATED, "Program data: ", "Program data: AA==", "Program log: Program", "",
    ]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=40)), max_size=40))
def test_no_log_breaks_the_reader(lines: list[str]) -> None:
    found = events_of(lines, PROGRAM)
    assert len(found.events) <= sum(line.startswith("Program data: ") for line in lines)


@st.composite
def calls(draw: st.DrawFn, depth: int = 1) -> tuple[list[str], list[int]]:
    """A well-formed call at ``depth``: its lines, and the amounts that count."""
    ours, failed = draw(st.booleans()), draw(st.booleans())
    name = OURS if ours else THEIRS
    lines, amounts = [f"Program {name} invoke [{depth}]"], list[int]()
    for _ in range(draw(st.integers(0, 3))):
        if depth < 4 and draw(st.booleans()):
            inner, found = draw(calls(depth + 1))
            lines += inner
            amounts += found
        else:
            amount = draw(st.integers(0, 2**62))
            lines.append(line_of(amount))
            amounts += [amount] * ours
    lines.append(f"Program {name} failed: it did" if failed else f"Program {name} success")
    return lines, [] if failed else amounts


@given(st.lists(calls(), max_size=4))
def test_exactly_what_our_program_told_in_calls_that_did_not_fail_counts(
    some: list[tuple[list[str], list[int]]],
) -> None:
    lines = [line for each, _ in some for line in each]
    assert told(*lines) == ([amount for _, amounts in some for amount in amounts], True)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_one_event(data: bytes) -> None:
    decode_event(data)
    assert decode_event(bytes_of(7)) == topped_up(7)


def test_a_program_address_of_another_deployment_has_no_events_of_ours() -> None:
    lines: Iterable[str] = (f"Program {OURS} invoke [1]", line_of(1), f"Program {OURS} success")
    assert events_of(lines, Address(bytes(32))).events == ()
