"""Settlements a second, end to end by the adapter, beside one token transfer for each payment.

Each worker is a payer and a payee of its own with three channels between them, and settles all
three in one transaction again and again: built, simulated, signed, sent, confirmed. The naive
design is measured in the same run on the same chain: the same adapter sends one SPL token transfer
after another.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "settlement"))

from settlement_chains import (
    ChainWorld,
    Person,
    embedded_world,
    validator_binary,
    validator_world,
)
from solders.pubkey import Pubkey

from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, digest
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.addresses import associated_token_account
from robocompute_settlement.port import Sent, SettleClaim
from settlement_units import transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from robocompute_settlement.solana import SolanaSettlement

BATCH: Final = 3
"""Settlements in a transaction: a fourth does not fit."""
DEPOSIT: Final = MicroUnits(1_000_000)
STEP: Final = MicroUnits(100)
CHALLENGE_S: Final = 60
NO_LIMIT: Final = 1e6
"""Requests a second: the endpoint is ours, and nobody else's politeness is to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    at_once: tuple[int, ...]
    """How many workers settle at the same time."""
    runs: int
    rounds: int
    """Transactions of each worker in a run."""


@dataclass(slots=True)
class Worker:
    """A payer and a payee, and the channels between them."""

    payer: Person
    payee: Person
    wallet: SolanaSettlement
    """Signs as the payer."""
    node: SolanaSettlement
    """Signs as the payee."""
    mint: Address
    ledgers: list[PayerLedger] = field(default_factory=list[PayerLedger])
    transfers: int = 0

    async def prepare(self) -> None:
        """Fund the payer, make the payee's Balance and token account, open the channels."""
        await self.node.register_wallet(mint=self.mint, node_key=self.payee.node_key)
        total = MicroUnits(BATCH * DEPOSIT)
        await self.wallet.deposit_wallet(mint=self.mint, amount=total)
        for nonce in range(BATCH):
            await self.wallet.open_channel(
                payer=self.payer.address, payee=self.payee.address, mint=self.mint,
                voucher_key=self.payer.node_key, nonce=nonce, deposit=DEPOSIT,
                challenge_s=CHALLENGE_S,
            )  # fmt: skip
            channel = self.wallet.channel_address(
                self.payer.address, self.payee.address, self.mint, nonce
            )
            self.ledgers.append(PayerLedger(channel=ChannelId(channel)))

    def claims(self, count: int = BATCH) -> tuple[SettleClaim, ...]:
        """Return a little more for each of the first ``count`` channels."""
        made: list[SettleClaim] = []
        for place, ledger in enumerate(self.ledgers[:count]):
            job = AgreementId(digest(b"job", ledger.channel))
            new, unsigned = ledger.allocate(job, MicroUnits(ledger.paid(job) + STEP))
            self.ledgers[place] = new
            voucher = sign_voucher(self.payer.signing_key, unsigned)
            made.append(
                SettleClaim(
                    channel=ledger.channel,
                    payee=self.payee.address,
                    mint=self.mint,
                    voucher_key=self.payer.node_key,
                    voucher=voucher,
                    claim=new.cumulative,
                )
            )
        return tuple(made)

    async def settle(self) -> Sent:
        """Three settlements in one transaction."""
        return await self.node.settle(self.claims())

    async def pay_naively(self) -> Sent:
        """One payment by one token transfer."""
        self.transfers += 1  # amounts differ, so that no two transactions are one
        call = transfer(
            Pubkey.from_bytes(associated_token_account(self.payer.address, self.mint)),
            Pubkey.from_bytes(associated_token_account(self.payee.address, self.mint)),
            Pubkey.from_bytes(self.payer.address),
            STEP + self.transfers,
        )
        return await self.wallet.send(call)


async def rate(
    workers: list[Worker], act: Callable[[Worker], Awaitable[Sent]], rounds: int, worth: int
) -> tuple[float, list[float]]:
    """Let all workers act ``rounds`` times: how much a second, and seconds of each transaction."""
    took: list[float] = []

    async def work(worker: Worker) -> None:
        for _ in range(rounds):
            begin = trio.current_time()
            await act(worker)
            took.append(trio.current_time() - begin)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(work, worker)
    return len(took) * worth / (trio.current_time() - begin), took


