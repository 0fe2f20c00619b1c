"""Leases compared by whoever sees them: a card sold twice costs its provider, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from fake_world import PRICE, SMALL, USDC, FakeNode, World, fake_world
from forgetful_slots import Forgetful
from hypothesis import given, strategies as st

from robocompute_node.core.lease_watch import (
    KEPT_S,
    LONGEST_S,
    OF_ONE_PAYER,
    OF_ONE_STAKE,
    LeaseBook,
    signers_of,
)
from robocompute_node.core.slots import SlotTable
from robocompute_node.executor.fake import Pause
from robocompute_protocol import codec, leases
from robocompute_protocol.identifiers import Address, AgreementId, NodeKey, digest
from robocompute_protocol.messages import TOPIC_LEASES, LeaseTick
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from robocompute_settlement.port import StakeView

KEY = SigningKey(digest(b"a provider"))
NOW = 1_700_000_000


def name(of: object) -> bytes:
    return digest(repr(of).encode())


def tick(
    payer: object, start: int = 0, end: int = 10, *, slots: int = 1, stake: object = "stake",
    key: SigningKey = KEY,
) -> LeaseTick:  # fmt: skip
    return leases.sign_tick(
        key, stake=Address(name(stake)), agreement=AgreementId(name(("job", payer))),
        payer=Address(name(payer)), slots=slots, start_s=NOW + start, end_s=NOW + end,
    )  # fmt: skip


# --- the book --------------------------------------------------------------------------------------


def test_a_slot_let_to_two_payers_at_one_moment_is_found_whichever_comes_first() -> None:
    one, other = tick("one", 0, 10, slots=0b011), tick("other", 9, 20, slots=0b110)
    for first, second in ((one, other), (other, one)):
        book = LeaseBook()
        assert book.take(first, NOW + 9) is None
        sale = book.take(second, NOW + 9)
        assert sale is not None
        assert {sale.first.signature, sale.second.signature} == {one.signature, other.signature}


@pytest.mark.parametrize(
    "other",
    [
        tick("one", 5, 15),
        tick("other", 10, 20),
        tick("other", 5, 15, slots=0b10),
        tick("other", 5, 15, stake="another"),
    ],
)
def test_leases_that_can_both_be_true_prove_nothing(other: LeaseTick) -> None:
    book = LeaseBook()
    book.take(tick("one"), NOW)
    assert book.take(other, NOW) is None
    assert len(book) == 2


def test_a_replayed_an_old_and_a_future_lease_are_no_news() -> None:
    book = LeaseBook()
    book.take(tick("one"), NOW)
    assert not book.is_news(tick("one"), NOW)
    assert not book.is_news(tick("old"), NOW + 10 + KEPT_S)
    assert not book.is_news(tick("far", 3_600, 3_700), NOW)
    assert not book.is_news(msgspec.structs.replace(tick("none"), slots=0), NOW)
    assert len(book) == 1


def test_a_provider_cannot_flush_a_lease_out_with_others_of_its_own() -> None:
    book = LeaseBook()
    book.take(tick("victim", 0, 300), NOW)
    for number in range(1_500):
        past = tick(("past", number), -number - 1, -number)
        assert book.take(past, NOW) is None
        assert book.take(tick("own", 0, 301 + number, slots=0b10), NOW) is None
    assert len(book) <= OF_ONE_STAKE
    assert book.take(tick("second victim", 0, 10), NOW) is not None


def test_one_payer_and_one_stake_take_a_bounded_place_and_a_full_book_forgets_the_quietest() -> (
    None
):
    book = LeaseBook(capacity=100)
    for number in range(50):
        book.take(tick("payer", 0, 10 + number), NOW)
    assert len(book) == OF_ONE_PAYER
    for number in range(500):
        book.take(tick("payer", stake=number), NOW)
        assert len(book) <= 100
    assert book.is_news(tick("payer", stake=0), NOW)
    assert not book.is_news(tick("payer", stake=499), NOW)


def test_a_lease_of_years_is_remembered_for_an_hour() -> None:
    book = LeaseBook()
    book.take(tick("one", 0, 10**9), NOW)
    assert not book.is_news(tick("two", 0, 10**9), NOW + LONGEST_S + KEPT_S)
    book.take(tick("two", LONGEST_S + KEPT_S, LONGEST_S + KEPT_S + 9), NOW + LONGEST_S + KEPT_S)
    assert len(book) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-5, 20), st.integers(1, 12), st.integers(1, 7)),
        max_size=30,
    )
)
def test_the_book_finds_a_double_sale_just_when_there_is_one(
    sold: list[tuple[int, int, int, int]],
) -> None:
    book, seen = LeaseBook(), list[LeaseTick]()
    for payer, start, length, slots in sold:
        each = tick(payer, start, start + length, slots=slots)
        guilty = any(leases.overlaps(old, each) for old in seen)
        fresh = each.signature not in {old.signature for old in seen}
        sale = book.take(each, NOW)
        assert (sale is not None) == (guilty and fresh)
        if fresh:
            seen.append(each)
        own = [old for old in seen if old.payer == each.payer]
        if len(own) > OF_ONE_PAYER:
            seen.remove(own[0])


# --- nodes -----------------------------------------------------------------------------------------


async def two_clients(world: World, **provider: Any) -> tuple[FakeNode, FakeNode, FakeNode]:
    lender = await world.provider(script=lambda _: (Pause(3_600_000),), **provider)
    await world.start(lender)
    first = await world.start(await world.client("first"))
    second = await world.start(await world.client("second"))
    return lender, first, second


async def stake_of(node: FakeNode) -> StakeView:
    stake = await node.chain.stake_of(node.wallet, USDC)
    assert stake is not None
    return stake


async def slashed(node: FakeNode) -> StakeView:
    """Wait until a part of a node's stake was taken."""
    while (stake := await stake_of(node)).slashed == 0:  # noqa: ASYNC110 - the chain tells nobody
        await trio.sleep(1)
    return stake


