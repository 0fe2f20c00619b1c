"""A pause keeps money out and never in: every way out of the program works while it lasts.

Whoever pauses also sets everything else as badly as it can be set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attack_books import booked, refused
from settlement_layouts import DAY, NOW, U64, ed25519_instruction
from solders.keypair import Keypair

if TYPE_CHECKING:
    from settlement_world import World


def pause_hard(world: World) -> None:
    """All settings at the worst that the bounds allow."""
    call = world.update_config(
        paused=True, fee_bps=500, slash_bps=5_000, unbond_s=30 * DAY,
        min_challenge_s=30 * DAY, slot_stake=U64,
    )  # fmt: skip
    world.ok(call, signers=(world.admin,))


def test_everybody_gets_everything_out_while_paused(world: World) -> None:
    payer, payee = world.depositor(10_000), world.depositor(0)
    provider = world.provider(5_000)
    agreed = world.channel(payer, payee, deposit=4_000)
    silent = world.channel(payer, payee, deposit=1_000)
    people = [payer, payee, provider.user]
    pause_hard(world)

    # The payee settles and closes.
    world.settled(agreed, 1_000)
    world.ok(world.top_up(agreed, 100), signers=(payer.key,))
    check = ed25519_instruction(world.voucher(agreed, 3_000))
    closing = check, world.settle(agreed), world.close_by_payee(agreed)
    world.ok(*closing, signers=(payee.key,))
    # The payer waits the agreed time, not the new one, for a payee that says nothing.
    agreed_s = world.read_channel(silent.address).challenge_s
    assert agreed_s < 30 * DAY
    world.ok(world.request_close(silent), signers=(payer.key,))
    world.set_time(NOW + agreed_s)
    world.ok(world.finalize_close(silent))
    # The provider's stake leaves.
    world.ok(world.unstake(provider.user, 5_000), signers=(provider.user.key,))
    world.set_time(NOW + agreed_s + 30 * DAY)
    world.ok(world.claim_unbonded(provider.user), signers=(provider.user.key,))
    # Fees reach the treasury; everybody withdraws.
    world.ok(world.sweep_fees(world.balance_address(payee.address)))
    for user, amount in ((payer, 7_000), (payee, 2_925), (provider.user, 5_000)):
        assert world.read_balance(user.address).available == amount
        world.ok(world.withdraw(user, amount), signers=(user.key,))
    assert world.read_balance(world.treasury.pubkey()).available == 75
    owners = [*(one.address for one in people), world.treasury.pubkey()]
    assert booked(world, owners, [], world.mint) == world.tokens(world.vault()) == 75


def test_a_pause_keeps_new_money_and_new_channels_out(world: World) -> None:
    payer, payee = world.depositor(1_000), world.depositor(0)
    pause_hard(world)
    assert refused(world, world.deposit(payer, 1), signers=(payer.key,)) == "Paused"
    call = world.open_channel(payer, payee.address, payee.address, challenge_s=30 * DAY)
    assert refused(world, call, signers=(payer.key,)) == "Paused"


def test_a_payee_without_a_balance_still_gets_one_to_be_paid_into(world: World) -> None:
    payer, payee = world.depositor(1_000), world.user()
    channel = world.channel(payer, payee, deposit=1_000)
    pause_hard(world)
    world.ok(world.deposit(payee, 0), signers=(payee.key,))
    world.settled(channel, 1_000)
    world.ok(world.withdraw(payee, 975), signers=(payee.key,))


def test_keys_that_were_stolen_can_be_replaced_while_paused(world: World) -> None:
    payer, provider = world.depositor(1_000), world.provider()
    thief, fresh = Keypair(), Keypair()
    world.ok(world.set_delegate(payer, thief.pubkey()), signers=(payer.key,))
    pause_hard(world)
    world.ok(world.set_delegate(payer, fresh.pubkey(), 0, 0), signers=(payer.key,))
    world.ok(world.rotate_key(provider.user, fresh.pubkey()), signers=(provider.user.key,))
    assert world.read_balance(payer.address).delegate == fresh.pubkey()
    assert world.read_stake(provider.user.address).node_key == fresh.pubkey()


def test_a_double_sale_is_paid_for_while_paused(world: World) -> None:
    provider = world.provider(10_000)
    first, second, reporter = (world.depositor(0) for _ in range(3))
    world.ok(world.sweep_fees())
    pause_hard(world)
    leases = [provider.lease(one.address, NOW - 9, NOW + 9) for one in (first, second)]
    call = world.slash(provider, first.address, second.address, reporter=reporter.address)
    world.ok(ed25519_instruction(*leases), call, signers=(reporter.key,))
    assert world.read_stake(provider.user.address).bonded == 5_000


def test_the_admin_hands_over_while_paused_so_that_a_pause_can_always_be_ended(
    world: World,
) -> None:
    heir = Keypair()
    pause_hard(world)
    world.ok(world.propose_admin(heir.pubkey()), signers=(world.admin,))
    world.ok(world.accept_admin(heir.pubkey()), signers=(heir,))
    world.ok(world.update_config(by=heir.pubkey()), signers=(heir,))
    world.depositor(1)
