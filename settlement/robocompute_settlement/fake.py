"""The settlement program in memory, for tests of services: same promises, no chain, no sockets.

Passes the contract tests that the real adapter passes. It has finality that lags, faults on order,
and a count of every unit; it is no model of fees, rent sizes or transaction limits beyond those.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey, digest
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import verify
from robocompute_protocol.vouchers import allocation_root, voucher_bytes
from robocompute_settlement.addresses import Addresses
from robocompute_settlement.port import (
    BalanceView,
    ChannelView,
    Commitment,
    ConfigView,
    Sent,
    SettleClaim,
    StakeView,
)
from robocompute_settlement.program_errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FINAL_AFTER_S: Final = 13.0
"""What is confirmed is final after this long: 32 slots of 0.4 s."""
TRANSACTION_LAMPORTS: Final = 5_000
CHANNEL_RENT: Final = 3_000_000
CLAIMS_A_TRANSACTION: Final = 3
NOBODY: Final = Address(bytes(32))
ZERO: Final = MicroUnits(0)


def _refused(number: int) -> ChainRefused:
    return ChainRefused(describe(number), number=number)


@dataclass(slots=True)
class _Ledger:
    """Everything the chain holds at one moment."""

    balances: dict[tuple[Address, Address], BalanceView] = field(
        default_factory=dict[tuple[Address, Address], BalanceView]
    )
    stakes: dict[tuple[Address, Address], StakeView] = field(
        default_factory=dict[tuple[Address, Address], StakeView]
    )
    channels: dict[ChannelId, ChannelView] = field(default_factory=dict[ChannelId, ChannelView])
    tokens: dict[tuple[Address, Address], int] = field(
        default_factory=lambda: defaultdict[tuple[Address, Address], int](int)
    )
    lamports: dict[Address, int] = field(default_factory=lambda: defaultdict[Address, int](int))
    vaults: dict[Address, int] = field(default_factory=lambda: defaultdict[Address, int](int))


class FakeChain:
    """What the adapters of one test have in common.

    ``fault`` is asked before each write, by the method's name: an error it returns is raised, and
    nothing happened.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float],
        mints: tuple[Address, Address],
        fee_bps: int = 100,
        min_challenge_s: int = 2,
        slot_stake: MicroUnits = ZERO,
        treasury: Address = NOBODY,
        admin: Address = NOBODY,
    ) -> None:
        self.addresses = Addresses(
            Address(digest(b"fake program")), Digest(digest(b"fake domain"))
        )
        self.settings = ConfigView(
            admin=admin,
            treasury=treasury,
            mints=mints,
            domain=self.addresses.domain,
            slot_stake=slot_stake,
            unbond_s=60,
            min_challenge_s=min_challenge_s,
            fee_bps=fee_bps,
            paused=False,
        )
        self.now_s = now_s
        self.fault: Callable[[str], ChainError | None] = lambda _name: None
        self.ledger = _Ledger()
        self.sent: list[tuple[str, tuple[Address, ...], str]] = []
        """(method, addresses it touched, signature), oldest first."""
        self.changed = trio.Event()
        self._history: list[tuple[float, _Ledger]] = [(float("-inf"), _Ledger())]

    def found(self, owner: Address, *, lamports: int, tokens: int = 0) -> None:
        """Give a wallet SOL, and tokens of the first mint."""
        self.ledger.lamports[owner] += lamports
        self.ledger.tokens[owner, self.settings.mints[0]] += tokens

    def at(self, commitment: Commitment) -> _Ledger:
        """What the chain holds, as sure as ``commitment``."""
        if commitment is Commitment.CONFIRMED:
            return self.ledger
        final = self.now_s() - FINAL_AFTER_S
        while len(self._history) > 1 and self._history[1][0] <= final:
            del self._history[0]
        return self._history[0][1]

    def note(self, name: str, touched: Iterable[Address]) -> Sent:
        """Record a transaction that was taken."""
        signature = hashlib.sha256(f"transaction {len(self.sent)}".encode()).hexdigest()
        self.sent.append((name, tuple(touched), signature))
        self._history.append((self.now_s(), deepcopy(self.ledger)))
        self.at(Commitment.FINALIZED)
        self.changed.set()
        self.changed = trio.Event()
        return Sent(signature=signature, slot=len(self.sent))


