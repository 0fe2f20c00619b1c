"""Several quotes at once, bids where the book has nothing, and what the losers and liars come to."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from fake_world import PRICE, SMALL, USDC, FakeNode, World, fake_world
from hypothesis import given, strategies as st

from robocompute_node.api.port import NoProvider
from robocompute_node.core.bids import BID_SPACING, MAX_BID_TTL, BidBook
from robocompute_node.executor.fake import Exit, FailToPrepare, Pause
from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_protocol import codec, limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import NodeKey, Signature
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_BID,
    PROTOCOL_BOOK,
    TOPIC_BIDS,
    AgreementMessage,
    Bid,
    BidAnswer,
    Quote,
    QuoteRequest,
    Refused,
    ReleaseQuote,
    Signed,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import BID, OFFER, sign_message

if TYPE_CHECKING:
    from pathlib import Path

NOW = Millis(1_700_000_000_000)
HOUR = Millis(3_600_000)


def bid(number: int = 1, **changes: Any) -> Bid:
    fair = Bid(
        client=NodeKey(bytes([number]) * 32), sequence=NOW, requirements=SMALL,
        max_price_per_hour=PRICE, mint=USDC, ttl_ms=Millis(10_000), addresses=(),
    )  # fmt: skip
    return msgspec.structs.replace(fair, **changes)


# --- the book of bids ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": NOW - 10_000},
        {"sequence": NOW + limits.MAX_CLOCK_AHEAD + 1},
        {"ttl_ms": Millis(0)},
        {"ttl_ms": Millis(MAX_BID_TTL + 1)},
        {"requirements": msgspec.structs.replace(SMALL, resource_class="abacus")},
    ],
)
def test_a_bid_that_is_over_or_of_the_future_or_of_no_class_is_no_news(
    changes: dict[str, Any],
) -> None:
    book = BidBook()
    assert not book.take(bid(**changes), NOW)
    assert len(book) == 0


def test_a_bid_is_heard_once_and_a_client_once_a_second() -> None:
    book = BidBook()
    assert book.take(bid(), NOW)
    assert not book.take(bid(), NOW)
    assert not book.take(bid(sequence=NOW + BID_SPACING - 1), NOW)
    assert book.take(bid(sequence=NOW + BID_SPACING), NOW)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 20_000)), max_size=60))
def test_bids_remembered_are_bounded_and_none_of_these_is_taken_twice(
    heard: list[tuple[int, int]],
) -> None:
    book = BidBook(capacity=8)
    for number, after in heard:
        each = bid(number, sequence=NOW + after)
        assert book.is_news(each, NOW) == book.take(each, NOW)
        assert not book.is_news(each, NOW)
        assert len(book) <= 8


# --- several quotes (S14) --------------------------------------------------------------------------


async def lenders(world: World, *prices: int, **settings: Any) -> list[FakeNode]:
    nodes: list[FakeNode] = []
    for number, price in enumerate(prices):
        node = await world.provider(
            f"lender {number}", script=lambda _: (Pause(HOUR),),
            price_per_hour=MicroUnits(price), **settings,
        )  # fmt: skip
        nodes.append(await world.start(node))
    return nodes


async def silent(stream: FrameStream) -> None:
    """Hear what is asked, and never answer."""
    await stream.receive(timeout_s=3_600)
    await trio.sleep_forever()


def held(node: FakeNode) -> int:
    now = node.world.clock.now_ms()
    return sum(slot.held_until > now for slot in node.lettings.slots.slots.values())


async def test_losing_quotes_are_released_as_soon_as_another_is_taken(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        nodes = await lenders(world, PRICE, PRICE + 1, PRICE + 2)
        client = await world.start(await world.client())
        task = await client.submit("run")
        await client.until_stage(task, "ordering")
        await trio.sleep(0.1)  # far less than a quote's own five seconds
        assert [held(node) for node in nodes[1:]] == [0, 0]
        await client.until_stage(task, "running")
        assert client.api.task(task).price_per_hour == PRICE
        (match,) = [
            event for event in client.tasks.log(task).read(after=0, limit=99)
            if event.kind == "match"
        ]  # fmt: skip
        assert "the cheapest of 3" in str(match.data["why"])
        assert not any(node.lettings.running() for node in nodes[1:])


async def test_a_quote_is_released_by_a_word_by_a_reset_and_by_its_own_end(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        (lender,) = await lenders(world, PRICE)
        client = await world.start(await world.client())
        rival = await world.start(await world.client("rival"))

        async def ask(node: FakeNode, stream: FrameStream) -> Quote | Refused:
            request = QuoteRequest(requirements=SMALL, payer=node.wallet, mint=USDC, wall_ms=HOUR)
            await stream.send(codec.encode(request))
            frame = await stream.receive(timeout_s=60)
            assert frame is not None
            answer = codec.decode(AgreementMessage, frame)
            assert isinstance(answer, Quote | Refused)
            return answer

        def dial(node: FakeNode) -> Any:
            return node.network.open(lender.key.node_key, PROTOCOL_AGREEMENT)

        async with dial(client) as stream, dial(rival) as other:
            assert isinstance(await ask(client, stream), Quote)
            assert isinstance(await ask(rival, other), Refused)
            await other.send(codec.encode(ReleaseQuote()))  # releases nothing of another's
            assert isinstance(await ask(rival, other), Refused)
            await stream.send(codec.encode(ReleaseQuote()))
            await trio.sleep(0.1)
            assert isinstance(await ask(rival, other), Quote)
        await trio.sleep(0.1)
        assert held(lender) == 1  # a stream that is closed in order keeps its quote…
        await trio.sleep(6)
        assert held(lender) == 0  # …until that is over
        with trio.CancelScope() as given_up:
            async with dial(client) as stream:
                assert isinstance(await ask(client, stream), Quote)
                given_up.cancel()
                await trio.sleep_forever()
        await trio.sleep(0.1)
        assert held(lender) == 0


async def test_the_best_quote_in_time_is_taken_where_the_first_choice_is_busy_or_silent(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        nodes = await lenders(world, PRICE, PRICE + 1, PRICE + 2)
        client = await world.start(await world.client())
        first = await client.submit("run")
        await client.until_stage(first, "running")

        nodes[1].network.serve(PROTOCOL_AGREEMENT, silent)
        began = world.clock.now_ms()
        second = await client.submit("run")
        await client.until_stage(second, "running")
        assert client.api.task(second).price_per_hour == PRICE + 2
        assert world.clock.now_ms() - began < 5_000


async def test_who_said_it_is_busy_comes_after_those_that_did_not_and_is_asked_when_alone(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        cheap = await lenders(world, *[PRICE] * 4)
        dear = await world.provider(
            "dear", script=lambda _: (Pause(HOUR),), price_per_hour=MicroUnits(PRICE + 1), slots=2
        )
        await world.start(dear)
        client = await world.start(await world.client())
        await trio.sleep(1)
        refusals = 0

        async def full(stream: FrameStream) -> None:
            nonlocal refusals
            while await stream.receive(timeout_s=60) is not None:
                refusals += 1
                await stream.send(codec.encode(Refused(code="busy", message="full")))

        for node in cheap:
            node.network.serve(PROTOCOL_AGREEMENT, full)
        for _ in range(2):
            task = await client.submit("run")
            await client.until_stage(task, "running", within_s=5)
            assert refusals == len(cheap)  # once each: the second job asks none of them
        third = await client.submit("run", wait=True)
        await trio.sleep(5)
        assert refusals > len(cheap)  # nobody else is left
        for node in cheap:
            node.network.serve(PROTOCOL_AGREEMENT, node.desk.serve_agreement)
        await client.until_stage(third, "running", within_s=5)
        assert len(dear.lettings.running()) == 2


# --- bids ------------------------------------------------------------------------------------------


async def test_a_provider_that_nobody_told_of_answers_a_bid_and_gets_the_job(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        nodes = await lenders(world, PRICE + 5, PRICE)
        await trio.sleep(5)  # both were announced, to nobody
        for node in nodes:
            node.network.serve(PROTOCOL_BOOK, silent)
        client = await world.start(await world.client())
        await trio.sleep(5)
        assert not list(client.market.book.live(world.clock.now_ms()))
        task = await client.submit("run")
        await client.until_stage(task, "running")
        assert client.api.task(task).price_per_hour == PRICE
        assert held(nodes[0]) == 0


async def test_a_bid_reaches_providers_that_its_client_does_not_know(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        (lender,) = await lenders(world, PRICE)
        client = await world.start(await world.client())
        await world.start(await world.client("between"))
        world.hub.cut(client.key.node_key, lender.key.node_key)
        async with client.dealing.bids.asking(SMALL, PRICE) as answered:
            assert [each.offer.provider for each in answered] == [lender.key.node_key]


async def test_nobody_answers_a_bid_that_nobody_can_serve(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await lenders(world, PRICE)
        client = await world.start(await world.client(max_price_per_hour=MicroUnits(PRICE - 1)))
        await trio.sleep(1)
        began = world.clock.now_ms()
        with pytest.raises(NoProvider, match="price per hour"):
            await client.submit("run")
        assert world.clock.now_ms() - began < 3_000


async def test_a_class_that_nobody_followed_is_followed_once_a_task_asks_for_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await lenders(world, PRICE)
        client = await world.start(await world.client(classes=("h100", "a100")))
        await trio.sleep(1)
        assert client.market.followed == {"h100", "a100"}
        task = await client.submit("run")
        await client.until_stage(task, "running")
        assert client.market.followed == {"h100", "a100", "cpu"}
        assert len(list(client.market.book.live(world.clock.now_ms()))) == 1


def signed_bid(node: FakeNode, **changes: Any) -> Bid:
    own: dict[str, Any] = {
        "client": node.key.node_key,
        "sequence": node.world.clock.now_ms(),
        "addresses": node.network.addresses,
    }
    return bid(**(own | changes))


async def test_forged_replayed_and_oversized_bids_are_answered_by_nobody(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        (lender,) = await lenders(world, PRICE)
        client = await world.start(await world.client())
        stranger = await world.start(await world.client("stranger"))
        dialled = list[NodeKey]()

        async def count(stream: FrameStream) -> None:
            dialled.append(stream.peer)

        client.network.serve(PROTOCOL_BID, count)
        stranger.network.serve(PROTOCOL_BID, count)
        true = sign_message(BID, client.key, codec.encode(signed_bid(client)))
        forged = Signed(key=true.key, body=true.body, signature=Signature(true.signature[::-1]))
        wordy = ("/ip4/192.0.2.1/tcp/" + "1" * 200,) * 8
        bad = [
            codec.encode(forged),
            codec.encode(sign_message(OFFER, client.key, true.body)),
            codec.encode(sign_message(BID, stranger.key, true.body)),
            codec.encode(
                sign_message(BID, client.key, codec.encode(signed_bid(client, addresses=wordy)))
            ),
            b"\x00" * 16_000,
            b"",
        ]
        for payload in bad:
            await stranger.network.publish(TOPIC_BIDS + "cpu", payload)
        await trio.sleep(1)
        assert dialled == []
        await client.network.publish(TOPIC_BIDS + "cpu", codec.encode(true))
        for _ in range(50):
            await stranger.network.publish(TOPIC_BIDS + "cpu", codec.encode(true))
        await trio.sleep(1)
        assert dialled == [lender.key.node_key]


async def test_a_flood_of_bids_makes_a_provider_dial_seldom_and_it_still_serves(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        (lender,) = await lenders(world, PRICE, slots=2)
        client = await world.start(await world.client())
        flooder = await world.start(await world.client("flooder"))
        dialled = 0

        async def count(stream: FrameStream) -> None:
            nonlocal dialled
            dialled += 1
            await stream.receive(timeout_s=1)

        flooder.network.serve(PROTOCOL_BID, count)
        began = world.clock.now_ms()
        for number in range(300):
            each = signed_bid(flooder, ttl_ms=Millis(30_000))
            each = msgspec.structs.replace(each, sequence=each.sequence + number)
            key = flooder.key
            payload = codec.encode(sign_message(BID, key, codec.encode(each)))
            await flooder.network.publish(TOPIC_BIDS + "cpu", payload)
            await trio.sleep(0.1)
        seconds = (world.clock.now_ms() - began) / 1_000
        assert 0 < dialled <= seconds + 8
        task = await client.submit("run")
        await client.until_stage(task, "running")
        assert lender.lettings.running()


async def test_answers_to_no_bid_and_from_somebody_else_are_refused(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        (lender,) = await lenders(world, PRICE)
        client = await world.start(await world.client())
        stranger = await world.start(await world.client("stranger"))
        await trio.sleep(1)
        (entry,) = client.market.book.live(world.clock.now_ms())

        async def answer(sequence: int) -> Refused | None:
            async with stranger.network.open(client.key.node_key, PROTOCOL_BID) as stream:
                said = BidAnswer(sequence=sequence, offer=entry.signed)
                await stream.send(codec.encode(said))
                frame = await stream.receive(timeout_s=60)
            return None if frame is None else codec.decode(Refused, frame)

        assert (refused := await answer(1)) is not None
        assert refused.code == "no_bid"
        heard = list[Bid]()

        def listen(_forwarder: NodeKey, payload: bytes) -> bool:
            heard.append(codec.decode(Bid, codec.decode(Signed, payload).body))
            return False

        async with (
            stranger.network.subscribe(TOPIC_BIDS + "cpu", listen),
            client.dealing.bids.asking(SMALL, PRICE) as answered,
        ):
            assert [each.offer.provider for each in answered] == [lender.key.node_key]
            assert (refused := await answer(heard[-1].sequence)) is not None
            assert refused.code == "no_bid"
        async with stranger.network.open(client.key.node_key, PROTOCOL_BID) as stream:
            await stream.send(b"\xff" * 100_000)
            with pytest.raises(PeerGone):
                await stream.receive(timeout_s=60)
        assert not client.down.is_set()


async def test_a_provider_that_cannot_start_a_job_is_left_for_another_and_cools_down(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        breaks = FailToPrepare(Cause.SANDBOX_FAILED, "no sandbox today")
        broken = await world.start(await world.provider("broken", script=lambda _: (breaks,)))
        (sound,) = await lenders(world, PRICE + 1)
        client = await world.start(await world.client())
        await trio.sleep(1)
        for _ in range(2):
            task = await client.submit("true")
            await client.until_stage(task, "running")
            assert [record.over for record in sound.lettings.running()] == [False]
            await client.api.cancel_task(task)
            await client.until_ended(task)
        avoided = client.dealing.standings.evidence(broken.key.node_key, frozenset())
        assert (avoided.good, avoided.bad, avoided.cools) == (0, 1_000, True)  # asked once only


async def test_a_provider_that_cannot_start_a_job_says_why_where_there_is_no_other(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        breaks = FailToPrepare(Cause.SANDBOX_FAILED, "no sandbox today")
        await world.start(await world.provider(script=lambda _: (breaks,)))
        client = await world.start(await world.client())
        task = await client.until_ended(await client.submit("run"))
        assert task.cause is Cause.SANDBOX_FAILED
        assert task.cost == 0


async def test_a_job_that_fails_at_once_in_a_loop_is_slowed_down_and_told_why(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        await world.start(await world.provider(script=lambda _: (Exit(1),)))
        client = await world.start(await world.client())
        began, ends, task = world.clock.now_ms(), list[int](), ""
        for _ in range(9):
            task = await client.submit("run")
            await client.until_ended(task)
            ends.append(world.clock.now_ms() - began)
        stages = [event.data for event in client.tasks.log(task).read(after=0, limit=99)]
        assert any("again and again" in str(each.get("detail")) for each in stages)
        gaps = [after - before for before, after in pairwise(ends)]
        assert max(gaps[:2]) < 2_000
        assert gaps[-1] >= 60_000
        other = await client.submit("something", "else")
        before = world.clock.now_ms()
        await client.until_ended(other)
        assert world.clock.now_ms() - before < 2_000
