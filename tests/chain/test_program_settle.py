from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from settlement_layouts import (
    ED25519,
    SYSVAR,
    U64,
    ed25519_instruction,
    token_data,
    voucher_bytes,
)
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import Channel, World


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(), world.depositor(0), deposit=10_000_000)


def test_totals_only_grow_and_small_settlements_pay_the_same_fee(
    world: World, channel: Channel
) -> None:
    for total in (1, 2, 3, 41, 9_999_999, 10_000_000):
        world.settled(channel, total)
        balance = world.read_balance(channel.payee.address)
        assert balance.fees_owed == -(-total * 250 // 10_000)
        assert balance.available + balance.fees_owed == total


def test_a_claim_takes_no_more_than_asked(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 5_000_000))
    world.ok(check, world.settle(channel, 2_000_000))
    assert world.read_channel(channel.address).settled == 2_000_000
    world.ok(check, world.settle(channel, 5_000_000))
    assert world.read_channel(channel.address).settled == 5_000_000


def test_no_voucher_takes_more_than_the_deposit(world: World, channel: Channel) -> None:
    world.settled(channel, U64)
    assert world.read_channel(channel.address).settled == 10_000_000
    balance = world.read_balance(channel.payee.address)
    assert balance.available + balance.fees_owed == 10_000_000


def test_a_replayed_or_older_voucher_moves_nothing(world: World, channel: Channel) -> None:
    world.settled(channel, 3_000_000)
    before = world.read_channel(channel.address), world.read_balance(channel.payee.address)
    for total in (3_000_000, 2_999_999, 0):
        check = ed25519_instruction(world.voucher(channel, total, bytes(32)))
        result = world.ok(check, world.settle(channel))
        assert world.events(result) == []
    assert world.read_channel(channel.address) == before[0]
    assert world.read_balance(channel.payee.address) == before[1]


def test_anyone_may_settle_also_when_paused_or_closing(world: World, channel: Channel) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.pause()
    world.settled(channel, 1_000)
    assert world.read_channel(channel.address).settled == 1_000


