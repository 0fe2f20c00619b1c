import pytest
from hypothesis import given, strategies as st

from robocompute_protocol.identifiers import address_from_base58, digest, to_base58


@given(st.binary(min_size=32, max_size=32))
def test_an_address_written_and_read_is_the_same(address: bytes) -> None:
    assert address_from_base58(to_base58(address)) == address


def test_a_known_address_is_written_as_solana_writes_it() -> None:
    assert to_base58(bytes(32)) == "11111111111111111111111111111111"


@pytest.mark.parametrize("text", ["", "1", "0OIl", to_base58(bytes(31)), to_base58(bytes(33))])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address_from_base58(text)


@given(st.lists(st.binary(max_size=20)))
def test_a_digest_is_of_the_parts_in_a_row(parts: list[bytes]) -> None:
    assert digest(*parts) == digest(b"".join(parts))
