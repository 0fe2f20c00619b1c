"""What the settlement program must do, in plain Python: no accounts, no bytes, only the books.

Written from ``docs/settlement.md``. Every operation either raises ``Refused`` and changes nothing, or
changes the books as the program has to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

    Owner: TypeAlias = tuple[Pubkey, int]
    """A person and the number of a mint."""

OPEN: Final = 0
"""``close_at`` of a channel nobody asked to close."""
LONGEST_S: Final = 30 * 86_400
GRACE_S: Final = 300
"""How long after its rotation an old key's leases still count."""
U64: Final = 2**64 - 1


class Refused(Exception):
    """The program takes this back."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Refused(why)


@dataclass
class Purse:
    """A Balance."""

    available: int = 0
    fees_owed: int = 0
    fees_paid: int = 0
    next_nonce: int = 0
    delegate: Pubkey | None = None
    allowance: int = 0
    expires: int = 0


@dataclass
class Bond:
    """A Stake."""

    node_key: Pubkey
    prev_key: Pubkey | None = None
    bonded: int = 0
    unbonding: int = 0
    unbond_at: int = 0
    rotated_at: int = 0
    watermark: int = 0
    slashed: int = 0

    @property
    def total(self) -> int:
        return self.bonded + self.unbonding


@dataclass
class Deal:
    """A Channel."""

    payer: Pubkey
    payee: Pubkey
    mint: int
    nonce: int
    fee_bps: int
    deposit: int
    challenge_s: int
    settled: int = 0
    fee_taken: int = 0
    close_at: int = OPEN
    root: bytes = bytes(32)


@dataclass(frozen=True)
class Promise:
    """A lease that somebody signed."""

    stake: Owner
    signer: Pubkey
    payer: Pubkey
    slots: int
    start: int
    end: int


@dataclass
class Settings:
    treasury: Pubkey
    slot_stake: int
    unbond_s: int
    min_challenge_s: int
    fee_bps: int
    slash_bps: int
    paused: bool = False


@dataclass
class Model:
    admin: Pubkey
    settings: Settings
    now: int
    pending_admin: Pubkey | None = None
    tokens: dict[Owner, int] = field(default_factory=dict["Owner", int])
    vault: list[int] = field(default_factory=lambda: [0, 0])
    donated: list[int] = field(default_factory=lambda: [0, 0])
    purses: dict[Owner, Purse] = field(default_factory=dict["Owner", Purse])
    bonds: dict[Owner, Bond] = field(default_factory=dict["Owner", Bond])
    deals: dict[Pubkey, Deal] = field(default_factory=dict["Pubkey", Deal])

    # What is always true

    def booked(self, mint: int) -> int:
        """Everything somebody can still take out of a vault."""
        purses = [one for (_, of), one in self.purses.items() if of == mint]
        bonds = [one for (_, of), one in self.bonds.items() if of == mint]
        deals = [one for one in self.deals.values() if one.mint == mint]
        total = sum(one.available + one.fees_owed for one in purses)
        total += sum(one.deposit - one.settled for one in deals)
        return total + sum(one.total for one in bonds)

    def worth(self, who: Pubkey, mint: int) -> int:
        """What a person could have in hand if everybody was honest from now on."""
        purse, bond = self.purses.get((who, mint)), self.bonds.get((who, mint))
        total = self.tokens.get((who, mint), 0)
        total += purse.available if purse else 0
        total += bond.total if bond else 0
        own = [one for one in self.deals.values() if (one.payer, one.mint) == (who, mint)]
        return total + sum(one.deposit - one.settled for one in own)

    # Money in and out

    def deposit(self, who: Pubkey, mint: int, amount: int) -> None:
        need(not self.settings.paused or amount == 0, "paused")
        need(self.tokens[who, mint] >= amount, "no such money")
        self.purses.setdefault((who, mint), Purse()).available += amount
        self.tokens[who, mint] -= amount
        self.vault[mint] += amount

    def withdraw(self, who: Pubkey, mint: int, to: Pubkey, amount: int) -> None:
        purse = self._purse(who, mint)
        need(0 < amount <= purse.available, "no such money")
        purse.available -= amount
        self.vault[mint] -= amount
        self.tokens[to, mint] += amount

    def donate(self, mint: int, amount: int) -> None:
        self.vault[mint] += amount
        self.donated[mint] += amount

    def set_delegate(
        self, who: Pubkey, mint: int, delegate: Pubkey | None, allowance: int, expires: int
    ) -> None:
        purse = self._purse(who, mint)
        purse.delegate, purse.allowance, purse.expires = delegate, allowance, expires

    # Channels

    def open_channel(
        self,
        address: Pubkey,
        signer: Pubkey,
        payer: Pubkey,
        payee: Pubkey,
        mint: int,
        *,
        nonce: int,
        deposit: int,
        challenge_s: int,
    ) -> None:
        need(not self.settings.paused, "paused")
        need(self.settings.min_challenge_s <= challenge_s <= LONGEST_S, "challenge")
        purse = self._purse(payer, mint)
        self._may_act(signer, payer, purse)
        need(nonce == purse.next_nonce, "nonce")
        self._set_aside(signer, payer, purse, deposit)
        purse.next_nonce += 1
        assert address not in self.deals
        self.deals[address] = Deal(
            payer, payee, mint, nonce, self.settings.fee_bps, deposit, challenge_s
        )

    def top_up(self, address: Pubkey, signer: Pubkey, amount: int) -> None:
        deal = self._deal(address)
        need(deal.close_at == OPEN, "closing")
        purse = self._purse(deal.payer, deal.mint)
        self._may_act(signer, deal.payer, purse)
        self._set_aside(signer, deal.payer, purse, amount)
        deal.deposit += amount

    def settle(self, address: Pubkey, cumulative: int, claim: int, root: bytes) -> None:
        deal = self._deal(address)
        purse = self._purse(deal.payee, deal.mint)
        target = min(cumulative, claim, deal.deposit)
        if target <= deal.settled:
            return
        fee = -(-target * deal.fee_bps // 10_000) - deal.fee_taken
        purse.available += target - deal.settled - fee
        purse.fees_owed += fee
        deal.settled, deal.root = target, root
        deal.fee_taken += fee

    def close_by_payee(self, address: Pubkey, signer: Pubkey) -> None:
        deal = self._deal(address)
        if signer != deal.payee:
            self._may_act(signer, deal.payee, self._purse(deal.payee, deal.mint))
        self._close(address)

    def request_close(self, address: Pubkey, signer: Pubkey) -> None:
        deal = self._deal(address)
        self._may_act(signer, deal.payer, self._purse(deal.payer, deal.mint))
        if deal.close_at == OPEN:
            deal.close_at = self.now + deal.challenge_s

    def finalize_close(self, address: Pubkey) -> None:
        deal = self._deal(address)
        need(deal.close_at != OPEN and self.now >= deal.close_at, "not yet")
        self._close(address)

    # Stakes

    def register(self, who: Pubkey, mint: int, node_key: Pubkey) -> None:
        need((who, mint) not in self.bonds, "once")
        self.bonds[who, mint] = Bond(node_key)

    def stake(self, who: Pubkey, mint: int, amount: int) -> None:
        bond, purse = self._bond(who, mint), self._purse(who, mint)
        need(0 < amount <= purse.available, "no such money")
        purse.available -= amount
        bond.bonded += amount

    def unstake(self, who: Pubkey, mint: int, amount: int) -> None:
        bond = self._bond(who, mint)
        need(0 < amount <= bond.bonded, "no such money")
        bond.bonded -= amount
        bond.unbonding += amount
        bond.unbond_at = self.now + self.settings.unbond_s

    def claim_unbonded(self, who: Pubkey, mint: int) -> None:
        bond, purse = self._bond(who, mint), self._purse(who, mint)
        need(bond.unbonding > 0, "nothing unbonds")
        need(self.now >= bond.unbond_at, "not yet")
        purse.available += bond.unbonding
        bond.unbonding = bond.unbond_at = 0

    def rotate_key(self, who: Pubkey, mint: int, node_key: Pubkey) -> None:
        bond = self._bond(who, mint)
        again_at = bond.rotated_at + self.settings.unbond_s + GRACE_S
        need(bond.prev_key is None or self.now >= again_at, "not yet")
        bond.prev_key, bond.node_key, bond.rotated_at = bond.node_key, node_key, self.now

    def slash(self, reporter: Pubkey, first: Promise, second: Promise) -> int:
        """Return what the stake pays."""
        owner, mint = first.stake
        bond = self._bond(owner, mint)
        need(second.stake == first.stake, "two stakes")
        need(all(self._counts(one, bond) for one in (first, second)), "another's lease")
        need(first.payer != second.payer and first.slots & second.slots != 0, "no double sale")
        need(first.start < first.end and second.start < second.end, "no lease")
        need(max(first.start, second.start) < min(first.end, second.end), "no double sale")
        oldest = max(bond.watermark, self.now - self.settings.unbond_s)
        need(all(oldest < one.start <= self.now for one in (first, second)), "out of time")
        amount = bond.total * self.settings.slash_bps // 10_000
        need(amount > 0, "nothing to slash")
        shares = [(reporter, amount // 10)]
        for payer in (first.payer, second.payer):
            shares += [(payer, amount // 5)] if (payer, mint) in self.purses else []
        shares.append((self.settings.treasury, amount - sum(share for _, share in shares)))
        purses = [(self._purse(who, mint), share) for who, share in shares]
        for purse, share in purses:
            purse.available += share
        from_unbonding = min(amount, bond.unbonding)
        bond.unbonding -= from_unbonding
        bond.bonded -= amount - from_unbonding
        bond.unbond_at = bond.unbond_at if bond.unbonding else 0
        bond.slashed += amount
        bond.watermark = self.now
        return amount

    def sweep_fees(self, treasury_key: Pubkey, mint: int, owners: list[Pubkey]) -> None:
        need(treasury_key == self.settings.treasury, "treasury")
        known = {who for who, of in self.purses if of == mint} | {treasury_key}
        need(known.issuperset(owners), "no balance")
        treasury = self.purses.setdefault((treasury_key, mint), Purse())
        for one in owners:
            purse = self.purses[one, mint]
            treasury.available += purse.fees_owed
            purse.fees_paid += purse.fees_owed
            purse.fees_owed = 0

    # Settings

    def update_config(self, signer: Pubkey, settings: Settings) -> None:
        need(signer == self.admin, "admin")
        need(settings.fee_bps <= 500 and settings.slash_bps <= 5_000, "bounds")
        need(settings.min_challenge_s <= LONGEST_S and settings.unbond_s <= LONGEST_S, "bounds")
        self.settings = settings

    def propose_admin(self, signer: Pubkey, new: Pubkey | None) -> None:
        need(signer == self.admin, "admin")
        self.pending_admin = new

    def accept_admin(self, signer: Pubkey) -> None:
        need(signer == self.pending_admin, "admin")
        self.admin, self.pending_admin = signer, None

    # Parts of the above

    def _purse(self, who: Pubkey, mint: int) -> Purse:
        need((who, mint) in self.purses, "no balance")
        return self.purses[who, mint]

    def _bond(self, who: Pubkey, mint: int) -> Bond:
        need((who, mint) in self.bonds, "no stake")
        return self.bonds[who, mint]

    def _deal(self, address: Pubkey) -> Deal:
        need(address in self.deals, "no channel")
        return self.deals[address]

    def _counts(self, lease: Promise, bond: Bond) -> bool:
        """Whether the stake answers for who signed this."""
        before = lease.signer == bond.prev_key and lease.start < bond.rotated_at + GRACE_S
        return before or lease.signer == bond.node_key

    def _may_act(self, signer: Pubkey, owner: Pubkey, purse: Purse) -> None:
        acts = signer == purse.delegate and self.now < purse.expires
        need(signer == owner or acts, "not authorized")

    def _set_aside(self, signer: Pubkey, owner: Pubkey, purse: Purse, amount: int) -> None:
        by_delegate = signer != owner
        need(0 < amount <= purse.available, "no such money")
        need(not by_delegate or amount <= purse.allowance, "allowance")
        purse.available -= amount
        purse.allowance -= amount if by_delegate else 0

    def _close(self, address: Pubkey) -> None:
        deal = self.deals.pop(address)
        self.purses[deal.payer, deal.mint].available += deal.deposit - deal.settled
