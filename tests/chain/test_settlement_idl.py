"""The committed IDL and program, read the way others read them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anchorpy
import pytest
from settlement_layouts import (
    ERRORS,
    IDL,
    PROGRAM_DIR,
    decode_balance,
    decode_channel,
    decode_config,
    decode_stake,
    discriminator,
    snake,
)
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = (ROOT / "docs" / "settlement.md").read_text()
VECTORS: Final = json.loads(
    (ROOT / "programs" / "settlement" / "vectors" / "program.json").read_text()
)
CODER: Final[Any] = anchorpy.Coder(
    anchorpy.Idl.from_json((PROGRAM_DIR / "idl" / "settlement.json").read_text())
)
TYPES: Final = {one["name"]: one["type"]["fields"] for one in IDL["types"]}


def as_anchorpy_has_it(kind: object, value: Any) -> Any:
    """A vector's value, where 32 bytes are a hex string."""
    if kind == "publicKey":
        return Pubkey.from_bytes(bytes.fromhex(value))
    return list(bytes.fromhex(value)) if isinstance(kind, dict) else value


def named(fields: list[dict[str, Any]], values: dict[str, Any]) -> dict[str, Any]:
    """A vector's values, as the IDL's fields want them."""
    assert [snake(one["name"]) for one in fields] == list(values)
    return {
        snake(one["name"]): as_anchorpy_has_it(one["type"], values[snake(one["name"])])
        for one in fields
    }


def test_the_vectors_name_everything_that_the_idl_names() -> None:
    assert {snake(one["name"]) for one in IDL["instructions"]} == set(VECTORS["instructions"])
    assert {one["name"] for one in IDL["events"]} == set(VECTORS["events"])
    assert set(TYPES) == set(VECTORS["accounts"])


@pytest.mark.parametrize("spec", IDL["instructions"], ids=lambda one: one["name"])
def test_anchorpy_encodes_every_instruction_as_its_vector(spec: dict[str, Any]) -> None:
    vector = VECTORS["instructions"][snake(spec["name"])]
    arguments = named(spec["args"], vector["arguments"])
    assert CODER.instruction.encode(snake(spec["name"]), arguments).hex() == vector["data"]


@pytest.mark.parametrize("spec", IDL["events"], ids=lambda one: one["name"])
def test_anchorpy_reads_every_event_as_its_vector(spec: dict[str, Any]) -> None:
    vector = VECTORS["events"][spec["name"]]
    event = CODER.events.parse(bytes.fromhex(vector["data"]))
    assert event.name == spec["name"]
    for name, value in named(spec["fields"], vector["fields"]).items():
        assert getattr(event.data, name) == value, name


@pytest.mark.parametrize("name", TYPES)
def test_anchorpy_reads_and_writes_every_account_as_its_vector(name: str) -> None:
    vector = VECTORS["accounts"][name]
    fields = named(TYPES[name], vector["fields"])
    assert CODER.types.encode(name, fields).hex() == vector["data"]
    record = CODER.types.decode(name, bytes.fromhex(vector["data"]))
    for field, value in fields.items():
        assert getattr(record, field) == value, field


def as_the_vector_has_it(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, Pubkey | bytes) else value


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("Config", decode_config),
        ("Balance", decode_balance),
        ("Stake", decode_stake),
        ("Channel", decode_channel),
    ],
)
def test_the_decoders_of_these_tests_read_the_vectors(name: str, decode: Any) -> None:
    vector = VECTORS["accounts"][name]
    account: object = decode(bytes.fromhex(vector["data"]))
    read = dict[str, Any](vars(account))
    if name == "Config":
        read["mint0"], read["mint1"] = read.pop("mints")
    for field, value in read.items():
        assert as_the_vector_has_it(value) == vector["fields"][field], field


def test_anchorpy_parses_what_the_program_tells(world: World) -> None:
    user = world.user()
    result = world.ok(world.deposit(user, 5), signers=(user.key,))
    events: list[Any] = []
    anchorpy.EventParser(world.program, CODER).parse_logs(result.logs(), events.append)
    assert [one.name for one in events] == ["Deposited"]
    assert (events[0].data.owner, events[0].data.amount) == (user.address, 5)


def test_discriminators_are_those_of_the_names() -> None:
    for name, vector in VECTORS["instructions"].items():
        assert bytes.fromhex(vector["data"])[:8] == discriminator("global", name)


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
