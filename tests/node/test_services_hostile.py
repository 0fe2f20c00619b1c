"""Peers that lie, replay and flood: an answer or an ended stream, never a crash, never money."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from fake_world import SMALL, USDC, FakeNode, World, fake_world

from robocompute_node.api.port import TaskStatus
from robocompute_node.executor.fake import Pause
from robocompute_node.p2p.port import FrameStream, PeerGone
from robocompute_protocol import codec
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_BLOB,
    PROTOCOL_BOOK,
    PROTOCOL_JOB,
    PROTOCOL_PAY,
    AgreementMessage,
    Attach,
    BlobMessage,
    BookRequest,
    CancelRequest,
    ChunkPart,
    Extend,
    Have,
    JobMessage,
    Kept,
    Message,
    Missing,
    NeverLeased,
    Order,
    PayMessage,
    Quote,
    QuoteRequest,
    Refused,
    Stored,
    Sync,
    Waiting,
    Want,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.terms import agreement_id, sign_terms
from robocompute_protocol.vouchers import PayerLedger, sign_voucher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from robocompute_protocol.signing import SigningKey

UNIONS = {
    PROTOCOL_AGREEMENT: AgreementMessage,
    PROTOCOL_PAY: PayMessage,
    PROTOCOL_JOB: JobMessage,
    PROTOCOL_BLOB: BlobMessage,
}


@dataclass
class Stage:
    """A client with a running job, its provider, and a stranger with a node but no say."""

    world: World
    client: FakeNode
    provider: FakeNode
    stranger: FakeNode
    task_id: str

    @property
    def agreement(self) -> AgreementId:
        return AgreementId(bytes.fromhex(self.client.api.task(self.task_id).agreement or ""))

    @asynccontextmanager
    async def stream(self, node: FakeNode, protocol: str) -> AsyncGenerator[FrameStream]:
        async with node.network.open(self.provider.key.node_key, protocol) as stream:
            yield stream

    async def ask(self, node: FakeNode, protocol: str, *messages: Message) -> Message | None:
        """Send messages on one stream; the answer to the last, None where the stream ended."""
        answer: Message | None = None
        try:
            async with self.stream(node, protocol) as stream:
                for message in messages:
                    await stream.send(codec.encode(message))
                    frame = await stream.receive(timeout_s=60)
                    if frame is None:
                        return None
                    answer = codec.decode(UNIONS[protocol], frame)
        except PeerGone:
            return None
        return answer

    async def finish(self) -> None:
        """The honest job goes on as if nothing had been, and the money is right."""
        await self.client.api.cancel_task(self.task_id)
        task = await self.client.until_ended(self.task_id)
        assert task.status is TaskStatus.CANCELLED
        assert not self.provider.down.is_set()
        payee = self.world.check_agreed(self.client, self.provider)
        assert payee.ledger.owed == task.cost


@asynccontextmanager
async def running_job(folder: Path) -> AsyncGenerator[Stage]:
    async with fake_world(folder) as world:
        provider = await world.provider(script=lambda _: (Pause(3_600_000),), slots=2)
        await world.start(provider)
        client = await world.start(await world.client())
        stranger = await world.start(await world.client("stranger"))
        task_id = await client.submit("run")
        await client.until_stage(task_id, "running")
        await trio.sleep(12)
        stage = Stage(world, client, provider, stranger, task_id)
        yield stage
        await stage.finish()


def code_of(answer: Message | None) -> str:
    """The refusal's code; "" where the stream ended instead."""
    if answer is None:
        return ""
    assert isinstance(answer, Refused), answer
    return answer.code


GARBAGE = (
    b"",
    b"\x00",
    b"\xff" * 4_096,
    b"\x81\xa4type\xa5order",
    os.urandom(500),
    msgspec.msgpack.encode({"type": "order", "terms": 1}),
    msgspec.msgpack.encode([1] * 1_000),
    msgspec.msgpack.encode({"type": "nonsense"}),
)


