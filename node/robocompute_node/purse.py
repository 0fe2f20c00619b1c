"""The owner's money, handled with the wallet's own key: what no running node can do.

With the secret elsewhere the same steps end in a draft, a transaction to be signed there.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from robocompute_node.chain_link import chain_link
from robocompute_node.keys import load_key, load_wallet, load_wallet_address
from robocompute_node.payees import is_token_account
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits, format_amount
from robocompute_settlement.drafting import DraftingSettlement
from robocompute_settlement.drafts import LAMPORTS_A_SIGNATURE, signature_of, wire_of
from robocompute_settlement.port import Attempt, Outcome
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_node.config import NodeConfig
    from robocompute_settlement.drafts import Draft
    from robocompute_settlement.port import BalanceView, ChannelView, Sent, StakeView

LAMPORTS_PER_SOL: Final = 10**9
DAY_S: Final = 86_400
NOBODY: Final = NodeKey(bytes(32))
"""The delegate of a Balance that has none."""
LITTLE_SOL: Final = 20_000_000
"""Lamports below which a key's owner is told: six channels' rent, or thousands of settlements."""
NOTHING: Final = MicroUnits(0)


class Use(StrEnum):
    """What a purse is opened for."""

    READ = "read"
    SIGN = "sign"
    """The wallet's secret is here, and transactions are sent."""
    DRAFT = "draft"
    """Transactions are only drafted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a wallet has of one mint, at the confirmed state of the chain."""

    symbol: str
    in_wallet: MicroUnits
    available: MicroUnits
    """In the settlement program: channels are opened from here, earnings arrive here."""
    in_channels: MicroUnits
    """Set aside in channels this wallet pays through: not settled, not back yet."""
    fees_owed: MicroUnits
    staked: MicroUnits
    unbonding: MicroUnits
    allowance: MicroUnits
    """What the delegate may still lock in channels."""
    delegate: bytes
    delegate_expires_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gas:
    """The SOL of a key, which pays the fees of what that key signs."""

    name: str
    address: Address
    lamports: int

    @property
    def sol(self) -> str:
        return f"{self.lamports // LAMPORTS_PER_SOL}.{self.lamports % LAMPORTS_PER_SOL:09d}"

    @property
    def hint(self) -> str:
        """What to do, or nothing."""
        if self.lamports >= LITTLE_SOL:
            return ""
        return f"little: send some SOL to {to_base58(self.address)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Money about to leave the settlement program, checked, but not sent."""

    symbol: str
    mint: Address
    amount: MicroUnits
    left: MicroUnits
    """What stays available afterwards."""
    to: Address
    token_account: bool
    """``to`` is a token account itself. Otherwise a wallet, whose own one is made where missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """A wallet and the chain it is on."""

    wallet: Address
    node_key: NodeKey
    mints: dict[str, Address]
    chain: SolanaSettlement

    # --- looking --------------------------------------------------------------------------------

    async def holdings(self) -> list[Holdings]:
        """Return what there is, a line per mint.

        Raises:
            ChainError: the chain does not answer.
        """
        channels = await self.chain.channels_of(self.wallet)
        return [await self._holding(symbol, mint, channels) for symbol, mint in self.mints.items()]

    async def gas(self) -> tuple[Gas, ...]:
        """Return the SOL of both keys."""
        keys = {"wallet": self.wallet, "node key": Address(self.node_key)}
        return tuple(
            [
                Gas(name=name, address=key, lamports=await self.chain.lamports(key))
                for name, key in keys.items()
            ]
        )

    async def _holding(
        self, symbol: str, mint: Address, channels: tuple[ChannelView, ...]
    ) -> Holdings:
        balance = await self.chain.balance(self.wallet, mint)
        stake = await self.chain.stake_of(self.wallet, mint)
        locked = sum(
            view.deposit - view.settled
            for view in channels
            if (view.payer, view.mint) == (self.wallet, mint)
        )
        return Holdings(
            symbol=symbol,
            in_wallet=await self.chain.token_balance(self.wallet, mint),
            available=NOTHING if balance is None else balance.available,
            in_channels=MicroUnits(locked),
            fees_owed=NOTHING if balance is None else balance.fees_owed,
            staked=NOTHING if stake is None else stake.bonded,
            unbonding=NOTHING if stake is None else stake.unbonding,
            allowance=NOTHING if balance is None else balance.allowance,
            delegate=NOBODY if balance is None else balance.delegate,
            delegate_expires_s=0 if balance is None else balance.delegate_expires_s,
        )

    # --- in, out --------------------------------------------------------------------------------

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

    async def payment(self, symbol: str, amount: MicroUnits | None, to: Address) -> Payment:
        """Check a payment out of the settlement program; ``None`` is all that is free.

        ``to`` is a wallet, or a token account of this mint.

        Raises:
            ChainRefused: not that much is free, or nobody could get money at that address.
        """
        mint = self.mints[symbol]
        balance = await self.chain.balance(self.wallet, mint)
        free = NOTHING if balance is None else balance.available
        wanted = free if amount is None else amount
        if not free:
            raise ChainRefused(
                f"no {symbol} is free in the settlement program: `robocompute-node channels` and "
                "`stake` show what is locked, and how it comes back",
                details={"available": format_amount(free), "required": format_amount(wanted)},
            )
        if free < wanted:
            raise ChainRefused(
                f"{format_amount(free)} {symbol} are free in the settlement program, not "
                f"{format_amount(wanted)}: `robocompute-node channels` and `stake` show what is "
                "locked, and how it comes back",
                details={"available": format_amount(free), "required": format_amount(wanted)},
            )
        return Payment(
            symbol=symbol,
            mint=mint,
            amount=wanted,
            left=MicroUnits(free - wanted),
            to=to,
            token_account=await is_token_account(self.chain, to, symbol, mint),
        )

    async def pay(self, payment: Payment) -> Sent:
        """Pay out what was checked."""
        return await self.chain.withdraw_wallet(
            mint=payment.mint,
            amount=payment.amount,
            destination=payment.to,
            token_account=payment.to if payment.token_account else None,
        )

    async def send(self, draft: Draft) -> bool:
        """Send a draft that the wallet signed elsewhere; whether it had been sent before.

        Raises:
            BadDraft: it is not signed, or not by its signer.
            ChainRefused: it failed, its signer cannot pay the fee, or its time is over and nothing
                has moved.
        """
        attempt = Attempt(signature=signature_of(draft), last_valid_height=draft.last_valid_height)
        match await self.chain.outcome(attempt):
            case Outcome.LANDED:
                return True
            case Outcome.FAILED:
                raise ChainRefused(
                    f"this transaction was sent before, and failed: {attempt.signature}"
                )
            case Outcome.NEVER:
                raise ChainRefused(
                    "this transaction has expired, and nothing has moved: make a new one with "
                    "--unsigned, and sign and send it within a minute"
                )
            case Outcome.PENDING:
                # Nobody takes it then, and that would be known only once its time is over.
                if await self.chain.lamports(draft.signer) < LAMPORTS_A_SIGNATURE:
                    raise ChainRefused(
                        "the signer has no SOL for the fee: send it some, to "
                        f"{to_base58(draft.signer)}"
                    )
                await self.chain.send_signed(wire_of(draft), draft.last_valid_height)
                return False

    # --- the delegate ---------------------------------------------------------------------------

    async def delegate(self, symbol: str, allowance: MicroUnits, *, now_s: int, days: int) -> Sent:
        """Let the node's key lock up to ``allowance`` in channels for ``days`` days."""
        balance = await self._balance(symbol)
        return await self.chain.set_delegate_wallet(
            mint=balance.mint,
            delegate=self.node_key,
            allowance=allowance,
            expires_s=now_s + days * DAY_S,
        )

    async def revoke(self, symbol: str) -> Sent:
        """End the delegation: no key but the wallet's may lock money any more."""
        balance = await self._balance(symbol)
        return await self.chain.set_delegate_wallet(
            mint=balance.mint, delegate=NOBODY, allowance=NOTHING, expires_s=0
        )

    async def _balance(self, symbol: str) -> BalanceView:
        balance = await self.chain.balance(self.wallet, self.mints[symbol])
        if balance is None:
            raise ChainRefused(
                f"the wallet has no {symbol} in the settlement program yet: `robocompute-node "
                "wallet deposit AMOUNT` first"
            )
        return balance

    # --- the stake ------------------------------------------------------------------------------

    async def stake(self, symbol: str) -> StakeView | None:
        """Return the wallet's stake, where it is registered."""
        return await self.chain.stake_of(self.wallet, self.mints[symbol])

    async def register(self, symbol: str) -> Sent:
        """Register as a provider whose leases the node's key signs.

        Raises:
            ChainRefused: it is registered already.
        """
        found = await self.stake(symbol)
        if found is not None:
            raise ChainRefused(
                f"this wallet is registered already, with the node key "
                f"{to_base58(found.node_key)}: `robocompute-node stake` shows it",
            )
        return await self.chain.register_wallet(mint=self.mints[symbol], node_key=self.node_key)

    async def add_stake(self, symbol: str, amount: MicroUnits) -> Sent:
        """Move ``amount`` from what is free into the stake.

        Raises:
            ChainRefused: not registered, or not that much is free.
        """
        await self._registered(symbol)
        free = (await self._balance(symbol)).available
        if free < amount:
            missing = format_amount(amount - free)
            raise ChainRefused(
                f"{format_amount(free)} {symbol} are free, {format_amount(amount)} are needed: "
                f"`robocompute-node wallet deposit {missing}` first",
                details={"available": format_amount(free), "required": format_amount(amount)},
            )
        return await self.chain.stake_wallet(mint=self.mints[symbol], amount=amount)

    async def remove_stake(self, symbol: str, amount: MicroUnits) -> Sent:
        """Begin to take ``amount`` out; the time to wait starts anew for all that is on its way.

        Raises:
            ChainRefused: not registered, or less is staked.
        """
        found = await self._registered(symbol)
        if not found.bonded:
            raise ChainRefused(f"no {symbol} is staked: there is nothing to remove")
        if found.bonded < amount or not amount:
            raise ChainRefused(
                f"{format_amount(found.bonded)} {symbol} are staked: remove some of them, or --all"
            )
        return await self.chain.unstake_wallet(mint=self.mints[symbol], amount=amount)

    async def claimable(self, symbol: str, *, now_s: int) -> MicroUnits:
        """Return what has waited long enough to be claimed.

        Raises:
            ChainRefused: nothing is on its way out, or its time is not over.
        """
        found = await self._registered(symbol)
        if not found.unbonding:
            raise ChainRefused("nothing is on its way out of the stake: `stake remove` starts it")
        if now_s < found.unbond_at_s:
            raise ChainRefused(
                f"{format_amount(found.unbonding)} {symbol} can be claimed in "
                f"{found.unbond_at_s - now_s} s: until then they may still be slashed",
                details={"unbond_at_s": found.unbond_at_s},
            )
        return found.unbonding

    async def claim_stake(self, symbol: str) -> Sent:
        """Move what is ``claimable`` into the balance."""
        return await self.chain.claim_unbonded_wallet(mint=self.mints[symbol])

    async def rotate_key(self, symbol: str) -> Sent:
        """Let the key that is in node.key now sign the stake's leases.

        Raises:
            ChainRefused: not registered, or it does already.
        """
        found = await self._registered(symbol)
        if found.node_key == self.node_key:
            raise ChainRefused(
                "the stake has this node's key already: stop the node, move node.key away and run "
                "`robocompute-node init` for a new one, then rotate"
            )
        return await self.chain.rotate_key_wallet(mint=found.mint, node_key=self.node_key)

    async def _registered(self, symbol: str) -> StakeView:
        found = await self.stake(symbol)
        if found is None:
            raise ChainRefused(
                f"this wallet has no stake in {symbol}: `robocompute-node stake register` first"
            )
        return found


@asynccontextmanager
async def open_purse(config: NodeConfig, use: Use) -> AsyncGenerator[Purse]:
    """Open the wallet of a node. A secret is read now, and forgotten with the purse.

    Raises:
        ConfigError: a key file cannot be used, or the secret that ``use`` takes is not here.
    """
    wallet = load_wallet_address(config)
    link = chain_link(config.chain)
    adapter = (
        SolanaSettlement(**link, signer_seed=load_wallet(config).seed)
        if use is Use.SIGN
        else DraftingSettlement(**link, wallet=wallet)
    )
    async with adapter as chain:
        yield Purse(
            wallet=wallet,
            node_key=load_key(config.node_key_path).node_key,
            mints={"USDC": config.chain.mint, "USDT": config.chain.mint_usdt},
            chain=chain,
        )
