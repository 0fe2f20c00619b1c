"""Books against the chain: what is repaired, what is an alarm, and what must never be one."""

from __future__ import annotations

import re
from dataclasses import replace

import click
import pytest
from hypothesis import given, strategies as st

from robocompute_node.cli.main import root
from robocompute_node.core.reconciling import (
    ALARMS,
    Baseline,
    Book,
    Chain,
    Earning,
    Kind,
    Paying,
    deposits,
    differences,
)
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.port import BalanceView, ChannelView, StakeView

US, THEM, MINT = Address(b"u" * 32), Address(b"t" * 32), Address(b"m" * 32)
KEY, OTHER = NodeKey(b"k" * 32), NodeKey(b"o" * 32)
NAME, PAID = ChannelId(b"1" * 32), ChannelId(b"2" * 32)


def amount(value: int) -> MicroUnits:
    return MicroUnits(value)


OURS = ChannelView(
    channel=NAME, payer=US, payee=THEM, voucher_key=KEY, mint=MINT, rent_payer=US, nonce=4,
    deposit=amount(1_000), settled=amount(300), fee_taken=amount(3), fee_bps=100,
    challenge_s=60, close_at_s=0, alloc_root=Digest(bytes(32)),
)  # fmt: skip
THEIRS = replace(OURS, channel=PAID, payer=THEM, payee=US, voucher_key=OTHER, nonce=9)
BALANCE = BalanceView(
    owner=US, mint=MINT, delegate=Address(KEY), available=amount(5_000), fees_owed=amount(0),
    fees_paid=amount(0), next_nonce=5, allowance=amount(0), delegate_expires_s=0,
)  # fmt: skip
STAKE = StakeView(
    stake=MINT, owner=US, mint=MINT, node_key=KEY, prev_key=KEY, bonded=amount(1),
    unbonding=amount(0), unbond_at_s=0, rotated_at_s=0, watermark_s=0, slashed=amount(0),
)  # fmt: skip
PAYING = Paying(
    nonce=4, deposit=amount(1_000), cumulative=amount(400), closing=False, opening=False,
    closed=False,
)  # fmt: skip
EARNING = Earning(
    sequence=1, cumulative=amount(300), settled=amount(300), unsettled=amount(0), closing=False,
    closed=False,
)  # fmt: skip
BASE = Baseline(
    available=amount(5_000), slashed=amount(0), deposits={NAME: amount(1_000)},
    foreign=frozenset(),
)  # fmt: skip
BOOK = Book(
    wallet=US, node_key=KEY, pays=True, earns=True, paying={NAME: PAYING},
    earning={PAID: EARNING}, baseline=BASE, nonce_used=4,
)  # fmt: skip
CHAIN = Chain(balance=BALANCE, stake=STAKE, channels=(OURS, THEIRS))


def kinds(book: Book, chain: Chain) -> list[Kind]:
    return [difference.kind for difference in differences(book, chain)]


def test_books_that_agree_differ_in_nothing() -> None:
    assert kinds(BOOK, CHAIN) == []
    assert kinds(replace(BOOK, baseline=None), CHAIN) == []


@pytest.mark.parametrize(
    ("book", "chain", "kind"),
    [
        (BOOK, replace(CHAIN, channels=(replace(OURS, deposit=amount(1_500)), THEIRS)), "deposit"),
        (BOOK, replace(CHAIN, channels=(replace(OURS, close_at_s=7), THEIRS)), "closing"),
        (BOOK, replace(CHAIN, channels=(OURS, replace(THEIRS, close_at_s=7))), "settled"),
        (
            replace(BOOK, earning={PAID: replace(EARNING, settled=amount(100))}),
            CHAIN,
            "settled",
        ),
        (replace(BOOK, earning={}), replace(CHAIN, channels=(
            OURS, replace(THEIRS, settled=amount(0)))), "unknown_earning"),
    ],
)  # fmt: skip
def test_what_the_chain_knows_better_is_repaired(book: Book, chain: Chain, kind: str) -> None:
    (found,) = differences(book, chain)
    assert (found.kind, found.alarm) == (kind, False)


@pytest.mark.parametrize(
    ("book", "chain", "kind"),
    [
        (replace(BOOK, paying={}, nonce_used=None), CHAIN, "unknown_channel"),
        (BOOK, replace(CHAIN, channels=(replace(OURS, settled=amount(401)), THEIRS)),
         "settled_more"),
        (BOOK, replace(CHAIN, channels=(OURS, replace(THEIRS, settled=amount(301)))),
         "settled_more"),
        (replace(BOOK, earning={PAID: replace(EARNING, closed=True, unsettled=amount(5))}),
         replace(CHAIN, channels=(OURS,)), "closed_unsettled"),
        (BOOK, replace(CHAIN, balance=replace(BALANCE, next_nonce=4)), "nonce_back"),
        (BOOK, replace(CHAIN, balance=replace(BALANCE, available=amount(4_999))), "balance_low"),
        (BOOK, replace(CHAIN, stake=replace(STAKE, slashed=amount(1))), "slashed"),
    ],
)  # fmt: skip
def test_what_nothing_explains_is_an_alarm(book: Book, chain: Chain, kind: str) -> None:
    (found,) = differences(book, chain)
    assert (found.kind, found.alarm) == (kind, True)
    assert found.kind in ALARMS


