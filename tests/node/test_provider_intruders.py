"""What strangers may do at a provider's desk: not fill its memory and its store for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.clocks import Clock
from robocompute_node.services.earnings import Earnings
from robocompute_node.services.never_leased import MAX_NEVER, NeverLeased
from robocompute_node.store import Store
from robocompute_protocol.identifiers import AgreementId, ChannelId, NodeKey

if TYPE_CHECKING:
    from pathlib import Path

MORE = 5


async def test_orders_on_channels_that_never_were_make_room_for_each_other(tmp_path: Path) -> None:
    store, clock = Store(tmp_path / "store"), Clock()
    names = [AgreementId(number.to_bytes(32)) for number in range(MAX_NEVER + MORE)]
    key, channel = NodeKey(bytes(32)), ChannelId(bytes(32))
    try:
        book = NeverLeased(store, clock, Earnings(store, clock))
        with store.transaction() as txn:
            for name in names[:MAX_NEVER]:
                book.keep(txn, name, channel, key, "the order was not followed up")
        for name in names[MAX_NEVER:]:
            with store.transaction() as txn:
                book.keep(txn, name, channel, key, "the order was not followed up")
        for again in (book, NeverLeased(store, clock, Earnings(store, clock))):
            assert [again.get(name) for name in names[:MORE]] == [None] * MORE
            assert all(again.get(name) is not None for name in names[MORE:])
    finally:
        store.close()
