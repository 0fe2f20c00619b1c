"""Faults that a stranger meets on the stream of a bid's answer, which nobody but that bid may feel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from fake_world import PRICE, SMALL, USDC, fake_world

from robocompute_node.executor.fake import Exit
from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_node.services.conversation import expect, hear, say
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.identifiers import ChannelId, digest
from robocompute_protocol.messages import (
    PROTOCOL_BID,
    TOPIC_BIDS,
    AgreementMessage,
    Bid,
    BidAnswer,
    BidMessage,
    Manifest,
    Order,
    Quote,
    QuoteRequest,
    TaskSpec,
    Terms,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import BID, sign_message
from robocompute_protocol.vouchers import PayerLedger, sign_voucher

if TYPE_CHECKING:
    from pathlib import Path


async def told(_sent: int, _wanted: int) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_fault_of_the_disk_on_a_bid_s_stream_ends_that_stream_and_not_the_node(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        lender = await world.start(
            await world.provider("lender", script=lambda _: (Exit(0),), price_per_hour=PRICE)
        )
        stranger = await world.start(await world.client("stranger"))
        manifest = codec.encode(Manifest(files=()))
        upload = stranger.blobs.put(manifest)
        task = codec.encode(
            TaskSpec(
                app_name="app", argv=("run",), requirements=SMALL, upload=upload,
                wall_ms=Millis(60_000),
            )
        )  # fmt: skip
        ended = trio.Event()

        async def ask(stream: FrameStream) -> None:
            await expect(stream, BidMessage, BidAnswer, timeout_s=60)
            request = QuoteRequest(
                requirements=SMALL, payer=stranger.wallet, mint=USDC, wall_ms=Millis(60_000)
            )
            await say(stream, request)
            quote = await expect(stream, AgreementMessage, Quote, timeout_s=60)
            await stranger.exchange.push(lender.key.node_key, (upload,), told=told)
            for path in (lender.folder / "blobs").rglob("*"):
                if path.is_file() and path.read_bytes() == manifest:
                    path.write_bytes(b"damaged")
            agreed = Terms(
                task=digest(task), payer=stranger.wallet, payer_node=stranger.key.node_key,
                payee=quote.payee, payee_node=lender.key.node_key, stake=quote.stake, mint=USDC,
                channel=ChannelId(bytes(32)), nonce=bytes(16), slots=quote.slots,
                price_per_hour=quote.price_per_hour, horizon_ms=Millis(60_000),
                first_tick_ms=Millis(5_000), start_deadline_ms=Millis(60_000),
            )  # fmt: skip
            signed = rules.sign_terms(stranger.key, agreed)
            ledger = PayerLedger(channel=agreed.channel)
            _, voucher = ledger.allocate(rules.agreement_id(agreed), MicroUnits(1))
            paid = sign_voucher(stranger.key, voucher)
            await say(stream, Order(terms=signed, task=task, voucher=paid))
            try:
                await hear(stream, AgreementMessage, timeout_s=60)
            except PeerGone:
                ended.set()

        stranger.network.serve(PROTOCOL_BID, ask)
        asked = Bid(
            client=stranger.key.node_key, sequence=world.clock.now_ms(), requirements=SMALL,
            max_price_per_hour=PRICE, mint=USDC, ttl_ms=Millis(10_000),
            addresses=stranger.network.addresses,
        )  # fmt: skip
        await trio.sleep(2)
        payload = codec.encode(sign_message(BID, stranger.key, codec.encode(asked)))
        await stranger.network.publish(TOPIC_BIDS + "cpu", payload)
        with trio.fail_after(100):
            await ended.wait()
        await trio.sleep(1)
        assert not lender.down.is_set()
        task_id = await stranger.submit("run")
        await stranger.until_ended(task_id)
