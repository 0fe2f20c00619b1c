"""Nobody is held up by a peer that only promises, waits or orders, and nothing of it is kept for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio
from fake_world import SMALL, USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.clocks import Clock
from robocompute_node.executor.fake import Pause
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services import never_leased
from robocompute_node.services.conversation import hear, hear_or_end, say
from robocompute_node.services.earnings import Earnings
from robocompute_node.store import Store
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import AgreementId, ChannelId, NodeKey, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_JOB,
    AgreementMessage,
    CancelRequest,
    Manifest,
    NeverLeased,
    Order,
    Quote,
    QuoteRequest,
    TaskSpec,
    Terms,
    Usage,
    Waiting,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.receipts import sign_never_leased
from robocompute_protocol.vouchers import PayerLedger, sign_voucher

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.p2p.port import FrameStream


async def test_a_cancel_that_is_only_told_to_wait_ends_though_the_job_goes_on_talking(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        provider = await world.start(await world.provider(script=lambda _: (Pause(10**7),)))
        client = await world.start(await world.client())
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(10)
        told = 0

        async def waits(stream: FrameStream) -> None:
            while await hear_or_end(stream, AgreementMessage) is not None:
                while True:
                    await say(stream, Waiting(reason="stopping"))
                    await trio.sleep(5)

        async def talks(stream: FrameStream) -> None:
            nonlocal told
            while True:
                told += 1
                await say(stream, Usage(cpu_ms=Millis(told), memory_bytes=1, peak_memory_bytes=1))
                await trio.sleep(1)

        provider.network.serve(PROTOCOL_AGREEMENT, waits)
        provider.network.serve(PROTOCOL_JOB, talks)
        world.hub.cut(client.key.node_key, provider.key.node_key)
        world.introduce(client.network)
        await client.api.cancel_task(task_id)
        task = await client.until_ended(task_id, within_s=400)
        assert told > 250  # it was heard of all the time
        assert task.cause is Cause.PROVIDER_LOST


class Pretender:
    """Orders a slot over and over, on channels that it never opens."""

    def __init__(self, node: FakeNode, provider: FakeNode) -> None:
        self._node = node
        self._provider = provider
        self.orders = 0

    async def run(self) -> None:
        node, peer = self._node, self._provider.key.node_key
        manifest = node.blobs.put(codec.encode(Manifest(files=())))
        task = codec.encode(
            TaskSpec(
                app_name="a", argv=("x",), requirements=SMALL, upload=manifest,
                wall_ms=Millis(86_400_000),
            )
        )  # fmt: skip
        request = QuoteRequest(
            requirements=SMALL, payer=node.wallet, mint=USDC, wall_ms=Millis(1_000)
        )

        async def told(_sent: int, _wanted: int) -> None:
            await trio.lowlevel.checkpoint()

        while True:
            try:
                async with node.network.open(peer, PROTOCOL_AGREEMENT) as stream:
                    await say(stream, request)
                    quote = await hear(stream, AgreementMessage, timeout_s=5)
                    if isinstance(quote, Quote):
                        await node.exchange.push(peer, (manifest,), told=told)
                        await say(stream, self._order(task, quote))
                        self.orders += 1
                        while isinstance(
                            await hear(stream, AgreementMessage, timeout_s=60), Waiting
                        ):
                            pass
            except PeerGone:
                pass
            await trio.sleep(0.05)

    def _order(self, task: bytes, quote: Quote) -> Order:
        node, number = self._node, self.orders.to_bytes(16)
        terms = Terms(
            task=digest(task), payer=node.wallet, payer_node=node.key.node_key, payee=quote.payee,
            payee_node=self._provider.key.node_key, stake=quote.stake, mint=USDC,
            channel=ChannelId(digest(number)), nonce=number, slots=quote.slots,
            price_per_hour=quote.price_per_hour, horizon_ms=Millis(30_000),
            first_tick_ms=Millis(10_000), start_deadline_ms=Millis(60_000),
        )  # fmt: skip
        _, voucher = PayerLedger(channel=terms.channel).allocate(
            rules.agreement_id(terms), MicroUnits(10_000)
        )
        return Order(
            terms=rules.sign_terms(node.key, terms),
            task=task,
            voucher=sign_voucher(node.key, voucher),
        )


async def test_orders_that_are_never_paid_for_keep_no_slot_from_a_client_that_pays(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world, trio.open_nursery() as nursery:
        provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
        client = await world.start(await world.client())
        pretender = Pretender(await world.start(await world.client("pretender")), provider)
        await trio.sleep(1)
        nursery.start_soon(pretender.run)
        await trio.sleep(3)
        for _ in range(2):
            task = await client.until_ended(await client.submit("run", wait=True), within_s=20)
            assert task.status is TaskStatus.COMPLETED
        assert pretender.orders >= 1
        nursery.cancel_scope.cancel()


async def declining(world: World) -> tuple[FakeNode, FakeNode]:
    """A client whose provider declines every order, without a word why."""
    provider = await world.start(await world.provider(script=lambda _: (Pause(1_000),)))
    client = await world.start(await world.client())

    async def serve(stream: FrameStream) -> None:
        while (request := await hear_or_end(stream, AgreementMessage)) is not None:
            match request:
                case QuoteRequest():
                    await say(stream, provider.desk.quote(stream.peer, request))
                case Order() | CancelRequest(terms=msgspec.Struct()):
                    terms = rules.open_terms(request.terms)  # type: ignore[arg-type]
                    name = rules.agreement_id(terms)
                    statement = sign_never_leased(
                        provider.key, agreement=name, channel=terms.channel
                    )
                    await say(stream, NeverLeased(statement=statement))
                case _:
                    raise AssertionError(request)

    provider.network.serve(PROTOCOL_AGREEMENT, serve)
    return client, provider


async def test_orders_that_were_declined_are_forgotten_once_their_task_is_over(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with fake_world(tmp_path) as world:
        client, provider = await declining(world)
        await trio.sleep(1)
        task_id = await client.submit("run", wait=True)
        await trio.sleep(100)
        assert len(client.book.never_leased_records()) >= 3
        provider.desk.register()  # now it lets
        task = await client.until_ended(task_id, within_s=100)
        assert task.status is TaskStatus.COMPLETED
        await trio.sleep(15)
        assert client.book.never_leased_records() == ()
        await client.kill()
        await world.start(client)
        assert client.book.never_leased_records() == ()
        world.check_agreed(client, provider)


async def test_those_who_never_opened_a_channel_do_not_fill_the_room_of_those_who_did(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    store, clock = Store(tmp_path / "store"), Clock()
    try:
        book = never_leased.NeverLeased(store, clock, Earnings(store, clock))
        with store.transaction() as txn:
            for number in range(never_leased.MAX_NEVER_UNSEEN):
                key = NodeKey((number // 200).to_bytes(32))
                name = AgreementId(number.to_bytes(32))
                book.keep(txn, name, ChannelId(bytes(32)), key, "cancelled before it arrived")
        assert not book.has_room(NodeKey(b"n" * 32), ChannelId(bytes(32)))
    finally:
        store.close()
