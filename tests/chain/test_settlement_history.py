"""Random histories: whatever is done in whatever order, the vault holds what the books say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from settlement_layouts import NOW, TOKEN, U64, ed25519_instruction, token_data
from settlement_world import Channel, User, World
from solders.keypair import Keypair
from solders.transaction_metadata import TransactionMetadata

if TYPE_CHECKING:
    from solders.instruction import Instruction

PEOPLE = st.integers(0, 2)
AMOUNTS = st.one_of(st.integers(0, 50), st.integers(0, 10**5), st.sampled_from([10**6, U64]))
START = 10**6


@dataclass
class Opened:
    """A channel and what must be true of it, whatever the program says."""

    channel: Channel
    best_voucher: int = 0
    settled: int = 0
    gone: bool = False
    challenge_s: int = 60
    may_close_at: int | None = None


class SettlementHistory(RuleBasedStateMachine):
    """Legal and illegal calls at random; a refused one must change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.init_config()
        self.people: list[User] = []
        self.opened: list[Opened] = []
        self.donated = 0
        self.now = NOW
        self.committed: dict[bytes, int] = {}
        """What each owner's delegate set aside since its allowance was set."""
        self.allowed: dict[bytes, int] = {}
        self.nodes: dict[bytes, Keypair] = {}

    @initialize()
    def everybody_deposits_and_registers(self) -> None:
        for _ in range(3):
            user = self.world.user(tokens=START)
            self.people.append(user)
            self.nodes[bytes(user.address)] = Keypair()
            self.world.ok(self.world.deposit(user, START // 2), signers=(user.key,))
            node = Keypair().pubkey()
            self.world.ok(self.world.register(user, node), signers=(user.key,))
        self.world.ok(self.world.sweep_fees())
        self.opened.append(
            Opened(
                self.world.channel(self.people[0], self.people[1], deposit=1_000),
                challenge_s=3_600,
            )
        )

    def attempt(self, *calls: Instruction, signers: tuple[Keypair, ...] = ()) -> bool:
        before = self.snapshot()
        result = self.world.send(*calls, signers=signers)
        if isinstance(result, TransactionMetadata):
            return True
        assert self.snapshot() == before
        return False

    def snapshot(self) -> list[Any]:
        world = self.world
        addresses = [world.vault(), *(one.channel.address for one in self.opened)]
        for user in self.people:
            addresses += [
                user.tokens,
                world.balance_address(user.address),
                world.stake_address(user.address),
            ]
        return [world.data(one) for one in addresses]

    @rule(who=PEOPLE, amount=AMOUNTS)
    def deposit(self, who: int, amount: int) -> None:
        user = self.people[who]
        self.attempt(self.world.deposit(user, amount), signers=(user.key,))

    @rule(who=PEOPLE, to=PEOPLE, amount=AMOUNTS)
    def withdraw(self, who: int, to: int, amount: int) -> None:
        user = self.people[who]
        call = self.world.withdraw(user, amount, destination=self.people[to].tokens)
        self.attempt(call, signers=(user.key,))

    @rule(who=PEOPLE, allowance=AMOUNTS, lasts=st.integers(-10, 1_000))
    def set_delegate(self, who: int, allowance: int, lasts: int) -> None:
        user = self.people[who]
        node = self.nodes[bytes(user.address)].pubkey()
        call = self.world.set_delegate(user, node, allowance, self.now + lasts)
        assert self.attempt(call, signers=(user.key,))
        self.allowed[bytes(user.address)] = allowance
        self.committed[bytes(user.address)] = 0

    @rule(who=PEOPLE, to=PEOPLE, amount=AMOUNTS, skip=st.integers(0, 3), delegate=st.booleans())
    def open_channel(self, who: int, to: int, amount: int, skip: int, delegate: bool) -> None:
        payer, payee, key, world = self.people[who], self.people[to], Keypair(), self.world
        signer = self.nodes[bytes(payer.address)] if delegate else payer.key
        nonce = world.read_balance(payer.address).next_nonce
        wrong = skip == 3
        call = world.open_channel(
            payer, payee.address, key.pubkey(), nonce=nonce + wrong, deposit=amount,
            authority=signer.pubkey(), rent_payer=payer.address, challenge_s=60,
        )  # fmt: skip
        if self.attempt(call, signers=(signer, payer.key)):
            assert not wrong
            address = world.channel_address(payer.address, payee.address, nonce)
            assert address not in [one.channel.address for one in self.opened]
            self.opened.append(Opened(Channel(address, payer, payee, key, nonce)))
            if delegate:
                self.spend_allowance(payer, amount)

    def spend_allowance(self, payer: User, amount: int) -> None:
        owner = bytes(payer.address)
        self.committed[owner] = self.committed.get(owner, 0) + amount
        assert self.committed[owner] <= self.allowed.get(owner, 0)

    def pick(self, index: int) -> Opened:
        return self.opened[index % len(self.opened)]

    @rule(index=st.integers(0, 99), amount=AMOUNTS, delegate=st.booleans())
    def top_up(self, index: int, amount: int, delegate: bool) -> None:
        channel = self.pick(index).channel
        payer = channel.payer
        signer = self.nodes[bytes(payer.address)] if delegate else payer.key
        call = self.world.top_up(channel, amount, authority=signer.pubkey())
        if self.attempt(call, signers=(signer,)) and delegate:
            self.spend_allowance(payer, amount)

    @rule(index=st.integers(0, 99), cumulative=AMOUNTS, claim=AMOUNTS, forged=st.integers(0, 4))
    def settle(self, index: int, cumulative: int, claim: int, forged: int) -> None:
        one = self.pick(index)
        key, message = self.world.voucher(one.channel, cumulative)
        is_forged = forged == 4
        check = ed25519_instruction((Keypair() if is_forged else key, message))
        taken = self.attempt(check, self.world.settle(one.channel, claim))
        assert taken == (not one.gone and not is_forged)
        if taken:
            one.best_voucher = max(one.best_voucher, cumulative)

    @rule(index=st.integers(0, 99), by=PEOPLE)
    def close_by_payee(self, index: int, by: int) -> None:
        one, user = self.pick(index), self.people[by]
        call = self.world.close_by_payee(one.channel, authority=user.address)
        taken = self.attempt(call, signers=(user.key,))
        assert taken == (not one.gone and user.address == one.channel.payee.address)
        one.gone = one.gone or taken

    @rule(index=st.integers(0, 99), by=PEOPLE)
    def request_close(self, index: int, by: int) -> None:
        one, user = self.pick(index), self.people[by]
        call = self.world.request_close(one.channel, authority=user.address)
        taken = self.attempt(call, signers=(user.key,))
        assert taken == (not one.gone and user.address == one.channel.payer.address)
        if taken and one.may_close_at is None:
            one.may_close_at = self.now + one.challenge_s

    @rule(index=st.integers(0, 99))
    def finalize_close(self, index: int) -> None:
        one = self.pick(index)
        over = one.may_close_at is not None and self.now >= one.may_close_at
        taken = self.attempt(self.world.finalize_close(one.channel))
        assert taken == (not one.gone and over)
        one.gone = one.gone or taken

    @rule(seconds=st.sampled_from([1, 30, 60, 3_600]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.world.set_time(self.now)

    @rule(who=PEOPLE, amount=AMOUNTS)
    def stake(self, who: int, amount: int) -> None:
        user = self.people[who]
        self.attempt(self.world.stake(user, amount), signers=(user.key,))

    @rule(who=st.lists(PEOPLE, max_size=4))
    def sweep(self, who: list[int]) -> None:
        balances = [self.world.balance_address(self.people[one].address) for one in who]
        assert self.attempt(self.world.sweep_fees(*balances))

    @rule(amount=st.integers(1, 5))
    def somebody_donates_to_the_vault(self, amount: int) -> None:
        world = self.world
        held = world.tokens(world.vault())
        data = token_data(world.mint, world.vault_authority, held + amount)
        world.put(world.vault(), data, TOKEN, lamports=10**7)
        self.donated += amount

    @invariant()
    def the_vault_holds_what_the_books_say(self) -> None:
        if not self.people:
            return
        world = self.world
        owners = [*(user.address for user in self.people), world.treasury.pubkey()]
        balances = [world.read_balance(one) for one in owners]
        stakes = [world.read_stake(user.address) for user in self.people]
        booked = sum(one.available + one.fees_owed for one in balances)
        booked += sum(one.bonded + one.unbonding for one in stakes)
        for one in self.opened:
            if one.gone:
                assert not world.data(one.channel.address)
                continue
            record = world.read_channel(one.channel.address)
            assert one.settled <= record.settled <= record.deposit
            assert record.settled <= one.best_voucher
            assert record.fee_taken == -(-record.settled * record.fee_bps // 10_000)
            one.settled = record.settled
            booked += record.deposit - record.settled
        assert world.tokens(world.vault()) == booked + self.donated
        fees = sum(one.fees_paid for one in balances)
        assert balances[-1].available == fees


TestSettlementHistory = SettlementHistory.TestCase
TestSettlementHistory.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
