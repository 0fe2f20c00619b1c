"""Vouchers a second that one provider's pay desk takes from 100 clients at once, on one core.

The daemon's own services between the stream's bytes and the stream's bytes: decoding, the strict
verification, the rules of the agreement, the ledger, the lease's new tick and its signature, store
and mark synced to disk before the answer. The clients signed beforehand, and streams cost nothing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from robocompute_node.blobs import FileBlobStore
from robocompute_node.clocks import Clock
from robocompute_node.config import NodeConfig
from robocompute_node.executor.fake import FakeExecutor
from robocompute_node.inventory import Inventory
from robocompute_node.node_mark import first_mark, write_mark
from robocompute_node.p2p.fake import FakeHub, FakeNetwork
from robocompute_node.services.blob_access import BlobAccess
from robocompute_node.services.earnings import EARNINGS, EarningRecord, Earnings
from robocompute_node.services.job_runs import JobRuns
from robocompute_node.services.lettings import JOBS, LETTINGS, LIVE, LettingRecord, Lettings
from robocompute_node.services.offering import Offering, Standing, offer_of
from robocompute_node.services.pay_desk import PayDesk
from robocompute_node.services.program_view import ProgramView
from robocompute_node.services.quiet_time import QuietTime
from robocompute_node.store import Store, Transaction
from robocompute_protocol import codec, terms as rules
from robocompute_protocol.agreement import ProviderAgreement, ProviderPhase
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey, digest
from robocompute_protocol.messages import (
    Extend,
    Leased,
    PayMessage,
    Requirements,
    SignedVoucher,
    TaskSpec,
    Terms,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.vouchers import PayeeLedger, PayerLedger, sign_voucher
from robocompute_settlement.fake import FakeChain, FakeSettlement

if TYPE_CHECKING:
    from collections.abc import Generator

CLIENTS: Final = 100
WAYS: Final = ((1, 50), (10, 50), (CLIENTS, 40))
"""Clients that pay at once, and how often each does."""
DEPOSIT: Final = MicroUnits(10**12)
PREPAID: Final = Millis(10_000)
"""Of each lease before the first voucher that is measured; each then brings a millisecond."""
PROVIDER: Final = SigningKey(digest(b"a provider"))
MINT, OTHER_MINT, WALLET, STAKE = (
    Address(digest(name)) for name in (b"mint", b"other mint", b"wallet", b"stake")
)
MACHINE: Final = Inventory(
    cpu_model="a processor", cpu_cores=8, memory_mib=16_384, disk_mib=100_000, gpus=()
)
TASK: Final = codec.encode(
    TaskSpec(
        app_name="job",
        argv=("python", "train.py"),
        env=(),
        requirements=Requirements(),
        upload=Digest(digest(b"upload")),
        wall_ms=Millis(3_600_000),
    )
)


class Client:
    """One client with a lease that runs, and the key that signs its vouchers."""

    def __init__(self, number: int, txn: Transaction, now: Millis) -> None:
        self.key = SigningKey(digest(b"client", bytes([number])))
        channel = ChannelId(digest(b"channel", bytes([number])))
        self.terms = Terms(
            task=digest(TASK), payer=Address(digest(b"payer", bytes([number]))),
            payer_node=self.key.node_key, payee=WALLET, payee_node=PROVIDER.node_key,
            stake=STAKE, mint=MINT, channel=channel, nonce=bytes([number]) * 16,
            slots=1 << number % 62, price_per_hour=MicroUnits(3_600_000),
            horizon_ms=Millis(60_000), first_tick_ms=Millis(10_000),
            start_deadline_ms=Millis(60_000),
        )  # fmt: skip
        self.agreement = rules.agreement_id(self.terms)
        self._ledger = PayerLedger(channel=channel)
        first = self._promise(PREPAID)
        ledger = PayeeLedger(channel=channel).accept(
            first, voucher_key=self.key.node_key, deposit=DEPOSIT
        )
        earning = EarningRecord(
            channel=channel, payer=self.terms.payer, payee=WALLET, mint=MINT,
            voucher_key=self.key.node_key, challenge_s=86_400,
            ledger=ledger.lease(self.agreement), deposit=DEPOSIT, final_deposit=DEPOSIT,
            seen_ms=now,
        )  # fmt: skip
        letting = LettingRecord(
            state=ProviderAgreement(
                agreement=self.agreement, terms=rules.terms_digest(self.terms),
                phase=ProviderPhase.LEASED, prepaid_ms=PREPAID, ticks=1, started_ms=now,
            ),
            terms=self.terms, signed_terms=rules.sign_terms(self.key, self.terms), task=TASK,
            job_id=self.terms.nonce.hex(), ordered_ms=now,
        )  # fmt: skip
        txn.put(EARNINGS, channel, earning)
        txn.put(LETTINGS, self.agreement, letting)
        txn.put(LIVE, self.agreement, True)

    def _promise(self, prepaid: Millis) -> SignedVoucher:
        self._ledger, voucher = self._ledger.allocate(
            self.agreement, rules.prepaid_amount(self.terms, prepaid)
        )
        return sign_voucher(self.key, voucher)

    def frames(self, rounds: int) -> list[bytes]:
        """The next extensions, signed, as they go over the wire."""
        totals = [Millis(PREPAID + step) for step in range(1, rounds + 1)]
        return [
            codec.encode(
                Extend(agreement=self.agreement, prepaid_ms=each, voucher=self._promise(each))
            )
            for each in totals
        ]


@contextmanager
def provider(folder: Path, clock: Clock) -> Generator[tuple[PayDesk, list[Client]]]:
    """A provider's pay desk, and the clients that have leases there."""
    folder.mkdir(exist_ok=True)
    write_mark(folder, first_mark())
    store = Store(folder / "store")
    try:
        store.declare(EARNINGS, LETTINGS, LIVE, JOBS)
        with store.transaction() as txn:
            clients = [Client(number, txn, clock.now_ms()) for number in range(CLIENTS)]
        chain = FakeSettlement(
            FakeChain(now_s=lambda: clock.now_ms() / 1000, mints=(MINT, OTHER_MINT)), WALLET
        )
        blobs = FileBlobStore(folder / "blobs")
        quiet = QuietTime(store, clock, PROVIDER.node_key, folder, wait=Millis(0))
        earnings = Earnings(store, clock)
        executor = FakeExecutor(blobs, script=lambda _task: ())
        lettings = Lettings(
            store, clock, PROVIDER, executor, JobRuns(executor, blobs, clock, ()), earnings,
            BlobAccess(store, blobs), quiet, slots=62,
        )  # fmt: skip
        standing = Standing(
            provider=PROVIDER.node_key, payee=WALLET, executors=("fake",), runtimes=()
        )
        offering = Offering(
            offer_of(NodeConfig(data_dir=folder), MACHINE, standing)(clock.now_ms(), ()),
            ProgramView(chain, clock, WALLET, MINT, genesis=lambda: None),
            quiet, clock, min_challenge_s=600, leases=lambda: CLIENTS,
        )  # fmt: skip
        network = FakeNetwork(FakeHub(), PROVIDER.node_key)
        yield PayDesk(network, chain, store, lettings, earnings, offering), clients
    finally:
        store.close()