@pytest.mark.parametrize(
    ("known", "delegate", "found"),
    [
        (None, KEY, []),  # an older store: looked at for the first time
        (frozenset({NAME}), KEY, []),
        (frozenset[ChannelId](), OTHER, []),
        (frozenset[ChannelId](), KEY, [Kind.FOREIGN_CHANNEL]),
    ],
)
def test_a_channel_by_another_key_is_an_alarm_when_it_is_new_and_not_of_the_delegate_of_now(
    known: frozenset[ChannelId] | None, delegate: NodeKey, found: list[Kind]
) -> None:
    book = replace(
        BOOK, paying={}, nonce_used=None,
        baseline=replace(BASE, foreign=known),
    )  # fmt: skip
    chain = replace(
        CHAIN,
        balance=replace(BALANCE, delegate=Address(delegate)),
        channels=(replace(OURS, voucher_key=OTHER), THEIRS),
    )
    assert kinds(book, chain) == found


@pytest.mark.parametrize("known", [None, replace(EARNING, sequence=0, cumulative=amount(0))])
def test_what_a_stranger_settles_on_a_channel_that_we_hold_no_voucher_of_is_no_alarm(
    known: Earning | None,
) -> None:
    book = replace(BOOK, earning={} if known is None else {PAID: known})
    assert not any(each.alarm for each in differences(book, CHAIN))


def test_a_channel_that_was_not_opened_yet_when_the_balance_was_read_explains_nothing() -> None:
    new = ChannelId(b"9" * 32)
    book = replace(BOOK, paying={NAME: PAYING, new: replace(PAYING, nonce=5, deposit=amount(50))})
    assert deposits(book, CHAIN) == {NAME: amount(1_000)}
    low = replace(CHAIN, balance=replace(BALANCE, available=amount(4_960)))
    assert kinds(book, low) == [Kind.BALANCE_LOW]
    opened = replace(low, balance=replace(low.balance or BALANCE, next_nonce=6))
    assert deposits(book, opened) == {NAME: amount(1_000), new: amount(50)}
    assert kinds(book, opened) == []


def test_without_history_or_a_moment_of_quiet_the_balance_is_not_judged() -> None:
    low = replace(CHAIN, balance=replace(BALANCE, available=amount(4_999)))
    assert kinds(BOOK, replace(low, taken=None)) == []
    assert kinds(BOOK, replace(low, at_once=False)) == []


def test_the_alarm_on_money_that_left_names_the_command_that_ends_the_delegation() -> None:
    low = replace(CHAIN, balance=replace(BALANCE, available=amount(4_999)))
    (found,) = differences(BOOK, low)
    (command,) = re.findall(r"`robocompute-node ([^`]+)`", found.text)
    there: click.Command | None = root
    for word in command.split():
        assert isinstance(there, click.Group)
        there = there.get_command(click.Context(there), word)
    assert there is not None


@given(
    opens=st.lists(st.integers(1, 500), max_size=4),
    top_up=st.integers(0, 900),
    earned=st.integers(0, 2_000),
    taken=st.integers(0, 1_000),
    stolen=st.integers(0, 3),
)
def test_the_balance_is_an_alarm_when_and_only_when_money_left_it_that_nobody_here_took(
    opens: list[int], top_up: int, earned: int, taken: int, stolen: int
) -> None:
    new = {
        ChannelId(bytes([9 + n]) * 32): replace(PAYING, nonce=5 + n, deposit=amount(deposit))
        for n, deposit in enumerate(opens)
    }
    known = {NAME: replace(PAYING, deposit=amount(1_000 + top_up)), **new}
    left = 5_000 - sum(opens) - top_up - taken - stolen + earned
    views = tuple(
        replace(OURS, channel=name, nonce=paying.nonce, deposit=paying.deposit)
        for name, paying in known.items()
    )
    chain = Chain(
        balance=replace(BALANCE, available=amount(left), next_nonce=5 + len(opens)),
        stake=STAKE,
        channels=views,
        taken=amount(taken),
    )
    found = kinds(replace(BOOK, paying=known, earning={}), chain)
    assert (Kind.BALANCE_LOW in found) == (stolen > earned)
