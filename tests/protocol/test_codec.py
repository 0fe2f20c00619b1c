from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from robocompute_protocol import messages
from robocompute_protocol.codec import decode, encode
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import (
    AgreementMessage,
    BlobMessage,
    BookMessage,
    JobMessage,
    Output,
    PayMessage,
    Refused,
    Requirements,
    Signed,
)

UNIONS: list[Any] = [AgreementMessage, BlobMessage, BookMessage, JobMessage, PayMessage]
STRUCTS: list[type[messages.Message]] = sorted(
    messages.Message.__subclasses__(), key=lambda struct: struct.__name__
)
REFUSED = Refused(code="busy", message="no slot")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=64)
)
NAMES = st.sampled_from(sorted({name for s in STRUCTS for name in s.__struct_fields__} | {"type"}))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=20,
)


def attempt(type: Any, data: bytes) -> Any:
    """Return what ``data`` decodes to, or None where it is refused as it should be."""
    try:
        return decode(type, data)
    except RemoteProtocolError as exc:
        if exc.code != "malformed":
            raise
        return None


def refusal(type: Any, data: bytes, **options: int) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(type, data, **options)
    return caught.value.code


@pytest.mark.parametrize("union", UNIONS)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(union: Any, data: bytes) -> None:
    message = attempt(union, data)
    assert message is None or isinstance(message, get_args(union))


@pytest.mark.parametrize("struct", STRUCTS)
@settings(max_examples=30)
@given(tree=TREES)
def test_a_random_tree_decodes_to_the_type_or_is_refused(struct: Any, tree: Any) -> None:
    message = attempt(struct, msgspec.msgpack.encode(tree))
    assert message is None or decode(struct, encode(message)) == message


@settings(max_examples=200)
@given(
    st.builds(
        Output,
        sequence=st.integers(0, 2**53),
        stream=st.sampled_from(["stdout", "stderr", "supervisor"]),
        kind=st.sampled_from(["line", "cr", "part", "note"]),
        at_ns=st.integers(0, 2**53),
        data=st.binary(max_size=500),
    )
)
def test_a_message_survives_the_way_there_and_back(record: Output) -> None:
    assert decode(JobMessage, encode(record)) == record
    assert decode(Output, encode(record)) == record


@given(st.data())
def test_a_damaged_message_is_refused_or_another_message(data: st.DataObject) -> None:
    encoded = bytearray(encode(REFUSED))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    message = attempt(AgreementMessage, bytes(encoded))
    assert message is None or isinstance(message, get_args(AgreementMessage))


def test_the_size_is_looked_at_first() -> None:
    assert refusal(Refused, b"\xc1" * 11, limit=10) == "too_large"
    assert refusal(Refused, b"\xc1" * 10, limit=10) == "malformed"
    assert decode(Refused, encode(REFUSED), limit=len(encode(REFUSED))) == REFUSED


def test_bytes_left_over_are_refused() -> None:
    assert refusal(Refused, encode(REFUSED) + b"\x00") == "malformed"


def test_half_a_message_is_refused() -> None:
    assert refusal(Refused, encode(REFUSED)[:-1]) == "malformed"
    assert refusal(Refused, b"") == "malformed"


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu_cores": 1, "surprise": 1},
        {"cpu_cores": -1},
        {"cpu_cores": 2**53 + 1},
        {"cpu_cores": 1.0},
        {"cpu_cores": "1"},
        {"cpu_cores": True},
        {"cpu_cores": None},
        {"resource_class": "GPU!"},
    ],
)
def test_unknown_fields_other_types_and_values_out_of_bounds_are_refused(
    fields: dict[str, object],
) -> None:
    assert refusal(Requirements, msgspec.msgpack.encode(fields)) == "malformed"


@pytest.mark.parametrize("length", [31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    fields = {"key": bytes(length), "body": b"", "signature": bytes(64)}
    assert refusal(Signed, msgspec.msgpack.encode(fields)) == "malformed"


def test_a_message_of_another_protocol_is_refused() -> None:
    output = Output(sequence=0, stream="stdout", kind="line", at_ns=0, data=b"")
    assert refusal(AgreementMessage, encode(output)) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 200_000,
        b"\x81\xa4type" * 40_000,
        b"\x81\xa8surprise" + b"\x91" * 200_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa6chunks\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("union", [*UNIONS, messages.Want])
def test_deep_nesting_and_lengths_that_lie_cost_nothing(union: Any, data: bytes) -> None:
    assert refusal(union, data) == "malformed"
