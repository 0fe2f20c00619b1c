"""Random lives of channels, as events and as the chain's own end state, for tests of the books."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey, digest
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.events import (
    ChannelClosed,
    ChannelOpened,
    CloseRequested,
    Deposited,
    FeesSwept,
    Registered,
    Settled,
    Slashed,
    Staked,
    ToppedUp,
    UnbondedClaimed,
    Unstaked,
    Withdrawn,
)
from robocompute_settlement.port import BalanceView, ChainRecord, ChannelView, StakeView

if TYPE_CHECKING:
    from robocompute_settlement.events import ChainEvent

NOBODY = Address(bytes(32))
NO_KEY = NodeKey(bytes(32))
MINT = Address(digest(b"mint"))
TREASURY = Address(digest(b"treasury"))
PEOPLE = tuple(Address(digest(b"person", bytes((number,)))) for number in range(3))


def stake_of(owner: Address) -> Address:
    return Address(digest(b"stake", owner))


@dataclass
class Chain:
    """The program's arithmetic, told as events. Amounts that are not there do nothing."""

    balances: dict[Address, BalanceView] = field(default_factory=dict[Address, BalanceView])
    channels: dict[ChannelId, ChannelView] = field(default_factory=dict[ChannelId, ChannelView])
    stakes: dict[Address, StakeView] = field(default_factory=dict[Address, StakeView])
    records: list[ChainRecord] = field(default_factory=list[ChainRecord])
    slot: int = 1
    _told: list[ChainEvent] = field(default_factory=list["ChainEvent"])

    def balance(self, owner: Address) -> BalanceView:
        zero = MicroUnits(0)
        return self.balances.get(owner) or BalanceView(
            owner=owner, mint=MINT, delegate=NOBODY, available=zero, fees_owed=zero,
            fees_paid=zero, next_nonce=0, allowance=zero, delegate_expires_s=0,
        )  # fmt: skip

    def add(self, owner: Address, amount: int, *, fee: int = 0) -> None:
        balance = self.balance(owner)
        self.balances[owner] = replace(
            balance,
            available=MicroUnits(balance.available + amount),
            fees_owed=MicroUnits(balance.fees_owed + fee),
        )

    def commit(self, *, same_slot: bool) -> None:
        """What was told since the last time is one transaction."""
        if self._told:
            self.slot += not same_slot
            signature = digest(len(self.records).to_bytes(8, "little")).hex()
            self.records.append(
                ChainRecord(
                    signature=signature,
                    slot=self.slot,
                    time_s=self.slot,
                    events=tuple(self._told),
                    complete=True,
                )
            )
            self._told = []

    def deposit(self, owner: Address, amount: int) -> None:
        self.add(owner, amount)
        available = self.balance(owner).available
        self._told.append(
            Deposited(owner=owner, mint=MINT, amount=MicroUnits(amount), available=available)
        )

    def withdraw(self, owner: Address, amount: int) -> None:
        amount = min(amount, self.balance(owner).available)
        self.add(owner, -amount)
        self._told.append(
            Withdrawn(
                owner=owner,
                mint=MINT,
                destination=NOBODY,
                amount=MicroUnits(amount),
                available=self.balance(owner).available,
            )
        )

    def open(self, payer: Address, payee: Address, amount: int, fee_bps: int) -> None:
        balance = self.balance(payer)
        amount = min(amount, balance.available)
        if not amount:
            return
        channel = ChannelId(digest(payer, payee, bytes((balance.next_nonce,))))
        self.balances[payer] = replace(
            balance,
            available=MicroUnits(balance.available - amount),
            next_nonce=balance.next_nonce + 1,
        )
        self.channels[channel] = ChannelView(
            channel=channel, payer=payer, payee=payee, voucher_key=NO_KEY, mint=MINT,
            rent_payer=payer, nonce=balance.next_nonce, deposit=MicroUnits(amount),
            settled=MicroUnits(0), fee_taken=MicroUnits(0), fee_bps=fee_bps, challenge_s=10,
            close_at_s=0, alloc_root=Digest(bytes(32)),
        )  # fmt: skip
        self._told.append(
            ChannelOpened(
                channel=channel,
                payer=payer,
                payee=payee,
                mint=MINT,
                voucher_key=NO_KEY,
                nonce=balance.next_nonce,
                deposit=MicroUnits(amount),
                challenge_s=10,
                fee_bps=fee_bps,
            )
        )

    def top_up(self, view: ChannelView, amount: int) -> None:
        amount = min(amount, self.balance(view.payer).available)
        if not amount:
            return
        self.add(view.payer, -amount)
        deposit = MicroUnits(view.deposit + amount)
        self.channels[view.channel] = replace(view, deposit=deposit)
        self._told.append(
            ToppedUp(channel=view.channel, amount=MicroUnits(amount), deposit=deposit)
        )

    def settle(self, view: ChannelView, claim: int) -> None:
        target = min(claim, view.deposit)
        if target <= view.settled:
            return
        taken = -(-target * view.fee_bps // 10_000)
        fee = taken - view.fee_taken
        paid = target - view.settled - fee
        self.add(view.payee, paid, fee=fee)
        self.channels[view.channel] = replace(
            view, settled=MicroUnits(target), fee_taken=MicroUnits(taken)
        )
        self._told.append(
            Settled(
                channel=view.channel,
                payee=view.payee,
                settled=MicroUnits(target),
                paid=MicroUnits(paid),
                fee=MicroUnits(fee),
                alloc_root=Digest(bytes(32)),
            )
        )

    def ask_to_close(self, view: ChannelView) -> None:
        self._told.append(CloseRequested(channel=view.channel, payee=view.payee, close_at=9))

    def close(self, view: ChannelView) -> None:
        rest = view.deposit - view.settled
        self.add(view.payer, rest)
        del self.channels[view.channel]
        self._told.append(
            ChannelClosed(
                channel=view.channel,
                payer=view.payer,
                payee=view.payee,
                settled=view.settled,
                refunded=MicroUnits(rest),
            )
        )

    def stake(self, owner: Address, amount: int) -> None:
        name, zero = stake_of(owner), MicroUnits(0)
        if owner not in self.stakes:
            self.stakes[owner] = StakeView(
                stake=name, owner=owner, mint=MINT, node_key=NO_KEY, prev_key=NO_KEY, bonded=zero,
                unbonding=zero, unbond_at_s=0, rotated_at_s=0, watermark_s=0, slashed=zero,
            )  # fmt: skip
            self._told.append(Registered(stake=name, owner=owner, mint=MINT, node_key=NO_KEY))
        amount = min(amount, self.balance(owner).available)
        if not amount:
            return
        self.add(owner, -amount)
        bonded = MicroUnits(self.stakes[owner].bonded + amount)
        self.stakes[owner] = replace(self.stakes[owner], bonded=bonded)
        self._told.append(Staked(stake=name, amount=MicroUnits(amount), bonded=bonded))

    def unstake(self, owner: Address, amount: int) -> None:
        stake = self.stakes.get(owner)
        if stake is None or not stake.bonded:
            return
        amount = min(amount, stake.bonded)
        left = replace(
            stake,
            bonded=MicroUnits(stake.bonded - amount),
            unbonding=MicroUnits(stake.unbonding + amount),
        )
        self.stakes[owner] = left
        self._told.append(
            Unstaked(
                stake=stake.stake,
                amount=MicroUnits(amount),
                bonded=left.bonded,
                unbonding=left.unbonding,
                unbond_at=9,
            )
        )

    def claim(self, owner: Address) -> None:
        stake = self.stakes.get(owner)
        if stake is None or not stake.unbonding:
            return
        self.add(owner, stake.unbonding)
        self.stakes[owner] = replace(stake, unbonding=MicroUnits(0))
        self._told.append(
            UnbondedClaimed(
                stake=stake.stake,
                owner=owner,
                mint=MINT,
                amount=stake.unbonding,
                available=self.balance(owner).available,
            )
        )

    def slash(self, owner: Address, reporter: Address, payer: Address, bps: int) -> None:
        """A double sale to ``payer`` and to somebody without a Balance, whose share is the treasury's."""
        stake = self.stakes.get(owner)
        penalty = (stake.bonded + stake.unbonding) * bps // 10_000 if stake else 0
        if stake is None or not penalty:
            return
        from_unbonding = min(penalty, stake.unbonding)
        self.stakes[owner] = replace(
            stake,
            bonded=MicroUnits(stake.bonded - penalty + from_unbonding),
            unbonding=MicroUnits(stake.unbonding - from_unbonding),
        )
        to_reporter, to_payer = penalty // 10, penalty // 5
        to_treasury = penalty - to_reporter - to_payer
        for one, share in ((reporter, to_reporter), (payer, to_payer), (TREASURY, to_treasury)):
            self.add(one, share)
        self._told.append(
            Slashed(
                stake=stake.stake,
                mint=MINT,
                reporter=reporter,
                first_payer=payer,
                second_payer=NOBODY,
                treasury=TREASURY,
                from_bonded=MicroUnits(penalty - from_unbonding),
                from_unbonding=MicroUnits(from_unbonding),
                to_reporter=MicroUnits(to_reporter),
                to_first=MicroUnits(to_payer),
                to_second=MicroUnits(0),
                to_treasury=MicroUnits(to_treasury),
                watermark=9,
            )
        )

    def sweep(self) -> None:
        total = 0
        for owner, balance in self.balances.items():
            total += balance.fees_owed
            self.balances[owner] = replace(
                balance,
                fees_owed=MicroUnits(0),
                fees_paid=MicroUnits(balance.fees_paid + balance.fees_owed),
            )
        self.add(TREASURY, total)
        self._told.append(FeesSwept(treasury=TREASURY, mint=MINT, amount=MicroUnits(total)))
