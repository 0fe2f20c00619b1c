"""The owner's books, wherever they can be had: of the running node over REST, or of its store.

One process uses a store. While a node runs it is asked; while none does, its store is opened here
and the node's own services answer, so that both tell the same.
"""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import trio

from robocompute_node.chain_link import chain_link
from robocompute_node.clocks import Clock
from robocompute_node.keys import load_key, load_wallet_address
from robocompute_node.rest_client import NodeNotRunning, RestClient
from robocompute_node.services.accounts import Accounts, Paid
from robocompute_node.services.channels import ChannelKeeper
from robocompute_node.services.earnings import Earnings
from robocompute_node.services.settler import Settler
from robocompute_node.store import Store
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.config import NodeConfig

BOOKS_S: Final = 300.0
"""A node reads its channels' whole history to answer: some requests to the chain for each."""


class RemoteAccounts:
    """``MoneyApi`` of a running node."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    async def channels(self) -> Mapping[str, object]:
        return await self._ask("GET", "/wallet/channels")

    async def earnings(self) -> Mapping[str, object]:
        return await self._ask("GET", "/wallet/earnings")

    async def invoices(self) -> Mapping[str, object]:
        return await self._ask("GET", "/wallet/invoices")

    async def settle(self) -> Mapping[str, object]:
        return await self._ask("POST", "/wallet/settle")

    async def accept_alarms(self, name: str) -> Mapping[str, object]:
        return await self._ask("POST", f"/wallet/alarms/{quote(name, safe='')}/accept")

    async def close_channel(self, channel: str) -> Mapping[str, object]:
        return await self._ask("POST", f"/wallet/channels/{quote(channel, safe='')}/close")

    async def _ask(self, method: str, path: str) -> Any:
        return await trio.to_thread.run_sync(
            lambda: self._client.ask(method, path, patience_s=BOOKS_S)
        )


@asynccontextmanager
async def open_accounts(config: NodeConfig) -> AsyncGenerator[MoneyApi]:
    """Open the books of the node in ``config.data_dir``, running or not.

    Raises:
        ConfigError: a key cannot be used, or the store is in use by a node that does not answer.
    """
    client = RestClient.of(config)
    try:
        await trio.to_thread.run_sync(client.get, "/node")
    except NodeNotRunning:
        async with _stored_accounts(config) as accounts:
            yield accounts
    else:
        yield RemoteAccounts(client)


@asynccontextmanager
async def _stored_accounts(config: NodeConfig) -> AsyncGenerator[Accounts]:
    """The books of a node that does not run.

    Where it never had a store, none is made: one would look as if it had been lost and restored.
    """
    node_key = load_key(config.node_key_path)
    wallet = load_wallet_address(config)
    with tempfile.TemporaryDirectory(prefix="robocompute-") as nowhere:
        there = config.store_dir.exists()
        store = Store(config.store_dir if there else Path(nowhere))
        try:
            async with SolanaSettlement(
                **chain_link(config.chain),
                signer_seed=node_key.seed,
            ) as chain:
                await chain.connect()
                clock = Clock()
                earnings = Earnings(store, clock)
                key = SigningKey(node_key.seed)
                yield Accounts(
                    store,
                    chain,
                    clock,
                    wallet,
                    config,
                    ChannelKeeper(store, chain, clock, key, wallet, config),
                    Paid(earnings, Settler(earnings, chain, clock, config, node_key.node_key)),
                )
        finally:
            store.close()