def test_the_check_may_stand_anywhere_in_the_transaction(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    world.ok(world.settle(channel, ed_ix=1), check)
    assert world.read_channel(channel.address).settled == 10


def test_without_a_check_nothing_is_settled(world: World, channel: Channel) -> None:
    assert world.refusal(world.settle(channel)) == "NoSignatureCheck"
    assert world.refusal(world.settle(channel, ed_ix=200)) == "NoSignatureCheck"
    check = ed25519_instruction(world.voucher(channel, 10))
    assert world.refusal(check, world.settle(channel, ed_ix=1)) == "NoSignatureCheck"
    assert world.refusal(check, world.settle(channel, entry=1)) == "NoSignatureCheck"


def test_a_forged_signature_fails_the_whole_transaction(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    data = bytearray(check.data)
    data[16] ^= 1
    world.refusal(Instruction(ED25519, bytes(data), []), world.settle(channel))
    assert world.read_channel(channel.address).settled == 0


def test_another_program_with_the_same_data_is_no_check(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    imitation = Instruction(world.program, check.data, [])
    call = world.settle(channel, ed_ix=1)
    assert world.refusal(call, imitation) == "NoSignatureCheck"
    assert world.read_channel(channel.address).settled == 0


def test_an_account_that_imitates_the_sysvar_is_refused(world: World, channel: Channel) -> None:
    forged = Pubkey.new_unique()
    check = ed25519_instruction(world.voucher(channel, 10))
    world.put(
        forged, bytes(2_000), Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
    )
    call = world.settle(channel, instructions=forged)
    assert world.refusal(check, call) == "NoSignatureCheck"


def test_a_voucher_of_another_key_is_refused(world: World, channel: Channel) -> None:
    for key in (Keypair(), channel.payer.key, channel.payee.key):
        check = ed25519_instruction((key, voucher_bytes(channel.address, 10)))
        assert world.refusal(check, world.settle(channel)) == "WrongVoucher"


def test_a_voucher_of_another_channel_is_refused(world: World, channel: Channel) -> None:
    payer, payee = channel.payer, channel.payee
    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=1)
    world.ok(call, signers=(payer.key,))
    other = world.channel_address(payer.address, payee.address, 1)
    check = ed25519_instruction((channel.key, voucher_bytes(other, 10)))
    assert world.refusal(check, world.settle(channel)) == "WrongVoucher"


VOUCHER = voucher_bytes(Pubkey.default(), 10)


@pytest.mark.parametrize(
    ("head", "end"),
    [
        (b"RCVCHR01", VOUCHER[40:-1]),
        (b"RCVCHR01", VOUCHER[40:] + b"\0"),
        (b"RCVCHR01", VOUCHER[40:48]),
        (b"RCVCHR02", VOUCHER[40:]),
        (b"RCLEAS01", VOUCHER[40:]),
    ],
    ids=["shorter", "longer", "no root", "another version", "another statement"],
)
def test_other_statements_are_no_vouchers(
    world: World, channel: Channel, head: bytes, end: bytes
) -> None:
    check = ed25519_instruction((channel.key, head + bytes(channel.address) + end))
    error = "NoSignatureCheck" if len(end) != 40 else "WrongVoucher"
    assert world.refusal(check, world.settle(channel)) == error
    assert world.read_channel(channel.address).settled == 0


def test_a_check_that_points_into_another_instruction_is_refused(
    world: World, channel: Channel
) -> None:
    """The attacker signs its own statement; the voucher only lies where one is expected."""
    attacker = Keypair()
    genuine = ed25519_instruction((attacker, voucher_bytes(channel.address, U64)))
    offsets = struct.pack("<7H", 16, 0, 80, 0, 112, 80, 0)
    voucher = voucher_bytes(channel.address, U64)
    imitation = bytes(64) + bytes(channel.key.pubkey()) + voucher
    pointing = Instruction(ED25519, b"\1\0" + offsets + imitation, [])
    world.ok(genuine, pointing)  # the precompile itself is content
    assert world.refusal(genuine, pointing, world.settle(channel, ed_ix=1)) == "NoSignatureCheck"


def test_a_check_whose_entries_share_bytes_is_refused(world: World, channel: Channel) -> None:
    """Two offset records, both verifying the attacker's statement; the other block is bait."""
    attacker = Keypair()
    message = voucher_bytes(channel.address, U64)
    at = 2 + 28
    record = struct.pack("<7H", at, 0xFFFF, at + 64, 0xFFFF, at + 96, 80, 0xFFFF)
    signed = bytes(attacker.sign_message(message)) + bytes(attacker.pubkey()) + message
    bait = bytes(64) + bytes(channel.key.pubkey()) + message
    check = Instruction(ED25519, b"\2\0" + record * 2 + signed + bait, [])
    world.ok(check)
    assert world.refusal(check, world.settle(channel, entry=1)) == "NoSignatureCheck"


def test_a_check_with_anything_behind_or_between_is_refused(
    world: World, channel: Channel
) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    longer = Instruction(ED25519, bytes(check.data) + b"\0", [])
    world.ok(longer)
    assert world.refusal(longer, world.settle(channel)) == "NoSignatureCheck"
    message = voucher_bytes(channel.address, 10)
    body = bytes(channel.key.sign_message(message)) + bytes(channel.key.pubkey()) + message
    offsets = struct.pack("<7H", 17, 0xFFFF, 81, 0xFFFF, 113, 80, 0xFFFF)
    shifted = Instruction(ED25519, b"\1\0" + offsets + b"\0" + body, [])
    world.ok(shifted)
    assert world.refusal(shifted, world.settle(channel)) == "NoSignatureCheck"


def test_only_the_payees_own_balance_is_credited(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    thief = world.depositor()
    call = world.settle(channel, payee_balance=world.balance_address(thief.address))
    assert world.refusal(check, call) == "WrongBalance"
    call = world.settle(channel, payee_balance=channel.address)
    assert "AccountBorrowFailed" in world.refusal(check, call)
    call = world.settle(channel, payee_balance=world.config)
    assert world.refusal(check, call) == "WrongAccountKind"
    forged = Pubkey.new_unique()
    data = world.data(world.balance_address(channel.payee.address))
    assert data is not None
    world.put(forged, data, Pubkey.new_unique())
    call = world.settle(channel, payee_balance=forged)
    assert world.refusal(check, call) == "ForeignAccount"


def test_a_balance_of_the_payees_other_mint_is_not_credited(
    world: World, channel: Channel
) -> None:
    payee, mint = channel.payee, world.mints[1]
    tokens = Pubkey.new_unique()
    token_program = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
    world.put(tokens, token_data(mint, payee.address, 10), token_program)
    other = world.balance_address(payee.address, mint)
    call = world.deposit(
        payee, 10, source=tokens, mint=mint, vault=world.vault(mint), balance=other
    )
    world.ok(call, signers=(payee.key,))
    check = ed25519_instruction(world.voucher(channel, 10))
    assert world.refusal(check, world.settle(channel, payee_balance=other)) == "WrongBalance"


def test_a_payee_without_balance_cannot_be_paid_yet(world: World) -> None:
    payer, payee = world.depositor(), world.user()
    channel = world.channel(payer, payee)
    check = ed25519_instruction(world.voucher(channel, 10))
    assert world.refusal(check, world.settle(channel)) == "ForeignAccount"
    world.ok(world.deposit(payee, 0), signers=(payee.key,))
    world.ok(check, world.settle(channel))


def test_a_balance_that_would_overflow_is_left_alone(world: World, channel: Channel) -> None:
    address = world.balance_address(channel.payee.address)
    data = world.data(address)
    assert data is not None
    world.put(address, data[:104] + struct.pack("<Q", U64) + data[112:], world.program)
    check = ed25519_instruction(world.voucher(channel, 1_000_000))
    assert world.refusal(check, world.settle(channel)) == "Overflow"
    assert world.read_channel(channel.address).settled == 0


def test_a_closed_channel_settles_nothing(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    world.ok(world.close_by_payee(channel), signers=(channel.payee.key,))
    assert world.refusal(check, world.settle(channel)) == "ForeignAccount"
    world.put(channel.address, bytes(248), world.program)
    assert world.refusal(check, world.settle(channel)) == "WrongAccountKind"


def test_arguments_of_another_length_are_refused(world: World, channel: Channel) -> None:
    check = ed25519_instruction(world.voucher(channel, 10))
    call = world.settle(channel)
    for data in (call.data[:-1], bytes(call.data) + b"\0"):
        changed = Instruction(call.program_id, bytes(data), call.accounts)
        assert world.refusal(check, changed) == "BadArguments"
    for data in (b"", b"\0" * 7, b"\0" * 8):
        changed = Instruction(call.program_id, data, call.accounts)
        assert world.refusal(check, changed) == "UnknownInstruction"
    changed = Instruction(call.program_id, call.data, call.accounts[:2])
    assert world.refusal(check, changed) == "MissingAccount"
    assert call.accounts[2].pubkey == SYSVAR