class FakeSettlement:
    """Implements ``port.Settlement`` on a ``FakeChain``, signing as ``signer``."""

    def __init__(self, chain: FakeChain, signer: Address) -> None:
        self._chain = chain
        self._signer = signer
        self.addresses = chain.addresses

    # --- reads ----------------------------------------------------------------------------------

    async def config(self) -> ConfigView:
        await trio.lowlevel.checkpoint()
        return self._chain.settings

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None:
        await trio.lowlevel.checkpoint()
        return self._chain.at(at).balances.get((owner, mint))

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        await trio.lowlevel.checkpoint()
        return self._chain.at(at).channels.get(channel)

    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None:
        await trio.lowlevel.checkpoint()
        return self._chain.at(at).stakes.get((owner, mint))

    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        await trio.lowlevel.checkpoint()
        return MicroUnits(self._chain.ledger.tokens[owner, mint])

    async def lamports(self, address: Address) -> int:
        await trio.lowlevel.checkpoint()
        return self._chain.ledger.lamports[address]

    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        found = [signature for _, touched, signature in self._chain.sent if address in touched]
        return tuple(found[::-1][:limit])

    async def vault_tokens(self, mint: Address) -> MicroUnits:
        await trio.lowlevel.checkpoint()
        return MicroUnits(self._chain.ledger.vaults[mint])

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        with trio.move_on_after(timeout_s):
            while (view := self._chain.ledger.channels.get(channel)) is None:
                await self._chain.changed.wait()
            return view
        raise ChainBusy(f"the channel was not confirmed within {timeout_s:g} s")

    def channel_address(
        self, payer: Address, payee: Address, mint: Address, nonce: int
    ) -> ChannelId:
        return self.addresses.channel(payer, payee, mint, nonce)

    def stake_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.stake(owner, mint)

    def balance_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.balance(owner, mint)

    # --- channels -------------------------------------------------------------------------------

    async def open_channel(
        self, *, payer: Address, payee: Address, mint: Address, voucher_key: NodeKey, nonce: int,
        deposit: MicroUnits, challenge_s: int,
    ) -> Sent:  # fmt: skip
        await self._begin("open_channel")
        balance = self._spendable(payer, mint, deposit)
        if nonce != balance.next_nonce:
            raise _refused(6018)
        if challenge_s < self._chain.settings.min_challenge_s:
            raise _refused(6019)
        self._spend(balance, deposit, next_nonce=nonce + 1)
        channel = self.channel_address(payer, payee, mint, nonce)
        self._ledger.lamports[self._signer] -= CHANNEL_RENT
        self._ledger.channels[channel] = ChannelView(
            channel=channel,
            payer=payer,
            payee=payee,
            voucher_key=voucher_key,
            mint=mint,
            rent_payer=self._signer,
            nonce=nonce,
            deposit=deposit,
            settled=ZERO,
            fee_taken=ZERO,
            fee_bps=self._chain.settings.fee_bps,
            challenge_s=challenge_s,
            close_at_s=0,
            alloc_root=Digest(bytes(32)),
        )
        return self._chain.note("open_channel", (payer, payee, Address(channel)))

    async def top_up(self, *, channel: ChannelView, amount: MicroUnits) -> Sent:
        await self._begin("top_up")
        view = self._the(channel.channel)
        if view.closing:
            raise _refused(6020)
        self._spend(self._spendable(view.payer, view.mint, amount), amount)
        self._put(replace(view, deposit=MicroUnits(view.deposit + amount)))
        return self._chain.note("top_up", (view.payer, Address(view.channel)))

    async def settle(self, claims: tuple[SettleClaim, ...]) -> Sent:
        if not 1 <= len(claims) <= CLAIMS_A_TRANSACTION:
            raise ChainRefused("1 to 3 claims fit one transaction")
        await self._begin("settle")
        for claim in claims:
            if not verify(
                claim.voucher_key, voucher_bytes(claim.voucher), claim.voucher.signature
            ):
                raise ChainRefused("a voucher's signature is not valid")
            view = self._the(claim.channel)
            if (claim.voucher.channel, claim.voucher_key) != (view.channel, view.voucher_key):
                raise _refused(6025)
        for claim in claims:
            self._settle_one(claim)
        return self._chain.note("settle", [Address(claim.channel) for claim in claims])

    def _settle_one(self, claim: SettleClaim) -> None:
        view, voucher = self._the(claim.channel), claim.voucher
        due = min(claim.claim, voucher.cumulative, view.deposit) - view.settled
        if due <= 0:
            return
        fee_taken = -(-(view.settled + due) * view.fee_bps // 10_000)
        fee = fee_taken - view.fee_taken
        payee = self._balance(view.payee, view.mint)
        self._set(
            replace(
                payee,
                available=MicroUnits(payee.available + due - fee),
                fees_owed=MicroUnits(payee.fees_owed + fee),
            )
        )
        self._put(
            replace(
                view,
                settled=MicroUnits(view.settled + due),
                fee_taken=MicroUnits(fee_taken),
                alloc_root=allocation_root(voucher.sequence, voucher.closed, voucher.open),
            )
        )

    async def close_by_payee(self, channel: ChannelView) -> Sent:
        await self._begin("close_by_payee")
        view = self._the(channel.channel)
        if self._signer != view.payee:
            raise _refused(6008)
        return self._close("close_by_payee", view)

    async def request_close(self, channel: ChannelView) -> Sent:
        await self._begin("request_close")
        view = self._the(channel.channel)
        self._authorised(self._balance(view.payer, view.mint))
        if view.closing:
            raise _refused(6020)
        self._put(replace(view, close_at_s=int(self._chain.now_s()) + view.challenge_s))
        return self._chain.note("request_close", (view.payer, Address(view.channel)))

    async def finalize_close(self, channel: ChannelView) -> Sent:
        await self._begin("finalize_close")
        view = self._the(channel.channel)
        if not view.closing:
            raise _refused(6021)
        if self._chain.now_s() < view.close_at_s:
            raise _refused(6022)
        return self._close("finalize_close", view)

    def _close(self, name: str, view: ChannelView) -> Sent:
        payer = self._balance(view.payer, view.mint)
        rest = view.deposit - view.settled
        self._set(replace(payer, available=MicroUnits(payer.available + rest)))
        self._ledger.lamports[view.rent_payer] += CHANNEL_RENT
        del self._ledger.channels[view.channel]
        return self._chain.note(name, (view.payer, view.payee, Address(view.channel)))

    # --- wallets --------------------------------------------------------------------------------

    async def deposit_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        await self._begin("deposit")
        tokens, vaults = self._ledger.tokens, self._ledger.vaults
        if tokens[self._signer, mint] < amount:
            raise ChainRefused("the wallet does not hold that many tokens")
        tokens[self._signer, mint] -= amount
        vaults[mint] += amount
        balance = self._balance(self._signer, mint)
        self._set(replace(balance, available=MicroUnits(balance.available + amount)))
        return self._chain.note("deposit", (self._signer,))

    async def withdraw_wallet(
        self, *, mint: Address, amount: MicroUnits, destination: Address
    ) -> Sent:
        await self._begin("withdraw")
        balance = self._balance(self._signer, mint)
        if balance.available < amount:
            raise _refused(6011)
        self._set(replace(balance, available=MicroUnits(balance.available - amount)))
        self._ledger.vaults[mint] -= amount
        self._ledger.tokens[destination, mint] += amount
        return self._chain.note("withdraw", (self._signer, destination))

    async def set_delegate_wallet(
        self, *, mint: Address, delegate: NodeKey, allowance: MicroUnits, expires_s: int
    ) -> Sent:
        await self._begin("set_delegate")
        balance = self._balance(self._signer, mint)
        self._set(
            replace(
                balance,
                delegate=Address(delegate),
                allowance=allowance,
                delegate_expires_s=expires_s,
            )
        )
        return self._chain.note("set_delegate", (self._signer,))

    async def register_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        await self._begin("register")
        if (self._signer, mint) in self._ledger.stakes:
            raise _refused(6007)
        self._set(self._balance(self._signer, mint))
        self._ledger.stakes[self._signer, mint] = StakeView(
            stake=self.stake_address(self._signer, mint),
            owner=self._signer,
            mint=mint,
            node_key=node_key,
            bonded=ZERO,
            unbonding=ZERO,
        )
        return self._chain.note("register", (self._signer,))

    async def stake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        await self._begin("stake")
        balance = self._balance(self._signer, mint)
        stake = self._ledger.stakes.get((self._signer, mint))
        if stake is None:
            raise _refused(6004)
        if balance.available < amount:
            raise _refused(6011)
        self._set(replace(balance, available=MicroUnits(balance.available - amount)))
        bonded = replace(stake, bonded=MicroUnits(stake.bonded + amount))
        self._ledger.stakes[self._signer, mint] = bonded
        return self._chain.note("stake", (self._signer,))

    async def sweep_fees(
        self, *, treasury: Address, mint: Address, owners: tuple[Address, ...]
    ) -> Sent:
        """Bring the fees that ``owners`` owe to the treasury's balance."""
        await self._begin("sweep_fees")
        for owner in owners:
            balance = self._balance(owner, mint)
            fees = balance.fees_owed
            paid = MicroUnits(balance.fees_paid + fees)
            self._set(replace(balance, fees_owed=ZERO, fees_paid=paid))
            kept = self._balance(treasury, mint)
            self._set(replace(kept, available=MicroUnits(kept.available + fees)))
        return self._chain.note("sweep_fees", (treasury, *owners))

    # --- the program's checks -------------------------------------------------------------------

    @property
    def _ledger(self) -> _Ledger:
        return self._chain.ledger

    async def _begin(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        fault = self._chain.fault(name)
        if fault is not None:
            raise fault
        if self._ledger.lamports[self._signer] < TRANSACTION_LAMPORTS:
            raise ChainRefused("the signing key has no SOL for the transaction's fee")
        self._ledger.lamports[self._signer] -= TRANSACTION_LAMPORTS

    def _the(self, channel: ChannelId) -> ChannelView:
        view = self._ledger.channels.get(channel)
        if view is None:
            raise _refused(6004)
        return view

    def _put(self, view: ChannelView) -> None:
        self._ledger.channels[view.channel] = view

    def _balance(self, owner: Address, mint: Address) -> BalanceView:
        return self._ledger.balances.get((owner, mint)) or BalanceView(
            owner=owner,
            mint=mint,
            delegate=NOBODY,
            available=ZERO,
            fees_owed=ZERO,
            fees_paid=ZERO,
            next_nonce=0,
            allowance=ZERO,
            delegate_expires_s=0,
        )

    def _set(self, balance: BalanceView) -> None:
        self._ledger.balances[balance.owner, balance.mint] = balance

    def _authorised(self, balance: BalanceView) -> None:
        if self._signer == balance.owner:
            return
        if self._signer != balance.delegate:
            raise _refused(6008)
        if balance.delegate_expires_s <= self._chain.now_s():
            raise _refused(6009)

    def _spendable(self, payer: Address, mint: Address, amount: MicroUnits) -> BalanceView:
        balance = self._balance(payer, mint)
        self._authorised(balance)
        if self._signer != payer and balance.allowance < amount:
            raise _refused(6010)
        if balance.available < amount:
            raise _refused(6011)
        return balance

    def _spend(
        self, balance: BalanceView, amount: MicroUnits, *, next_nonce: int | None = None
    ) -> None:
        delegated = self._signer != balance.owner
        self._set(
            replace(
                balance,
                available=MicroUnits(balance.available - amount),
                allowance=MicroUnits(balance.allowance - amount * delegated),
                next_nonce=balance.next_nonce if next_nonce is None else next_nonce,
            )
        )
