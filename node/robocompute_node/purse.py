"""The owner's money, handled with the wallet's own key: what no running node can do."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robocompute_node.keys import load_key
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_protocol.money import MicroUnits, format_amount
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.config import NodeConfig
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_settlement.port import Sent

LAMPORTS_PER_SOL: Final = 10**9
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a wallet has of one mint, at the confirmed state of the chain."""

    symbol: str
    in_wallet: MicroUnits
    available: MicroUnits
    """In the settlement program: channels are opened from here, earnings arrive here."""
    fees_owed: MicroUnits
    staked: MicroUnits
    allowance: MicroUnits
    """What the delegate may still lock in channels."""
    delegate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """A wallet and the chain it is on."""

    wallet: Address
    node_key: NodeKey
    mints: dict[str, Address]
    chain: SolanaSettlement

    async def holdings(self) -> list[Holdings]:
        """Return what there is, a line per mint.

        Raises:
            ChainError: the chain does not answer.
        """
        return [await self._holding(symbol, mint) for symbol, mint in self.mints.items()]

    async def sol(self) -> dict[str, str]:
        """Return the SOL of both keys: each pays the fees of what it signs."""
        lamports = {
            "wallet": await self.chain.lamports(self.wallet),
            "node key": await self.chain.lamports(Address(self.node_key)),
        }
        return {
            name: f"{count // LAMPORTS_PER_SOL}.{count % LAMPORTS_PER_SOL:09d}"
            for name, count in lamports.items()
        }

    async def deposit(self, symbol: str, amount: MicroUnits) -> Sent:
        """Move ``amount`` from the wallet's token account into the settlement program.

        Raises:
            ChainRefused: the wallet does not hold that much.
        """
        mint = self.mints[symbol]
        there = await self.chain.token_balance(self.wallet, mint)
        if there < amount:
            raise ChainRefused(
                f"the wallet {to_base58(self.wallet)} holds {format_amount(there)} {symbol}, not "
                f"{format_amount(amount)}: send it the rest first, or deposit less",
                details={"available": format_amount(there), "required": format_amount(amount)},
            )
        return await self.chain.deposit_wallet(mint=mint, amount=amount)

    async def withdraw(self, symbol: str, amount: MicroUnits, to: Address) -> Sent:
        """Pay ``amount`` out to the wallet ``to``.

        Raises:
            ChainRefused: not that much is free in the settlement program.
        """
        mint = self.mints[symbol]
        balance = await self.chain.balance(self.wallet, mint)
        free = MicroUnits(0) if balance is None else balance.available
        if free < amount:
            raise ChainRefused(
                f"{format_amount(free)} {symbol} are free in the settlement program, not "
                f"{format_amount(amount)}: what is in channels comes back when they close",
                details={"available": format_amount(free), "required": format_amount(amount)},
            )
        return await self.chain.withdraw_wallet(mint=mint, amount=amount, destination=to)

    async def delegate(self, symbol: str, allowance: MicroUnits, *, now_s: int, days: int) -> Sent:
        """Let the node's key lock up to ``allowance`` in channels for ``days`` days."""
        mint = self.mints[symbol]
        if await self.chain.balance(self.wallet, mint) is None:
            raise ChainRefused(
                f"the wallet has no {symbol} in the settlement program yet: `robocompute-node "
                "wallet deposit AMOUNT` first"
            )
        return await self.chain.set_delegate_wallet(
            mint=mint,
            delegate=self.node_key,
            allowance=allowance,
            expires_s=now_s + days * DAY_S,
        )

    async def _holding(self, symbol: str, mint: Address) -> Holdings:
        balance = await self.chain.balance(self.wallet, mint)
        stake = await self.chain.stake_of(self.wallet, mint)
        nothing = MicroUnits(0)
        return Holdings(
            symbol=symbol,
            in_wallet=await self.chain.token_balance(self.wallet, mint),
            available=nothing if balance is None else balance.available,
            fees_owed=nothing if balance is None else balance.fees_owed,
            staked=nothing if stake is None else stake.bonded,
            allowance=nothing if balance is None else balance.allowance,
            delegate=bytes(32) if balance is None else balance.delegate,
        )


@asynccontextmanager
async def open_purse(config: NodeConfig) -> AsyncGenerator[Purse]:
    """Open the wallet of a node. The key is read now, and forgotten with the purse.

    Raises:
        ConfigError: a key file cannot be used.
    """
    wallet = load_key(config.wallet_path)
    async with SolanaSettlement(
        rpc_url=config.chain.rpc_url,
        ws_url=None,
        program_id=config.chain.program_id,
        signer_seed=wallet.seed,
    ) as chain:
        yield Purse(
            wallet=wallet.address,
            node_key=load_key(config.node_key_path).node_key,
            mints={"USDC": config.chain.mint, "USDT": config.chain.mint_usdt},
            chain=chain,
        )
