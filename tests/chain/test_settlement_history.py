"""Random histories of many actors: after every step chain and model agree to the unit.

The model is ``settlement_model.py``. Calls are legal and illegal at random: the program takes exactly
those that the model takes. Beside that, what must hold of any model is asked as well: the vault
holds what the books say, no nonce comes twice, no delegate passes its allowance, and nobody who
kept to the rules has less than what they gave away themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from attack_history import CHEATER, PEOPLE, START, History, Opened, Person
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import initialize, precondition, rule
from settlement_layouts import (
    DAY,
    SYSTEM,
    TOKEN,
    U64,
    ed25519_instruction,
    token_data,
    voucher_bytes,
)
from settlement_model import Deal, Promise, Refused, need
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

WHO = st.integers(0, PEOPLE - 1)
SIGNER = st.sampled_from(["owner", "owner", "owner", "delegate", "delegate", "other", "admin"])
MINT = st.sampled_from([0, 0, 0, 1])
AMOUNT = st.one_of(st.integers(0, 50), st.integers(0, START // 10), st.sampled_from([START, U64]))
WHICH = st.integers(0, 999)
CHALLENGE = st.sampled_from([0, 59, 60, 60, 600, 30 * DAY, 30 * DAY + 1, U64])


class SettlementHistory(History):
    @initialize()
    def most_have_deposited_and_some_provide(self) -> None:
        for n in range(PEOPLE - 2):
            self.deposit(n, 0, START // 2)
        for n in range(3):
            self.register(n, 0)
            self.stake(n, 0, START // 10)
        self.set_delegate(0, 0, own=True, allowance=START, lasts=10**6)
        self.open_channel(0, 1, 0, "delegate", amount=1_000, challenge_s=60, skip=0)

    # Money in and out

    @rule(who=WHO, mint=MINT, amount=AMOUNT)
    def deposit(self, who: int, mint: int, amount: int) -> None:
        one = self.people[who].address
        call = self.cast.deposit(one, mint, amount)
        self.attempt(lambda: self.model.deposit(one, mint, amount), call)

    @rule(who=WHO, mint=MINT, to=WHO, amount=AMOUNT)
    def withdraw(self, who: int, mint: int, to: int, amount: int) -> None:
        one, other = self.people[who], self.people[to].address
        call = self.cast.withdraw(one.address, mint, other, amount)
        taken = self.attempt(lambda: self.model.withdraw(one.address, mint, other, amount), call)
        if taken and one.address != other:
            one.gave[mint] += amount

    @rule(who=WHO, mint=MINT, own=st.booleans(), allowance=AMOUNT, lasts=st.integers(-10, 10**6))
    def set_delegate(self, who: int, mint: int, own: bool, allowance: int, lasts: int) -> None:
        one = self.people[who]
        delegate, expires = one.node if own else SYSTEM, self.model.now + lasts
        call = self.cast.set_delegate(one.address, mint, delegate, allowance, expires)
        if self.attempt(
            lambda: self.model.set_delegate(
                one.address, mint, delegate if own else None, allowance, expires
            ),
            call,
        ):
            one.granted[mint], one.used[mint] = allowance, 0

    @rule(mint=MINT, amount=st.integers(1, 5))
    def somebody_donates_to_the_vault(self, mint: int, amount: int) -> None:
        world, vault = self.cast.world, self.cast.vaults[mint]
        self.model.donate(mint, amount)
        data = token_data(world.mints[mint], self.cast.authority, self.model.vault[mint])
        world.put(vault, data, TOKEN, lamports=10**7)

    # Channels

    @rule(
        who=WHO, to=WHO, mint=MINT, how=SIGNER, amount=AMOUNT, challenge_s=CHALLENGE,
        skip=st.sampled_from([0, 0, 0, 0, -1, 1]),
    )  # fmt: skip
    def open_channel(
        self, who: int, to: int, mint: int, how: str, amount: int, challenge_s: int, skip: int
    ) -> None:
        payer, payee = self.people[who], self.people[to].address
        signer, key = self.signer(payer.address, how), Keypair()
        purse = self.model.purses.get((payer.address, mint))
        nonce = max(0, (purse.next_nonce if purse else 0) + skip)
        given = (signer, payer.address, payee, mint)
        numbers = {"nonce": nonce, "deposit": amount, "challenge_s": challenge_s}
        address = self.cast.channel_address(payer.address, payee, mint, nonce)
        if self.attempt(
            lambda: self.model.open_channel(address, *given, **numbers),
            self.cast.open_channel(*given, key.pubkey(), **numbers),
        ):
            assert address not in self.opened
            self.opened[address] = Opened(key, self.model.deals[address])
            self.count(signer, payer, mint, amount)

    def count(self, signer: Pubkey, payer: Person, mint: int, amount: int) -> None:
        """A delegate set this aside."""
        if signer != payer.address:
            payer.used[mint] += amount
            assert payer.used[mint] <= payer.granted[mint]

    @rule(which=WHICH, how=SIGNER, amount=AMOUNT)
    def top_up(self, which: int, how: str, amount: int) -> None:
        address, one = self.pick(which)
        payer = self.people[self.index(one.deal.payer)]
        signer = self.signer(payer.address, how)
        call = self.cast.top_up(address, one.deal, signer, amount)
        if self.attempt(lambda: self.model.top_up(address, signer, amount), call):
            self.count(signer, payer, one.deal.mint, amount)

    @rule(
        which=WHICH, cumulative=AMOUNT, claim=AMOUNT, root=st.binary(min_size=32, max_size=32),
        forged=st.sampled_from(["no", "no", "no", "no", "key", "channel"]),
    )  # fmt: skip
    def settle(self, which: int, cumulative: int, claim: int, root: bytes, forged: str) -> None:
        address, one = self.pick(which)
        key = self.cast.keys[self.attacker] if forged == "key" else one.key
        signed = self.pick(which + 1)[0] if forged == "channel" else address
        check = ed25519_instruction((key, voucher_bytes(signed, cumulative, root)))
        honest = key is one.key and signed == address

        def act() -> None:
            need(honest, "no voucher of this channel")
            self.model.settle(address, cumulative, claim, root)

        if honest:
            one.best = max(one.best, cumulative)
        self.attempt(act, check, self.cast.settle(address, one.deal, claim), anybody=True)

    @rule(which=WHICH, how=SIGNER)
    def close_by_payee(self, which: int, how: str) -> None:
        address, one = self.pick(which)
        signer = self.signer(one.deal.payee, how)
        call = self.cast.close_by_payee(address, one.deal, signer)
        self.attempt(lambda: self.model.close_by_payee(address, signer), call)

    @rule(which=WHICH, how=SIGNER)
    def request_close(self, which: int, how: str) -> None:
        address, one = self.pick(which)
        self.ask_to_close(address, one.deal, self.signer(one.deal.payer, how))

    def ask_to_close(self, address: Pubkey, deal: Deal, signer: Pubkey) -> None:
        call = self.cast.request_close(address, deal, signer)
        self.attempt(lambda: self.model.request_close(address, signer), call)

    @rule(which=WHICH)
    def finalize_close(self, which: int) -> None:
        address, one = self.pick(which)
        self.close_for_good(address, one.deal)

    def close_for_good(self, address: Pubkey, deal: Deal) -> None:
        call = self.cast.finalize_close(address, deal)
        self.attempt(lambda: self.model.finalize_close(address), call, anybody=True)

    @rule(who=WHO, mint=MINT)
    def somebody_leaves_with_all_they_have(self, who: int, mint: int) -> None:
        """Paused or not, and whoever else does nothing: after the waits all of it is in hand."""
        one, model = self.people[who].address, self.model
        if (bond := model.bonds.get((one, mint))) is not None and bond.bonded:
            self.unstake(who, mint, bond.bonded)
        leaving = [(at, deal) for at, deal in model.deals.items() if deal.payer == one]
        for address, deal in leaving:
            self.ask_to_close(address, deal, one)
        self.time_passes(30 * DAY)
        for address, deal in leaving:
            self.close_for_good(address, deal)
        if bond is not None and bond.unbonding:
            self.claim_unbonded(who, mint)
        if (purse := model.purses.get((one, mint))) is not None and purse.available:
            self.withdraw(who, mint, who, purse.available)
        assert model.tokens[one, mint] == model.worth(one, mint)

    # Stakes

    @rule(who=WHO, mint=MINT)
    def register(self, who: int, mint: int) -> None:
        one = self.people[who]
        call = self.cast.register(one.address, mint, one.node)
        self.attempt(lambda: self.model.register(one.address, mint, one.node), call)

    @rule(who=WHO, mint=MINT, amount=AMOUNT)
    def stake(self, who: int, mint: int, amount: int) -> None:
        one = self.people[who].address
        call = self.cast.stake(one, mint, amount)
        self.attempt(lambda: self.model.stake(one, mint, amount), call)

    @rule(who=WHO, mint=MINT, amount=AMOUNT)
    def unstake(self, who: int, mint: int, amount: int) -> None:
        one = self.people[who].address
        call = self.cast.unstake(one, mint, amount)
        self.attempt(lambda: self.model.unstake(one, mint, amount), call)

    @rule(who=WHO, mint=MINT)
    def claim_unbonded(self, who: int, mint: int) -> None:
        one = self.people[who].address
        call = self.cast.claim_unbonded(one, mint)
        self.attempt(lambda: self.model.claim_unbonded(one, mint), call)

    @rule(who=WHO, mint=MINT)
    def rotate_key(self, who: int, mint: int) -> None:
        one, key = self.people[who], self.cast.key()
        call = self.cast.rotate_key(one.address, mint, key)
        self.attempt(lambda: self.model.rotate_key(one.address, mint, key), call)

    @rule(
        who=WHO, mint=MINT, payer=WHO, slots=st.sampled_from([1, 2, 3, 2**63]),
        begins=st.integers(-60, 60), lasts=st.integers(1, 300), old_key=st.booleans(),
    )  # fmt: skip
    def somebody_lets_slots(
        self, who: int, mint: int, payer: int, slots: int, begins: int, lasts: int, old_key: bool
    ) -> None:
        """All but the cheater let no slot to two payers for one moment, whatever key they have."""
        owner = self.people[who].address, mint
        bond = self.model.bonds.get(owner)
        if bond is None:
            return
        paying, start = self.people[payer].address, self.model.now + begins
        signer = bond.prev_key if old_key and bond.prev_key else bond.node_key
        if who != CHEATER:
            taken = [
                one.end
                for one in self.leases
                if one.stake == owner and one.payer != paying and one.slots & slots
            ]
            signer, start = bond.node_key, max([self.model.now, *taken])
        self.leases.append(Promise(owner, signer, paying, slots, start, start + lasts))

    @rule(reporter=WHO, first=WHICH, second=WHICH)
    def slash(self, reporter: int, first: int, second: int) -> None:
        if not self.leases:
            return
        one = self.leases[first % len(self.leases)]
        others = [lease for lease in self.leases if lease.stake == one.stake] or self.leases
        self.report(reporter, one, others[second % len(others)])

    @rule(reporter=WHO, mint=MINT, payer=WHO, age=st.sampled_from([0, 0, 1, 600]))
    def the_cheater_sells_one_moment_twice(
        self, reporter: int, mint: int, payer: int, age: int
    ) -> None:
        """To anybody and to whoever comes next: reported at once, and then again."""
        owner = self.people[CHEATER].address, mint
        bond, start = self.model.bonds.get(owner), self.model.now - age
        if bond is None:
            return
        sold = [
            Promise(owner, bond.node_key, self.people[who % PEOPLE].address, 3, start, start + 60)
            for who in (payer, payer + 1)
        ]
        self.leases += sold
        for _ in range(2):
            self.report(reporter, sold[0], sold[1])

    def report(self, reporter: int, first: Promise, second: Promise) -> None:
        who, treasury = self.people[reporter].address, self.model.settings.treasury
        provider, mint = self.people[self.index(first.stake[0])], first.stake[1]

        def act() -> None:
            provider.fined[mint] += self.model.slash(who, first, second)

        if self.attempt(act, *self.cast.slash(who, treasury, first, second)):
            assert provider is self.people[CHEATER]

    # Everybody, the admin, an attacker and the time

    @rule(mint=MINT, who=st.lists(WHO, max_size=4))
    def sweep_fees(self, mint: int, who: list[int]) -> None:
        treasury, owners = self.model.settings.treasury, [self.people[n].address for n in who]
        call = self.cast.sweep_fees(treasury, mint, owners)
        self.attempt(lambda: self.model.sweep_fees(treasury, mint, owners), call, anybody=True)

    @rule(
        treasury=WHO, fee_bps=st.sampled_from([0, 1, 250, 500, 501]),
        slash_bps=st.sampled_from([0, 2_000, 5_000, 5_001]), paused=st.booleans(),
        min_challenge_s=st.sampled_from([0, 60, 600]), unbond_s=st.sampled_from([0, 600, DAY]),
        admin=st.sampled_from([True, True, True, False]),
    )  # fmt: skip
    def update_config(
        self, treasury: int, fee_bps: int, slash_bps: int, paused: bool, min_challenge_s: int,
        unbond_s: int, admin: bool,
    ) -> None:  # fmt: skip
        signer = self.model.admin if admin else self.people[treasury].address
        changed = replace(
            self.model.settings, treasury=self.people[treasury].address, fee_bps=fee_bps,
            slash_bps=slash_bps, min_challenge_s=min_challenge_s, unbond_s=unbond_s, paused=paused,
        )  # fmt: skip
        call = self.cast.update_config(signer, changed)
        self.attempt(lambda: self.model.update_config(signer, changed), call)

    @rule(to=WHO, how=st.sampled_from(["offer", "offer", "withdraw", "by another"]))
    def propose_admin(self, to: int, how: str) -> None:
        new = None if how == "withdraw" else self.people[to].address
        signer = self.people[to].address if how == "by another" else self.model.admin
        call = self.cast.propose_admin(signer, new)
        self.attempt(lambda: self.model.propose_admin(signer, new), call)

    @rule(who=WHO, right=st.booleans())
    def accept_admin(self, who: int, right: bool) -> None:
        pending = self.model.pending_admin
        signer = pending if right and pending else self.people[who].address
        call = self.cast.accept_admin(signer)
        self.attempt(lambda: self.model.accept_admin(signer), call)

    @precondition(lambda self: self.model.settings.paused)
    @rule()
    def the_admin_ends_a_pause(self) -> None:
        changed = replace(self.model.settings, paused=False)
        call = self.cast.update_config(self.model.admin, changed)
        assert self.attempt(lambda: self.model.update_config(self.model.admin, changed), call)

    @rule(which=WHICH, unsigned=st.booleans())
    def an_attacker_sends_something_again(self, which: int, unsigned: bool) -> None:
        """Its own signature in the place of everybody else's, or none."""
        deed = self.deeds[which % len(self.deeds)]
        payer = self.cast.world.fee_payer.pubkey()

        def instead(meta: AccountMeta) -> AccountMeta:
            if not meta.is_signer or meta.pubkey == payer:
                return meta
            who = meta.pubkey if unsigned else self.attacker
            return AccountMeta(who, not unsigned, meta.is_writable)

        calls = [
            Instruction(
                call.program_id, bytes(call.data), [instead(meta) for meta in call.accounts]
            )
            for call in deed.calls
        ]

        def refused() -> None:
            raise Refused("somebody else must sign")

        self.attempt(deed.act or refused, *calls, anybody=deed.act is not None)

    @rule(seconds=st.sampled_from([1, 59, 60, 600, DAY, 30 * DAY]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds
        self.cast.world.set_time(self.model.now)

    @rule(early=st.sampled_from([0, 0, 1]))
    def something_falls_due(self, early: int) -> None:
        """To the second, or one before it."""
        due = [one.close_at for one in self.model.deals.values()]
        due += [one.unbond_at for one in self.model.bonds.values()]
        later = [one - early - self.model.now for one in due if one - early > self.model.now]
        if later:
            self.time_passes(min(later))


TestSettlementHistory = pytest.mark.timeout(600)(SettlementHistory.TestCase)
TestSettlementHistory.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
class TestLongSettlementHistory(SettlementHistory.TestCase):
    settings = settings(
        max_examples=1_000,
        stateful_step_count=400,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