class Wire:
    """The provider's end of a stream on which one client pays, as fast as it is answered."""

    def __init__(self, peer: NodeKey, frames: list[bytes]) -> None:
        self._peer = peer
        self._frames = frames[::-1]
        self.answer = b""

    @property
    def peer(self) -> NodeKey:
        return self._peer

    async def send(self, frame: bytes) -> None:
        self.answer = frame
        await trio.lowlevel.checkpoint()

    async def receive(self, *, timeout_s: float | None = None) -> bytes | None:
        del timeout_s  # nothing here takes time
        await trio.lowlevel.checkpoint()
        return self._frames.pop() if self._frames else None

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


async def one_run(folder: Path, at_once: int, rounds: int) -> dict[str, float]:
    """Vouchers a second by the wall, and microseconds of one core for each."""
    with provider(folder, Clock()) as (desk, clients):
        wires = [Wire(one.key.node_key, one.frames(rounds)) for one in clients[:at_once]]
        wall, core = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for wire in wires:
                nursery.start_soon(desk.serve, wire)
        wall, core = time.perf_counter() - wall, time.process_time() - core
        for wire in wires:
            leased = codec.decode(PayMessage, wire.answer)
            assert isinstance(leased, Leased), leased
            assert leased.prepaid_ms == PREPAID + rounds
        count = at_once * rounds
        return {"per_second": count / wall, "core_us": core / count * 1e6}


def measure(folder: Path, *, runs: int) -> dict[str, Any]:
    """Medians of ``runs`` runs for each number of clients, on the core this process is put on."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    told: dict[str, Any] = {}
    for at_once, rounds in WAYS:
        done: list[dict[str, float]] = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                done.append(trio.run(one_run, Path(place), at_once, rounds))
        told[str(at_once)] = {
            "runs": runs,
            "vouchers_per_second": round(statistics.median(one["per_second"] for one in done)),
            "best_per_second": round(max(one["per_second"] for one in done)),
            "core_us_each": round(statistics.median(one["core_us"] for one in done), 1),
        }
    return told


def lines(told: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    return [
        "\n| clients that pay at once, one core | vouchers a second | best run | core time each |",
        "| --- | --- | --- | --- |",
        *(
            f"| {clients} | {one['vouchers_per_second']:,} | {one['best_per_second']:,} "
            f"| {one['core_us_each']:,.0f} us |"
            for clients, one in told.items()
        ),
    ]
