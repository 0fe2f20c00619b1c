"""The settlement program in memory, for tests of services: same promises, no chain, no sockets.

Passes the contract tests that the real adapter passes. It has finality that lags, faults on order,
and a count of every unit; it is no model of fees, rent sizes or transaction limits beyond those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, Digest, NodeKey
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import verify
from robocompute_protocol.vouchers import allocation_root, voucher_bytes
from robocompute_settlement import events
from robocompute_settlement.addresses import associated_token_account
from robocompute_settlement.fake_chain import NOBODY, ZERO, FakeChain
from robocompute_settlement.fake_reading import refused
from robocompute_settlement.fake_staking import FakeStaking
from robocompute_settlement.instructions import MAX_CLAIMS
from robocompute_settlement.port import BalanceView, ChannelView, Sent, SettleClaim

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.instruction import Instruction

    from robocompute_settlement.port import Attempt

__all__ = ["FakeChain", "FakeSettlement"]

CHANNEL_RENT: Final = 3_000_000
MAX_CHALLENGE_S: Final = 30 * 86_400


class FakeSettlement(FakeStaking):
    """Implements ``port.Settlement`` on a ``FakeChain``, signing as ``signer``."""

    # --- channels -------------------------------------------------------------------------------

    async def open_channel(
        self, *, payer: Address, payee: Address, mint: Address, voucher_key: NodeKey, nonce: int,
        deposit: MicroUnits, challenge_s: int,
    ) -> Sent:  # fmt: skip
        await self._begin("open_channel")
        settings = self._chain.settings
        if settings.paused:
            raise refused(6017)
        balance = self._spendable(payer, mint, deposit)
        if nonce != balance.next_nonce:
            raise refused(6018)
        if not settings.min_challenge_s <= challenge_s <= MAX_CHALLENGE_S:
            raise refused(6019)
        self._spend(balance, deposit, next_nonce=nonce + 1)
        channel = self.channel_address(payer, payee, mint, nonce)
        self._ledger.lamports[self._signer] -= CHANNEL_RENT
        self._put(
            ChannelView(
                channel=channel, payer=payer, payee=payee, voucher_key=voucher_key, mint=mint,
                rent_payer=self._signer, nonce=nonce, deposit=deposit, settled=ZERO,
                fee_taken=ZERO, fee_bps=settings.fee_bps, challenge_s=challenge_s, close_at_s=0,
                alloc_root=Digest(bytes(32)),
            )
        )  # fmt: skip
        return await self._note(
            "open_channel",
            self._build.open_channel(
                authority=self._signer, payer=payer, payee=payee, mint=mint,
                voucher_key=voucher_key, nonce=nonce, deposit=deposit, challenge_s=challenge_s,
            ),
            events.ChannelOpened(
                channel=channel, payer=payer, payee=payee, mint=mint, voucher_key=voucher_key,
                nonce=nonce, deposit=deposit, challenge_s=challenge_s, fee_bps=settings.fee_bps,
            ),
        )  # fmt: skip

    async def top_up(
        self, *, channel: ChannelView, amount: MicroUnits,
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        await self._begin("top_up")
        view = self._the(channel.channel)
        if view.closing:
            raise refused(6020)
        balance = self._spendable(view.payer, view.mint, amount)
        if journal is not None:
            journal(self._chain.next_attempt())
        self._spend(balance, amount)
        deposit = MicroUnits(view.deposit + amount)
        self._put(replace(view, deposit=deposit))
        return await self._note(
            "top_up",
            self._build.top_up(authority=self._signer, channel=view, amount=amount),
            events.ToppedUp(channel=view.channel, amount=amount, deposit=deposit),
        )

    async def settle(self, claims: tuple[SettleClaim, ...]) -> Sent:
        if not 1 <= len(claims) <= MAX_CLAIMS:
            raise ChainRefused(f"one transaction settles 1 to {MAX_CLAIMS} claims")
        await self._begin("settle")
        for claim in claims:
            message = voucher_bytes(claim.voucher)
            if not verify(claim.voucher_key, message, claim.voucher.signature):
                raise ChainRefused("a voucher's signature is not valid")
            view = self._the(claim.channel)
            if (claim.voucher.channel, claim.voucher_key) != (view.channel, view.voucher_key):
                raise refused(6025)
        told = [event for claim in claims for event in self._settle_one(claim)]
        touched = {
            Address(bytes(meta.pubkey))
            for claim in claims
            for meta in self._settle_accounts(claim).accounts
        }
        return await self._chain.took("settle", {*touched, self._signer}, told)

    def _settle_accounts(self, claim: SettleClaim) -> Instruction:
        return self._build.settle(
            channel=claim.channel, payee=claim.payee, mint=claim.mint, ed_ix=0, entry=0, claim=0
        )

    def _settle_one(self, claim: SettleClaim) -> list[events.ChainEvent]:
        view, voucher = self._the(claim.channel), claim.voucher
        due = min(claim.claim, voucher.cumulative, view.deposit) - view.settled
        if due <= 0:
            return []
        fee_taken = -(-(view.settled + due) * view.fee_bps // 10_000)
        fee = MicroUnits(fee_taken - view.fee_taken)
        payee = self._balance(view.payee, view.mint)
        self._set(
            replace(
                payee,
                available=MicroUnits(payee.available + due - fee),
                fees_owed=MicroUnits(payee.fees_owed + fee),
            )
        )
        settled = MicroUnits(view.settled + due)
        root = allocation_root(voucher.sequence, voucher.closed, voucher.open)
        self._put(replace(view, settled=settled, fee_taken=MicroUnits(fee_taken), alloc_root=root))
        return [
            events.Settled(
                channel=view.channel, payee=view.payee, settled=settled,
                paid=MicroUnits(due - fee), fee=fee, alloc_root=root,
            )
        ]  # fmt: skip

    async def close_by_payee(self, channel: ChannelView) -> Sent:
        await self._begin("close_by_payee")
        view = self._the(channel.channel)
        if self._signer != view.payee:
            self._authorised(self._balance(view.payee, view.mint))
        accounts = self._build.close_by_payee(authority=self._signer, channel=view)
        return await self._close("close_by_payee", accounts, view)

    async def request_close(self, channel: ChannelView) -> Sent:
        await self._begin("request_close")
        view = self._the(channel.channel)
        self._authorised(self._balance(view.payer, view.mint))
        accounts = self._build.request_close(authority=self._signer, channel=view)
        if view.closing:
            return await self._note("request_close", accounts)
        close_at = self._now_s + view.challenge_s
        self._put(replace(view, close_at_s=close_at))
        told = events.CloseRequested(channel=view.channel, payee=view.payee, close_at=close_at)
        return await self._note("request_close", accounts, told)

    async def finalize_close(self, channel: ChannelView) -> Sent:
        await self._begin("finalize_close")
        view = self._the(channel.channel)
        if not view.closing:
            raise refused(6021)
        if self._chain.now_s() < view.close_at_s:
            raise refused(6022)
        return await self._close("finalize_close", self._build.finalize_close(channel=view), view)

    async def _close(self, name: str, accounts: Instruction, view: ChannelView) -> Sent:
        payer = self._balance(view.payer, view.mint)
        rest = MicroUnits(view.deposit - view.settled)
        self._set(replace(payer, available=MicroUnits(payer.available + rest)))
        self._ledger.lamports[view.rent_payer] += CHANNEL_RENT
        del self._ledger.channels[view.channel]
        told = events.ChannelClosed(
            channel=view.channel, payer=view.payer, payee=view.payee, settled=view.settled,
            refunded=rest,
        )  # fmt: skip
        return await self._note(name, accounts, told)

    # --- wallets --------------------------------------------------------------------------------

    async def deposit_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        await self._begin("deposit")
        if self._chain.settings.paused and amount > 0:
            raise refused(6017)
        tokens, vaults = self._ledger.tokens, self._ledger.vaults
        if tokens[self._signer, mint] < amount:
            raise ChainRefused("the wallet does not hold that many tokens")
        tokens[self._signer, mint] -= amount
        vaults[mint] += amount
        balance = self._balance(self._signer, mint)
        available = MicroUnits(balance.available + amount)
        self._set(replace(balance, available=available))
        return await self._note(
            "deposit",
            self._build.deposit(owner=self._signer, mint=mint, amount=amount),
            events.Deposited(owner=self._signer, mint=mint, amount=amount, available=available),
        )

    async def withdraw_wallet(
        self, *, mint: Address, amount: MicroUnits, destination: Address
    ) -> Sent:
        await self._begin("withdraw")
        balance = self._balance(self._signer, mint)
        if balance.available < amount:
            raise refused(6011)
        available = MicroUnits(balance.available - amount)
        self._set(replace(balance, available=available))
        self._ledger.vaults[mint] -= amount
        self._ledger.tokens[destination, mint] += amount
        account = associated_token_account(destination, mint)
        told = events.Withdrawn(
            owner=self._signer, mint=mint, destination=account, amount=amount,
            available=available,
        )  # fmt: skip
        return await self._note(
            "withdraw",
            self._build.withdraw(
                owner=self._signer, mint=mint, destination=account, amount=amount
            ),
            told,
        )

    async def set_delegate_wallet(
        self, *, mint: Address, delegate: NodeKey, allowance: MicroUnits, expires_s: int
    ) -> Sent:
        await self._begin("set_delegate")
        if (self._signer, mint) not in self._ledger.balances:
            raise refused(6004)
        named = Address(delegate)
        self._set(
            replace(
                self._balance(self._signer, mint),
                delegate=named,
                allowance=allowance,
                delegate_expires_s=expires_s,
            )
        )
        told = events.DelegateSet(
            owner=self._signer, mint=mint, delegate=named, allowance=allowance, expires=expires_s
        )
        return await self._note(
            "set_delegate",
            self._build.set_delegate(
                owner=self._signer, mint=mint, delegate=delegate, allowance=allowance,
                expires_s=expires_s,
            ),
            told,
        )  # fmt: skip

    # --- the program's checks -------------------------------------------------------------------

    def _authorised(self, balance: BalanceView) -> None:
        if self._signer == balance.owner:
            return
        if self._signer != balance.delegate or balance.delegate == NOBODY:
            raise refused(6008)
        if balance.delegate_expires_s <= self._chain.now_s():
            raise refused(6009)

    def _spendable(self, payer: Address, mint: Address, amount: MicroUnits) -> BalanceView:
        balance = self._balance(payer, mint)
        self._authorised(balance)
        if self._signer != payer and balance.allowance < amount:
            raise refused(6010)
        if balance.available < amount:
            raise refused(6011)
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
