"""Which offer fits a task, in which order; the book of offers, and what a peer may push into it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from market_offers import FAIR, MINT, NOW, SIGNED, offer

from robocompute_node.core.matching import explain_no_match, misfit, rank
from robocompute_node.core.offer_book import OfferBook, Verdict
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address
from robocompute_protocol.money import MicroUnits, Millis


@pytest.mark.parametrize(
    ("changes", "requirement"),
    [
        ({"resource_class": "a100"}, "class"),
        ({"slots": 1}, "slots"),
        ({"gpu_memory_mib": 79_999}, "gpu memory"),
        ({"cpu_cores": 7}, "cpu cores"),
        ({"memory_mib": 65_535}, "memory"),
        ({"disk_mib": 99_999}, "disk"),
        ({"executors": ("container",)}, "executor"),
        ({"price_per_hour": MicroUnits(2_000_001)}, "price per hour"),
    ],
)
def test_the_requirement_that_is_not_met_is_named(
    changes: dict[str, Any], requirement: str
) -> None:
    limit = MicroUnits(4_000_000)
    assert misfit(offer(), FAIR, limit) is None
    found = misfit(offer(**changes), FAIR, limit)
    assert found is not None
    assert found.requirement == requirement
    assert requirement in explain_no_match([offer(**changes)], FAIR, max_price=limit)


def test_the_closest_miss_explains_why_nobody_fits() -> None:
    offers = [offer(1, resource_class="cpu"), offer(2, slots=1), offer(3, disk_mib=1)]
    told = explain_no_match(offers, FAIR, max_price=None)
    assert "disk 200000 MiB" in told
    assert "no live offers" in explain_no_match([], FAIR, max_price=None)


def test_the_cheapest_comes_first_then_the_smallest_then_by_key_in_any_order() -> None:
    offers = [
        offer(4), offer(3), offer(2, cpu_cores=99), offer(1, price_per_hour=MicroUnits(1_999_999)),
    ]  # fmt: skip
    for order in itertools.permutations(offers):
        found = rank(order, FAIR, max_price=None, mint=MINT, now=NOW)
        assert [match.offer.provider[0] for match in found] == [1, 3, 4, 2]
        assert found[0].price == 2 * 1_999_999


def test_others_mints_and_avoided_providers_are_never_ranked() -> None:
    offers = [offer(1, mint=Address(bytes(32))), offer(2), offer(3)]
    keys = [each.provider for each in offers]
    found = rank(offers, FAIR, max_price=None, mint=MINT, now=NOW, avoid=frozenset({keys[1]}))
    assert [match.offer.provider for match in found] == [keys[2]]
    assert rank(offers, FAIR, max_price=None, mint=MINT, now=NOW, only=keys[0]) == ()


def test_the_newest_offer_of_a_provider_wins_whatever_comes_first() -> None:
    old, new = offer(), offer(sequence=Millis(NOW + 1_000), slots=1)
    for order in ((old, new), (new, old)):
        book = OfferBook()
        for each in order:
            book.take(each, SIGNED, NOW)
        assert [entry.offer for entry in book.live(NOW)] == [new]
    assert book.take(new, SIGNED, NOW) is Verdict.KNOWN


def test_a_withdrawn_offer_does_not_come_back_as_long_as_it_could() -> None:
    book = OfferBook()
    old = offer(ttl_ms=limits.MAX_OFFER_TTL)
    book.take(old, SIGNED, NOW)
    gone = offer(sequence=Millis(NOW + 1), ttl_ms=Millis(0))
    assert book.take(gone, SIGNED, NOW) is Verdict.NEW
    for later in (0, 1_000_000, limits.MAX_OFFER_TTL - 1):
        assert book.take(old, SIGNED, Millis(NOW + later)) is not Verdict.NEW
        assert list(book.live(Millis(NOW + later))) == []
    assert len(book.everything(NOW)) == 1
    end = Millis(NOW + 2_000 + limits.MAX_OFFER_TTL + limits.TOMBSTONE_EXTRA)
    assert book.everything(end) == ()
    book.sweep(end)
    assert len(book) == 0


def test_an_offer_from_the_future_or_the_past_or_of_no_class_is_refused() -> None:
    book = OfferBook()
    ahead = Millis(NOW + limits.MAX_CLOCK_AHEAD)
    assert book.judge(offer(sequence=ahead), NOW) is Verdict.NEW
    assert book.judge(offer(sequence=Millis(ahead + 1)), NOW) is Verdict.REFUSED
    assert book.judge(offer(), Millis(NOW + 600_000)) is Verdict.REFUSED
    assert book.judge(offer(resource_class="abacus"), NOW) is Verdict.REFUSED
    assert book.everything(NOW) == ()


def test_an_offer_is_live_until_its_time_is_over() -> None:
    book = OfferBook()
    book.take(offer(), SIGNED, NOW)
    assert len(list(book.live(Millis(NOW + 599_999)))) == 1
    assert list(book.live(Millis(NOW + 600_000))) == []
