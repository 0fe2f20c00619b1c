"""Offers among strangers: forged, flooded, replayed and withdrawn ones, and books that lie (S18)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from fake_world import FUNDS, PRICE, USDC, FakeNode, World, fake_world
from market_offers import offer

from robocompute_node.executor.fake import Pause
from robocompute_protocol import codec, limits
from robocompute_protocol.identifiers import Address, Signature, digest
from robocompute_protocol.messages import (
    PROTOCOL_BOOK,
    TOPIC_OFFERS,
    BookMessage,
    BookPage,
    BookRequest,
    Offer,
    Refused,
    Signed,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import BID, OFFER, SigningKey, sign_message

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream

CPU = TOPIC_OFFERS + "cpu"


def key_of(number: int) -> SigningKey:
    return SigningKey(digest(b"a stranger", number.to_bytes(8)))


def strangers(world: World, number: int, **changes: Any) -> Signed:
    """An offer of a key that was made up for it, with nothing behind it."""
    key = key_of(number)
    made: dict[str, Any] = {
        "provider": key.node_key, "sequence": world.clock.now_ms(), "resource_class": "cpu",
        "mint": USDC, "price_per_hour": PRICE,
    } | changes  # fmt: skip
    return sign_message(OFFER, key, codec.encode(offer(**made)))


def seen(node: FakeNode) -> set[bytes]:
    return {entry.offer.provider for entry in node.market.book.live(node.world.clock.now_ms())}


async def publish(node: FakeNode, *signed: Signed) -> None:
    for each in signed:
        await node.network.publish(CPU, codec.encode(each))


async def a_lender(world: World, name: str = "lender") -> FakeNode:
    return await world.start(await world.provider(name, script=lambda _: (Pause(3_600_000),)))


async def test_a_late_joiner_sees_all_live_offers_and_no_withdrawn_one(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lenders = [await a_lender(world, f"lender {number}") for number in range(3)]
        client = await world.start(await world.client())
        teller = await world.start(await world.client("teller"))
        await trio.sleep(1)
        old = strangers(world, 1)
        await publish(teller, old, strangers(world, 2))
        await trio.sleep(2)
        await publish(teller, strangers(world, 1, ttl_ms=Millis(0)))
        await trio.sleep(1)
        late = await world.start(await world.client("late"))
        await trio.sleep(1)
        everybody = {*(node.key.node_key for node in lenders), key_of(2).node_key}
        assert seen(late) == everybody
        await publish(teller, old)  # and it never comes back
        await trio.sleep(1)
        for node in (late, client, *lenders):
            assert key_of(1).node_key not in seen(node)


async def test_a_replayed_withdrawal_withdraws_nothing_newer(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender, client = await a_lender(world), await world.start(await world.client())
        await publish(lender, strangers(world, 1))
        await trio.sleep(2)
        gone = strangers(world, 1, ttl_ms=Millis(0))
        await publish(lender, gone)
        await trio.sleep(2)
        await publish(lender, strangers(world, 1))
        await trio.sleep(1)
        assert key_of(1).node_key in seen(client)
        await publish(lender, gone)
        await trio.sleep(1)
        assert key_of(1).node_key in seen(client)


async def test_forged_oversized_future_and_foreign_offers_reach_nobodys_book(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender, client = await a_lender(world), await world.start(await world.client())
        liar = await world.start(await world.client("liar"))
        await trio.sleep(1)
        now = world.clock.now_ms()
        true = strangers(world, 1)
        stolen = codec.decode(Offer, true.body)
        lies = [
            Signed(key=true.key, body=true.body, signature=Signature(bytes(64))),
            sign_message(OFFER, liar.key, true.body),
            sign_message(BID, key_of(1), true.body),
            strangers(world, 2, sequence=now + limits.MAX_CLOCK_AHEAD + 1),
            strangers(world, 3, sequence=now - limits.MAX_OFFER_TTL),
            strangers(world, 4, resource_class="h100"),
            strangers(world, 5, executors=("x" * 256,) * 8),
            sign_message(OFFER, key_of(6), codec.encode(stolen)),
        ]
        before = seen(client)
        await publish(liar, *lies)
        for junk in (b"", b"\xc1", b"\x00" * 16_384):
            await liar.network.publish(CPU, junk)
        await trio.sleep(1)
        for node in (client, lender):
            assert seen(node) == before
            assert not node.down.is_set()


async def test_who_sends_forgeries_is_not_listened_to_and_others_are(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender, client = await a_lender(world), await world.start(await world.client())
        liar = await world.start(await world.client("liar"))
        await trio.sleep(1)
        for number in range(100, 120):
            lie = strangers(world, number)
            await publish(liar, Signed(key=lie.key, body=lie.body, signature=Signature(bytes(64))))
        await publish(liar, strangers(world, 1))
        await publish(lender, strangers(world, 2))
        await trio.sleep(1)
        assert key_of(1).node_key not in seen(client)
        assert key_of(2).node_key in seen(client)
        await trio.sleep(120)
        await publish(liar, strangers(world, 3))
        await trio.sleep(1)
        assert key_of(3).node_key in seen(client)


async def test_a_flood_of_made_up_providers_costs_little_and_loses_no_honest_offer(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender, client = await a_lender(world), await world.start(await world.client())
        flooder = await world.start(await world.client("flooder"))
        await trio.sleep(65)  # the stake is known, and the offer was announced again
        flood = [strangers(world, number) for number in range(1_000)]
        await publish(flooder, *flood)
        await trio.sleep(0.1)
        assert len(seen(client)) <= 450  # the bursts of the two that forward to it
        await lender.kill()
        await publish(flooder, *flood[900:])
        await world.start(lender)
        await trio.sleep(2)
        assert lender.key.node_key in seen(client)
        entry = client.market.book.get(lender.key.node_key, "cpu", world.clock.now_ms())
        assert entry is not None
        assert entry.backed
        task = await client.submit("run")
        await client.until_stage(task, "running")


async def test_a_stolen_stake_or_more_slots_than_staked_is_nothing_behind_an_offer(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender, client = await a_lender(world), await world.start(await world.client())
        await trio.sleep(65)
        backs = client.dealing.stakes.backs
        (own,) = (entry.offer for entry in client.market.book.live(world.clock.now_ms()))
        assert own.provider == lender.key.node_key
        assert backs(own)
        thief = msgspec.structs.replace(own, provider=key_of(1).node_key)
        assert not backs(thief)
        assert not backs(msgspec.structs.replace(own, mint=Address(bytes(32))))
        assert not backs(msgspec.structs.replace(own, stake=Address(bytes(32))))
        world.chain.settings = replace(world.chain.settings, slot_stake=MicroUnits(FUNDS // 2))
        await client.dealing.stakes.look()
        assert backs(own)
        assert not backs(msgspec.structs.replace(own, slots=2))


# --- books of peers --------------------------------------------------------------------------------


async def with_liar(world: World, serve: Any) -> tuple[FakeNode, FakeNode]:
    """A client that joins where a liar shows its book, and an honest node its own."""
    liar = await world.start(await world.client("liar"))
    liar.network.serve(PROTOCOL_BOOK, serve)
    lender = await a_lender(world)
    await trio.sleep(10)
    return lender, await world.start(await world.client())


def pages(*told: BookPage, last: bool = True, times: int = 1) -> Any:
    async def serve(stream: FrameStream) -> None:
        await stream.receive(timeout_s=60)
        for _ in range(times):
            for page in told:
                await stream.send(codec.encode(page))
        if not last:
            await trio.sleep_forever()

    return serve


async def test_a_book_of_lies_is_worth_nothing_and_the_honest_one_is_read_beside_it(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        true = strangers(world, 1)
        forged = Signed(key=true.key, body=true.body, signature=Signature(bytes(64)))
        foreign = strangers(world, 2, resource_class="abacus")
        lender, client = await with_liar(
            world, pages(BookPage(offers=(foreign, forged), last=False), last=False)
        )
        await trio.sleep(1)
        assert seen(client) == {lender.key.node_key}


async def test_a_book_without_an_end_or_that_drips_is_cut_off_and_holds_nobody_up(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        asked = 0

        async def drip(stream: FrameStream) -> None:
            nonlocal asked
            asked += 1
            await stream.receive(timeout_s=60)
            while True:
                await stream.send(codec.encode(BookPage(offers=(), last=False)))
                await trio.sleep(9)

        lender, client = await with_liar(world, drip)
        await trio.sleep(1)
        assert seen(client) == {lender.key.node_key}
        await trio.sleep(600)
        assert asked <= 4  # by each of the two others, and hardly again


async def test_a_book_of_made_up_providers_is_read_to_a_bound(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        invented = [strangers(world, number) for number in range(320)]
        told = [
            BookPage(offers=tuple(invented[at : at + 32]), last=at + 32 >= len(invented))
            for at in range(0, len(invented), 32)
        ]
        lender, client = await with_liar(world, pages(*told, times=30))
        await trio.sleep(2)
        assert lender.key.node_key in seen(client)
        assert len(seen(client)) == 321  # all are signed by whom they say, and there is room


async def test_a_reader_of_books_is_served_so_often_and_no_more(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender = await a_lender(world)
        reader = await world.start(await world.client())
        answers = list[object]()
        for _ in range(40):
            async with reader.network.open(lender.key.node_key, PROTOCOL_BOOK) as stream:
                await stream.send(codec.encode(BookRequest(classes=("cpu", "abacus"))))
                frame = await stream.receive(timeout_s=60)
                assert frame is not None
                answers.append(codec.decode(BookMessage, frame))
        refused = [each for each in answers if isinstance(each, Refused)]
        assert {each.code for each in refused} == {"busy"}
        assert 20 <= len(refused) < 40
