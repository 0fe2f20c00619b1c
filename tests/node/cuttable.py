"""A store that loses power or room and a chain out of reach, for nodes in a fake world."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from robocompute_node.store import Store, Transaction
from robocompute_protocol.errors import ChainBusy, StoreError
from robocompute_settlement.fake import FakeSettlement
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from robocompute_protocol.identifiers import Address, ChannelId
    from robocompute_settlement.port import (
        BalanceView,
        ChannelView,
        ConfigView,
        Sent,
        SettleClaim,
        StakeView,
    )


class PowerCut(BaseException):
    """The machine stops here. Not an Exception: nothing may catch it and go on."""


class CuttableStore(Store):
    """A store whose machine loses power right after its ``n``-th write."""

    def __init__(self, folder: Path, *, after: int | None) -> None:
        super().__init__(folder)
        self.writes = 0
        self._after = after

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        if self._after is not None and self.writes >= self._after:
            raise PowerCut
        with super().transaction() as txn:
            yield txn
        self.writes += 1
        if self._after is not None and self.writes >= self._after:
            raise PowerCut


class FullDisk:
    """Makes a store's commits fail while it is full."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._commit = store.transaction
        store.transaction = self._transaction

    @contextmanager
    def _transaction(self) -> Generator[Transaction]:
        with self._commit() as txn:
            yield txn
            raise StoreError("the disk is full")

    def emptied(self) -> None:
        """There is room again."""
        self._store.transaction = self._commit


class CuttableSettlement(FakeSettlement):
    """A chain that can be out of this node's reach."""

    out = False

    def _reach(self) -> None:
        if self.out:
            raise ChainBusy("no answer")

    async def config(self) -> ConfigView:
        self._reach()
        return await super().config()

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None:
        self._reach()
        return await super().balance(owner, mint, at=at)

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        self._reach()
        return await super().channel(channel, at=at)

    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None:
        self._reach()
        return await super().stake_of(owner, mint, at=at)

    async def time_s(self) -> int:
        self._reach()
        return await super().time_s()

    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        self._reach()
        return await super().signatures(address, limit=limit)

    async def settle(self, claims: tuple[SettleClaim, ...]) -> Sent:
        self._reach()
        return await super().settle(claims)
