"""Attacks by and on the admin, and on who may begin a deployment."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from attack_books import refused, seen
from settlement_layouts import DAY, LOADER, NOW, ed25519_instruction
from settlement_world import World
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import Channel
    from solders.instruction import Instruction


def rich(world: World) -> Keypair:
    key = Keypair()
    world.svm.airdrop(key.pubkey(), 10**11)
    return key


def init(world: World, by: Keypair, **accounts: Pubkey) -> Instruction:
    named = world.init_accounts() | {"authority": by.pubkey()} | accounts
    arguments = world.init_arguments()
    arguments.update(admin=by.pubkey(), treasury=by.pubkey())
    return world.instruction("init_config", named, **arguments)


def test_a_stranger_who_comes_first_does_not_get_the_deployment(bare_world: World) -> None:
    world, thief = bare_world, rich(bare_world)
    assert refused(world, init(world, thief), signers=(thief,)) == "NotUpgradeAuthority"
    own = World(program=world.program, upgrade_authority=thief)
    forged = Pubkey.new_unique()
    world.put(forged, own.data(own.program_data) or b"", LOADER)
    call = init(world, thief, program_data=forged)
    assert refused(world, call, signers=(thief,)) == "WrongAddress"
    world.init_config()
    assert world.read_config().admin == world.admin.pubkey()
    assert refused(world, init(world, thief), signers=(thief,)) == "NotUpgradeAuthority"
    again = init(world, world.upgrade_authority)
    assert refused(world, again, signers=(world.upgrade_authority,)) == "AlreadyExists"


def test_another_programs_upgrade_authority_begins_nothing_here(bare_world: World) -> None:
    world, thief = bare_world, rich(bare_world)
    own = Pubkey.new_unique()
    address = Pubkey.find_program_address([bytes(own)], LOADER)[0]
    world.put(address, struct.pack("<IQ", 3, 0) + b"\1" + bytes(thief.pubkey()), LOADER)
    call = init(world, thief, program_data=address)
    assert refused(world, call, signers=(thief,)) == "WrongAddress"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<IQ", 3, 0),
        struct.pack("<IQ", 3, 0) + b"\0",
        struct.pack("<IQ", 3, 0) + b"\0" + bytes(32),
        struct.pack("<IQ", 2, 0) + b"\1",
        struct.pack("<IQ", 1, 0) + b"\1",
        struct.pack("<IQ", 3, 0) + b"\2",
    ],
    ids=["empty", "cut", "no authority, cut", "no authority", "a program", "a buffer", "odd"],
)
def test_program_data_that_name_no_authority_let_nobody_begin(
    bare_world: World, data: bytes
) -> None:
    world = bare_world
    if len(data) == 13 and data[12]:
        data += bytes(world.upgrade_authority.pubkey())
    world.put(world.program_data, data, LOADER)
    call = init(world, world.upgrade_authority)
    answer = refused(world, call, signers=(world.upgrade_authority,))
    assert answer == "NotUpgradeAuthority"


def test_the_zero_key_is_no_upgrade_authority(bare_world: World) -> None:
    """A program that nobody can upgrade holds zeroes where the authority was."""
    world = bare_world
    world.put(world.program_data, struct.pack("<IQ", 3, 0) + bytes(33), LOADER)
    call = init(world, world.upgrade_authority, authority=Pubkey.default())
    metas = [type(one)(one.pubkey, False, one.is_writable) for one in call.accounts]
    assert (
        refused(world, type(call)(call.program_id, bytes(call.data), metas)) == "MissingSignature"
    )


def test_program_data_of_another_loader_are_refused(bare_world: World) -> None:
    world = bare_world
    world.put(world.program_data, world.data(world.program_data) or b"", Pubkey.new_unique())
    call = init(world, world.upgrade_authority)
    assert refused(world, call, signers=(world.upgrade_authority,)) == "WrongAddress"


def test_a_config_that_somebody_made_elsewhere_rules_nothing_here(world: World) -> None:
    """The thief's own deployment of the same program, copied byte by byte or by address."""
    thief = rich(world)
    own = World(admin=thief, upgrade_authority=thief, mints=world.mints)
    own.init_config()
    user = world.depositor()
    copies = {Pubkey.new_unique(): own.program, Pubkey.new_unique(): Keypair().pubkey()}
    for copy, owner in copies.items():
        world.put(copy, own.data(own.config) or b"", owner)
        node = Keypair().pubkey()
        for call in (
            world.deposit(user, 1, config=copy),
            world.withdraw(user, 1, config=copy),
            world.open_channel(user, user.address, node, config=copy),
            world.register(user, node, config=copy),
            world.sweep_fees(world.balance_address(user.address), config=copy),
        ):
            assert refused(world, call, signers=(user.key,)) == "ForeignAccount"
        change = world.update_config(by=thief.pubkey(), config=copy)
        assert refused(world, change, signers=(thief,)) == "ForeignAccount"
    change = world.update_config(by=thief.pubkey())
    assert refused(world, change, signers=(thief,)) == "NotAuthorized"


