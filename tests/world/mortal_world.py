"""A world whose processes die at the very commit a test chose, and one job with all its money.

Each process that is to be mortal runs under ``mortal.py``; it is started again wherever a wait
finds it gone, as its owner would.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import trio
from mortal import AFTER, BEFORE, NUMBERS, Control
from whole_world import LONG_HORIZON_S, NODE, WholeWorld, found_world

from robocompute import RoboComputeError
from robocompute_node.chain_link import chain_link
from robocompute_node.config_file import load_config
from robocompute_node.keys import load_wallet_address
from robocompute_protocol.errors import ChainError
from robocompute_protocol.money import MicroUnits, format_amount, parse_amount
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from robocompute_settlement.port import ChannelView

PROCESSES: Final = ("chain", "provider-1", "client-1")
"""In the order in which they are started again."""
MORTAL: Final = Path(__file__).with_name("mortal.py")
PATIENCE_S: Final = 120.0
"""For one job, or what is left of it after a death in it, on a machine that may be busy."""
POLL_S: Final = 0.1
WITHDRAWN: Final = MicroUnits(1_000)
"""A tenth of a second's pay: less than any job here earns its provider in the end."""
JOB: Final = b"""
import time
print("begun", flush=True)
time.sleep(2.5)
"""
MOMENTS: Final = {"before": BEFORE, "after": AFTER}


