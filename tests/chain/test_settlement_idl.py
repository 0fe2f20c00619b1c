"""The committed IDL and program, read the way others read them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from settlement_layouts import ERRORS, IDL, PROGRAM_DIR, discriminator, encode, snake
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World

anchorpy = pytest.importorskip("anchorpy")

DOCUMENT = (Path(__file__).parents[2] / "docs" / "settlement.md").read_text()


def example(kind: object) -> Any:
    if kind == "publicKey":
        return Pubkey.new_unique()
    if isinstance(kind, dict):
        return list(range(32))
    return {"bool": True, "i64": -5}.get(str(kind), 7)


@pytest.mark.parametrize("name", [one["name"] for one in IDL["instructions"]])
def test_anchorpy_encodes_every_instruction_as_the_program_reads_it(name: str) -> None:
    coder = anchorpy.Coder(
        anchorpy.Idl.from_json((PROGRAM_DIR / "idl/settlement.json").read_text())
    )
    spec = next(one for one in IDL["instructions"] if one["name"] == name)
    values = [(snake(one["name"]), one["type"], example(one["type"])) for one in spec["args"]]
    expected = discriminator("global", snake(name))
    for _, kind, value in values:
        expected += encode(kind, value)
    arguments = {one: value for one, _, value in values}
    assert coder.instruction.encode(snake(name), arguments) == expected


def test_anchorpy_parses_an_event(world: World) -> None:
    user = world.user()
    result = world.ok(world.deposit(user, 5), signers=(user.key,))
    coder = anchorpy.Coder(
        anchorpy.Idl.from_json((PROGRAM_DIR / "idl/settlement.json").read_text())
    )
    events: list[Any] = []
    anchorpy.EventParser(world.program, coder).parse_logs(result.logs(), events.append)
    assert [one.name for one in events] == ["Deposited"]
    assert (events[0].data.owner, events[0].data.amount) == (user.address, 5)


def test_error_numbers_follow_one_another_from_6000() -> None:
    assert sorted(ERRORS) == list(range(6000, 6000 + len(ERRORS)))


def test_the_committed_program_has_the_recorded_digest() -> None:
    digest = hashlib.sha256((PROGRAM_DIR / "settlement.so").read_bytes()).hexdigest()
    recorded = (PROGRAM_DIR / "settlement.so.sha256").read_text()
    assert recorded == f"{digest}  settlement.so\n"


def test_every_instruction_event_and_error_is_documented() -> None:
    for one in IDL["instructions"]:
        assert re.search(rf"`{snake(one['name'])}", DOCUMENT), one["name"]
    for one in IDL["events"]:
        assert f"`{one['name']}" in DOCUMENT, one["name"]
    for number, name in ERRORS.items():
        assert re.search(rf"\| {number} \| `{name}` \|", DOCUMENT), name