def test_no_other_record_of_the_program_passes_for_config(world: World) -> None:
    user = world.depositor()
    channel = world.channel(user, world.depositor(0))
    for other in (channel.address, world.balance_address(user.address)):
        fresh = world.user()
        call = world.deposit(fresh, 1, config=other)
        assert refused(world, call, signers=(fresh.key,)) == "WrongAccountKind"
        call = world.register(fresh, fresh.address, config=other)
        assert refused(world, call, signers=(fresh.key,)) == "WrongAccountKind"


@pytest.mark.parametrize("who", ["upgrade authority", "treasury", "stranger"])
def test_nobody_but_the_admin_changes_settings(world: World, who: str) -> None:
    key = {"upgrade authority": world.upgrade_authority, "treasury": world.treasury}.get(who)
    key = key or rich(world)
    assert refused(world, world.update_config(by=key.pubkey()), signers=(key,)) == "NotAuthorized"
    assert refused(world, world.update_config(unsigned=("admin",))) == "MissingSignature"


def test_the_admin_touches_nobodys_money(world: World) -> None:
    """Every instruction that moves money out, signed by the admin in the owner's place."""
    payer, payee = world.depositor(), world.depositor(0)
    channel = world.channel(payer, payee)
    world.ok(world.register(payee, payee.address), signers=(payee.key,))
    world.svm.airdrop(world.admin.pubkey(), 10**10)
    admin = world.admin.pubkey()
    for call in (
        world.withdraw(payer, 1, owner=admin),
        world.instruction(
            "set_delegate",
            {"owner": admin, "balance": world.balance_address(payer.address)},
            delegate=admin, allowance=1, expires=NOW + DAY,
        ),
        world.open_channel(payer, admin, admin, nonce=1, authority=admin, rent_payer=admin),
        world.top_up(channel, 1, authority=admin),
        world.request_close(channel, authority=admin),
        world.close_by_payee(channel, authority=admin),
        world.stake(payee, 1, owner=admin),
    ):  # fmt: skip
        answer = refused(world, call, signers=(world.admin,))
        assert answer in ("NotAuthorized", "WrongBalance")


def test_changed_settings_leave_every_account_as_it_was(world: World) -> None:
    payer, payee = world.depositor(), world.depositor(0)
    channel = world.channel(payer, payee)
    world.settled(channel, 1_000)
    accounts = [
        world.vault(),
        channel.address,
        world.balance_address(payer.address),
        world.balance_address(payee.address),
    ]
    before = seen(world, accounts)
    call = world.update_config(
        treasury=world.admin.pubkey(), fee_bps=500, slash_bps=5_000, unbond_s=30 * DAY,
        min_challenge_s=30 * DAY, slot_stake=2**64 - 1, paused=True,
    )  # fmt: skip
    world.ok(call, signers=(world.admin,))
    assert seen(world, accounts) == before


@pytest.mark.parametrize("bps", [0, 500])
def test_the_fee_of_a_channel_is_that_of_its_opening_whatever_the_admin_does_later(
    world: World, bps: int
) -> None:
    channel = world.channel(world.depositor(), world.depositor(0))
    world.settled(channel, 1_000)
    world.ok(world.update_config(fee_bps=bps), signers=(world.admin,))
    world.settled(channel, 100_000)
    world.ok(world.top_up(channel, 5), signers=(channel.payer.key,))
    world.settled(channel, 200_000)
    assert world.read_balance(channel.payee.address).fees_owed == 5_000
    assert world.read_channel(channel.address).fee_bps == 250


def test_a_fee_raised_in_the_same_block_does_not_reach_a_channel_opened_before(
    world: World,
) -> None:
    payer, payee, key = world.depositor(), world.depositor(0), Keypair()
    opened = world.open_channel(payer, payee.address, key.pubkey())
    world.ok(opened, world.update_config(fee_bps=500), signers=(payer.key, world.admin))
    address = world.channel_address(payer.address, payee.address, 0)
    assert world.read_channel(address).fee_bps == 250


