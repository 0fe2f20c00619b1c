"""docs/protocol.md says all that a second implementation has to know."""

import re
from pathlib import Path

import pytest

from robocompute_protocol import messages, signing, specification, terms, vouchers
from robocompute_protocol.agreement import (
    CLIENT_TRANSITIONS,
    PROVIDER_TRANSITIONS,
    ClientPhase,
    ProviderPhase,
)
from robocompute_protocol.causes import ANSWERABLE, Cause, Side
from robocompute_protocol.steps import ClientEvent, ProviderEvent
from robocompute_protocol.vectors import FILES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/protocol.md").read_text("utf-8")
SOURCES = [
    path.read_text("utf-8")
    for folder in ("protocol/robocompute_protocol", "node/robocompute_node")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("part", specification.PARTS)
def test_what_follows_from_the_code_is_as_the_code_has_it(part: str) -> None:
    """Run ``python -m robocompute_protocol.specification docs/protocol.md`` after a change."""
    begin = specification.BEGIN.format(part)
    written = TEXT.partition(begin)[2].partition(specification.END)[0]
    assert written.strip() == specification.PARTS[part]()


def test_every_pair_of_phase_and_event_is_tried_in_the_document() -> None:
    assert {type(event) for event in specification.CLIENT_EVENTS} == set(ClientEvent.__args__)
    assert {type(event) for event in specification.PROVIDER_EVENTS} == set(ProviderEvent.__args__)
    for state in (*map(specification.client_in, ClientPhase),):
        for event in specification.CLIENT_EVENTS:
            legal = (state.phase, type(event)) in CLIENT_TRANSITIONS
            assert legal == (specification.cell(state, event) not in ("*breach*", "*bug*"))
    for state in (*map(specification.provider_in, ProviderPhase),):
        for event in specification.PROVIDER_EVENTS:
            legal = (state.phase, type(event)) in PROVIDER_TRANSITIONS
            assert legal == (specification.cell(state, event) not in ("*breach*", "*bug*"))


def test_a_document_without_a_place_for_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="messages"):
        specification.written("nothing here")


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
