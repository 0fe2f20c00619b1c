"""Attacks with vouchers: sent again, out of order, cut, or signed for something else."""

from __future__ import annotations

import hashlib
import struct

import pytest
from attack_books import refused, rewrite
from hypothesis import HealthCheck, given, settings, strategies as st
from settlement_layouts import (
    GENESIS,
    PROGRAM_DIR,
    ROOT,
    TOKEN,
    U64,
    ed25519_instruction,
    token_data,
    voucher_bytes,
)
from settlement_world import Channel, User, World
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(), world.depositor(0))


def settled(world: World, channel: Channel) -> int:
    return world.read_channel(channel.address).settled


def statement(
    world: World, channel: Channel, message: bytes, *, key: Keypair | None = None
) -> str:
    """What the program answers to a message that was really signed."""
    check = ed25519_instruction((key or channel.key, message))
    return refused(world, check, world.settle(channel))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    totals=st.lists(st.integers(0, 12_000_000), min_size=1, max_size=8),
    order=st.permutations(range(16)),
    again=st.integers(0, 7),
)
def test_in_any_order_and_any_number_of_times_vouchers_pay_the_highest_total_once(
    totals: list[int], order: list[int], again: int
) -> None:
    world = World()
    world.init_config()
    channel = world.channel(world.depositor(), world.depositor(0), deposit=10_000_000)
    calls = [
        (ed25519_instruction(world.voucher(channel, total)), world.settle(channel))
        for total in totals + totals[:again]
    ]
    for which in order:
        if which < len(calls):
            world.ok(*calls[which])
    best = min(max(totals), 10_000_000)
    balance = world.read_balance(channel.payee.address)
    assert settled(world, channel) == best
    assert balance.available + balance.fees_owed == best
    assert balance.fees_owed == -(-best * 250 // 10_000)


def test_the_same_transaction_sent_again_is_only_the_first_one(
    world: World, channel: Channel
) -> None:
    check = ed25519_instruction(world.voucher(channel, 500))
    world.ok(check, *[world.settle(channel)] * 5)
    assert settled(world, channel) == 500


def test_a_voucher_cut_short_or_extended_anywhere_is_none(world: World, channel: Channel) -> None:
    whole = voucher_bytes(channel.address, 10) + voucher_bytes(channel.address, 10)
    for length in (*range(80), *range(81, 161)):
        assert statement(world, channel, whole[:length]) == "NoSignatureCheck", length
    assert settled(world, channel) == 0


def test_a_voucher_with_anything_in_front_is_none(world: World, channel: Channel) -> None:
    voucher = voucher_bytes(channel.address, 10)
    for shift in (1, 8, 40):
        assert statement(world, channel, bytes(shift) + voucher[:-shift]) == "WrongVoucher"


def test_every_bit_of_tag_and_channel_counts(world: World, channel: Channel) -> None:
    voucher = bytearray(voucher_bytes(channel.address, 10))
    for bit in range(40 * 8):
        changed = bytearray(voucher)
        changed[bit // 8] ^= 1 << bit % 8
        assert statement(world, channel, bytes(changed)) == "WrongVoucher", bit


def test_a_lease_or_a_message_of_the_same_key_is_no_voucher(
    world: World, channel: Channel
) -> None:
    tail = struct.pack("<Q", 10) + ROOT
    for tag in (b"RCLEAS01", b"RCTERM01", b"RCVCHR00", b"RCVCHR02", b"rcvchr01", bytes(8)):
        assert statement(world, channel, tag + bytes(channel.address) + tail) == "WrongVoucher"
    lease = b"RCLEAS01" + bytes(channel.address) * 3 + struct.pack("<Qqq", 1, 0, 1)
    assert statement(world, channel, lease) == "NoSignatureCheck"


def test_nobody_else_signs_for_a_channel_whoever_they_are(world: World, channel: Channel) -> None:
    others = [channel.payer.key, channel.payee.key, world.admin, world.treasury, Keypair()]
    message = voucher_bytes(channel.address, 10)
    for key in others:
        assert statement(world, channel, message, key=key) == "WrongVoucher"


def test_a_voucher_for_one_channel_of_a_pair_is_none_for_the_next_with_the_same_key(
    world: World, channel: Channel
) -> None:
    payer, payee = channel.payer, channel.payee
    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=1)
    world.ok(call, signers=(payer.key,))
    second = Channel(
        world.channel_address(payer.address, payee.address, 1), payer, payee, channel.key, 1
    )
    assert statement(world, second, voucher_bytes(channel.address, 10)) == "WrongVoucher"
    assert statement(world, channel, voucher_bytes(second.address, 10)) == "WrongVoucher"


def twin(world: World, channel: Channel) -> Channel:
    """Open the same channel in another world: the same people, key and nonce."""
    people: list[User] = []
    for original in (channel.payer, channel.payee):
        user = User(original.key, Pubkey.new_unique())
        world.svm.airdrop(user.address, 10**10)
        world.put(user.tokens, token_data(world.mint, user.address, 10**9), TOKEN)
        world.ok(world.deposit(user, 10**8), signers=(user.key,))
        people.append(user)
    payer, payee = people
    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=channel.nonce)
    world.ok(call, signers=(payer.key,))
    address = world.channel_address(payer.address, payee.address, channel.nonce)
    return Channel(address, payer, payee, channel.key, channel.nonce)