@pytest.mark.parametrize(
    "protocol", [PROTOCOL_AGREEMENT, PROTOCOL_PAY, PROTOCOL_JOB, PROTOCOL_BLOB, PROTOCOL_BOOK]
)
async def test_garbage_ends_its_own_stream_only(
    protocol: str, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        for garbage in GARBAGE:
            with suppress(PeerGone), trio.fail_after(60):
                async with stage.stream(stage.stranger, protocol) as stream:
                    await stream.send(garbage)
                    while (frame := await stream.receive()) is not None:
                        assert b"refused" in frame


async def test_what_is_out_of_place_ends_the_stream(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        waiting, kept = Waiting(reason="x"), Kept(agreement=stage.agreement)
        assert code_of(await stage.ask(stage.stranger, PROTOCOL_AGREEMENT, waiting)) in (
            "",
            "protocol_remote",
        )
        refusal = Refused(code="x", message="x")
        assert await stage.ask(stage.stranger, PROTOCOL_PAY, refusal) is None
        assert await stage.ask(stage.stranger, PROTOCOL_JOB, kept) is None
        assert await stage.ask(stage.stranger, PROTOCOL_BLOB, Stored()) is None


async def test_another_clients_agreement_is_nobody_elses_business(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        stranger, agreement = stage.stranger, stage.agreement
        rental = stage.client.book.get(agreement)
        voucher = rental.voucher
        attach = Attach(agreement=agreement, next_sequence=0)
        extend = Extend(agreement=agreement, prepaid_ms=Millis(60_000), voucher=voucher)
        cancel = CancelRequest(agreement=agreement)
        with_terms = CancelRequest(agreement=agreement, terms=rental.signed_terms)
        channel = stage.client.channel_with(stage.provider).channel
        assert code_of(await stage.ask(stranger, PROTOCOL_JOB, attach)) == "unknown_agreement"
        assert code_of(await stage.ask(stranger, PROTOCOL_PAY, extend)) == "unknown_agreement"
        for request in (cancel, with_terms):
            refused = await stage.ask(stranger, PROTOCOL_AGREEMENT, request)
            assert code_of(refused) == "unknown_agreement"
        order = stage.client.book.order_of(rental, b"")
        assert code_of(await stage.ask(stranger, PROTOCOL_AGREEMENT, order)) == "wrong_signer"
        shown = await stage.ask(stranger, PROTOCOL_PAY, Sync(channel=channel, voucher=None))
        assert shown == Sync(channel=channel, voucher=None)


async def test_no_voucher_but_the_payers_own_next_one_buys_time(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        client, agreement = stage.client, stage.agreement
        ledger = client.channel_with(stage.provider).ledger
        letting = stage.provider.lettings.get(agreement)
        assert letting is not None
        before = letting.state.prepaid_ms
        earning = stage.provider.earnings.get(ledger.channel)
        assert earning is not None
        voucher = earning.ledger.voucher
        assert voucher is not None
        more = Millis(stage.provider.lettings.elapsed(letting) + 29_000)

        def extend(ledger: PayerLedger, paid: int, key: SigningKey = client.key) -> Extend:
            _, voucher = ledger.allocate(agreement, MicroUnits(paid))
            return Extend(agreement=agreement, prepaid_ms=more, voucher=sign_voucher(key, voucher))

        foreign = PayerLedger(channel=ChannelId(bytes(32)), sequence=99)
        lowered = msgspec.structs.replace(
            ledger, cumulative=MicroUnits(0), open=(), closed_total=MicroUnits(0), sequence=99
        )
        forgetting = msgspec.structs.replace(ledger, open=(), sequence=99)
        other = AgreementId(digest(b"another agreement"))
        _, forgets = forgetting.allocate(other, MicroUnits(5))
        closed = msgspec.structs.replace(ledger, closed=digest(b"never closed"), sequence=99)
        cases = {
            "bad_signature": extend(ledger, 90_000, stage.stranger.key),
            "wrong_channel": extend(foreign, 90_000),
            "exceeds_deposit": extend(ledger, 10**9),
            "voucher_lowered": extend(lowered, 1),
            "allocation_missing": Extend(
                agreement=agreement, prepaid_ms=more, voucher=sign_voucher(client.key, forgets)
            ),
            "closed_unknown": extend(closed, 90_000),
            "tick_too_long": Extend(
                agreement=agreement, prepaid_ms=Millis(more + 30_000), voucher=voucher
            ),
        }
        for code, request in cases.items():
            answer = await stage.ask(client, PROTOCOL_PAY, request)
            assert code_of(answer) == code
            letting = stage.provider.lettings.get(agreement)
            assert letting is not None
            assert letting.state.prepaid_ms <= before + 15_000


def order_for(stage: Stage, quote: Quote, **changes: object) -> tuple[Order, AgreementId]:
    """Return an order the stranger may send, with its terms changed."""
    rental = stage.client.book.get(stage.agreement)
    task = codec.encode(stage.client.tasks.get(stage.task_id).spec)
    fair: dict[str, object] = {
        "payer": stage.stranger.wallet,
        "payer_node": stage.stranger.key.node_key,
        "nonce": os.urandom(16),
        "slots": quote.slots,
    }
    terms = msgspec.structs.replace(rental.terms, **(fair | changes))
    name = agreement_id(terms)
    key = stage.stranger.key
    _, voucher = PayerLedger(channel=terms.channel).allocate(name, MicroUnits(10_000))
    signed = sign_terms(key, terms)
    return Order(terms=signed, task=task, voucher=sign_voucher(key, voucher)), name


async def test_no_order_on_false_terms_is_ever_leased(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        request = QuoteRequest(
            requirements=SMALL, payer=stage.stranger.wallet, mint=USDC, wall_ms=Millis(1)
        )
        quote = await stage.ask(stage.stranger, PROTOCOL_AGREEMENT, request)
        assert isinstance(quote, Quote)
        used = stage.client.book.get(stage.agreement).terms.nonce
        somebody = stage.stranger.key.node_key
        cases: dict[str, dict[str, object]] = {
            "wrong_provider": {"payee_node": somebody},
            "wrong_stake": {"stake": bytes(32)},
            "wrong_task": {"task": bytes(32)},
            "wrong_slots": {"slots": 0b11},
            "price_changed": {"price_per_hour": MicroUnits(1)},
            "bad_terms": {"slots": 0},
            "busy": {"slots": 1 << 61},
            "nonce_used": {"nonce": used},
            "wrong_signer": {"payer_node": stage.client.key.node_key},
            "upload_missing": {},
        }
        for code, changes in cases.items():
            order, name = order_for(stage, quote, **changes)
            answer = await stage.ask(stage.stranger, PROTOCOL_AGREEMENT, order)
            assert code_of(answer) == code
            letting = stage.provider.lettings.get(name)
            assert letting is None or letting.over
        assert len(stage.provider.executor.jobs()) == 1


async def test_an_order_on_another_payers_channel_is_never_leased(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        stranger = stage.stranger
        manifest = stage.client.tasks.get(stage.task_id).spec.upload
        request = QuoteRequest(
            requirements=SMALL, payer=stranger.wallet, mint=USDC, wall_ms=Millis(1)
        )
        quote = await stage.ask(stranger, PROTOCOL_AGREEMENT, request)
        assert isinstance(quote, Quote)
        stranger.blobs.put(stage.client.blobs.get(manifest))

        async def told(_sent: int, _wanted: int) -> None:
            await trio.lowlevel.checkpoint()

        await stranger.exchange.push(stage.provider.key.node_key, (manifest,), told=told)
        order, name = order_for(stage, quote)
        answer = await stage.ask(stranger, PROTOCOL_AGREEMENT, order)
        assert code_of(answer) == "channel_wrong_parties"
        never = stage.provider.lettings.never.get(name)
        assert never is not None
        assert never.reason.startswith("channel_wrong_parties")
        again = await stage.ask(stranger, PROTOCOL_AGREEMENT, order)
        assert isinstance(again, NeverLeased)
        assert await stage.ask(stranger, PROTOCOL_AGREEMENT, order) == again
        assert len(stage.provider.executor.jobs()) == 1


async def test_chunks_are_taken_only_after_a_quote_and_only_whole(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        stranger, data = stage.stranger, b"some chunk"
        chunk = digest(data)
        refused = await stage.ask(stranger, PROTOCOL_BLOB, Have(chunks=(chunk,)))
        assert code_of(refused) == "no_upload_expected"
        request = QuoteRequest(
            requirements=SMALL, payer=stranger.wallet, mint=USDC, wall_ms=Millis(1)
        )
        await stage.ask(stranger, PROTOCOL_AGREEMENT, request)
        parts = (
            ChunkPart(chunk=chunk, offset=0, data=b"other data", last=True),
            ChunkPart(chunk=chunk, offset=7, data=data, last=True),
            ChunkPart(chunk=digest(b"x"), offset=0, data=data, last=True),
        )
        for part in parts:
            assert await stage.ask(stranger, PROTOCOL_BLOB, Have(chunks=(chunk,)), part) is None
            assert not stage.provider.blobs.has(chunk)
        known = stage.client.tasks.get(stage.task_id).spec.upload
        answer = await stage.ask(stranger, PROTOCOL_BLOB, Want(chunks=(known,)))
        assert answer == Missing(chunks=(known,))


async def test_a_flood_of_quotes_is_bounded_and_lets_no_slot(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        answers: list[Message | None] = []
        for number in range(200):
            request = QuoteRequest(
                requirements=SMALL,
                payer=Address(digest(b"wallet", number.to_bytes(4))),
                mint=USDC,
                wall_ms=Millis(1),
            )
            answers.append(await stage.ask(stage.stranger, PROTOCOL_AGREEMENT, request))
        # All of one slot: whatever payers it names, it holds no more than one that asks again.
        assert len({each.slots for each in answers if isinstance(each, Quote)}) == 1
        await trio.sleep(6)
        request = QuoteRequest(
            requirements=SMALL, payer=stage.stranger.wallet, mint=USDC, wall_ms=Millis(1)
        )
        assert isinstance(await stage.ask(stage.stranger, PROTOCOL_AGREEMENT, request), Quote)


async def test_a_book_is_asked_for_by_a_request_only(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with running_job(tmp_path) as stage:
        async with stage.stream(stage.stranger, PROTOCOL_BOOK) as stream:
            await stream.send(codec.encode(BookRequest(classes=("nonsense",) * 1_000)))
            assert await stream.receive(timeout_s=5) is not None
