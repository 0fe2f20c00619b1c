import inspect
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from robocompute_protocol import codec, example_messages, messages, signing, vectors
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import Signed

FOLDER = Path(__file__).parents[2] / "protocol/vectors"
STRUCTS: dict[str, Any] = {
    name: struct
    for name, struct in inspect.getmembers(messages, inspect.isclass)
    if issubclass(struct, messages.Message) and struct is not messages.Message
}
WRITTEN: dict[str, Any] = {
    vector["name"]: vector for vector in json.loads((FOLDER / "messages.json").read_text())["messages"]
}  # fmt: skip
NAMES = sorted(WRITTEN.keys() & STRUCTS.keys())


@pytest.mark.parametrize("name", vectors.FILES)
def test_the_vectors_in_the_repository_are_current(name: str) -> None:
    """Run ``python -m robocompute_protocol.vectors`` after a change that is meant."""
    assert (FOLDER / name).read_text("utf-8") == vectors.render(name)


def test_there_is_no_vector_file_that_nothing_writes(tmp_path: Path) -> None:
    vectors.write(tmp_path)
    assert {file.name for file in FOLDER.iterdir()} == {file.name for file in tmp_path.iterdir()}


def test_every_message_has_one_example() -> None:
    """Add the message to ``EXAMPLES`` in ``example_messages.py``."""
    named = [type(example).__name__ for example in example_messages.EXAMPLES]
    assert sorted(named) == sorted(STRUCTS)


def test_every_domain_that_signs_a_message_has_a_signed_example() -> None:
    domains = {value for name, value in vars(signing).items() if is_domain(name, value)}
    shown = {domain for domain, _, _ in example_messages.SIGNED.values()}
    assert shown == domains - {signing.VOUCHER, signing.LEASE}  # in settlement.json


def is_domain(name: str, value: object) -> bool:
    return name.isupper() and isinstance(value, bytes) and len(value) == 8 and value[:2] == b"RC"


@pytest.mark.parametrize("name", NAMES)
def test_a_message_reads_as_its_vector_says_and_is_written_as_it_was(name: str) -> None:
    encoded = bytes.fromhex(WRITTEN[name]["encoded"])
    message = codec.decode(STRUCTS[name], encoded)
    assert codec.encode(message) == encoded
    assert list(WRITTEN[name]["fields"]) == list(msgspec.msgpack.decode(encoded))


@pytest.mark.parametrize("name", NAMES)
def test_a_message_with_anything_else_in_a_field_is_refused(name: str) -> None:
    good = msgspec.msgpack.decode(bytes.fromhex(WRITTEN[name]["encoded"]))
    for case in WRITTEN[name]["refused"]:
        bad = {**good, case["field"]: msgspec.Raw(bytes.fromhex(case["value"]))}
        with pytest.raises(RemoteProtocolError) as refused:
            codec.decode(STRUCTS[name], msgspec.msgpack.encode(bad))
        assert refused.value.code == "malformed", case


@pytest.mark.parametrize("name", NAMES)
def test_a_message_with_more_or_less_than_its_fields_is_refused(name: str) -> None:
    encoded = bytes.fromhex(WRITTEN[name]["encoded"])
    fields = msgspec.msgpack.decode(encoded)
    info = msgspec.inspect.type_info(STRUCTS[name])
    assert isinstance(info, msgspec.inspect.StructType)
    cases = [encoded + b"\x00", encoded[:-1], msgspec.msgpack.encode({**fields, "more": 1})]
    for field in info.fields:
        left = {key: value for key, value in fields.items() if key != field.name}
        if field.required:
            cases.append(msgspec.msgpack.encode(left))
        else:
            codec.decode(STRUCTS[name], msgspec.msgpack.encode(left))
    if info.tag is not None:
        cases.append(msgspec.msgpack.encode({**fields, "type": "nonsense"}))
    for case in cases:
        with pytest.raises(RemoteProtocolError):
            codec.decode(STRUCTS[name], case)


def test_what_is_signed_is_the_domain_the_key_and_the_body() -> None:
    for vector in json.loads((FOLDER / "messages.json").read_text())["signed"]:
        signed = Signed(
            key=bytes.fromhex(vector["key"]),  # pyright: ignore[reportArgumentType]
            body=bytes.fromhex(vector["body"]),
            signature=bytes.fromhex(vector["signature"]),  # pyright: ignore[reportArgumentType]
        )
        domain = signing.Domain(vector["domain"].encode())
        assert domain + signed.key + signed.body == bytes.fromhex(vector["statement"])
        signing.open_signed(domain, signed, STRUCTS[vector["name"]])
        for other in (signing.OFFER, signing.TERMS):
            if other != domain:
                with pytest.raises(RemoteProtocolError):
                    signing.open_signed(other, signed, STRUCTS[vector["name"]])
