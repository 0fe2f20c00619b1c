"""Attacks with one account in two places, and with one person on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from attack_books import booked, refused
from settlement_layouts import NOW, SYSTEM, TOKEN, ed25519_instruction, token_data
from settlement_world import Channel, User, World
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction_metadata import TransactionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Scene:
    """A world in which every instruction could succeed right now."""

    world: World
    payer: User
    payee: User
    channel: Channel
    closing: Channel
    calls: dict[str, tuple[Instruction, ...]]

    @property
    def books(self) -> dict[str, int]:
        """What no alias may change: the sum of the books, and of all tokens there are."""
        world = self.world
        owners = [user.address for user in world.users] + [world.treasury.pubkey()]
        channels = [self.channel.address, self.closing.address]
        channels.append(world.channel_address(self.payer.address, self.payee.address, 2))
        inside = booked(world, owners, channels, world.mint)
        held = world.tokens(world.vault())
        outside = sum(world.tokens(one.tokens) for one in world.users)
        return {"surplus": held - inside, "tokens": held + outside}

    def shares(self) -> dict[Pubkey, int]:
        """Each person's own money, in channels and stake too."""
        world = self.world
        found: dict[Pubkey, int] = {}
        for user in (self.payer, self.payee):
            balance = world.read_balance(user.address)
            stake = world.read_stake(user.address)
            found[user.address] = (
                balance.available + stake.bonded + stake.unbonding + world.tokens(user.tokens)
            )
        for channel in (self.channel, self.closing):
            if world.data(channel.address):
                record = world.read_channel(channel.address)
                found[channel.payer.address] += record.deposit - record.settled
        return found


def scene() -> Scene:
    world = World()
    world.init_config()
    payer, payee = world.depositor(10_000), world.depositor(5_000)
    for user in (payer, payee):
        world.ok(world.register(user, Keypair().pubkey()), signers=(user.key,))
        world.ok(world.stake(user, 100), signers=(user.key,))
    world.ok(world.sweep_fees())
    closing = world.channel(payer, payee, deposit=1_000)
    channel = world.channel(payer, payee, deposit=1_000)
    world.settled(channel, 400)
    world.ok(world.request_close(closing), signers=(payer.key,))
    world.ok(world.propose_admin(payer.address), signers=(world.admin,))
    check = ed25519_instruction(world.voucher(channel, 700))
    fresh = world.user()
    cheat = world.provider(1_000)
    now = NOW + 30 * 86_400
    sold = ed25519_instruction(
        *(cheat.lease(user.address, now - 9, now + 9) for user in (payer, payee))
    )
    world.ok(world.unstake(payee, 50), signers=(payee.key,))
    world.set_time(now)
    calls = {
        "deposit": (world.deposit(payer, 7),),
        "withdraw": (world.withdraw(payer, 7),),
        "set_delegate": (world.set_delegate(payer, payee.address),),
        "open_channel": (
            world.open_channel(payer, payee.address, payer.address, nonce=2, deposit=7),
        ),
        "top_up": (world.top_up(channel, 7),),
        "settle": (check, world.settle(channel)),
        "close_by_payee": (world.close_by_payee(channel),),
        "request_close": (world.request_close(channel),),
        "finalize_close": (world.finalize_close(closing),),
        "register": (world.register(fresh, fresh.address),),
        "stake": (world.stake(payer, 7),),
        "sweep_fees": (
            world.sweep_fees(*map(world.balance_address, (payer.address, payee.address))),
        ),
        "update_config": (world.update_config(),),
        "unstake": (world.unstake(payer, 7),),
        "claim_unbonded": (world.claim_unbonded(payee),),
        "rotate_key": (world.rotate_key(payer, payee.address),),
        "slash": (
            sold,
            world.slash(cheat, payer.address, payee.address, reporter=payee.address),
        ),
        "propose_admin": (world.propose_admin(payee.address),),
        "accept_admin": (world.accept_admin(payer.address),),
    }
    return Scene(world, payer, payee, channel, closing, calls)


def everyone(world: World) -> tuple[Keypair, ...]:
    return (*(user.key for user in world.users), world.admin)


NAMES = sorted(scene().calls)


@pytest.mark.parametrize("name", NAMES)
def test_every_call_of_the_scene_succeeds_so_that_its_aliases_mean_something(name: str) -> None:
    one = scene()
    before = one.books
    one.world.ok(*one.calls[name], signers=everyone(one.world))
    assert one.books == before


@pytest.mark.parametrize("name", NAMES)
def test_no_two_places_of_a_call_filled_with_one_account_move_anybodys_books(name: str) -> None:
    """All pairs, everybody signing: refused, or the books agree and nobody else paid for it."""
    one = scene()
    for into, of in permutations(range(len(one.calls[name][-1].accounts)), 2):
        *before, call = one.calls[name]
        metas = list(call.accounts)
        kept = metas[into]
        other = metas[of].pubkey
        signs = kept.is_signer and other in {key.pubkey() for key in everyone(one.world)}
        metas[into] = AccountMeta(other, signs, kept.is_writable)
        books, shares = one.books, one.shares()
        alias = Instruction(call.program_id, bytes(call.data), metas)
        result = one.world.send(*before, alias, signers=everyone(one.world))
        assert one.books == books, (into, of)
        payer, payee = one.payer.address, one.payee.address
        after = one.shares()
        if name != "settle":  # which pays the payee what it is owed, wherever it succeeds
            assert after[payee] >= shares[payee], (into, of)
            assert after[payer] >= shares[payer] - 7, (into, of)
        if isinstance(result, TransactionMetadata):
            one = scene()