def fee_owing(world: World) -> Channel:
    channel = world.channel(world.depositor(), world.depositor(0))
    world.settled(channel, 1_000_000)
    return channel


def test_a_changed_treasury_gets_what_is_swept_from_then_on_and_no_more(world: World) -> None:
    channel = fee_owing(world)
    balance = world.balance_address(channel.payee.address)
    world.ok(world.sweep_fees(balance))
    heir = Keypair()
    world.ok(world.update_config(treasury=heir.pubkey()), signers=(world.admin,))
    check = ed25519_instruction(world.voucher(channel, 2_000_000))
    world.ok(check, world.settle(channel))
    assert refused(world, world.sweep_fees(balance)) == "WrongBalance"
    there = world.balance_address(heir.pubkey())
    world.ok(world.sweep_fees(balance, treasury_balance=there))
    assert world.read_balance(heir.pubkey()).available == 25_000
    assert world.read_balance(world.treasury.pubkey()).available == 25_000


# The hand-over


def hand_over(world: World, heir: Keypair) -> None:
    world.ok(world.propose_admin(heir.pubkey()), signers=(world.admin,))
    world.ok(world.accept_admin(heir.pubkey()), signers=(heir,))


def test_an_offer_makes_nobody_admin_until_it_is_accepted(world: World) -> None:
    heir = rich(world)
    world.ok(world.propose_admin(heir.pubkey()), signers=(world.admin,))
    change = world.update_config(by=heir.pubkey())
    assert refused(world, change, signers=(heir,)) == "NotAuthorized"
    propose = world.propose_admin(heir.pubkey(), admin=heir.pubkey())
    assert refused(world, propose, signers=(heir,)) == "NotAuthorized"
    world.ok(world.update_config(), signers=(world.admin,))


def test_only_who_it_was_offered_to_accepts_and_must_sign(world: World) -> None:
    heir, thief = rich(world), rich(world)
    for nobody in (thief, world.admin, world.treasury, world.upgrade_authority):
        call = world.accept_admin(nobody.pubkey())
        assert refused(world, call, signers=(nobody,)) == "NotAuthorized"
    world.ok(world.propose_admin(heir.pubkey()), signers=(world.admin,))
    for nobody in (thief, world.admin, world.treasury, world.upgrade_authority):
        call = world.accept_admin(nobody.pubkey())
        assert refused(world, call, signers=(nobody,)) == "NotAuthorized"
    call = world.accept_admin(heir.pubkey())
    metas = [type(one)(one.pubkey, False, one.is_writable) for one in call.accounts]
    unsigned = type(call)(call.program_id, bytes(call.data), metas)
    assert refused(world, unsigned) == "MissingSignature"


def test_no_offer_is_not_an_offer_to_the_zero_key(world: World) -> None:
    """Nobody signs for it; that alone keeps the seat from being taken while nothing is offered."""
    call = world.accept_admin(Pubkey.default())
    metas = [type(one)(one.pubkey, False, one.is_writable) for one in call.accounts]
    unsigned = type(call)(call.program_id, bytes(call.data), metas)
    assert refused(world, unsigned) == "MissingSignature"


def test_an_offer_taken_back_or_replaced_cannot_be_accepted(world: World) -> None:
    first, second = rich(world), rich(world)
    for instead in (Pubkey.default(), second.pubkey()):
        world.ok(world.propose_admin(first.pubkey()), signers=(world.admin,))
        world.ok(world.propose_admin(instead), signers=(world.admin,))
        call = world.accept_admin(first.pubkey())
        assert refused(world, call, signers=(first,)) == "NotAuthorized"


def test_an_admin_that_handed_over_has_no_power_left_and_no_offer_of_its_own_stands(
    world: World,
) -> None:
    heir = rich(world)
    hand_over(world, heir)
    assert (world.read_config().admin, world.read_config().pending_admin) == (
        heir.pubkey(),
        Pubkey.default(),
    )
    for call in (world.update_config(), world.propose_admin(world.admin.pubkey())):
        assert refused(world, call, signers=(world.admin,)) == "NotAuthorized"
    again = world.accept_admin(heir.pubkey())
    assert refused(world, again, signers=(heir,)) == "NotAuthorized"
    world.ok(world.update_config(by=heir.pubkey(), fee_bps=1), signers=(heir,))


def test_a_hand_over_changes_nothing_but_the_admin(world: World) -> None:
    before = world.data(world.config) or b""
    heir = rich(world)
    hand_over(world, heir)
    after = world.data(world.config) or b""
    assert after == before[:8] + bytes(heir.pubkey()) + before[40:]
