"""Who invents keys, or had a wrong clock, neither pushes others out of the market nor stays out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import PRICE, SMALL, USDC, World, fake_world
from market_offers import offer

from robocompute_node.clocks import Clock
from robocompute_node.core.matching import PASSING
from robocompute_node.p2p.fake import FakeNetwork
from robocompute_node.services.bidding import MAX_STRANGERS
from robocompute_node.services.conversation import say
from robocompute_node.services.sequences import Sequences
from robocompute_node.store import Store, Table
from robocompute_protocol import codec, limits
from robocompute_protocol.identifiers import digest
from robocompute_protocol.messages import PROTOCOL_BID, TOPIC_BIDS, Bid, BidAnswer, Signed
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import OFFER, SigningKey, sign_message

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = Table("numbers/1", int)
SPACING = Millis(1_000)
MANY = 40


async def answer_every_bid(world: World, number: int) -> None:
    """Answer each bid at once, and cheaply, with a key that was made up."""
    key = SigningKey(digest(b"stranger", bytes([number])))
    network = FakeNetwork(world.hub, key.node_key)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        world.introduce(network)
        topic = TOPIC_BIDS + "cpu"
        async with network.subscribe(topic, lambda _forwarder, _payload: True) as messages:
            async for _, payload in messages:
                bid = codec.decode(Bid, codec.decode(Signed, payload).body)
                made = offer(
                    provider=key.node_key, sequence=world.clock.now_ms(), resource_class="cpu",
                    mint=USDC, price_per_hour=MicroUnits(1),
                )  # fmt: skip
                signed = sign_message(OFFER, key, codec.encode(made))
                async with network.open(bid.client, PROTOCOL_BID) as stream:
                    await say(stream, BidAnswer(sequence=bid.sequence, offer=signed))
                    await stream.receive(timeout_s=60)


async def test_keys_made_up_do_not_push_a_provider_with_stake_out_of_a_bid(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world, trio.open_nursery() as strangers:
        client = await world.start(await world.client())
        for number in range(MANY):
            strangers.start_soon(answer_every_bid, world, number)
        await trio.sleep(1)
        provider = await world.start(await world.provider())  # the last that hears a bid
        await trio.sleep(1)
        await client.dealing.stakes.look()
        async with client.dealing.bids.asking(SMALL, PRICE) as answered:
            who = [each.offer.provider for each in answered]
        assert provider.key.node_key in who
        assert len(who) == MAX_STRANGERS + 1
        strangers.cancel_scope.cancel()


async def test_numbers_rise_through_restarts_and_forget_a_clock_that_was_years_ahead(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    clock = Clock()
    store = Store(tmp_path / "store")

    def begin() -> Sequences:
        return Sequences(store, clock, NUMBERS, b"offer", spacing=SPACING)

    first = begin()
    drawn = [first.next(), first.next(), begin().next()]
    assert drawn[0] == clock.now_ms()
    assert [drawn[0] + SPACING, drawn[0] + 2 * SPACING] == drawn[1:]
    with store.transaction() as txn:
        txn.put(NUMBERS, b"offer", clock.now_ms() + 365 * 86_400_000)
    mended = begin()
    await trio.sleep(limits.MAX_CLOCK_AHEAD / 1_000)
    number = mended.next()
    # Nobody was told a higher one that it took, and this one is taken.
    assert clock.now_ms() < number <= clock.now_ms() + limits.MAX_CLOCK_AHEAD
    store.close()


def test_a_provider_whose_clock_is_off_is_not_one_that_failed() -> None:
    assert "clock_off" in PASSING
