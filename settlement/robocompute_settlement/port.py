"""The settlement port: all that the rest of the product knows of a chain.

Reads name the commitment they were true at. Writes return once *confirmed*, and otherwise raise
one of ``ChainBusy`` (repeat), ``ChainRefused`` (never), ``ChainUnknown`` (look first).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
    from robocompute_protocol.messages import SignedVoucher
    from robocompute_protocol.money import MicroUnits


class Commitment(StrEnum):
    """How sure the chain is."""

    CONFIRMED = "confirmed"
    FINALIZED = "finalized"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigView:
    """The program's Config account."""

    admin: Address
    treasury: Address
    mints: tuple[Address, Address]
    domain: Digest
    slot_stake: MicroUnits
    unbond_s: int
    min_challenge_s: int
    fee_bps: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceView:
    """One owner's money of one mint inside the program."""

    owner: Address
    mint: Address
    delegate: Address
    available: MicroUnits
    fees_owed: MicroUnits
    fees_paid: MicroUnits
    next_nonce: int
    allowance: MicroUnits
    delegate_expires_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """One payment channel. ``close_at_s`` is 0 while nobody asked to close."""

    channel: ChannelId
    payer: Address
    payee: Address
    voucher_key: NodeKey
    mint: Address
    rent_payer: Address
    nonce: int
    deposit: MicroUnits
    settled: MicroUnits
    fee_taken: MicroUnits
    fee_bps: int
    challenge_s: int
    close_at_s: int
    alloc_root: Digest

    @property
    def closing(self) -> bool:
        return self.close_at_s != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StakeView:
    """A provider's stake: what its slots may lose."""

    stake: Address
    owner: Address
    mint: Address
    node_key: NodeKey
    bonded: MicroUnits
    unbonding: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transaction that was confirmed."""

    signature: str
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleClaim:
    """Turn ``claim`` of a voucher into the payee's balance. Idempotent: a smaller claim is a no-op."""

    channel: ChannelId
    payee: Address
    mint: Address
    voucher_key: NodeKey
    voucher: SignedVoucher
    claim: MicroUnits


class Settlement(Protocol):
    """What the node's services call. Every method has its own deadline and never hangs."""

    async def config(self) -> ConfigView:
        """Raises: ChainRefused when the program or its Config is not there."""
        ...

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None: ...
    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None: ...
    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None: ...
    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        """What the owner's associated token account holds; 0 when there is none."""
        ...

    async def lamports(self, address: Address) -> int: ...
    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        """Confirmed transactions that touched ``address``, newest first."""
        ...

    async def vault_tokens(self, mint: Address) -> MicroUnits: ...

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        """Return as soon as the channel is confirmed (by subscription, with polling as fallback).

        Raises: ChainBusy when it is not there in time.
        """
        ...

    def channel_address(
        self, payer: Address, payee: Address, mint: Address, nonce: int
    ) -> ChannelId:
        """The PDA a channel of this nonce will have: no look-up."""
        ...

    def stake_address(self, owner: Address, mint: Address) -> Address: ...
    def balance_address(self, owner: Address, mint: Address) -> Address: ...

    # Writes. The signer is the key pair the adapter was made with (a node key acting as delegate,
    # or a wallet key); ``*_wallet`` ones need the wallet's own key.
    async def open_channel(
        self, *, payer: Address, payee: Address, mint: Address, voucher_key: NodeKey, nonce: int,
        deposit: MicroUnits, challenge_s: int,
    ) -> Sent: ...  # fmt: skip
    async def top_up(self, *, channel: ChannelView, amount: MicroUnits) -> Sent: ...
    async def settle(self, claims: tuple[SettleClaim, ...]) -> Sent:
        """Settle up to three claims in one transaction."""
        ...

    async def close_by_payee(self, channel: ChannelView) -> Sent: ...
    async def request_close(self, channel: ChannelView) -> Sent: ...
    async def finalize_close(self, channel: ChannelView) -> Sent: ...

    async def deposit_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent: ...
    async def withdraw_wallet(
        self, *, mint: Address, amount: MicroUnits, destination: Address
    ) -> Sent: ...
    async def set_delegate_wallet(
        self, *, mint: Address, delegate: NodeKey, allowance: MicroUnits, expires_s: int
    ) -> Sent: ...
    async def register_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent: ...
    async def stake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent: ...
