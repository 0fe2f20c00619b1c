"""Attacks with reports of double sales: on honest stakes, on the shares, and by the cheater."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from attack_books import booked, refused, rewrite, where_refused
from attack_checks import HERE, Block, check, is_strict, signed_block, straight
from hypothesis import HealthCheck, given, settings, strategies as st
from settlement_layouts import DAY, NOW, U64, ed25519_instruction, lease_bytes, voucher_bytes
from settlement_world import World
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import Provider, User
    from solders.instruction import Instruction

UNBOND_S = 7 * DAY
GRACE_S = 300


class Court:
    """A provider, two payers and a reporter, all with Balances."""

    def __init__(self, world: World | None = None, *, bonded: int = 10_000) -> None:
        self.world = world = world or World()
        world.init_config()
        self.provider = world.provider(bonded)
        self.first, self.second, self.reporter = (world.depositor(0) for _ in range(3))
        world.ok(world.sweep_fees())

    def lease(
        self, payer: User, start: int = NOW - 20, end: int = NOW + 40, slots: int = 1
    ) -> Block:
        key, message = self.provider.lease(payer.address, start, end, slots=slots)
        return signed_block(key, message)

    @property
    def cheat(self) -> list[Block]:
        return [self.lease(self.first), self.lease(self.second)]

    def report(self, reporter: User, /, **how: Any) -> Instruction:
        who, first, second = (one.address for one in (reporter, self.first, self.second))
        return self.world.slash(self.provider, first, second, reporter=who, **how)

    def judged(self, blocks: list[Block], **accounts: Pubkey) -> str:
        """What the program answers to this evidence."""
        calls = check(straight(blocks), blocks), self.report(self.reporter, **accounts)
        return refused(self.world, *calls, signers=(self.reporter.key,))

    def slash(self, blocks: list[Block] | None = None, *, reporter: User | None = None) -> None:
        blocks, who = blocks or self.cheat, reporter or self.reporter
        calls = check(straight(blocks), blocks), self.report(who)
        self.world.ok(*calls, signers=(who.key,))

    def bonded(self) -> int:
        return self.world.read_stake(self.provider.user.address).bonded

    def available(self, *users: User) -> list[int]:
        return [self.world.read_balance(one.address).available for one in users]


def in_order() -> Court:
    """One where the Ed25519 program runs in its turn, so that one sees who refused."""
    return Court(World(svm=LiteSVM().with_sigverify(sigverify=False)))


@pytest.fixture
def court() -> Court:
    return Court()


@pytest.mark.parametrize("bonded", [5, 24, 25, 49, 50, 99, 1_009, 10_000, 10**9 - 1])
def test_a_double_sale_is_paid_for_once_and_divided_to_the_unit(bonded: int) -> None:
    court = Court(bonded=bonded)
    world = court.world
    court.slash()
    amount = bonded * 2_000 // 10_000
    treasury = world.read_balance(world.treasury.pubkey()).available
    assert court.bonded() == bonded - amount
    assert court.available(court.reporter, court.first, court.second) == [
        amount // 10, amount // 5, amount // 5
    ]  # fmt: skip
    assert treasury == amount - amount // 10 - 2 * (amount // 5)
    assert court.judged(court.cheat) == "LeaseOutOfTime"
    assert court.judged(court.cheat[::-1]) in ("LeaseOutOfTime", "WrongBalance")
    stake = world.read_stake(court.provider.user.address)
    assert (stake.slashed, stake.watermark) == (amount, NOW)


@pytest.mark.parametrize("who", ["stranger", "first payer", "treasury", "provider itself"])
def test_anybody_reports_and_the_provider_itself_gains_nothing_by_it(who: str) -> None:
    court = Court()
    world, provider = court.world, court.provider
    treasury = type(court.first)(world.treasury, Pubkey.new_unique())
    reporter = {
        "stranger": world.depositor(0), "first payer": court.first, "treasury": treasury,
        "provider itself": provider.user,
    }[who]  # fmt: skip
    court.slash(reporter=reporter)
    stake = world.read_stake(provider.user.address)
    worth = stake.bonded + stake.unbonding + court.available(provider.user)[0]
    assert worth == 8_000 + 200 * (who == "provider itself")


def test_a_provider_that_reports_itself_with_payers_of_its_own_still_loses_half() -> None:
    court = Court()
    own = court.world.depositor(0)
    court.slash(reporter=own)
    got = court.available(own, court.first, court.second)
    assert sum(got) == 1_000
    assert court.bonded() == 8_000


def test_the_same_evidence_twice_in_one_transaction_is_refused_whole(court: Court) -> None:
    blocks, call = court.cheat, court.report(court.reporter)
    calls = check(straight(blocks), blocks), call, call
    assert refused(court.world, *calls, signers=(court.reporter.key,)) == "LeaseOutOfTime"


def test_more_evidence_from_before_a_penalty_costs_no_second_one(court: Court) -> None:
    pairs = [
        [court.lease(court.first, NOW - age), court.lease(court.second, NOW - age)]
        for age in (0, 1, 20, 600)
    ]
    court.slash(pairs[0])
    for pair in pairs:
        assert court.judged(pair) == "LeaseOutOfTime"
    court.world.set_time(NOW + 1)
    late = [court.lease(court.first, NOW + 1), court.lease(court.second, NOW + 1)]
    mixed = [court.lease(court.first, NOW), court.lease(court.second, NOW + 1)]
    assert court.judged(mixed) == "LeaseOutOfTime"
    court.slash(late)
    assert court.bonded() == 6_400


# What honest providers sign


def test_one_moment_after_another_is_no_double_sale(court: Court) -> None:
    for pair in (
        [court.lease(court.first, NOW - 20, NOW - 10), court.lease(court.second, NOW - 10, NOW)],
        [court.lease(court.first, NOW - 10, NOW), court.lease(court.second, NOW - 20, NOW - 10)],
        [court.lease(court.first, NOW - 20, NOW - 10), court.lease(court.second, NOW - 9, NOW)],
    ):
        assert court.judged(pair) == "NoDoubleSale"


def test_other_slots_are_no_double_sale(court: Court) -> None:
    for one, other in ((1, 2), (0b0101, 0b1010), (1 << 63, (1 << 63) - 1), (0, 0), (0, U64)):
        pair = [court.lease(court.first, slots=one), court.lease(court.second, slots=other)]
        assert court.judged(pair) == "NoDoubleSale"


def test_one_payers_own_leases_may_overlap_as_they_like(court: Court) -> None:
    pair = [court.lease(court.first), court.lease(court.first, NOW - 30, NOW + 900)]
    balance = court.world.balance_address(court.first.address)
    assert court.judged(pair, second_balance=balance) == "NoDoubleSale"
    assert court.judged([pair[0]] * 2, second_balance=balance) == "NoDoubleSale"


def test_a_lease_that_lets_no_time_is_no_lease(court: Court) -> None:
    for start, end in ((NOW, NOW), (NOW, NOW - 100), (NOW - 10, -(2**63)), (-(2**63), NOW)):
        for blocks in (
            [court.lease(court.first, start, end), court.lease(court.second)],
            [court.lease(court.first), court.lease(court.second, start, end)],
        ):
            assert court.judged(blocks) in ("NoDoubleSale", "LeaseOutOfTime")


@pytest.mark.parametrize(
    ("start", "answer"),
    [(NOW + 1, "LeaseOutOfTime"), (NOW, ""), (NOW - UNBOND_S, "LeaseOutOfTime"),
     (NOW - UNBOND_S + 1, ""), (-(2**63), "LeaseOutOfTime"), (2**63 - 2, "LeaseOutOfTime")],
)  # fmt: skip
def test_only_leases_that_began_and_whose_money_is_still_here_count(
    court: Court, start: int, answer: str
) -> None:
    end = 2**63 - 1
    pair = [court.lease(court.first, start, end), court.lease(court.second, start, end)]
    if answer:
        assert court.judged(pair) == answer
    else:
        court.slash(pair)


def test_what_others_signed_in_its_name_is_not_the_providers(court: Court) -> None:
    world, provider = court.world, court.provider
    other = world.provider()
    for key in (Keypair(), provider.user.key, court.first.key, world.admin, other.node):
        forged = [
            signed_block(*provider.lease(one.address, NOW, NOW + 9, key=key))
            for one in (court.first, court.second)
        ]
        assert court.judged(forged) == "WrongLease"
        assert court.judged([court.cheat[0], forged[1]]) == "WrongLease"
        assert court.judged([forged[0], court.cheat[1]]) == "WrongLease"


def test_its_leases_of_another_stake_chain_or_program_are_not_this_stakes(court: Court) -> None:
    world, provider = court.world, court.provider
    elsewhere = (
        World(program=world.program, mints=world.mints, genesis_hash=bytes(32)),
        World(mints=world.mints),
    )
    stakes = [one.stake_address(provider.user.address) for one in elsewhere]
    stakes.append(world.stake_address(provider.user.address, world.mints[1]))
    stakes.append(world.provider().stake)
    for stake in stakes:
        assert stake != provider.stake
        foreign = [
            signed_block(*provider.lease(one.address, NOW, NOW + 9, stake=stake))
            for one in (court.first, court.second)
        ]
        assert court.judged(foreign) == "WrongLease"
        assert court.judged([court.cheat[0], foreign[1]]) == "WrongLease"


def test_nothing_else_its_key_signs_is_a_lease(court: Court) -> None:
    provider, first = court.provider, court.first.address
    good = court.cheat[0]
    lease = bytearray(lease_bytes(provider.stake, first, 1, NOW - 20, NOW + 40))
    for bit in range(40 * 8):
        changed = bytearray(lease)
        changed[bit // 8] ^= 1 << bit % 8
        pair = [good, signed_block(provider.node, bytes(changed))]
        assert court.judged(pair) == "WrongLease", bit
    for message in (bytes(lease[:-1]), bytes(lease) + b"\0", voucher_bytes(first, 1), b""):
        assert court.judged([good, signed_block(provider.node, message)]) == "NoSignatureCheck"


def test_after_a_rotation_the_old_key_answers_for_a_last_tick_and_the_new_one_for_its_own(
    court: Court,
) -> None:
    world, provider = court.world, court.provider
    new = Keypair()
    world.ok(world.rotate_key(provider.user, new.pubkey()), signers=(provider.user.key,))
    world.set_time(NOW + 2 * GRACE_S)

    def pair(first: Keypair, second: Keypair, start: int) -> list[Block]:
        keys = ((court.first, first), (court.second, second))
        return [
            signed_block(*provider.lease(one.address, start, NOW + DAY, key=key))
            for one, key in keys
        ]

    old = provider.node
    assert court.judged(pair(old, old, NOW + GRACE_S)) == "WrongLease"
    assert court.judged(pair(old, new, NOW + GRACE_S)) == "WrongLease"
    court.slash(pair(old, new, NOW + GRACE_S - 1))
    world.set_time(NOW + 3 * GRACE_S)
    court.slash(pair(new, new, NOW + 3 * GRACE_S))
    again = world.rotate_key(provider.user, Keypair().pubkey())
    assert refused(world, again, signers=(provider.user.key,)) == "RotationTooSoon"


def test_the_zero_key_of_a_stake_that_never_rotated_signs_nothing() -> None:
    """Were the Ed25519 program ever to take a signature of the zero key, ours would not."""
    court = in_order()
    forged = [
        Block(bytes(64), bytes(32), court.lease(one).message)
        for one in (court.first, court.second)
    ]
    calls = court.report(court.reporter, ed_ix=1), check(straight(forged), forged)
    assert where_refused(court.world, *calls, signers=(court.reporter.key,)) == 0


# The shares


@pytest.mark.parametrize("place", ["reporter", "first", "second", "treasury"])
def test_no_share_goes_to_a_balance_of_somebody_else(court: Court, place: str) -> None:
    world, thief = court.world, court.world.depositor(0)
    theirs = world.balance_address(thief.address)
    assert court.judged(court.cheat, **{f"{place}_balance": theirs}) == "WrongBalance"
    copy = Pubkey.new_unique()
    own = {"reporter": court.reporter, "first": court.first, "second": court.second}.get(place)
    owner = own.address if own else world.treasury.pubkey()
    world.put(copy, world.data(world.balance_address(owner)) or b"", Pubkey.new_unique())
    answer = court.judged(court.cheat, **{f"{place}_balance": copy})
    assert answer == ("WrongAddress" if place in ("first", "second") else "ForeignAccount")


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_victim_with_a_balance_cannot_be_passed_off_as_absent(court: Court, place: str) -> None:
    world = court.world
    absent = world.user()
    for stand_in in (
        Pubkey.new_unique(),
        world.balance_address(absent.address),
        world.balance_address(getattr(court, place).address, world.mints[1]),
        world.vault(),
    ):
        assert court.judged(court.cheat, **{f"{place}_balance": stand_in}) == "WrongAddress"


def test_an_absent_victims_share_is_the_treasurys_whatever_lies_at_its_address() -> None:
    for lamports in (0, 1, 10**9):
        court = Court()
        world = court.world
        court.first, court.second = world.user(), world.user()
        for one in (court.first, court.second):
            if lamports:
                world.svm.airdrop(world.balance_address(one.address), lamports)
        court.slash()
        assert world.read_balance(world.treasury.pubkey()).available == 1_800
        assert court.available(court.reporter) == [200]


ROLES = list(product(range(4), repeat=3))


@pytest.mark.parametrize("roles", [one for one in ROLES if one[1] != one[2]], ids=str)
def test_whoever_has_several_parts_in_it_gets_the_sum_of_their_shares(
    roles: tuple[int, int, int],
) -> None:
    """Reporter and both payers are any of: two people, the provider and the treasury."""
    court = Court()
    world = court.world
    treasury = type(court.first)(world.treasury, Pubkey.new_unique())
    people = [court.first, court.second, court.provider.user, treasury]
    reporter, court.first, court.second = (people[role] for role in roles)
    held = world.tokens(world.vault())
    court.slash(reporter=reporter)
    want = dict.fromkeys(range(4), 0)
    for role, share in zip((*roles, 3), (200, 400, 400, 1_000), strict=True):
        want[role] += share
    assert court.available(*people) == list(want.values())
    assert booked(world, [one.address for one in people], [], world.mint) == held


def test_the_other_mints_balances_get_no_share(court: Court) -> None:
    world, mint = court.world, court.world.mints[1]
    call = world.sweep_fees(
        mint=mint, treasury_balance=world.balance_address(world.treasury.pubkey(), mint)
    )
    world.ok(call)
    there = world.balance_address(world.treasury.pubkey(), mint)
    assert court.judged(court.cheat, treasury_balance=there) == "WrongBalance"


@pytest.mark.parametrize("place", ["reporter", "first", "second", "treasury"])
def test_a_share_that_does_not_fit_leaves_everything_as_it_is(court: Court, place: str) -> None:
    world = court.world
    share = {"reporter": 200, "first": 400, "second": 400, "treasury": 1_000}[place]
    own = {"reporter": court.reporter, "first": court.first, "second": court.second}.get(place)
    address = world.balance_address(own.address if own else world.treasury.pubkey())
    rewrite(world, "balance", address, available=U64 - share + 1)
    assert court.judged(court.cheat) == "Overflow"
    rewrite(world, "balance", address, available=U64 - share)
    court.slash()


def test_stakes_near_the_end_of_their_range_are_divided_or_left_alone(court: Court) -> None:
    world, stake = court.world, court.provider.stake
    rewrite(world, "stake", stake, bonded=U64, unbonding=1)
    assert court.judged(court.cheat) == "Overflow"
    rewrite(world, "stake", stake, bonded=U64 - 7, unbonding=7, slashed=U64)
    court.slash()
    record = world.read_stake(court.provider.user.address)
    amount = U64 * 2_000 // 10_000
    assert (record.bonded, record.unbonding, record.slashed) == (U64 - amount, 0, U64)


# Leaving before the report


def test_money_on_its_way_out_is_reached_until_it_is_claimed(court: Court) -> None:
    world, user = court.world, court.provider.user
    world.ok(world.unstake(user, 10_000), signers=(user.key,))
    world.set_time(NOW + UNBOND_S - 1)
    pair = [court.lease(court.first, NOW, NOW + 9), court.lease(court.second, NOW, NOW + 9)]
    assert refused(world, world.claim_unbonded(user), signers=(user.key,)) == "UnbondingNotOver"
    court.slash(pair)
    assert world.read_stake(user.address).unbonding == 8_000
    world.set_time(NOW + UNBOND_S)
    world.ok(world.claim_unbonded(user), signers=(user.key,))
    later = NOW + UNBOND_S, NOW + UNBOND_S + 9
    pair = [court.lease(court.first, *later), court.lease(court.second, *later)]
    assert court.judged(pair) == "NothingToSlash"


def test_unstaking_and_claiming_in_one_transaction_takes_nothing_out(court: Court) -> None:
    world, user = court.world, court.provider.user
    calls = world.unstake(user, 10_000), world.claim_unbonded(user)
    assert refused(world, *calls, signers=(user.key,)) == "UnbondingNotOver"


def test_more_taken_out_makes_all_of_it_wait_anew(court: Court) -> None:
    world, user = court.world, court.provider.user
    world.ok(world.unstake(user, 9_999), signers=(user.key,))
    world.set_time(NOW + UNBOND_S - 1)
    world.ok(world.unstake(user, 1), signers=(user.key,))
    world.set_time(NOW + 2 * UNBOND_S - 2)
    assert refused(world, world.claim_unbonded(user), signers=(user.key,)) == "UnbondingNotOver"
    world.set_time(NOW + 2 * UNBOND_S - 1)
    world.ok(world.claim_unbonded(user), signers=(user.key,))
    assert court.available(user) == [10_000]


# The evidence's form


@pytest.fixture(scope="module")
def arena() -> tuple[Court, list[Block]]:
    """A provider that sold nothing twice; any report that is taken is a fault."""
    court = in_order()
    honest = [court.lease(court.first, NOW - 20, NOW), court.lease(court.second, NOW, NOW + 40)]
    return court, honest


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    kinds=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    changes=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 6),
            st.one_of(st.sampled_from([0, 1, 2, 16, 30, 80, 94, 112, 126, 128, 240, 254, HERE]),
                      st.integers(0, HERE)),
        ), max_size=3,
    ),
    entries=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    tail=st.sampled_from([0, 0, 0, 1, 224]),
    pad=st.sampled_from([0, 0, 0, 1]),
)  # fmt: skip
def test_no_form_of_evidence_slashes_a_provider_that_sold_nothing_twice(
    arena: tuple[Court, list[Block]],
    kinds: list[int],
    changes: list[tuple[int, int, int]],
    entries: tuple[int, int],
    tail: int,
    pad: int,
) -> None:
    court, honest = arena
    attacker = Keypair()
    made = [
        *honest,
        Block(bytes(64), honest[0].key, court.lease(court.second).message),
        signed_block(attacker, court.lease(court.second).message),
        signed_block(attacker, honest[0].message[:80]),
    ]
    blocks = [made[kind] for kind in kinds]
    records = straight(blocks)
    for which, at, value in changes:
        if which < len(records):
            records[which][at] = value
    evidence = check(records, blocks, tail=bytes(tail), pad=pad)
    call = court.report(court.reporter, ed_ix=1, entries=entries)
    index = where_refused(court.world, call, evidence, signers=(court.reporter.key,))
    bait = any(
        is_strict(bytes(evidence.data), entry, 128) and kinds[entry] == 2 for entry in entries
    )
    # Our program believes what is in form; then its forged signature fails the transaction.
    assert index == 0 or (bait and index == 1)
    assert court.bonded() == 10_000


def test_two_leases_from_two_checks_do_not_make_one_report(court: Court) -> None:
    first, second = court.cheat
    checks = [check(straight([one]), [one]) for one in (first, second)]
    for entries, ed_ix in (((0, 1), 0), ((0, 0), 0), ((0, 0), 1), ((1, 0), 1)):
        call = court.report(court.reporter, ed_ix=ed_ix, entries=entries)
        refused(court.world, *checks, call, signers=(court.reporter.key,))
    assert court.bonded() == 10_000


def test_evidence_for_one_provider_does_not_touch_another(court: Court) -> None:
    other: Provider = court.world.provider(10_000)
    assert court.judged(court.cheat, stake=other.stake) == "WrongLease"
    for strange in (court.world.config, court.world.balance_address(court.first.address)):
        assert court.judged(court.cheat, stake=strange) == "WrongAccountKind"
    forged = ed25519_instruction(*[(Keypair(), one.message) for one in court.cheat])
    call = court.report(court.reporter)
    assert refused(court.world, forged, call, signers=(court.reporter.key,)) == "WrongLease"
