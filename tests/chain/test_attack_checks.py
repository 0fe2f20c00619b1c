"""Attacks through the Ed25519 instruction: it verifies one thing and seems to verify another.

Vouchers of ``GENUINE`` were signed by the channel's key; whatever is sent, not a unit more may move.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from attack_books import refused, where_refused
from attack_checks import (
    FIELDS,
    HERE,
    Block,
    bait,
    check,
    entry_of,
    is_strict,
    signed_block,
    straight,
)
from hypothesis import HealthCheck, given, settings, strategies as st
from settlement_layouts import ED25519, ROOT, SYSTEM, SYSVAR, U64, voucher_bytes
from settlement_world import World
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import Channel

GENUINE = 10
ATTACKER = Keypair()
SECP256K1 = Pubkey.from_string("KeccakSecp256k11111111111111111111111111111")
SECP256R1 = Pubkey.from_string("Secp256r1SigVerify1111111111111111111111111")
SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]


def in_order() -> World:
    """A configured world that runs the Ed25519 program in its turn, as validators do.

    The usual one runs it first, so that nobody saw whether ours would have refused.
    """
    world = World(svm=LiteSVM().with_sigverify(sigverify=False))
    world.init_config()
    return world


@pytest.fixture
def world() -> World:
    return in_order()


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(), world.depositor(0))


def genuine(channel: Channel) -> Block:
    return signed_block(channel.key, voucher_bytes(channel.address, GENUINE))


def wanted(channel: Channel) -> bytes:
    """The voucher an attacker would like to have."""
    return voucher_bytes(channel.address, U64)


def settled(world: World, channel: Channel) -> int:
    return world.read_channel(channel.address).settled


def test_a_strict_check_is_accepted_so_that_the_refusals_below_mean_something(
    world: World, channel: Channel
) -> None:
    blocks = [signed_block(ATTACKER, wanted(channel)), genuine(channel)]
    world.ok(check(straight(blocks), blocks), world.settle(channel, entry=1))
    assert settled(world, channel) == GENUINE


@pytest.mark.parametrize("field", range(7), ids=FIELDS)
@pytest.mark.parametrize("entry", [0, 1])
def test_every_field_of_an_offset_record_must_be_the_one_value(
    world: World, channel: Channel, field: int, entry: int
) -> None:
    blocks = [genuine(channel), genuine(channel)]
    right = straight(blocks)
    for value in {0, 1, 2, 79, 80, 81, 127, 128, 255, 256, HERE - 1, HERE, *right[0], *right[1]}:
        if value == right[entry][field]:
            continue
        records = [list(one) for one in right]
        records[entry][field] = value
        calls = world.settle(channel, ed_ix=1, entry=entry), check(records, blocks)
        assert where_refused(world, *calls) == 0, value
    assert settled(world, channel) == 0


@pytest.mark.parametrize("count", [0, 1, 3, 4, 255])
def test_a_count_that_is_not_the_entries_is_refused(
    world: World, channel: Channel, count: int
) -> None:
    blocks = [genuine(channel), genuine(channel)]
    forged = check(straight(blocks), blocks, count=count)
    for entry in (0, 1, 2, 254, 255):
        assert where_refused(world, world.settle(channel, ed_ix=1, entry=entry), forged) == 0


def test_a_padding_byte_that_is_not_zero_is_refused(world: World, channel: Channel) -> None:
    blocks = [genuine(channel)]
    for pad in (1, 2, 128, 255):
        forged = check(straight(blocks), blocks, pad=pad)
        assert where_refused(world, world.settle(channel, ed_ix=1), forged) == 0


def test_bytes_between_or_behind_are_refused(world: World, channel: Channel) -> None:
    blocks = [genuine(channel)]
    for extra in (1, 14, 96, 176, 190):
        behind = check(straight(blocks), blocks, tail=bytes(extra))
        assert refused(world, behind, world.settle(channel)) == "NoSignatureCheck"
        moved = [value + extra * (n in (0, 2, 4)) for n, value in enumerate(straight(blocks)[0])]
        between = check([moved], blocks, gap=bytes(extra))
        assert refused(world, between, world.settle(channel)) == "NoSignatureCheck"


def test_a_check_cut_short_anywhere_is_refused(world: World, channel: Channel) -> None:
    whole = bytes(check(straight([genuine(channel)]), [genuine(channel)]).data)
    for length in range(len(whole)):
        cut = Instruction(ED25519, whole[:length], [])
        assert where_refused(world, world.settle(channel, ed_ix=1), cut) == 0, length


@pytest.mark.parametrize("field", [1, 3, 6], ids=["signature", "key", "message"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_no_part_may_lie_in_another_instruction_not_even_by_its_own_index(
    world: World, channel: Channel, field: int, index: int
) -> None:
    """The chain's Ed25519 program follows such indices; what it read is not what lies here."""
    blocks = [genuine(channel)]
    records = straight(blocks)
    records[0][field] = index
    calls = world.settle(channel, ed_ix=1), check(records, blocks), check(straight(blocks), blocks)
    assert where_refused(world, *calls) == 0


