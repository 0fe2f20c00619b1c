"""Which offer fits a task, in which order; the book of offers, and what a peer may push into it."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from robocompute_node.core.matching import explain_no_match, misfit, rank
from robocompute_node.core.offer_book import OfferBook, Verdict
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address, NodeKey, Signature
from robocompute_protocol.messages import Offer, Requirements, Signed
from robocompute_protocol.money import MicroUnits, Millis

MINT = Address(bytes([9]) * 32)
NOW = Millis(1_700_000_000_000)
SIGNED = Signed(key=NodeKey(bytes(32)), body=b"", signature=Signature(bytes(64)))


def offer(number: int = 1, **changes: Any) -> Offer:
    fair = Offer(
        provider=NodeKey(bytes([number]) * 32),
        sequence=NOW,
        ttl_ms=Millis(600_000),
        resource_class="h100",
        model="H100",
        slots=4,
        gpu_memory_mib=81_559,
        cpu_cores=8,
        memory_mib=65_536,
        disk_mib=100_000,
        price_per_hour=MicroUnits(2_000_000),
        mint=MINT,
        payee=Address(bytes(32)),
        stake=Address(bytes(32)),
        executors=("bubblewrap",),
        addresses=(),
    )
    return msgspec.structs.replace(fair, **changes)


FAIR = Requirements(
    resource_class="h100", gpus=2, gpu_memory_mib=80_000, cpu_cores=16, memory_mib=131_072,
    disk_mib=200_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "requirement"),
    [
        ({"resource_class": "a100"}, "class"),
        ({"slots": 1}, "slots"),
        ({"gpu_memory_mib": 79_999}, "gpu memory"),
        ({"cpu_cores": 7}, "cpu cores"),
        ({"memory_mib": 65_535}, "memory"),
        ({"disk_mib": 99_999}, "disk"),
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
    old, new = offer(), offer(sequence=Millis(NOW + 1), slots=1)
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
    assert len(book.everything()) == 1
    end = Millis(NOW + 2 + limits.MAX_OFFER_TTL + limits.TOMBSTONE_EXTRA)
    book.expire(end)
    assert book.everything() == ()


def test_an_offer_from_the_future_or_the_past_or_of_no_class_is_refused() -> None:
    book = OfferBook()
    ahead = Millis(NOW + limits.MAX_CLOCK_AHEAD)
    assert book.judge(offer(sequence=ahead), NOW) is Verdict.NEW
    assert book.judge(offer(sequence=Millis(ahead + 1)), NOW) is Verdict.REFUSED
    assert book.judge(offer(), Millis(NOW + 600_000)) is Verdict.REFUSED
    assert book.judge(offer(resource_class="abacus"), NOW) is Verdict.REFUSED
    assert book.everything() == ()


def test_an_offer_is_live_until_its_time_is_over() -> None:
    book = OfferBook()
    book.take(offer(), SIGNED, NOW)
    assert len(list(book.live(Millis(NOW + 599_999)))) == 1
    assert list(book.live(Millis(NOW + 600_000))) == []


def test_a_full_book_makes_room_by_what_expires_first() -> None:
    book = OfferBook(capacity=10)
    for number in range(12):
        ttl = Millis(600_000 + (number * 7) % 12)
        each = offer(provider=NodeKey(number.to_bytes(32)), ttl_ms=ttl)
        assert book.take(each, SIGNED, NOW) is Verdict.NEW
    ttls = sorted(entry.offer.ttl_ms for entry in book.live(NOW))
    assert len(ttls) == 10
    assert Millis(600_000) not in ttls


def test_an_update_of_a_known_offer_pushes_nobody_out_of_a_full_book() -> None:
    book = OfferBook(capacity=2)
    book.take(offer(1), SIGNED, NOW)
    book.take(offer(2), SIGNED, NOW)
    book.take(offer(2, sequence=Millis(NOW + 1)), SIGNED, NOW)
    assert len(book.everything()) == 2