@pytest.mark.parametrize("end", ["by payee", "by delegate", "finalize"])
def test_one_who_pays_oneself_loses_the_fee_and_gains_nothing(world: World, end: str) -> None:
    user = world.depositor(1_000)
    channel = world.channel(user, user, deposit=600)
    world.settled(channel, 400)
    node = Keypair()
    if end == "by payee":
        world.ok(world.close_by_payee(channel), signers=(user.key,))
    elif end == "by delegate":
        world.ok(world.set_delegate(user, node.pubkey()), signers=(user.key,))
        world.ok(world.close_by_payee(channel, authority=node.pubkey()), signers=(node,))
    else:
        world.ok(world.request_close(channel), signers=(user.key,))
        world.set_time(NOW + 30 * 86_400)
        world.ok(world.finalize_close(channel))
    balance = world.read_balance(user.address)
    assert (balance.available, balance.fees_owed) == (990, 10)
    assert world.tokens(world.vault()) == 1_000


def test_the_payers_balance_is_not_taken_for_the_payees(world: World) -> None:
    payer, payee = world.depositor(1_000), world.depositor(0)
    channel = world.channel(payer, payee, deposit=600)
    own = world.balance_address(payer.address)
    check = ed25519_instruction(world.voucher(channel, 400))
    assert refused(world, check, world.settle(channel, payee_balance=own)) == "WrongBalance"
    theirs = world.balance_address(payee.address)
    call = world.close_by_payee(channel, payer_balance=theirs)
    assert refused(world, call, signers=(payee.key,)) == "WrongBalance"
    call = world.top_up(channel, 1, payer_balance=theirs)
    assert refused(world, call, signers=(payer.key,)) == "WrongBalance"


def test_the_same_balance_of_the_other_mint_is_not_taken_for_it(world: World) -> None:
    payer, payee, mint = world.depositor(1_000), world.depositor(0), world.mints[1]
    for user in (payer, payee):
        tokens = Pubkey.new_unique()
        world.put(tokens, token_data(mint, user.address, 10), TOKEN)
        other = world.balance_address(user.address, mint)
        call = world.deposit(
            user, 10, source=tokens, mint=mint, vault=world.vault(mint), balance=other
        )
        world.ok(call, signers=(user.key,))
    channel = world.channel(payer, payee, deposit=600)
    own, theirs = (world.balance_address(user.address, mint) for user in (payer, payee))
    check = ed25519_instruction(world.voucher(channel, 400))
    assert refused(world, check, world.settle(channel, payee_balance=theirs)) == "WrongBalance"
    both = (payer.key, payee.key)
    for call in (
        world.top_up(channel, 1, payer_balance=own),
        world.request_close(channel, payer_balance=own),
        world.close_by_payee(channel, payer_balance=own),
        world.close_by_payee(channel, authority=payer.address, payee_balance=theirs),
        world.withdraw(payer, 10, balance=own),
        world.deposit(payer, 10, balance=own),
    ):
        assert refused(world, call, signers=both) == "WrongBalance"


def sweep_with_treasury(world: World, *, times: int) -> tuple[int, int]:
    """The treasury is a payee itself and its Balance is named ``times`` among those to sweep."""
    payer, payee = world.depositor(), world.depositor(0)
    world.ok(world.update_config(treasury=payee.address), signers=(world.admin,))
    world.settled(world.channel(payer, payee, deposit=10_000), 10_000)
    own = world.balance_address(payee.address)
    call = world.sweep_fees(*[own] * times, treasury_balance=own)
    world.ok(call)
    balance = world.read_balance(payee.address)
    return balance.available, balance.fees_paid


@pytest.mark.parametrize("times", [0, 1, 2, 27])
def test_a_treasury_swept_into_itself_gets_its_fee_once(world: World, times: int) -> None:
    paid = 250 if times else 0
    assert sweep_with_treasury(world, times=times) == (9_750 + paid, paid)


@pytest.mark.parametrize("repeat", [1, 2, 5])
def test_balances_named_again_and_again_pay_once(world: World, repeat: int) -> None:
    payer, payees = world.depositor(), [world.depositor(0) for _ in range(3)]
    for payee in payees:
        world.settled(world.channel(payer, payee, deposit=10_000), 10_000)
    balances = [world.balance_address(one.address) for one in payees]
    world.ok(world.sweep_fees(*balances * repeat))
    assert world.read_balance(world.treasury.pubkey()).available == 750
    assert [world.read_balance(one.address).fees_paid for one in payees] == [250] * 3


STRANGE: dict[str, Callable[[World, Channel], Pubkey]] = {
    "config": lambda world, _channel: world.config,
    "channel": lambda _world, channel: channel.address,
    "vault": lambda world, _channel: world.vault(),
    "nothing": lambda _world, _channel: Pubkey.new_unique(),
    "system": lambda _world, _channel: SYSTEM,
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_sweep_with_anything_but_balances_in_it_sweeps_nothing(world: World, what: str) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    world.settled(channel, 10_000)
    strange = STRANGE[what](world, channel)
    balance = world.balance_address(channel.payee.address)
    for order in ((balance, strange), (strange, balance), (balance, strange, balance)):
        refused(world, world.sweep_fees(*order))
    assert world.read_balance(channel.payee.address).fees_owed == 250


def test_more_accounts_than_the_program_looks_at_are_refused_and_not_half_swept(
    world: World,
) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    world.settled(channel, 10_000)
    balance = world.balance_address(channel.payee.address)
    world.ok(world.sweep_fees(*[balance] * 27))
    fees = world.read_balance(world.treasury.pubkey()).available
    world.settled(channel, 20_000)
    world.send(world.sweep_fees(*[world.balance_address(world.treasury.pubkey())] * 27, balance))
    owed = world.read_balance(channel.payee.address).fees_owed
    assert world.read_balance(world.treasury.pubkey()).available + owed == fees + 250