def summary(runs: list[tuple[float, list[float]]]) -> dict[str, float]:
    """Medians over the runs."""
    return {
        "per_second": round(statistics.median(rate for rate, _ in runs), 1),
        "transaction_median_ms": round(
            statistics.median(one for _, took in runs for one in took) * 1_000
        ),
    }


async def in_turns(workers: list[Worker], plan: Plan) -> dict[str, Any]:
    """Both designs in turns, so that a noisy moment of the machine hits both."""
    ours: list[tuple[float, list[float]]] = []
    naive: list[tuple[float, list[float]]] = []
    for _ in range(plan.runs):
        ours.append(await rate(workers, Worker.settle, plan.rounds, BATCH))
        naive.append(await rate(workers, Worker.pay_naively, plan.rounds, 1))
    return {"at_once": len(workers), "settles": summary(ours), "transfers": summary(naive)}


async def fee(world: ChainWorld, signature: str) -> tuple[int, int]:
    """Lamports and compute units that a confirmed transaction took."""
    with trio.fail_after(60):
        while True:
            options = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0}
            found = world.call("getTransaction", signature, options).get("result")
            if found:
                return found["meta"]["fee"], found["meta"]["computeUnitsConsumed"]
            await trio.sleep(0.2)


async def measure_world(world: ChainWorld, plan: Plan) -> dict[str, Any]:
    """All figures of one chain."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        workers: list[Worker] = []
        for _ in range(max(plan.at_once)):
            payer, payee = world.person(), world.person()
            wallet = await stack.enter_async_context(world.adapter(payer, requests_per_s=NO_LIMIT))
            node = await stack.enter_async_context(world.adapter(payee, requests_per_s=NO_LIMIT))
            for adapter in (wallet, node):
                await nursery.start(adapter.run)
            workers.append(Worker(payer, payee, wallet, node, world.usdc))
        async with trio.open_nursery() as preparing:
            for worker in workers:
                preparing.start_soon(worker.prepare)
        told: dict[str, Any] = {"batches": [], "rates": []}
        for count in range(1, BATCH + 1):
            sent = await workers[0].node.settle(workers[0].claims(count))
            lamports, units = await fee(world, sent.signature)
            told["batches"].append({"settles": count, "lamports": lamports, "units": units})
        sent = await workers[0].pay_naively()
        lamports, units = await fee(world, sent.signature)
        told["transfer"] = {"lamports": lamports, "units": units}
        for at_once in plan.at_once:
            told["rates"].append(await in_turns(workers[:at_once], plan))
        nursery.cancel_scope.cancel()
        return told
    raise AssertionError("unreachable")


def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """Figures by chain; the validator is left out, and said to be, where there is none."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place, embedded_world(Path(place)) as world:
        told["embedded"] = trio.run(measure_world, world, plan)
    binary = validator_binary()
    if binary is None:
        print("no solana-test-validator: set ROBOCOMPUTE_VALIDATOR", file=sys.stderr)
        return told
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        validator_world(Path(place), binary) as world,
    ):
        told["validator"] = trio.run(measure_world, world, plan)
    return told


def lines(told: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    out = [
        "\n| chain | at once | settlements/s | median | transfers/s | median | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in told.items():
        for each in one["rates"]:
            ours, naive = each["settles"], each["transfers"]
            out.append(
                f"| {name} | {each['at_once']} | {ours['per_second']:,} "
                f"| {ours['transaction_median_ms']:,} ms | {naive['per_second']:,} "
                f"| {naive['transaction_median_ms']:,} ms "
                f"| {ours['per_second'] / naive['per_second']:.1f} |"
            )
    out += [
        "\n| chain | in one transaction | lamports | each | compute units | each |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in told.items():
        for each in (*one["batches"], {"settles": 0, **one["transfer"]}):
            count = each["settles"] or 1
            what = f"{each['settles']} settles" if each["settles"] else "1 token transfer"
            out.append(
                f"| {name} | {what} | {each['lamports']:,} | {each['lamports'] / count:,.0f} "
                f"| {each['units']:,} | {each['units'] / count:,.0f} |"
            )
    return out