def test_a_check_that_verifies_another_instructions_bytes_pays_nothing(
    world: World, channel: Channel
) -> None:
    own = [signed_block(ATTACKER, wanted(channel))]
    lies = [bait(channel.key, wanted(channel))]
    pointing = check([[16, 0, 80, 0, 112, 80, 0]], lies)
    honest = check(straight(own), own)
    world.ok(honest, pointing)
    assert refused(world, honest, pointing, world.settle(channel, ed_ix=1)) == "NoSignatureCheck"


def test_two_records_on_one_block_do_not_make_the_bait_beside_it_verified(
    world: World, channel: Channel
) -> None:
    blocks = [signed_block(ATTACKER, wanted(channel)), bait(channel.key, wanted(channel))]
    first = straight(blocks)[0]
    for records in ([first, first], [first, [*first[:2], first[2] - 1, *first[3:]]]):
        calls = world.settle(channel, ed_ix=1, entry=1), check(records, blocks)
        assert where_refused(world, *calls) == 0
    world.ok(check([first, first], blocks))  # its own program is content


def test_a_key_that_lies_in_the_attackers_own_message_is_not_the_signer(
    world: World, channel: Channel
) -> None:
    """The attacker's message holds a whole bait block; offsets of entry 1 point into it."""
    inner = bait(channel.key, wanted(channel))
    outer = signed_block(ATTACKER, inner.data)
    start = 2 + 28
    records = [
        [start, HERE, start + 64, HERE, start + 96, len(inner.data), HERE],
        [start, HERE, start + 64, HERE, start + 96, len(inner.data), HERE],
    ]
    world.ok(check(records, [outer]))
    for entry in (0, 1):
        answer = refused(world, check(records, [outer]), world.settle(channel, entry=entry))
        assert answer == "NoSignatureCheck"


def test_the_signature_of_another_message_fails_the_whole_transaction(
    world: World, channel: Channel
) -> None:
    signature = genuine(channel).signature
    forged = [Block(signature, bytes(channel.key.pubkey()), wanted(channel))]
    calls = world.settle(channel, ed_ix=1), check(straight(forged), forged)
    assert where_refused(world, *calls) == 1
    assert settled(world, channel) == 0


def test_a_signed_message_of_another_length_beside_it_does_not_shift_the_entries(
    world: World, channel: Channel
) -> None:
    longer = signed_block(ATTACKER, bytes(81))
    for blocks, entry in (([longer, genuine(channel)], 1), ([genuine(channel), longer], 0)):
        answer = refused(
            world, check(straight(blocks), blocks), world.settle(channel, entry=entry)
        )
        assert answer == "NoSignatureCheck"


def test_the_named_instruction_must_be_one_of_the_ed25519_program(
    world: World, channel: Channel
) -> None:
    data = bytes(check(straight([genuine(channel)]), [genuine(channel)]).data)
    memo = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
    for program in (SYSTEM, memo, world.program, SECP256K1, SECP256R1):
        imitation = Instruction(program, data, [])
        assert where_refused(world, world.settle(channel, ed_ix=1), imitation) == 0


def test_no_instruction_checks_itself_or_one_that_is_not_there(
    world: World, channel: Channel
) -> None:
    honest = check(straight([genuine(channel)]), [genuine(channel)])
    for ed_ix in (1, 2, 3, 127, 128, 255):
        answer = refused(world, honest, world.settle(channel, ed_ix=ed_ix))
        assert answer == "NoSignatureCheck", ed_ix
    data = bytes(world.settle(channel).data)
    itself = Instruction(world.program, data + bytes(honest.data), world.settle(channel).accounts)
    assert refused(world, itself) == "BadArguments"


def test_only_the_instructions_sysvar_is_asked(world: World, channel: Channel) -> None:
    """An account with the sysvar's bytes of a transaction that did verify the voucher."""
    honest = check(straight([genuine(channel)]), [genuine(channel)])
    data = bytes(honest.data)
    listed = struct.pack("<HH", 1, 4) + struct.pack("<H", 0) + bytes(ED25519)
    listed += struct.pack("<H", len(data)) + data + struct.pack("<H", 0)
    sysvars = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
    for owner in (sysvars, world.program, SYSTEM):
        forged = Pubkey.new_unique()
        world.put(forged, listed, owner)
        call = world.settle(channel, instructions=forged)
        assert refused(world, call) == "NoSignatureCheck"
        assert refused(world, honest, call) == "NoSignatureCheck"
    for other in (channel.address, world.config, world.balance_address(channel.payee.address)):
        assert refused(world, honest, world.settle(channel, instructions=other))


