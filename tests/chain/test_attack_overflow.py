"""Attacks with numbers near the end of their range: every addition refuses, and changes nothing.

No history leads there, since no mint has that many units; accounts are written by hand. Each case
is shown to succeed at the last number that fits and to be refused at the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from attack_books import fund, refused, rewrite
from settlement_layouts import NOW, U64, ed25519_instruction
from solders.keypair import Keypair

if TYPE_CHECKING:
    from collections.abc import Callable

    from settlement_world import World
    from solders.instruction import Instruction
    from solders.pubkey import Pubkey

I64 = 2**63 - 1


@dataclass(frozen=True)
class Edge:
    """A call that adds ``step`` to a number, and where that number lies."""

    calls: tuple[Instruction, ...]
    signers: tuple[Keypair, ...]
    kind: str
    address: Pubkey
    field: str
    step: int
    most: int = U64


def balance_edge(
    world: World, owner: Pubkey, field: str, step: int, *calls: Instruction,
    signers: tuple[Keypair, ...] = (),
) -> Edge:  # fmt: skip
    return Edge(calls, signers, "balance", world.balance_address(owner), field, step)


def deposit(world: World) -> Edge:
    user = world.depositor(5)
    call = world.deposit(user, 9)
    return balance_edge(world, user.address, "available", 9, call, signers=(user.key,))


def settle(world: World, field: str, step: int) -> Edge:
    channel = world.channel(world.depositor(), world.depositor(0))
    calls = ed25519_instruction(world.voucher(channel, 1_000)), world.settle(channel)
    return balance_edge(world, channel.payee.address, field, step, *calls)


def settle_pay(world: World) -> Edge:
    return settle(world, "available", 975)


def settle_fee(world: World) -> Edge:
    return settle(world, "fees_owed", 25)


def close_by_payee(world: World) -> Edge:
    channel = world.channel(world.depositor(), world.depositor(0), deposit=40)
    payee, call = channel.payee, world.close_by_payee(channel)
    address = channel.payer.address
    return balance_edge(world, address, "available", 40, call, signers=(payee.key,))


def finalize_close(world: World) -> Edge:
    channel = world.channel(world.depositor(), world.depositor(0), deposit=40)
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.set_time(NOW + 10**7)
    call = world.finalize_close(channel)
    return balance_edge(world, channel.payer.address, "available", 40, call)


def top_up(world: World) -> Edge:
    channel = world.channel(world.depositor(), world.depositor(0))
    call = world.top_up(channel, 9)
    return Edge((call,), (channel.payer.key,), "channel", channel.address, "deposit", 9)


def stake(world: World) -> Edge:
    user = world.depositor()
    world.ok(world.register(user, user.address), signers=(user.key,))
    address = world.stake_address(user.address)
    return Edge((world.stake(user, 9),), (user.key,), "stake", address, "bonded", 9)


def unstake(world: World) -> Edge:
    provider = world.provider()
    key = provider.user.key
    return Edge(
        (world.unstake(provider.user, 9),), (key,), "stake", provider.stake, "unbonding", 9
    )


def claim_unbonded(world: World) -> Edge:
    provider = world.provider()
    user = provider.user
    world.ok(world.unstake(user, 9), signers=(user.key,))
    world.set_time(NOW + 10**7)
    call = world.claim_unbonded(user)
    return balance_edge(world, user.address, "available", 9, call, signers=(user.key,))


def owing(world: World) -> Pubkey:
    channel = world.channel(world.depositor(), world.depositor(0))
    world.settled(channel, 1_000)
    world.ok(world.sweep_fees())
    return channel.payee.address


def sweep_payee(world: World) -> Edge:
    owner = owing(world)
    call = world.sweep_fees(world.balance_address(owner))
    return balance_edge(world, owner, "fees_paid", 25, call)


def sweep_treasury(world: World) -> Edge:
    call = world.sweep_fees(world.balance_address(owing(world)))
    return balance_edge(world, world.treasury.pubkey(), "available", 25, call)


def sweep_sum(world: World) -> Edge:
    """Two fees whose sum does not fit, whatever the treasury has."""
    first, second = owing(world), owing(world)
    call = world.sweep_fees(*map(world.balance_address, (first, second)))
    return balance_edge(world, second, "fees_owed", 25, call)


def request_close(world: World) -> Edge:
    channel = world.channel(world.depositor(), world.depositor(0))
    call = world.request_close(channel)
    address = channel.address
    return Edge((call,), (channel.payer.key,), "channel", address, "challenge_s", NOW, I64)


EDGES = [
    deposit, settle_pay, settle_fee, close_by_payee, finalize_close, top_up, stake, unstake,
    claim_unbonded, sweep_payee, sweep_treasury, sweep_sum, request_close,
]  # fmt: skip
NAMES = [one.__name__ for one in EDGES]


@pytest.mark.parametrize("edge", EDGES, ids=NAMES)
def test_the_last_sum_that_fits_is_taken_and_the_next_refused(
    world: World, edge: Callable[[World], Edge]
) -> None:
    one = edge(world)
    rewrite(world, one.kind, one.address, **{one.field: one.most - one.step + 1})
    assert refused(world, *one.calls, signers=one.signers) == "Overflow"
    rewrite(world, one.kind, one.address, **{one.field: U64})
    assert refused(world, *one.calls, signers=one.signers) == "Overflow"
    rewrite(world, one.kind, one.address, **{one.field: one.most - one.step})
    world.ok(*one.calls, signers=one.signers)


def test_a_nonce_that_has_no_next_opens_nothing(world: World) -> None:
    payer, payee = world.depositor(), world.depositor(0)
    address = world.balance_address(payer.address)
    for nonce, answer in ((U64, "Overflow"), (U64 - 1, None)):
        rewrite(world, "balance", address, next_nonce=nonce)
        call = world.open_channel(payer, payee.address, payee.address, nonce=nonce)
        if answer is None:
            world.ok(call, signers=(payer.key,))
        else:
            assert refused(world, call, signers=(payer.key,)) == answer
    assert world.read_balance(payer.address).next_nonce == U64


@pytest.mark.parametrize("call", ["deposit", "withdraw", "open", "top up", "stake"])
def test_the_largest_amount_is_never_there(world: World, call: str) -> None:
    payer, payee = world.depositor(1_000), world.depositor(0)
    world.ok(world.register(payer, payer.address), signers=(payer.key,))
    channel = world.channel(payer, payee, deposit=10)
    instruction = {
        "deposit": world.deposit(payer, U64),
        "withdraw": world.withdraw(payer, U64),
        "open": world.open_channel(payer, payee.address, payer.address, nonce=1, deposit=U64),
        "top up": world.top_up(channel, U64),
        "stake": world.stake(payer, U64),
    }[call]
    answer = refused(world, instruction, signers=(payer.key,))
    assert answer in ("InsufficientFunds", "Custom(1)")


def test_the_greatest_channel_pays_the_greatest_total_and_its_exact_fee(world: World) -> None:
    """The largest u64, at 5 %: nothing wraps on the way."""
    channel = world.channel(world.depositor(), world.depositor(0))
    data = bytearray(world.data(channel.address) or b"")
    data[4:6] = (500).to_bytes(2, "little")
    world.put(channel.address, bytes(data), world.program)
    rewrite(world, "channel", channel.address, deposit=U64)
    world.settled(channel, U64)
    balance = world.read_balance(channel.payee.address)
    assert balance.fees_owed == -(-U64 * 500 // 10_000)
    assert balance.available == U64 - balance.fees_owed


def test_a_channel_that_owes_more_than_it_has_is_not_closed(world: World) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    rewrite(world, "channel", channel.address, settled=10_000_001)
    call = world.close_by_payee(channel)
    assert refused(world, call, signers=(channel.payee.key,)) == "Overflow"


def test_a_fee_rate_that_no_config_can_have_settles_nothing(world: World) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    data = bytearray(world.data(channel.address) or b"")
    for bps in (501, 10_000, 0xFFFF):
        data[4:6] = bps.to_bytes(2, "little")
        world.put(channel.address, bytes(data), world.program)
        check = ed25519_instruction(world.voucher(channel, 1_000))
        assert refused(world, check, world.settle(channel)) == "SettingOutOfRange"


def test_a_clock_at_its_end_or_before_the_epoch_closes_nothing_early(world: World) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    for now in (I64, I64 - 59):
        world.set_time(now)
        call = world.request_close(channel)
        assert refused(world, call, signers=(channel.payer.key,)) == "Overflow"
    world.set_time(-1_000)
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    closing = world.read_channel(channel.address)
    assert closing.close_at == -1_000 + closing.challenge_s
    world.set_time(closing.close_at - 1)
    assert refused(world, world.finalize_close(channel)) == "ChallengeNotOver"


def test_a_clock_at_its_end_lets_nothing_unbond_or_rotate_early(world: World) -> None:
    provider = world.provider()
    user = provider.user
    unbond_s = world.read_config().unbond_s
    for now in (I64, I64 - unbond_s + 1):
        world.set_time(now)
        assert refused(world, world.unstake(user, 1), signers=(user.key,)) == "Overflow"
    world.ok(world.rotate_key(user, Keypair().pubkey()), signers=(user.key,))
    call = world.rotate_key(user, Keypair().pubkey())
    assert refused(world, call, signers=(user.key,)) == "Overflow"


def test_times_before_the_epoch_prove_nothing(world: World) -> None:
    provider = world.provider()
    first, second, reporter = (world.depositor(0) for _ in range(3))
    world.ok(world.sweep_fees())
    world.set_time(-(2**63))
    leases = [provider.lease(one.address, -(2**63), 0) for one in (first, second)]
    call = world.slash(provider, first.address, second.address, reporter=reporter.address)
    answer = refused(world, ed25519_instruction(*leases), call, signers=(reporter.key,))
    assert answer == "Overflow"


def test_lamports_that_do_not_fit_leave_the_channel_as_it_is(world: World) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    rent, payer = world.lamports(channel.address), channel.payer.address
    call = world.close_by_payee(channel)
    fund(world, payer, U64 - rent + 1)
    assert refused(world, call, signers=(channel.payee.key,)) == "Overflow"
    fund(world, payer, 1)
    world.ok(call, signers=(channel.payee.key,))
    assert world.lamports(payer) == rent + 1