@dataclass(frozen=True, slots=True)
class Death:
    """``victim`` dies before or after the ``commit``-th commit of ``at`` since a job was ordered."""

    at: str
    moment: str
    commit: int
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' and '.join(self.victims)} {self.moment} commit {self.commit} of {self.at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """Who owns what, when nothing is under way."""

    client: int
    provider: int
    fees: int
    earned: int
    settled_on_chain: int
    withdrawn: int
    """In the provider's own wallet, beyond what it held at first."""


@dataclass(slots=True)
class MortalWorld:
    """A whole world of mortals."""

    world: WholeWorld
    controls: dict[str, Control] = field(default_factory=dict[str, Control])
    jobs: int = 0
    withdrawals: int = 0
    duplicated: bool = False
    """Whether the embedded chain is given each transaction twice."""
    at_first: int = 0
    """In the provider's own wallet, when the world was founded."""
    deaths: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROCESSES, 0))

    def adopt(self, *names: str) -> None:
        """Start these processes again, as mortals."""
        for name in (name for name in PROCESSES if name in names):
            path = self.world.folder / f"{name}.control"
            path.write_bytes(bytes(8 * NUMBERS))
            self.controls[name] = Control(path)
        for name in reversed(PROCESSES):
            if name in names:
                self.world.terminate(name)
        for name in PROCESSES:
            if name in names:
                self.start(name)

    def start(self, name: str) -> None:
        """Start a process that is gone, as it was, with nobody's death before it."""
        under: tuple[str, ...] = ()
        if name in self.controls:
            self.controls[name].disarm()
            path = self.world.folder / f"{name}.control"
            under = (sys.executable, str(MORTAL), str(path))
        if name == "chain" and self.duplicated:
            self.world.start(name, under=under, also=("--faults",))
            self._duplicate()
        else:
            self.world.start(name, under=under)

    def _duplicate(self) -> None:
        """Let every transaction reach the chain twice, for as long as this process lives."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "embeddedFaults"}
        faults = {"duplicate": 1_000_000}
        with httpx.Client(trust_env=False, timeout=10) as http:
            url = self.world.record.rpc_url
            answer = http.post(url, json={**body, "params": [faults]}).json()
        assert "error" not in answer, answer

    def commits(self) -> dict[str, int]:
        return {name: control.commits for name, control in self.controls.items()}

    def revive(self) -> bool:
        """Start again whoever died; whether anybody had."""
        dead = [name for name in PROCESSES if not self.world.process(name).running()]
        for name in dead:
            self.deaths[name] += 1
            self.world.gone(name)
            self.start(name)
        return bool(dead)

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """Return the first truthy thing ``look`` returns, reviving whoever dies meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        last: Exception | None = None
        while True:
            if self.revive():
                deadline = time.monotonic() + PATIENCE_S
            try:
                if seen := look():
                    return seen
            except (RoboComputeError, ChainError, OSError) as exc:  # somebody is dead just now
                last = exc
            assert time.monotonic() < deadline, f"not seen: {what} (last: {last!r})"
            time.sleep(POLL_S)

    # --- one job --------------------------------------------------------------------------------

    def one_job(self, death: Death | None) -> dict[str, Any]:
        """Order a job, see it to its end, to its settlement, and withdraw some of what it earned."""
        if death is not None:
            victims = tuple(self.world.process(name).pid for name in death.victims)
            control = self.controls[death.at]
            control.arm(MOMENTS[death.moment], ahead=death.commit, victims=victims)
        self.jobs += 1
        key = f"job-{self.jobs}-{os.getpid()}"
        task_id = self.until("an order", lambda: self._order(key))
        task = self.until("the job's end", lambda: self._ended(task_id))
        self.until("everything settled", self._settled)
        self._withdraw()
        for control in self.controls.values():
            control.disarm()
        self.until("everybody alive", lambda: not self.revive())
        return task

    def _order(self, key: str) -> str:
        sdk = self.world.sdk()
        sdk.blobs.put(iter([JOB]))
        file = {"path": "job.py", "size": len(JOB), "chunks": [hashlib.sha256(JOB).hexdigest()]}
        task = sdk.tasks.create(
            name="mortal", type="cpu", command=["python", "job.py"], upload={"files": [file]},
            wait=True, idempotency_key=key,
        )  # fmt: skip
        return str(task.task_id)

    def _ended(self, task_id: str) -> dict[str, Any] | None:
        task = dict(self.world.sdk().tasks.get(task_id))
        return task if task["ended_at"] else None

    def _settled(self) -> bool:
        provider = self.world.provider()
        earnings = provider["earnings"]
        return provider["slots_taken"] == 0 and earnings["settled"] == earnings["earned"]

    def _withdraw(self) -> None:
        """Withdraw ``WITHDRAWN``, exactly once, as an owner who looks before paying again."""
        wanted = self.until("the wallet", self.provider_wallet) + WITHDRAWN
        words = ("wallet", "withdraw", format_amount(WITHDRAWN), "--yes", "--json")
        data = ("--data", str(self.world.data("provider-1")))
        while self.until("the wallet", self.provider_wallet) < wanted:
            self._run_to_its_end([*NODE, *words, *data])
        self.withdrawals += 1

    def _run_to_its_end(self, command: list[str]) -> None:
        """Run an owner's command while whoever dies is revived."""
        with (self.world.folder / "owner.log").open("ab") as output:
            owner = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self.until("the end of the owner's command", lambda: owner.poll() is not None)
        finally:
            owner.kill()
            owner.wait()

    def provider_wallet(self) -> int:
        balance = self.world.sdk("provider-1").wallet.get_balance()
        return parse_amount(str(balance["usdc_balance"]))

    # --- money ----------------------------------------------------------------------------------

    def money(self) -> Money:
        """The books as client, provider and chain tell them, once nothing moves."""
        self.until("everything settled", self._settled)

        def read() -> Money:
            return Money(
                client=self.world.wealth("client-1"),
                provider=self.world.wealth("provider-1"),
                fees=self.world.books().fees_owed,
                earned=parse_amount(self.world.provider()["earnings"]["earned"]),
                settled_on_chain=sum(one.settled for one in self.channels()),
                withdrawn=self.provider_wallet() - self.at_first,
            )

        return self.until("books", read)

    def channels(self) -> tuple[ChannelView, ...]:
        """The client's channels, as the chain has them."""
        config = load_config(self.world.data("client-1"))
        owner = load_wallet_address(config)

        async def read() -> tuple[ChannelView, ...]:
            async with SolanaSettlement(**chain_link(config.chain)) as chain:
                return await chain.channels_of(owner, mint=config.chain.mint)

        return trio.run(read)

    def check(self, before: Money, task: dict[str, Any]) -> Money:
        """Whether all books agree to the unit on what one job cost; the books now."""
        after = self.money()
        cost = parse_amount(str(task["cost"]))
        assert task["cause"] or task["error"], "a task ended without a cause"
        assert after.earned - before.earned == cost
        assert before.client - after.client == cost
        assert after.settled_on_chain - before.settled_on_chain == cost
        assert after.provider - before.provider == cost - (after.fees - before.fees)
        assert after.fees == sum(one.fee_taken for one in self.channels())
        assert after.withdrawn == self.withdrawals * WITHDRAWN
        assert self.world.books().surplus == 0
        assert not self.world.provider()["earnings"]["refused"]
        for name in ("provider-1", "client-1"):
            assert not self.world.sdk(name).node()["alarms"]
        return after


@contextmanager
def mortal_world(
    folder: Path, *mortals: str, backend: str = "embedded", top_ups: bool = False
) -> Generator[MortalWorld]:
    """Found a world in which ``mortals`` can be told to die; end it, and leave no process.

    An embedded chain that is mortal is given every transaction twice. With ``top_ups`` a channel
    holds no more than the job at hand needs, so that each job begins with a transaction.
    """
    deposit = "0.03" if top_ups else "5.00"
    with found_world(
        folder, horizon_s=LONG_HORIZON_S, channel_deposit=deposit, backend=backend
    ) as world:
        mortal = MortalWorld(world, duplicated="chain" in mortals)
        mortal.adopt(*mortals)
        mortal.at_first = mortal.until("the provider's wallet", mortal.provider_wallet)
        yield mortal
