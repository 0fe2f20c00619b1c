"""Vouchers a second on one core: promised, stored, signed, sent as bytes, verified, stored again.

Both sides of 100 channels in one process: the ledgers, the strict verification, the records and
the LMDB stores of the nodes, each commit synced to disk. What the nodes have beside it (the
network, the agreement's own record) is left out.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from robocompute_node.clocks import Clock
from robocompute_node.services.channels import CHANNELS, ChannelPhase, ChannelRecord
from robocompute_node.services.earnings import EarningRecord, Earnings
from robocompute_node.store import Store
from robocompute_protocol import codec
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, digest
from robocompute_protocol.messages import SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.vouchers import (
    PayeeLedger,
    PayerLedger,
    UnsignedVoucher,
    sign_voucher,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

CHANNELS_COUNT: Final = 100
GOAL: Final = 2_000
TICK: Final = MicroUnits(30_000)
"""Five minutes at $0.36 an hour."""
DEPOSIT: Final = MicroUnits(10**12)
MINT, PAYER, PAYEE = (Address(digest(name)) for name in (b"mint", b"payer", b"payee"))


@dataclass(slots=True)
class Channel:
    """Both ends of one channel."""

    key: SigningKey
    agreement: AgreementId
    payer: ChannelRecord
    payee: EarningRecord


def channels() -> list[Channel]:
    """Return channels with nothing promised, each with an agreement and a voucher key of its own."""
    made: list[Channel] = []
    for number in range(CHANNELS_COUNT):
        name = ChannelId(digest(b"channel", bytes([number])))
        key = SigningKey(digest(b"key", bytes([number])))
        payer = ChannelRecord(
            channel=name, payee=PAYEE, payee_node=key.node_key, mint=MINT, nonce=number,
            deposit=DEPOSIT, challenge_s=86_400, phase=ChannelPhase.OPEN,
            ledger=PayerLedger(channel=name),
        )  # fmt: skip
        payee = EarningRecord(
            channel=name, payer=PAYER, payee=PAYEE, mint=MINT, voucher_key=key.node_key,
            challenge_s=86_400, ledger=PayeeLedger(channel=name), deposit=DEPOSIT,
        )  # fmt: skip
        made.append(Channel(key, AgreementId(digest(b"job", bytes([number]))), payer, payee))
    return made


@contextmanager
def stores(folder: Path) -> Generator[tuple[Store, Store, Earnings]]:
    """A client's store, a provider's store, and the provider's book in it."""
    client, provider = Store(folder / "client"), Store(folder / "provider")
    client.declare(CHANNELS)
    try:
        yield client, provider, Earnings(provider, Clock())
    finally:
        client.close()
        provider.close()


def promise(store: Store, batch: Iterable[Channel]) -> list[bytes]:
    """The client's half: one commit for the batch, and only then the vouchers' bytes."""
    unsigned: list[tuple[Channel, UnsignedVoucher]] = []
    with store.transaction() as txn:
        for channel in batch:
            old = channel.payer.ledger
            ledger, voucher = old.allocate(
                channel.agreement, MicroUnits(old.paid(channel.agreement) + TICK)
            )
            channel.payer = msgspec.structs.replace(channel.payer, ledger=ledger)
            txn.put(CHANNELS, channel.payer.channel, channel.payer)
            unsigned.append((channel, voucher))
    return [codec.encode(sign_voucher(channel.key, voucher)) for channel, voucher in unsigned]


def take(store: Store, book: Earnings, batch: Iterable[Channel], frames: list[bytes]) -> None:
    """The provider's half: after this it may sign ticks for all of the batch."""
    with store.transaction() as txn:
        for channel, frame in zip(batch, frames, strict=True):
            voucher = codec.decode(SignedVoucher, frame)
            ledger = channel.payee.ledger.accept(
                voucher, voucher_key=channel.payee.voucher_key, deposit=channel.payee.deposit
            )
            channel.payee = msgspec.structs.replace(channel.payee, ledger=ledger)
            book.keep(txn, channel.payee)


async def one_run(folder: Path, batch: int, rounds: int) -> dict[str, float]:
    """Vouchers a second by the wall, and microseconds of one core for each."""
    await trio.lowlevel.checkpoint()
    with stores(folder) as (client, provider, book):
        every = channels()
        batches = [every[at : at + batch] for at in range(0, len(every), batch)]
        wall, core = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            for some in batches:
                take(provider, book, some, promise(client, some))
        wall, core = time.perf_counter() - wall, time.process_time() - core
        count = rounds * len(every)
        last = every[-1]
        kept = book.get(last.payee.channel)
        assert kept is not None
        assert kept.ledger.cumulative == TICK * rounds
        return {"per_second": count / wall, "core_us": core / count * 1e6}


def measure(folder: Path, *, runs: int) -> dict[str, Any]:
    """Medians of ``runs`` runs for each way to commit, on the core this process is put on."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    ways = {
        "one commit a voucher": (1, 5),
        "ten a commit": (10, 20),
        "hundred a commit": (100, 40),
    }
    told: dict[str, Any] = {}
    for name, (batch, rounds) in ways.items():
        done: list[dict[str, float]] = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                done.append(trio.run(one_run, Path(place), batch, rounds))
        told[name] = {
            "runs": runs,
            "vouchers_per_second": round(statistics.median(one["per_second"] for one in done)),
            "core_us_each": round(statistics.median(one["core_us"] for one in done), 1),
        }
    return told


def lines(told: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    rows = [
        f"| {name} | {one['vouchers_per_second']:,} | {one['core_us_each']:,.0f} us |"
        for name, one in told.items()
    ]
    return [
        f"\n| vouchers, {CHANNELS_COUNT} channels, one core | a second | core time each |",
        "| --- | --- | --- |",
        *rows,
    ]