def test_one_check_pays_each_channel_only_its_own_voucher(world: World, channel: Channel) -> None:
    other = world.channel(channel.payer, world.depositor(0))
    blocks = [genuine(channel), signed_block(other.key, voucher_bytes(other.address, 7))]
    both = check(straight(blocks), blocks)
    assert refused(world, both, world.settle(channel, entry=1)) == "WrongVoucher"
    assert refused(world, both, world.settle(other, entry=0)) == "WrongVoucher"
    world.ok(both, *[world.settle(channel, entry=0)] * 3, world.settle(other, entry=1))
    assert (settled(world, channel), settled(world, other)) == (GENUINE, 7)


@pytest.mark.parametrize("key", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_a_voucher_key_for_which_anybody_can_forge_signatures_pays_nothing(
    world: World, key: bytes
) -> None:
    """Lax verifiers take (identity, 0) of a small-order key for a signature of any message."""
    payer, payee = world.depositor(), world.depositor(0)
    call = world.open_channel(payer, payee.address, Pubkey.from_bytes(key))
    if key == bytes(32):
        assert refused(world, call, signers=(payer.key,)) == "ZeroKey"
        return
    world.ok(call, signers=(payer.key,))
    address = world.channel_address(payer.address, payee.address, 0)
    claim = world.instruction(
        "settle",
        {
            "channel": address,
            "payee_balance": world.balance_address(payee.address),
            "instructions": SYSVAR,
        },
        ed_ix=1, entry=0, claim=U64,
    )  # fmt: skip
    for r in SMALL_ORDER:
        blocks = [Block(r + bytes(32), key, voucher_bytes(address, U64))]
        assert where_refused(world, claim, check(straight(blocks), blocks)) == 1
    assert world.read_channel(address).settled == 0


def test_a_caller_cannot_pass_accounts_off_as_arguments(world: World, channel: Channel) -> None:
    honest = check(straight([genuine(channel)]), [genuine(channel)])
    call = world.settle(channel)
    metas = [AccountMeta(one.pubkey, False, False) for one in call.accounts]
    readonly = Instruction(call.program_id, bytes(call.data), metas)
    assert where_refused(world, honest, readonly) == 1


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 14, 16, 30, 44, 80, 94, 112, 126, 190, 206, 220, 270, HERE]),
    st.integers(0, 2**16 - 1),
)
CHANGES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), NUMBERS), max_size=4)


@pytest.fixture(scope="module")
def arena() -> tuple[World, Channel]:
    """One world for all generated attacks: what succeeds stays, and is bounded for ever."""
    world = in_order()
    return world, world.channel(world.depositor(), world.depositor(0))


@settings(
    max_examples=1_500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    kinds=st.lists(st.sampled_from(["genuine", "attacker", "bait", "short"]), max_size=3),
    changes=CHANGES,
    count=st.one_of(st.none(), st.integers(0, 255)),
    pad=st.sampled_from([0, 0, 0, 1, 255]),
    gap=st.sampled_from([0, 0, 0, 1, 190]),
    tail=st.sampled_from([0, 0, 0, 1, 190]),
    entry=st.one_of(st.integers(0, 3), st.integers(0, 255)),
    ed_ix=st.sampled_from([1, 1, 1, 0, 2]),
)
def test_whatever_the_header_says_only_a_strict_check_of_a_genuine_voucher_pays(
    arena: tuple[World, Channel],
    kinds: list[str],
    changes: list[tuple[int, int, int]],
    count: int | None,
    pad: int,
    gap: int,
    tail: int,
    entry: int,
    ed_ix: int,
) -> None:
    world, channel = arena
    made = {
        "genuine": genuine(channel),
        "attacker": signed_block(ATTACKER, wanted(channel)),
        "bait": bait(channel.key, wanted(channel)),
        "short": signed_block(ATTACKER, ROOT),
    }
    blocks = [made[kind] for kind in kinds]
    records = straight(blocks)
    for which, field, value in changes:
        if which < len(records):
            records[which][field] = value
    forged = check(records, blocks, count=count, pad=pad, gap=bytes(gap), tail=bytes(tail))
    data = bytes(forged.data)
    failed = where_refused(world, world.settle(channel, ed_ix=ed_ix, entry=entry), forged)
    strict = ed_ix == 1 and is_strict(data, entry, 80)
    if strict:
        key, message = entry_of(data, entry, 80)
        strict = key == bytes(channel.key.pubkey()) and message[8:40] == bytes(channel.address)
    assert (failed != 0) == strict
    assert settled(world, channel) <= GENUINE
