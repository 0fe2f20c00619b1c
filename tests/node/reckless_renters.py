"""Renters that keep to no manners, and a provider of which every lease it ever signs is written down.

The provider is the real one of the fake world; renters speak to it over raw streams, at any moment
and in any order. What the provider signs is taken from its key itself, so that a tick that was
stored, or only signed, and never spoken counts as well.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

import trio
from fake_world import SMALL, USDC, FakeNode, World

from robocompute_node.clocks import Clock
from robocompute_node.p2p.port import PeerGone
from robocompute_node.services.conversation import PeerRefused, hear, say
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.errors import LocalProtocolError, RoboComputeError
from robocompute_protocol.identifiers import Address, AgreementId, Signature, digest
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_JOB,
    PROTOCOL_PAY,
    AgreementMessage,
    Attach,
    CancelRequest,
    Extend,
    Finished,
    JobMessage,
    Kept,
    Leased,
    LeaseTick,
    Manifest,
    Message,
    Order,
    PayMessage,
    Quote,
    QuoteRequest,
    TaskSpec,
    Terms,
    Waiting,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import LEASE, SigningKey
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.fake import FakeSettlement

DEPOSIT = MicroUnits(100_000_000)
HORIZON = Millis(300_000)
ANSWER_S = 20


class RecordedKey(SigningKey):
    """A key that keeps every lease it signed."""

    __slots__ = ("signed",)

    def __init__(self, seed: bytes, signed: list[LeaseTick]) -> None:
        super().__init__(seed)
        self.signed = signed

    def sign(self, message: bytes) -> Signature:
        signature = super().sign(message)
        if message.startswith(LEASE):
            self.signed.append(read_lease(message, signature))
        return signature


def read_lease(statement: bytes, signature: Signature) -> LeaseTick:
    """A lease out of the 128 bytes that were signed, by the layout of the docs."""
    assert len(statement) == 128
    numbers = [int.from_bytes(statement[at : at + 8], "little") for at in (104, 112, 120)]
    return LeaseTick(
        stake=Address(statement[8:40]),
        agreement=AgreementId(statement[40:72]),
        payer=Address(statement[72:104]),
        slots=numbers[0],
        start_s=numbers[1],
        end_s=numbers[2],
        signature=signature,
    )


class ShiftedClock(Clock):
    """What a process reads that began after somebody set the machine's clock."""

    def __init__(self, real: Clock, shift_s: int) -> None:
        super().__init__()
        self._epoch_ms = real.now_ms() + shift_s * 1_000


class WatchedProvider:
    """A provider that is killed, restored, rotated and set back in time, and what it signed."""

    def __init__(self, world: World, node: FakeNode) -> None:
        self.world = world
        self.node = node
        self.signed: list[LeaseTick] = []
        self._keys = 0
        self._time = world.clock
        self.change_key()

    def change_key(self) -> None:
        """Another key from the next start on; the first is the one that was registered."""
        seed = digest(self.node.name.encode(), b"node", *[b"another"] * self._keys)
        self.node.key = RecordedKey(seed, self.signed)
        self._keys += 1

    @property
    def running(self) -> bool:
        return hasattr(self.node, "store") and not self.node.down.is_set()

    async def start(self, *, cut_after: int | None = None) -> None:
        """Run it, by its own machine's clock; after so many writes to the store power is cut."""
        if self.running:
            return
        theirs, self.world.clock = self.world.clock, self._time
        try:
            await self.world.start(self.node, cut_after=cut_after)
        finally:
            self.world.clock = theirs

    async def kill(self) -> None:
        if self.running:
            await self.node.kill()

    async def set_clock(self, shift_s: int) -> None:
        """The machine's clock is set while the process is down."""
        await self.kill()
        self._time = ShiftedClock(self._time, shift_s)

    async def rotate(self) -> None:
        """The owner gives the stake another node key, and starts the node with it."""
        await self.kill()
        before = self.node.key
        self.change_key()
        wallet = FakeSettlement(self.world.chain, self.node.wallet)
        try:
            await wallet.rotate_key_wallet(mint=USDC, node_key=self.node.key.node_key)
        except RoboComputeError:  # too soon after the last one
            self.node.key = before

    async def back_up(self) -> None:
        await self.kill()
        copy = self.node.folder.with_name("backup")
        shutil.rmtree(copy, ignore_errors=True)
        if (self.node.folder / "store").exists():
            shutil.copytree(self.node.folder / "store", copy)

    async def restore(self) -> None:
        """Put the store of the last backup back, or none where there was no backup."""
        await self.kill()
        copy = self.node.folder.with_name("backup")
        shutil.rmtree(self.node.folder / "store", ignore_errors=True)
        if copy.exists():
            shutil.copytree(copy, self.node.folder / "store")


