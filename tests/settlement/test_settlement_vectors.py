"""Accounts and events read as the program's golden vectors say, which Rust and Python share."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_settlement import accounts
from robocompute_settlement.events import decode_event
from robocompute_settlement.localworld import local_address
from robocompute_settlement.rpc import ChainAccount

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.port import ChannelView, StakeView

VECTORS: dict[str, Any] = json.loads(
    (
        Path(__file__).parents[2] / "programs" / "settlement" / "vectors" / "program.json"
    ).read_text()
)
PROGRAM = local_address("program")
SECONDS = {"delegate_expires", "close_at", "unbond_at", "rotated_at", "watermark"}
"""Fields that the port's views name with their unit."""


def read_stake(account: ChainAccount, program: Address) -> StakeView:
    return accounts.decode_stake(PROGRAM, account, program)


def read_channel(account: ChainAccount, program: Address) -> ChannelView | None:
    return accounts.decode_channel(ChannelId(PROGRAM), account, program)


READ_BY: dict[str, Callable[[ChainAccount, Address], Any]] = {
    "Config": accounts.decode_config,
    "Balance": accounts.decode_balance,
    "Stake": read_stake,
    "Channel": read_channel,
}
HEADER = {"kind", "version", "bump", "state", "reserved"}
NOT_SHOWN = {
    "Config": HEADER
    | {"mint0", "mint1", "auth_bump", "vault_bump0", "vault_bump1", "reserved_end"},
    "Balance": HEADER | {"fee_bps"},
    "Stake": HEADER | {"fee_bps", "rent_payer"},
    "Channel": HEADER,
}


def plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", VECTORS["events"])
def test_an_event_is_read_as_its_vector_says(name: str) -> None:
    vector = VECTORS["events"][name]
    event = decode_event(bytes.fromhex(vector["data"]))
    assert event is not None
    assert type(event).__name__ == name
    assert {key: plain(value) for key, value in asdict(event).items()} == vector["fields"]


def account_of(name: str) -> ChainAccount:
    """The vector's account, as a kind and version that exist."""
    data = bytearray.fromhex(VECTORS["accounts"][name]["data"])
    return ChainAccount(owner=PROGRAM, lamports=1, data=bytes(data))


@pytest.mark.parametrize("name", READ_BY)
def test_an_account_is_read_as_its_vector_says(name: str) -> None:
    fields: dict[str, Any] = VECTORS["accounts"][name]["fields"]
    shown = {key: plain(value) for key, value in asdict(READ_BY[name](account_of(name), PROGRAM)).items()}  # fmt: skip
    if name == "Config":
        assert [each.hex() for each in shown["mints"]] == [fields["mint0"], fields["mint1"]]
        fields = fields | {"paused": fields["paused"] != 0}
    for field in fields.keys() - NOT_SHOWN[name]:
        assert shown[f"{field}_s" if field in SECONDS else field] == fields[field]


@pytest.mark.parametrize("name", READ_BY)
def test_another_kind_version_size_or_owner_is_refused(name: str) -> None:
    good = account_of(name)
    wrong = [
        ChainAccount(good.owner, 1, bytes((good.data[0] ^ 1,)) + good.data[1:]),
        ChainAccount(good.owner, 1, good.data[:1] + bytes((good.data[1] ^ 3,)) + good.data[2:]),
        ChainAccount(good.owner, 1, good.data + b"\0"),
        ChainAccount(good.owner, 1, good.data[:-1]),
        ChainAccount(Address(bytes(32)), 1, good.data),
    ]
    for account in wrong:
        with pytest.raises(ChainRefused):
            READ_BY[name](account, PROGRAM)