async def test_a_provider_that_sells_a_slot_twice_is_slashed_once_by_who_saw_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        world.cheats = True
        cheat, first, second = await two_clients(world)
        before = await stake_of(cheat)
        cheat.lettings.slots = Forgetful(SlotTable.of(1).slots)
        one = await first.submit("run")
        await first.until_stage(one, "running", within_s=60)
        await trio.sleep(20)
        two = await second.submit("run")
        await second.until_stage(two, "running", within_s=60)
        with trio.fail_after(60):
            after = await slashed(cheat)
        await cheat.kill()  # it would go on, and be slashed for that too
        penalty = before.bonded // 5
        assert after.bonded == before.bonded - penalty
        await trio.sleep(60)
        assert (await stake_of(cheat)).slashed == penalty  # once, however many saw it
        assert not first.dealing.watch.open_reports
        assert not second.dealing.watch.open_reports
        balances = [
            await node.chain.balance(Address(node.key.node_key), USDC)
            for node in (first, second, cheat)
        ]
        rewards = [balance.available for balance in balances if balance is not None]
        assert rewards == [penalty // 10]
        world.check_money()


async def test_a_report_that_was_found_is_made_after_a_restart_and_an_outage(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        world.cheats = True
        cheat, first, _ = await two_clients(world)
        await trio.sleep(70)  # the stakes are known
        first.reach.out = True
        stake = (await stake_of(cheat)).stake
        now_s = world.clock.now_ms() // 1_000
        for payer in ("one", "two"):
            first.dealing.watch.heed(
                leases.sign_tick(
                    cheat.key, stake=stake, agreement=AgreementId(name(payer)),
                    payer=Address(name(payer)), slots=1, start_s=now_s, end_s=now_s + 10,
                ),
                2,
            )  # fmt: skip
        assert len(first.dealing.watch.open_reports) == 1
        await trio.sleep(30)
        await first.kill()
        assert (await stake_of(cheat)).slashed == 0
        first.reach.out = False
        await world.start(first)
        with trio.fail_after(60):
            await slashed(cheat)
        await trio.sleep(10)
        assert not first.dealing.watch.open_reports


async def test_an_honest_provider_is_never_slashed_whatever_happens_to_its_clients(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Hedged quotes, a vanished client, a re-let slot, a killed provider: no two ticks collide."""
    async with fake_world(tmp_path) as world:
        honest, first, second = await two_clients(world)
        rival = await world.start(await world.provider("rival", price_per_hour=PRICE))
        one = await first.submit("run")
        await first.until_stage(one, "running")
        await first.kill()  # vanished with its time prepaid
        jobs = [await second.submit("run", wait=True) for _ in range(2)]
        await honest.kill()
        await world.start(honest)
        for job in jobs:
            await second.until_stage(job, "running")
        await trio.sleep(400)
        await world.start(first)
        await trio.sleep(60)
        for node in (first, second):
            assert not node.dealing.watch.open_reports
        for lender in (honest, rival):
            assert (await stake_of(lender)).slashed == 0


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[tuple[FakeNode, FakeNode, FakeNode]]:
    async with fake_world(tmp_path) as world:
        yield await two_clients(world)


async def test_lying_leases_are_neither_believed_nor_relayed(
    stage: tuple[FakeNode, FakeNode, FakeNode], autojump_clock: trio.abc.Clock
) -> None:
    honest, liar, watcher = stage
    await trio.sleep(70)
    stake, now_s = (await stake_of(honest)).stake, watcher.world.clock.now_ms() // 1_000
    heard = list[bytes]()

    def listen(_forwarder: NodeKey, payload: bytes) -> bool:
        heard.append(payload)
        return True

    def lie(payer: str, key: SigningKey, **changes: Any) -> bytes:
        told = leases.sign_tick(
            key, stake=stake, agreement=AgreementId(name(payer)), payer=Address(name(payer)),
            slots=1, start_s=now_s, end_s=now_s + 10,
        )  # fmt: skip
        return codec.encode(msgspec.structs.replace(told, **changes))

    payloads = [
        lie("one", liar.key),
        lie("two", liar.key),
        lie("of nobody's stake", liar.key, stake=Address(name("nobody"))),
        lie("changed", honest.key, slots=3),
        lie("of an hour ahead", honest.key, start_s=now_s + 3_600, end_s=now_s + 3_700),
        b"\xc1" * 16_000,
        b"",
        codec.encode(SMALL),
    ]
    async with liar.network.subscribe(TOPIC_LEASES, listen):
        for payload in payloads * 3:
            await liar.network.publish(TOPIC_LEASES, payload)
        true = lie("true", honest.key)
        await honest.network.publish(TOPIC_LEASES, true)
        await honest.network.publish(TOPIC_LEASES, true)
        await trio.sleep(1)
    assert set(heard) == {true}
    assert len(heard) <= 3  # once from each node that took it, and from its sender
    assert not watcher.dealing.watch.open_reports
    assert not watcher.down.is_set()


async def test_the_previous_key_of_a_stake_answers_for_what_it_signed_before(
    stage: tuple[FakeNode, FakeNode, FakeNode], autojump_clock: trio.abc.Clock
) -> None:
    view = await stake_of(stage[0])
    old = replace(view, prev_key=NodeKey(name("old")), rotated_at_s=NOW)
    assert signers_of(view, tick("any")) == (view.node_key,)
    assert signers_of(old, tick("any", 299, 400)) == (view.node_key, old.prev_key)
    assert signers_of(old, tick("any", 300, 400)) == (view.node_key,)


async def test_an_owner_may_keep_its_leases_to_itself(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender = await world.start(
            await world.provider(script=lambda _: (Pause(3_600_000),), slots=2)
        )
        heard = list[bytes]()

        def listen(_forwarder: NodeKey, payload: bytes) -> bool:
            heard.append(payload)
            return True

        async with lender.network.subscribe(TOPIC_LEASES, listen):
            for owner, share in (("shy", False), ("open", True)):
                client = await world.start(await world.client(owner, share_leases=share))
                await client.until_stage(await client.submit("run"), "running")
                await trio.sleep(5)
                assert bool(heard) is share
