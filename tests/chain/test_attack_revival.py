"""Attacks that bring a closed channel back, or put something where an account will be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attack_books import fund, refused
from settlement_layouts import NOW, SYSTEM, U64, ed25519_instruction
from settlement_world import Channel, World
from solders.keypair import Keypair
from solders.system_program import TransferParams, transfer

if TYPE_CHECKING:
    from solders.instruction import Instruction
    from solders.pubkey import Pubkey

RENT = 2_616_960
"""Of a channel's 248 bytes."""


@pytest.fixture
def channel(world: World) -> Channel:
    return world.channel(world.depositor(1_000), world.depositor(0), deposit=400)


def pay(world: World, to: Pubkey, lamports: int = RENT) -> Instruction:
    payer = world.fee_payer.pubkey()
    return transfer(TransferParams(from_pubkey=payer, to_pubkey=to, lamports=lamports))


def voucher(world: World, channel: Channel, total: int = U64) -> Instruction:
    return ed25519_instruction(world.voucher(channel, total))


def totals(world: World, channel: Channel) -> tuple[int, int]:
    payer = world.read_balance(channel.payer.address).available
    payee = world.read_balance(channel.payee.address)
    return payer, payee.available + payee.fees_owed


@pytest.mark.parametrize("again", ["settle", "close", "finalize", "request", "top up"])
@pytest.mark.parametrize("when", ["in one transaction", "later"])
def test_a_closed_channel_that_gets_its_lamports_back_is_still_nothing(
    world: World, channel: Channel, again: str, when: str
) -> None:
    check = voucher(world, channel, 100)
    both = (channel.payee.key, channel.payer.key)
    second = {
        "settle": world.settle(channel),
        "close": world.close_by_payee(channel),
        "finalize": world.finalize_close(channel),
        "request": world.request_close(channel),
        "top up": world.top_up(channel, 1),
    }[again]
    signers = both if again in ("request", "top up") else both[:1]
    first = (
        check,
        world.settle(channel),
        world.close_by_payee(channel),
        pay(world, channel.address),
    )
    if when == "in one transaction":
        assert refused(world, *first, second, signers=signers) == "ForeignAccount"
        assert totals(world, channel) == (600, 0)
    world.ok(*first, signers=both[:1])
    extra = both if again in ("request", "top up") else both[: again == "close"]
    assert refused(world, check, second, signers=extra) == "ForeignAccount"
    assert totals(world, channel) == (900, 100)
    account = world.svm.get_account(channel.address)
    assert account is not None
    assert (account.owner, bytes(account.data), account.lamports) == (SYSTEM, b"", RENT)


def test_settling_and_closing_twice_in_one_transaction_pays_once(
    world: World, channel: Channel
) -> None:
    calls = voucher(world, channel), world.settle(channel), world.close_by_payee(channel)
    answer = refused(world, *calls, *calls[1:], signers=(channel.payee.key,))
    assert answer == "ForeignAccount"


def test_closing_by_payee_and_finalizing_in_one_transaction_refunds_once(
    world: World, channel: Channel
) -> None:
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.set_time(NOW + 30 * 86_400)
    for calls in (
        (world.close_by_payee(channel), world.finalize_close(channel)),
        (world.finalize_close(channel), world.close_by_payee(channel)),
        (
            world.finalize_close(channel),
            pay(world, channel.address),
            world.finalize_close(channel),
        ),
    ):
        assert refused(world, *calls, signers=(channel.payee.key,)) == "ForeignAccount"
    world.ok(world.finalize_close(channel))
    assert totals(world, channel) == (1_000, 0)


def test_a_nonce_is_gone_with_its_channel_so_its_address_never_holds_another(
    world: World, channel: Channel
) -> None:
    stale = voucher(world, channel)
    payer, payee = channel.payer, channel.payee
    reopen = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=0, deposit=400)
    answer = refused(world, world.close_by_payee(channel), reopen, signers=(payee.key, payer.key))
    assert answer == "WrongNonce"
    world.ok(world.close_by_payee(channel), signers=(payee.key,))
    fund(world, channel.address, RENT)
    assert refused(world, reopen, signers=(payer.key,)) == "WrongNonce"
    at_old_address = world.open_channel(
        payer, payee.address, channel.key.pubkey(), nonce=1, deposit=400, channel=channel.address
    )
    assert refused(world, at_old_address, signers=(payer.key,)) == "WrongAddress"

    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=1, deposit=400)
    world.ok(call, signers=(payer.key,))
    address = world.channel_address(payer.address, payee.address, 1)
    successor = Channel(address, payer, payee, channel.key, 1)
    assert refused(world, stale, world.settle(successor)) == "WrongVoucher"
    assert refused(world, stale, world.settle(channel)) == "ForeignAccount"


def test_a_nonce_is_used_up_by_a_channel_to_anybody(world: World, channel: Channel) -> None:
    payer, other = channel.payer, world.depositor(0)
    for nonce in (0, 2, U64):
        call = world.open_channel(payer, other.address, Keypair().pubkey(), nonce=nonce, deposit=1)
        assert refused(world, call, signers=(payer.key,)) == "WrongNonce"


def test_whoever_ends_a_channel_its_rent_goes_to_who_paid_it(
    world: World, channel: Channel
) -> None:
    thief = world.depositor(0)
    close = world.close_by_payee(channel, rent_payer=thief.address)
    assert refused(world, close, signers=(channel.payee.key,)) == "WrongRentPayer"
    world.ok(world.request_close(channel), signers=(channel.payer.key,))
    world.set_time(NOW + 30 * 86_400)
    final = world.finalize_close(channel, rent_payer=thief.address)
    assert refused(world, final) == "WrongRentPayer"
    before = world.lamports(channel.payer.address)
    world.ok(world.finalize_close(channel))
    assert world.lamports(channel.payer.address) == before + RENT
