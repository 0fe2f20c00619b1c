"""Random histories of many actors: after every step chain and model agree to the unit.

The model is ``settlement_model.py``. Calls are legal and illegal at random: the program takes exactly
those that the model takes. Beside that, what must hold of any model is asked as well: the vault
holds what the books say, no nonce comes twice, no delegate passes its allowance, and nobody who
kept to the rules has less than what they gave away themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from attack_actors import MINTS, Cast
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from settlement_layouts import (
    DAY,
    NOW,
    SYSTEM,
    TOKEN,
    U64,
    ed25519_instruction,
    token_data,
    voucher_bytes,
)
from settlement_model import Deal, Model, Refused, Settings, need
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.pubkey import Pubkey

PEOPLE = 6
"""The last one is the treasury at the beginning."""
START = 10**6
WHO = st.integers(0, PEOPLE - 1)
SIGNER = st.sampled_from(["owner", "owner", "owner", "delegate", "delegate", "other", "admin"])
MINT = st.sampled_from([0, 0, 0, 1])
AMOUNT = st.one_of(st.integers(0, 50), st.integers(0, START // 10), st.sampled_from([START, U64]))
WHICH = st.integers(0, 999)
CHALLENGE = st.sampled_from([0, 59, 60, 60, 600, 30 * DAY, 30 * DAY + 1, U64])


@dataclass(frozen=True)
class Deed:
    """Something that was sent once."""

    calls: tuple[Instruction, ...]
    act: Callable[[], None] | None
    """What it does in the model when anybody may send it; None where somebody must sign."""


@dataclass
class Person:
    """What a test keeps of somebody, whatever the program says. By mint where there are two."""

    address: Pubkey
    node: Pubkey
    gave: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    """Paid out to others' token accounts."""
    fined: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    granted: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    """The allowance as it was last set, and what the delegate set aside since."""
    used: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))


@dataclass
class Opened:
    """A channel that once was, and the most its key signed for."""

    key: Keypair
    deal: Deal
    best: int = 0


class SettlementHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cast = cast = Cast()
        world = cast.world
        addresses = [cast.person(START) for _ in range(PEOPLE - 1)]
        addresses.append(cast.person(START, world.treasury))
        self.people = [Person(one, cast.key()) for one in addresses]
        self.attacker = cast.person(0)
        given = world.init_arguments()
        self.model = Model(
            admin=world.admin.pubkey(),
            settings=Settings(
                addresses[-1], given["slot_stake"], given["unbond_s"], given["min_challenge_s"],
                given["fee_bps"], given["slash_bps"],
            ),
            now=NOW,
        )  # fmt: skip
        for owner, account in cast.token_accounts.items():
            self.model.tokens[owner] = world.tokens(account)
        self.opened: dict[Pubkey, Opened] = {}
        self.deeds: list[Deed] = []

    @initialize()
    def most_have_deposited_and_some_provide(self) -> None:
        for n in range(PEOPLE - 2):
            self.deposit(n, 0, START // 2)
        for n in range(3):
            self.register(n, 0)
            self.stake(n, 0, START // 10)
        self.set_delegate(0, 0, own=True, allowance=START, lasts=10**6)
        self.open_channel(0, 1, 0, "delegate", amount=1_000, challenge_s=60, skip=0)

    # Doing something, in the model and on the chain

    def attempt(self, act: Callable[[], None], *calls: Instruction, anybody: bool = False) -> bool:
        """Do it in both; return whether it was taken, which must be the same in both."""
        try:
            act()
        except Refused as refusal:
            expected = str(refusal)
        else:
            expected = ""
        taken = self.cast.take(*calls)
        assert taken == (not expected), expected
        self.deeds.append(Deed(calls, act if anybody else None))
        return taken

    def signer(self, owner: Pubkey, how: str) -> Pubkey:
        """Somebody who signs for a person: rightly or not."""
        index = self.index(owner)
        return {
            "owner": owner,
            "delegate": self.people[index].node,
            "other": self.people[(index + 1) % PEOPLE].address,
            "admin": self.model.admin,
        }[how]

    def index(self, owner: Pubkey) -> int:
        return next(n for n, one in enumerate(self.people) if one.address == owner)

    def pick(self, which: int) -> tuple[Pubkey, Opened]:
        return list(self.opened.items())[which % len(self.opened)]

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
        signer = self.signer(one.deal.payer, how)
        call = self.cast.request_close(address, one.deal, signer)
        self.attempt(lambda: self.model.request_close(address, signer), call)

    @rule(which=WHICH)
    def finalize_close(self, which: int) -> None:
        address, one = self.pick(which)
        call = self.cast.finalize_close(address, one.deal)
        self.attempt(lambda: self.model.finalize_close(address), call, anybody=True)

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

    # What is true after every step

    @invariant()
    def chain_and_model_agree_on_every_account(self) -> None:
        assert self.cast.differences(self.model, self.opened) == []

    @invariant()
    def the_vaults_hold_what_the_books_say(self) -> None:
        for mint, vault in self.cast.vaults.items():
            held = self.cast.world.tokens(vault)
            assert held == self.model.booked(mint) + self.model.donated[mint]

    @invariant()
    def no_channel_pays_more_than_it_has_or_its_key_signed(self) -> None:
        for one in self.opened.values():
            assert one.deal.settled <= min(one.deal.deposit, one.best)

    @invariant()
    def nobody_has_less_than_what_they_gave_away_themselves(self) -> None:
        for one in self.people:
            for mint in MINTS:
                promised = sum(
                    min(opened.best, opened.deal.deposit)
                    for opened in self.opened.values()
                    if (opened.deal.payer, opened.deal.mint) == (one.address, mint)
                )
                floor = START - one.gave[mint] - one.fined[mint] - promised
                assert self.model.worth(one.address, mint) >= floor


TestSettlementHistory = pytest.mark.timeout(600)(SettlementHistory.TestCase)
TestSettlementHistory.settings = settings(
    max_examples=120,
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
