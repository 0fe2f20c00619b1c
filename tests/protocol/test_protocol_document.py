"""docs/protocol.md says all that a second implementation has to know."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from robocompute_protocol import messages, signing, terms, vouchers
from robocompute_protocol.agreement import ClientPhase, ProviderPhase
from robocompute_protocol.causes import ANSWERABLE, Cause, Side
from robocompute_protocol.vectors import FILES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/protocol.md").read_text("utf-8")
SOURCES = [
    path.read_text("utf-8")
    for folder in ("protocol/robocompute_protocol", "node/robocompute_node")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
STRUCTS: list[Any] = [
    struct
    for _, struct in inspect.getmembers(messages, inspect.isclass)
    if issubclass(struct, messages.Message) and struct is not messages.Message
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_message_is_listed_with_its_tag_and_its_fields_in_order(struct: Any) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{struct.__name__}` |"))
    _, _, tag, fields, _ = re.split(r"\s*\|\s*", row)
    expected = struct.__struct_config__.tag
    assert tag == (f"`{expected}`" if expected else "")
    assert tuple(re.findall(r"`(\w+)`", fields)) == struct.__struct_fields__


def test_every_protocol_and_topic_is_described() -> None:
    names = [value for name, value in vars(messages).items() if name.startswith("PROTOCOL_")]
    assert names
    for name in [*names, messages.TOPIC_OFFERS, messages.TOPIC_BIDS]:
        assert f"`{name}" in TEXT


def test_every_domain_is_described() -> None:
    for domain in (
        signing.OFFER,
        signing.BID,
        signing.TERMS,
        signing.RECEIPT,
        signing.NEVER_LEASED,
        signing.PEER,
        signing.VOUCHER,
        signing.LEASE,
        vouchers.CLOSED_DOMAIN,
        vouchers.ALLOCATION_DOMAIN,
        terms.AGREEMENT_DOMAIN,
    ):
        assert domain.decode("ascii") in TEXT


def test_every_cause_stands_under_the_side_that_is_answerable() -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith("| `exited`"))
    client, provider = (set(re.findall(r"`(\w+)`", cell)) for cell in row.split("|")[1:3])
    assert client == {cause for cause in Cause if ANSWERABLE[cause] is Side.CLIENT}
    assert provider == {cause for cause in Cause if ANSWERABLE[cause] is Side.PROVIDER}


def test_every_phase_class_and_vector_file_is_named() -> None:
    for name in [*ClientPhase, *ProviderPhase, *FILES]:
        assert f"`{name}`" in TEXT
    assert ", ".join(messages.CLASSES) in TEXT


def test_every_code_that_a_peer_may_be_told_is_explained() -> None:
    said = re.compile(
        r"(?:RemoteProtocolError|Refused|Objection)\((?:[^()]|\([^()]*\))*?"
        r"(?:code=|(?<=Objection\()\s*)\"(\w+)\""
    )
    codes = {code for source in SOURCES for code in said.findall(source)}
    assert {"bad_voucher", "busy", "channel_dry"} <= codes
    table = TEXT[TEXT.index("## 11.") : TEXT.index("## 12.")]
    assert codes - set(re.findall(r"`(\w+)`", table)) == set()