@pytest.mark.parametrize("differs", ["genesis", "program"])
def test_the_same_people_keys_and_nonce_elsewhere_are_another_channel(
    world: World, channel: Channel, differs: str
) -> None:
    genesis = hashlib.sha256(b"another chain").digest() if differs == "genesis" else GENESIS
    program = Pubkey.new_unique() if differs == "program" else world.program
    other = World(program=program, mints=world.mints, genesis_hash=genesis)
    other.init_config()
    there = twin(other, channel)
    assert there.address != channel.address
    assert other.domain != world.domain
    assert other.vault() != world.vault()
    assert statement(other, there, voucher_bytes(channel.address, 10)) == "WrongVoucher"
    assert statement(world, channel, voucher_bytes(there.address, 10)) == "WrongVoucher"
    other.settled(there, 10)
    world.settled(channel, 10)


def test_a_channel_of_another_program_is_none_of_ours(world: World, channel: Channel) -> None:
    data = world.data(channel.address)
    assert data is not None
    copy = Pubkey.new_unique()
    world.put(copy, data, Pubkey.new_unique())
    check = ed25519_instruction((channel.key, voucher_bytes(copy, 10)))
    assert refused(world, check, world.settle(channel, channel=copy)) == "ForeignAccount"


def test_a_call_of_another_programs_id_does_not_reach_ours(world: World, channel: Channel) -> None:
    other = Pubkey.new_unique()
    world.svm.add_program_from_file(other, PROGRAM_DIR / "settlement.so")
    check = ed25519_instruction(world.voucher(channel, 10))
    call = world.settle(channel)
    foreign = Instruction(other, bytes(call.data), call.accounts)
    assert refused(world, check, foreign) == "ForeignAccount"


def test_a_claim_of_nothing_and_a_voucher_of_nothing_change_nothing(
    world: World, channel: Channel
) -> None:
    for cumulative, claim in ((0, U64), (U64, 0), (0, 0)):
        check = ed25519_instruction(world.voucher(channel, cumulative, bytes(32)))
        assert world.events(world.ok(check, world.settle(channel, claim))) == []
    record = world.read_channel(channel.address)
    assert (record.settled, record.alloc_root) == (0, bytes(32))


def test_an_old_voucher_does_not_bring_its_old_root_back(world: World, channel: Channel) -> None:
    world.settled(channel, 100)
    check = ed25519_instruction(world.voucher(channel, 99, b"\x77" * 32))
    world.ok(check, world.settle(channel))
    assert world.read_channel(channel.address).alloc_root == ROOT


def test_a_channel_whose_books_cannot_be_is_not_settled_further(
    world: World, channel: Channel
) -> None:
    """More fee taken than is due of any total: nothing is worked out from that."""
    rewrite(world, "channel", channel.address, fee_taken=U64)
    assert statement(world, channel, voucher_bytes(channel.address, 10)) == "Overflow"
