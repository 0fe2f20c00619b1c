"""The books add up to the chain, to the unit, whatever happened on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import accounting_history as model
from hypothesis import example, given, settings, strategies as st

from robocompute_node.accounting import ChannelStory, Journal, Place, differences, journal_of
from robocompute_node.accounting_bills import Bill, LineState, Receipted, bills_of, fee_of
from robocompute_protocol.identifiers import Address, AgreementId, NodeKey, digest
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_settlement.port import ChannelView

Step = tuple[str, Address, Address, int, int, bool]
people = st.sampled_from(model.PEOPLE)
amounts = st.integers(1, 3_000_000)
SAME_SLOT = st.booleans()
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "deposit",
                "withdraw",
                "open",
                "top_up",
                "settle",
                "settle",
                "settle",
                "ask",
                "close",
                "stake",
                "stake",
                "unstake",
                "claim",
                "slash",
                "sweep",
            )
        ),
        people,
        people,
        amounts,
        st.integers(0, 500),
        SAME_SLOT,
    ),
    max_size=60,
)
TOP_UPS_OF_ONE_SLOT: list[Step] = [
    ("open", model.PEOPLE[0], model.PEOPLE[1], 1_000, 100, False),
    *(("top_up", model.PEOPLE[0], model.PEOPLE[0], 1 + n, 0, n > 0) for n in range(4)),
]
"""Nothing tells which of them was first, and their signatures sort otherwise."""


def lived(steps: list[Step]) -> model.Chain:
    """A chain on which these steps happened, a transaction each, some in one slot."""
    chain = model.Chain()
    for person in model.PEOPLE:
        chain.deposit(person, 5_000_000)
        chain.commit(same_slot=False)
    for what, one, other, amount, number, same_slot in steps:
        views = list(chain.channels.values())
        view: ChannelView | None = views[number % len(views)] if views else None
        match what:
            case "deposit":
                chain.deposit(one, amount)
            case "withdraw":
                chain.withdraw(one, amount)
            case "open":
                chain.open(one, other, amount, number)
            case "stake":
                chain.stake(one, amount)
            case "unstake":
                chain.unstake(one, amount)
            case "claim":
                chain.claim(one)
            case "slash":
                chain.slash(one, other, model.PEOPLE[number % 3], number * 10)
            case "sweep":
                chain.sweep()
            case "top_up" if view is not None:
                chain.top_up(view, amount)
            case "settle" if view is not None:
                chain.settle(view, view.settled + amount // 10)
            case "ask" if view is not None:
                chain.ask_to_close(view)
            case "close" if view is not None:
                chain.close(view)
            case _:
                pass
        chain.commit(same_slot=same_slot)
    return chain


def books(chain: model.Chain, owner: Address) -> Journal:
    return journal_of(
        owner, model.MINT, stake=model.stake_of(owner), records=reversed(chain.records)
    )


@given(STEPS)
@example(TOP_UPS_OF_ONE_SLOT)
@settings(max_examples=300, deadline=None)
def test_every_place_of_the_journal_is_what_the_chain_holds_there(
    steps: list[Step],
) -> None:
    chain = lived(steps)
    for owner in (*model.PEOPLE, model.TREASURY):
        journal = books(chain, owner)
        assert journal.whole
        assert all(sum(p.amount for p in entry.postings) == 0 for entry in journal.entries)
        views = [v for v in chain.channels.values() if owner in (v.payer, v.payee)]
        found = differences(
            journal,
            balance=chain.balances.get(owner),
            channels=views,
            stake=chain.stakes.get(owner),
        )
        assert found == ()
        for view in views:
            assert journal.channels[view.channel].settled == view.settled
            assert journal.channels[view.channel].deposit == view.deposit


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_what_payers_spent_is_what_payees_earned(steps: list[Step]) -> None:
    chain = lived(steps)
    journals = [books(chain, owner) for owner in model.PEOPLE]
    spent = sum(journal.total(Place.SPENT) for journal in journals)
    earned = -sum(journal.total(Place.EARNED) for journal in journals)
    assert spent == earned


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_a_history_that_begins_too_late_is_told_apart_from_a_whole_one(
    steps: list[Step],
) -> None:
    chain = lived(steps)
    owner = model.PEOPLE[0]
    late = journal_of(
        owner, model.MINT, stake=model.stake_of(owner), records=chain.records[1:],
        channels=chain.channels.values(),
    )  # fmt: skip
    found = differences(
        late,
        balance=chain.balances.get(owner),
        channels=chain.channels.values(),
        stake=chain.stakes.get(owner),
    )
    assert [(each.where, each.chain - each.journal) for each in found] == [
        ("available", 5_000_000)
    ]


def receipts(channel: ChannelStory, amounts: Iterable[int]) -> list[Receipted]:
    return [
        Receipted(
            agreement=AgreementId(digest(b"agreement", bytes((number,)))),
            channel=channel.channel,
            amount=MicroUnits(amount),
            receipt=digest(b"receipt", bytes((number,))),
            job=f"job {number}",
            other=NodeKey(bytes(32)),
            ended_ms=Millis(number),
            metered_ms=Millis(1_000),
            cause="exited",
        )
        for number, amount in enumerate(amounts)
    ]


def amount(bills: Iterable[Bill], *states: LineState) -> int:
    return sum(bill.amount(*states) for bill in bills)


@given(
    STEPS,
    st.lists(st.integers(0, 400_000), max_size=12),
    st.integers(0, 200_000),
    st.integers(0, 100_000),
)
@settings(max_examples=300, deadline=None)
def test_the_lines_of_all_bills_are_the_settlements_of_the_channel_and_the_receipts_amounts(
    steps: list[Step], sums: list[int], unseen: int, known_from: int
) -> None:
    chain = lived(steps)
    for owner in model.PEOPLE:
        for story in books(chain, owner).channels.values():
            settled = MicroUnits(story.settled + unseen)
            base = MicroUnits(min(known_from, settled))
            given_ = receipts(story, sums)
            bills = bills_of(story, given_, settled=settled, known_from=base)
            # Each settlement is paid out in lines, and so is each fee.
            for each in story.settlements:
                lines = [
                    line for bill in bills for line in bill.lines
                    if line.evidence == each.evidence
                ]  # fmt: skip
                assert sum(line.amount for line in lines) == each.end - each.start
                assert sum(line.fee for line in lines) == each.fee
            assert amount(bills, LineState.SETTLED, LineState.SETTLED_UNSEEN) == settled
            # Each receipt is billed at its amount: what is paid of it, and what is not.
            billed = {b.receipted.agreement: b.amount() for b in bills if b.receipted is not None}
            assert billed == {one.agreement: one.amount for one in given_}
            assert amount(bills, LineState.UNSETTLED) == max(0, base + sum(sums) - settled)
            end = max(settled, base + sum(sums))
            assert sum(bill.fee() for bill in bills) == fee_of(end, story.fee_bps)


def test_a_settlement_in_the_middle_of_a_receipt_pays_the_first_part_of_it() -> None:
    chain = model.Chain()
    payer, payee, _ = model.PEOPLE
    chain.deposit(payer, 1_000)
    chain.open(payer, payee, 1_000, 100)
    chain.commit(same_slot=False)
    for claim in (150, 300):
        (view,) = chain.channels.values()
        chain.settle(view, claim)
        chain.commit(same_slot=False)
    (story,) = books(chain, payer).channels.values()
    first, second, third = bills_of(story, receipts(story, (100, 150, 120)))
    one, two = (record.signature for record in chain.records[1:])
    assert [(x.amount, x.evidence and x.evidence.signature) for x in first.lines] == [(100, one)]
    assert [(x.amount, x.evidence and x.evidence.signature) for x in second.lines] == [
        (50, one),
        (100, two),
    ]
    assert [(x.amount, x.state) for x in third.lines] == [
        (50, LineState.SETTLED),
        (70, LineState.UNSETTLED),
    ]


def test_what_was_settled_beyond_all_receipts_is_a_bill_of_its_own() -> None:
    chain = model.Chain()
    payer, payee, _ = model.PEOPLE
    chain.deposit(payer, 1_000)
    chain.open(payer, payee, 1_000, 0)
    chain.commit(same_slot=False)
    (view,) = chain.channels.values()
    chain.settle(view, 500)
    chain.commit(same_slot=False)
    (story,) = books(chain, payee).channels.values()
    known, unexplained = bills_of(story, receipts(story, (200,)))
    assert known.amount(LineState.SETTLED) == 200
    assert unexplained.receipted is None
    assert unexplained.amount(LineState.SETTLED) == 300


def test_a_channel_whose_opening_is_not_known_makes_the_journal_not_whole() -> None:
    chain = model.Chain()
    payer, payee, _ = model.PEOPLE
    chain.deposit(payer, 1_000)
    chain.commit(same_slot=False)
    chain.open(payer, payee, 1_000, 0)
    chain.commit(same_slot=False)
    (view,) = chain.channels.values()
    chain.settle(view, 10)
    chain.commit(same_slot=False)
    late = journal_of(payee, model.MINT, stake=model.stake_of(payee), records=chain.records[2:])
    assert not late.whole
    cut = [replace(chain.records[0], complete=False), *chain.records[1:]]
    assert not journal_of(payer, model.MINT, stake=model.stake_of(payer), records=cut).whole