class Renter:
    """A client that orders what it likes: quoted or not, of any slot, as often as it likes."""

    def __init__(self, node: FakeNode, provider: WatchedProvider) -> None:
        self.node = node
        self.provider = provider
        self.ledger: PayerLedger | None = None
        self.placed: list[tuple[Terms, Order]] = []
        manifest = node.blobs.put(codec.encode(Manifest(files=())))
        self._task = codec.encode(
            TaskSpec(
                app_name="a", argv=("x",), requirements=SMALL, upload=manifest,
                wall_ms=Millis(86_400_000),
            )
        )  # fmt: skip
        self._upload = (manifest,)

    async def ask(self, protocol: str, union: object, message: Message) -> Message | None:
        """The answer; None where there was none, or a refusal."""
        peer = self.provider.node.key.node_key
        with suppress(PeerGone, PeerRefused, RoboComputeError):
            async with self.node.network.open(peer, protocol) as stream:
                await say(stream, message)
                answer = await hear(stream, union, timeout_s=ANSWER_S)
                while isinstance(answer, Waiting):
                    answer = await hear(stream, union, timeout_s=ANSWER_S)
                return answer
        return None

    async def quote(self) -> Quote | None:
        request = QuoteRequest(
            requirements=SMALL, payer=self.node.wallet, mint=USDC, wall_ms=Millis(1_000)
        )
        answer = await self.ask(PROTOCOL_AGREEMENT, AgreementMessage, request)
        return answer if isinstance(answer, Quote) else None

    async def prepare(self) -> None:
        """Upload the job and open a channel, as an honest client does once."""
        node, peer = self.node, self.provider.node

        async def told(_sent: int, _wanted: int) -> None:
            await trio.lowlevel.checkpoint()

        assert await self.quote() is not None
        await node.exchange.push(peer.key.node_key, self._upload, told=told)
        opened = await node.channels.ensure(
            peer.wallet, peer.key.node_key, needed=DEPOSIT, min_challenge_s=600
        )
        self.ledger = PayerLedger(channel=opened.channel)

    async def order(self, slot: int, first_tick: int) -> None:
        """Order a slot, whoever has it, with the voucher that pays for the first tick."""
        assert self.ledger is not None
        node, peer = self.node, self.provider.node
        terms = Terms(
            task=digest(self._task), payer=node.wallet, payer_node=node.key.node_key,
            payee=peer.wallet, payee_node=peer.key.node_key, stake=peer.chain.stake_address(peer.wallet, USDC), mint=USDC, channel=self.ledger.channel,
            nonce=digest(node.key.node_key, bytes([len(self.placed)]))[:16], slots=1 << slot,
            price_per_hour=MicroUnits(3_600_000), horizon_ms=HORIZON,
            first_tick_ms=Millis(first_tick), start_deadline_ms=Millis(60_000),
        )  # fmt: skip
        agreement = rules.agreement_id(terms)
        paid = rules.prepaid_amount(terms, terms.first_tick_ms)
        with suppress(LocalProtocolError):
            ledger, voucher = self.ledger.allocate(agreement, paid)
            order = Order(
                terms=rules.sign_terms(node.key, terms),
                task=self._task,
                voucher=sign_voucher(node.key, voucher),
            )
            self.placed.append((terms, order))
            answer = await self.ask(PROTOCOL_AGREEMENT, AgreementMessage, order)
            if isinstance(answer, Leased):
                self.ledger = ledger

    async def order_again(self, which: int) -> None:
        """Send an old order once more, as after a lost answer."""
        if self.placed:
            _, order = self.placed[which % len(self.placed)]
            await self.ask(PROTOCOL_AGREEMENT, AgreementMessage, order)

    async def extend(self, which: int, ahead: int) -> None:
        """Prepay until ``ahead`` ms from now, or as far as it goes."""
        if not self.placed or self.ledger is None or not self.provider.running:
            return
        terms, _ = self.placed[which % len(self.placed)]
        agreement = rules.agreement_id(terms)
        record = self.provider.node.lettings.get(agreement)
        if record is None:
            return
        prepaid = Millis(self.provider.node.lettings.elapsed(record) + ahead)
        with suppress(LocalProtocolError):
            ledger, voucher = self.ledger.allocate(agreement, rules.prepaid_amount(terms, prepaid))
            extend = Extend(
                agreement=agreement,
                prepaid_ms=prepaid,
                voucher=sign_voucher(self.node.key, voucher),
            )
            if isinstance(await self.ask(PROTOCOL_PAY, PayMessage, extend), Leased):
                self.ledger = ledger

    async def cancel(self, which: int) -> None:
        if self.placed:
            terms, order = self.placed[which % len(self.placed)]
            request = CancelRequest(agreement=rules.agreement_id(terms), terms=order.terms)
            await self.ask(PROTOCOL_AGREEMENT, AgreementMessage, request)

    async def keep(self, which: int) -> None:
        """Fetch a job's end, and let the provider forget it."""
        if not self.placed:
            return
        agreement = rules.agreement_id(self.placed[which % len(self.placed)][0])
        peer = self.provider.node.key.node_key
        with suppress(PeerGone, RoboComputeError):
            async with self.node.network.open(peer, PROTOCOL_JOB) as stream:
                await say(stream, Attach(agreement=agreement, next_sequence=0))
                while True:
                    if isinstance(await hear(stream, JobMessage, timeout_s=1), Finished):
                        await say(stream, Kept(agreement=agreement))
                        await hear(stream, JobMessage, timeout_s=1)
