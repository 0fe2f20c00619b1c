"""The book of offers: what a peer may push into it, who makes room for whom, and what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from market_offers import FAIR, MINT, NOW, SIGNED, offer

from robocompute_node.core.matching import fits
from robocompute_node.core.offer_book import MAX_OFFERS, OFFER_SPACING, OfferBook, Verdict
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address, NodeKey
from robocompute_protocol.messages import Requirements
from robocompute_protocol.money import MicroUnits, Millis

if TYPE_CHECKING:
    from robocompute_protocol.messages import Offer


def key(number: int) -> NodeKey:
    return NodeKey(number.to_bytes(32))


def staked(each: Offer) -> bool:
    """Here, a stake is behind every offer of a key whose first byte says so."""
    return each.provider[0] == 1


def rich(number: int) -> NodeKey:
    return NodeKey(bytes([1]) + number.to_bytes(31))


def test_a_flood_of_invented_keys_pushes_nobody_out() -> None:
    book = OfferBook(capacity=10, backed=staked)
    for number in range(10):
        assert book.take(offer(provider=key(number)), SIGNED, NOW) is Verdict.NEW
    for number in range(10, 1_000):
        each = offer(provider=key(number), ttl_ms=limits.MAX_OFFER_TTL)
        assert book.judge(each, NOW) is Verdict.REFUSED
        assert book.take(each, SIGNED, NOW) is Verdict.REFUSED
    assert {entry.offer.provider for entry in book.live(NOW)} == {key(n) for n in range(10)}


def test_offers_without_stake_make_room_for_those_with_one_until_none_is_left() -> None:
    book = OfferBook(capacity=10, backed=staked)
    for number in range(10):
        book.take(offer(provider=key(number)), SIGNED, NOW)
    for number in range(14):
        ttl = Millis(600_000 + 1_000 * number)
        assert book.take(offer(provider=rich(number), ttl_ms=ttl), SIGNED, NOW) is Verdict.NEW
    held = {entry.offer.provider for entry in book.live(NOW)}
    assert held == {rich(number) for number in range(4, 14)}  # those that end first made room


def test_a_stake_that_goes_or_comes_changes_who_makes_room() -> None:
    backed = {rich(1), rich(2)}
    book = OfferBook(capacity=2, backed=lambda each: each.provider in backed)
    book.take(offer(provider=rich(1)), SIGNED, NOW)
    book.take(offer(provider=rich(2)), SIGNED, NOW)
    backed.discard(rich(1))
    backed.add(rich(3))
    book.reassess(rich(1))
    book.reassess(rich(9))
    assert book.take(offer(provider=rich(3)), SIGNED, NOW) is Verdict.NEW
    assert {entry.offer.provider for entry in book.live(NOW)} == {rich(2), rich(3)}


def test_an_update_of_a_known_offer_pushes_nobody_out_of_a_full_book() -> None:
    book = OfferBook(capacity=2)
    book.take(offer(1), SIGNED, NOW)
    book.take(offer(2), SIGNED, NOW)
    assert book.take(offer(2, sequence=Millis(NOW + 1_000)), SIGNED, NOW) is Verdict.NEW
    assert len(book) == 2


def test_a_provider_is_heard_once_a_second_and_withdraws_at_any_moment() -> None:
    book = OfferBook()
    book.take(offer(), SIGNED, NOW)
    for early in (1, 500, OFFER_SPACING - 1):
        assert book.take(offer(sequence=Millis(NOW + early)), SIGNED, NOW) is Verdict.REFUSED
    gone = offer(sequence=Millis(NOW + 1), ttl_ms=Millis(0))
    assert book.take(gone, SIGNED, NOW) is Verdict.NEW
    assert list(book.live(NOW)) == []


def test_a_withdrawal_replayed_later_withdraws_no_newer_offer() -> None:
    book = OfferBook()
    gone = offer(sequence=Millis(NOW), ttl_ms=Millis(0))
    back = offer(sequence=Millis(NOW + 1_000))
    assert book.take(back, SIGNED, Millis(NOW + 1_000)) is Verdict.NEW
    assert book.take(gone, SIGNED, Millis(NOW + 2_000)) is Verdict.KNOWN
    assert [entry.offer for entry in book.live(Millis(NOW + 2_000))] == [back]


def test_what_is_over_is_forgotten_a_bounded_number_at_a_time() -> None:
    book = OfferBook()
    for number in range(1_000):
        book.take(offer(provider=key(number), ttl_ms=Millis(5_000)), SIGNED, NOW)
    later = Millis(NOW + 10_000)
    assert list(book.live(later)) == []
    assert book.fitting(FAIR, mint=MINT, max_price=None, now=later, at_most=9) == ()
    book.take(offer(provider=rich(1), sequence=later), SIGNED, later)
    assert 900 < len(book) < 1_000
    for _ in range(20):
        book.sweep(later)
    assert len(book) == 1


def test_the_cheapest_that_fit_are_found_those_with_stake_first() -> None:
    book = OfferBook(backed=staked)
    for number in range(200):
        price = MicroUnits(1_000_000 + (number * 7_919) % 1_000_000)
        slots = 1 + number % 4
        provider = rich(number) if number % 2 else key(number)
        book.take(offer(provider=provider, price_per_hour=price, slots=slots), SIGNED, NOW)
    found = book.fitting(FAIR, mint=MINT, max_price=None, now=NOW, at_most=1_000)
    wanted = [entry for entry in book.live(NOW) if fits(entry.offer, FAIR, None)]
    wanted.sort(key=lambda entry: (not entry.backed, entry.offer.price_per_hour))
    assert found == tuple(wanted)
    assert book.fitting(FAIR, mint=MINT, max_price=None, now=NOW, at_most=3) == found[:3]
    best = frozenset({found[0].offer.provider})
    rest = book.fitting(FAIR, mint=MINT, max_price=None, now=NOW, without=best, at_most=2)
    assert rest == found[1:3]
    other = Address(bytes(32))
    assert book.fitting(FAIR, mint=other, max_price=None, now=NOW, at_most=3) == ()


def test_one_provider_is_found_by_its_key_while_its_offer_stands() -> None:
    book = OfferBook()
    book.take(offer(7), SIGNED, NOW)
    held = book.get(offer(7).provider, "h100", NOW)
    assert held is not None
    assert held.offer == offer(7)
    assert book.get(offer(7).provider, "cpu", NOW) is None
    assert book.get(offer(7).provider, "h100", Millis(NOW + 600_000)) is None


class BookAgainstModel(RuleBasedStateMachine):
    """Whatever comes in whichever order, the book says what a list of all messages would."""

    CAPACITY = 6

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.rich = {rich(1), rich(2)}
        self.book = OfferBook(capacity=self.CAPACITY, backed=self.backed)
        self.model: dict[tuple[NodeKey, str], Offer] = {}

    def backed(self, each: Offer) -> bool:
        return each.provider in self.rich

    def expiry(self, each: Offer) -> int:
        extra = limits.MAX_OFFER_TTL + limits.TOMBSTONE_EXTRA
        return each.sequence + (each.ttl_ms or extra)

    @rule(
        provider=st.sampled_from([*(rich(n) for n in range(5)), *(key(n) for n in range(6))]),
        age=st.integers(-40_000, 700_000),
        ttl=st.sampled_from([0, 0, 1_000, 60_000, 600_000, 1_800_000]),
        resource_class=st.sampled_from(["h100", "cpu", "abacus"]),
        changes=st.fixed_dictionaries(
            {
                "slots": st.sampled_from([0, 1, 2, 8]),
                "cpu_cores": st.sampled_from([1, 8, 9]),
                "price_per_hour": st.integers(0, 3),
            }
        ),
    )
    def an_offer_comes(
        self, provider: NodeKey, age: int, ttl: int, resource_class: str, changes: dict[str, Any]
    ) -> None:
        each = offer(
            provider=provider, sequence=Millis(self.now - age), ttl_ms=Millis(ttl),
            resource_class=resource_class, **changes,
        )  # fmt: skip
        judged = self.book.judge(each, self.now)
        verdict = self.book.take(each, SIGNED, self.now)
        name = (provider, resource_class)
        known = self.model.get(name)
        fair = (
            resource_class != "abacus"
            and each.sequence <= self.now + limits.MAX_CLOCK_AHEAD
            and self.expiry(each) > self.now
        )
        if not fair:
            assert verdict is Verdict.REFUSED
        elif known is not None and known.sequence >= each.sequence:
            # one that was over may have been forgotten: then it is another that is over
            assert verdict is Verdict.KNOWN or self.expiry(known) <= self.now
        if verdict is Verdict.NEW:
            assert fair
            self.model[name] = each
            if known is None or name not in self.held_before:
                self.forget_who_made_room(name)
        assert judged is verdict or len(self.held_before) != len(self.book)

    def forget_who_made_room(self, newcomer: tuple[NodeKey, str]) -> None:
        held = {(e.offer.provider, e.offer.resource_class) for e in self.book.everything(self.now)}
        for name in [name for name in self.model if name not in held]:
            gone = self.model.pop(name)
            if self.expiry(gone) > self.now:
                assert self.backed(self.model[newcomer])
                poor_left = [e for e in self.book.everything(self.now) if not self.backed(e.offer)]
                assert not self.backed(gone) or not poor_left

    @rule(by=st.sampled_from([1, 999, 1_000, 30_000, 400_000, 2_000_000]))
    def time_passes(self, by: int) -> None:
        self.now = Millis(self.now + by)

    @rule(provider=st.sampled_from([rich(n) for n in range(5)]))
    def a_stake_changes(self, provider: NodeKey) -> None:
        self.rich ^= {provider}
        self.book.reassess(provider)

    @invariant()
    def the_book_is_bounded(self) -> None:
        assert len(self.book) <= self.CAPACITY

    @invariant()
    def what_is_live_is_what_was_said_last(self) -> None:
        live = {
            (e.offer.provider, e.offer.resource_class): e.offer for e in self.book.live(self.now)
        }
        wanted = {
            name: each
            for name, each in self.model.items()
            if each.ttl_ms and self.expiry(each) > self.now
        }
        assert live == wanted
        self.held_before = {
            (e.offer.provider, e.offer.resource_class) for e in self.book.everything(Millis(0))
        }

    @invariant()
    def what_fits_is_found_and_nothing_else(self) -> None:
        for wanted in (
            Requirements(resource_class="h100", gpus=2, cpu_cores=16),
            Requirements(cpu_cores=9),
        ):
            found = self.book.fitting(
                wanted, mint=MINT, max_price=MicroUnits(4), now=self.now, at_most=99
            )
            fair = [e for e in self.book.live(self.now) if fits(e.offer, wanted, MicroUnits(4))]
            assert sorted(e.offer.provider for e in found) == sorted(
                e.offer.provider for e in fair
            )
            for tier in (True, False):
                prices = [e.offer.price_per_hour for e in found if e.backed is tier]
                assert prices == sorted(prices)
            for entry in found:
                assert entry.backed == self.backed(entry.offer)


TestBookAgainstModel = BookAgainstModel.TestCase
TestBookAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_fields_that_the_book_sorts_by_may_have_any_value() -> None:
    book = OfferBook()
    big = offer(
        provider=key(1), cpu_cores=2**53, memory_mib=2**53, disk_mib=0, slots=0,
        price_per_hour=MicroUnits(2**62),
    )  # fmt: skip
    assert book.take(big, SIGNED, NOW) is Verdict.NEW
    gone = msgspec.structs.replace(big, sequence=Millis(NOW + 1), ttl_ms=Millis(0))
    assert book.take(gone, SIGNED, NOW) is Verdict.NEW


def test_fifty_thousand_offers_are_held_and_found_and_one_more_is_not() -> None:
    book, now = OfferBook(backed=staked), NOW
    for number in range(MAX_OFFERS + 100):
        price = MicroUnits((number * 7_919) % 1_000_003)
        each = offer(provider=key(number), price_per_hour=price, cpu_cores=8 + number % 64)
        verdict = book.take(each, SIGNED, now)
        assert verdict is (Verdict.NEW if number < MAX_OFFERS else Verdict.REFUSED)
    found = book.fitting(FAIR, mint=MINT, max_price=None, now=now, at_most=32)
    prices = [entry.offer.price_per_hour for entry in found]
    cheapest = sorted(entry.offer.price_per_hour for entry in book.live(now))
    assert prices == cheapest[:32]
    dearest = offer(provider=rich(1), price_per_hour=MicroUnits(10**9), disk_mib=100_001)
    assert book.take(dearest, SIGNED, now) is Verdict.NEW
    assert len(book) == MAX_OFFERS
    rare = msgspec.structs.replace(FAIR, disk_mib=200_002)
    (only,) = book.fitting(rare, mint=MINT, max_price=None, now=now, at_most=32)
    assert only.offer == dearest
