"""The settlement port: all that the rest of the product knows of a chain.

Reads name the commitment they were true at. Writes return once *confirmed*, and otherwise raise
one of ``ChainBusy`` (repeat), ``ChainRefused`` (never), ``ChainUnknown`` (look first: the error's
``signature`` and ``last_valid_height`` make the ``Attempt`` that ``outcome`` is asked about).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
    from robocompute_protocol.messages import LeaseTick, SignedVoucher
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.events import ChainEvent


class Commitment(StrEnum):
    """How sure the chain is."""

    CONFIRMED = "confirmed"
    FINALIZED = "finalized"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigView:
    """The program's Config account."""

    admin: Address
    pending_admin: Address
    """Who may take the administration over; zero for nobody."""
    treasury: Address
    mints: tuple[Address, Address]
    domain: Digest
    slot_stake: MicroUnits
    unbond_s: int
    min_challenge_s: int
    fee_bps: int
    slash_bps: int
    """What a proven double sale costs, in hundredths of a per cent of the stake."""
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
    prev_key: NodeKey
    """What signed leases before the last rotation; zero when there was none."""
    bonded: MicroUnits
    unbonding: MicroUnits
    """On its way out: counts for no slot, and can still be slashed."""
    unbond_at_s: int
    """When all of ``unbonding`` may be claimed; 0 while there is none."""
    rotated_at_s: int
    """When ``node_key`` took over from ``prev_key``; 0 when it never did."""
    watermark_s: int
    """Leases that began at or before this time are no evidence any more."""
    slashed: MicroUnits
    """Taken so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transaction that was confirmed."""

    signature: str
    slot: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed transaction that may have been sent: what to ask ``outcome`` about."""

    signature: str
    last_valid_height: int
    """No block above this height takes it."""


class Outcome(StrEnum):
    """What became of an ``Attempt``."""

    LANDED = "landed"
    """Confirmed, and it did what it was for."""
    FAILED = "failed"
    """Confirmed, and it changed nothing but cost its fee."""
    NEVER = "never"
    """In no final block, and no later one can take it: it may be repeated."""
    PENDING = "pending"
    """Not in a block, and still may be: ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRecord:
    """A transaction that succeeded, and what our program said in it."""

    signature: str
    slot: int
    time_s: int
    """The block's time; 0 where the endpoint does not know it."""
    events: tuple[ChainEvent, ...]
    """In the order in which the program told them."""
    complete: bool
    """False when the chain cut the log short, or an event is not known to this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An address may hold something else than before: read it."""

    address: Address
    slot: int
    """The newest slot that the news is from; 0 when it is only time to look."""


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
    async def stakes(self, mint: Address) -> tuple[StakeView, ...]:
        """Every stake of ``mint``, in the order of their addresses: confirmed, as of one moment."""
        ...

    async def time_s(self) -> int:
        """The newest confirmed block's time, by which the program decides: Unix seconds.

        A cluster's time is its validators' estimate. It never goes back, and stands while the
        cluster does.

        Raises: ChainBusy.
        """
        ...

    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        """What the owner's associated token account holds; 0 when there is none."""
        ...

    async def lamports(self, address: Address) -> int: ...
    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        """Confirmed transactions that touched ``address``, newest first."""
        ...

    async def vault_tokens(self, mint: Address) -> MicroUnits: ...
    async def channels_of(
        self, owner: Address, *, mint: Address | None = None,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChannelView, ...]:  # fmt: skip
        """Every channel that ``owner`` pays or is paid by, in the order of their addresses.

        Channels that were closed are gone; ``history`` still tells of them.
        """
        ...

    async def history(
        self, address: Address, *, until: str = "", limit: int = 1_000,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChainRecord, ...]:  # fmt: skip
        """What happened to ``address``, oldest first, after the transaction ``until``.

        Transactions that failed are left out. At most ``limit``, the oldest: pass the last one's
        signature as ``until`` to go on. What is only confirmed can still be undone by the chain,
        so books are built from ``Commitment.FINALIZED``.
        """
        ...

    def watch(
        self, addresses: tuple[Address, ...]
    ) -> AbstractAsyncContextManager[AsyncIterator[Changed]]:
        """Hear of changes for as long as the block lasts; confirmed ones, soon after they are.

        A wake-up carries no state and several may come as one. None is lost for good: after every
        gap in the connection, and from time to time anyhow, each address counts as changed once.
        It never ends by itself, and a slow reader costs no memory.
        """
        ...

    async def outcome(self, attempt: Attempt) -> Outcome:
        """Find out what became of a transaction whose sending ended in ``ChainUnknown``.

        Raises:
            ChainBusy: no endpoint can tell now.
        """
        ...

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
    # or a wallet key); ``*_wallet`` ones need the wallet's own key. docs/settlement.md says of
    # each what a repetition does.
    async def open_channel(
        self, *, payer: Address, payee: Address, mint: Address, voucher_key: NodeKey, nonce: int,
        deposit: MicroUnits, challenge_s: int,
    ) -> Sent: ...  # fmt: skip
    async def top_up(
        self, *, channel: ChannelView, amount: MicroUnits,
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        """Raise the deposit. The one write of a node that, repeated, pays twice.

        ``journal`` is called with each attempt before a byte of it leaves, and one that it raises on
        is not sent. Before it is repeated, ``outcome`` of the last one must be FAILED or NEVER.
        """
        ...

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
    async def unstake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        """Begin to take ``amount`` out of the stake; the time to wait starts anew for all of it."""
        ...

    async def claim_unbonded_wallet(self, *, mint: Address) -> Sent:
        """Move what has waited long enough into the balance."""
        ...

    async def rotate_key_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        """Let another key sign the stake's leases."""
        ...

    async def slash(self, *, stake: StakeView, first: LeaseTick, second: LeaseTick) -> Sent:
        """Prove that a slot was let twice. Anybody may; the reporter is the signer.

        The signer's Balance, which gets the reward, is created where missing.
        """
        ...

    async def sweep_fees(self, *, mint: Address, owners: tuple[Address, ...]) -> Sent:
        """Bring the fees that up to 26 owners' Balances owe to the treasury's Balance."""
        ...
