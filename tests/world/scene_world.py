"""A scene: a provider and two clients on a chain that can be taken away from them."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio
from scene_chain import CHALLENGE_S, SceneChain
from whole_world import WholeWorld, free_port, wait_until
from world_blueprint import SCENE

from robocompute_node.config_file import load_config
from robocompute_node.keys import KeyFile, load_key, make_key
from robocompute_node.localnet.chains import LOCAL
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_protocol.money import MicroUnits, parse_amount

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from robocompute_settlement.port import ChannelView

RICH: Final = MicroUnits(1_000_000_000)
POOR: Final = MicroUnits(300_000)
"""Half a minute of work."""
WALLETS: Final = {"provider-1": RICH, "client-1": RICH, "client-2": POOR}
FIRST_TICKS_MS: Final = {"client-1": 4_000, "client-2": 2_000}
HORIZON_S: Final = 40
"""A provider is started again within it, also on a busy machine. client-2 has one of 6 s."""
COUNTS: Final = b"""
import sys, time
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(0.1)
"""
SMALL: Final = {"cpu_cores": 1, "ram_gb": 0.1, "storage_gb": 0.1}
CHUNK: Final = 1_048_576


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What scenes are played with. Each leaves all nodes running and the cables plugged in."""

    chain: SceneChain
    world: WholeWorld

    # --- jobs -----------------------------------------------------------------------------------

    def order(
        self, lines: int, *, client: str = "client-1", ballast: bytes = b"", fits: bool = True
    ) -> str:
        """Hand in a job that counts ``lines`` tenths of a second; return its task."""
        sdk = self.world.sdk(client)
        files = [_file("job.py", COUNTS)]
        chunks = [COUNTS]
        if ballast:
            pieces = [ballast[at : at + CHUNK] for at in range(0, len(ballast), CHUNK)]
            files.append(_file("ballast", *pieces))
            chunks += pieces
        sdk.blobs.put(iter(chunks))
        requirements = SMALL if fits else {**SMALL, "ram_gb": 4_000}
        task = sdk.tasks.create(
            name="scene", type="cpu", command=["python", "job.py", str(lines)],
            upload={"files": files}, resource_requirements=requirements, wait=not fits,
        )  # fmt: skip
        return str(task.task_id)

    def task(self, task: str, client: str = "client-1") -> dict[str, Any]:
        return dict(self.world.sdk(client).tasks.get(task))

    def lets_again(self, client: str = "client-1") -> None:
        """Wait until jobs are taken, after the chain or the provider was away."""

        def look() -> bool:
            return self.ended(self.order(1, client=client), client)["cause"] == "exited"

        wait_until("a job that is taken", look)

    def until_stage(self, task: str, *stages: str, client: str = "client-1") -> None:
        """Return as soon as the task's events tell of one of ``stages``."""
        for event in self.world.sdk(client).tasks.events(task):
            if event.kind == "stage" and event.data["stage"] in stages:
                return
        raise AssertionError(f"{task} ended before {stages}: {self.task(task, client)}")

    def until_paid_on(self, task: str, client: str = "client-1") -> None:
        """Wait until every job of the provider, ``task`` too, is paid beyond its first tick."""

        def look() -> bool:
            shown = self.task(task, client)
            assert not shown["ended_at"], shown
            jobs = self.world.provider()["jobs"]
            return bool(jobs) and all(job["prepaid_ms"] > FIRST_TICKS_MS[client] for job in jobs)

        wait_until("a second payment", look)

    def ended(self, task: str, client: str = "client-1") -> dict[str, Any]:
        """Wait for the task's end."""
        return wait_until(
            f"the end of {task}",
            lambda: shown if (shown := self.task(task, client))["ended_at"] else None,
        )

    def said(self, task: str, client: str = "client-1") -> int:
        """How many lines of the count are there, having seen that none is missing or doubled."""
        logs = self.world.sdk(client).tasks.get_logs(task, lines=10_000)
        assert isinstance(logs, dict)
        lines = [log["message"] for log in logs["logs"] if log["stream"] == "stdout"]
        assert lines == [f"line {number}" for number in range(len(lines))]
        return len(lines)

    # --- money ----------------------------------------------------------------------------------

    def wallet(self, name: str) -> KeyFile:
        return load_key(load_config(self.world.data(name)).wallet_path)

    def node_key(self, name: str) -> KeyFile:
        return load_key(load_config(self.world.data(name)).node_key_path)

    def channels(self, client: str = "client-1") -> tuple[ChannelView, ...]:
        """The client's channels, as the chain has them."""
        owner = self.wallet(client).address

        async def read() -> tuple[ChannelView, ...]:
            async with self.chain.adapter(self.wallet(client).seed) as chain:
                return await chain.channels_of(owner, mint=LOCAL.mints[0])

        return tuple(one for one in trio.run(read) if one.payer == owner)

    def receipts(self, client: str = "client-1") -> int:
        """What all receipts of a client come to."""
        sdk = self.world.sdk(client)
        total = 0
        for task in sdk.tasks.list(limit=200):
            receipt = sdk.tasks.receipt(task.task_id) if task.agreement else None
            total += 0 if receipt is None else parse_amount(str(receipt.amount))
        return total

    def receipts_in(self, client: str = "client-1") -> None:
        """Wait until every agreement of a client that something was paid on has its receipt."""
        sdk = self.world.sdk(client)

        def look() -> bool:
            tasks = [task for task in sdk.tasks.list(limit=200) if parse_amount(task.prepaid)]
            return all(sdk.tasks.receipt(task.task_id) is not None for task in tasks)

        wait_until("all receipts", look)

    def settled(self) -> int:
        """Wait until all that was earned is settled; return it, fees included."""
        return parse_amount(str(self.world.settled()["settled"]))


def _file(path: str, *pieces: bytes) -> dict[str, Any]:
    chunks = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    return {"path": path, "mode": 0o644, "size": sum(map(len, pieces)), "chunks": chunks}


@contextmanager
def found_scene(backend: str, folder: Path) -> Generator[Scene]:
    """Found a scene, and end it: no process of it is left."""
    keys: dict[str, Address] = {}
    for name in WALLETS:
        home = folder / "world" / name
        home.mkdir(parents=True, mode=0o700)
        keys[name] = make_key(home / "wallet.json").address
    (folder / "chain").mkdir()
    chain = SceneChain(
        backend, folder / "chain", {keys[name]: usdc for name, usdc in WALLETS.items()}
    )
    try:
        ports = {
            name: free_port()
            for name in (
                "provider_api", "provider_p2p", "client_api", "client_p2p", "other_api",
                "other_p2p",
            )
        }  # fmt: skip
        usdc, usdt = map(to_base58, LOCAL.mints)
        text = SCENE.format(
            rpc=chain.rpc.port, ws=chain.ws.port, program=to_base58(LOCAL.program_id),
            usdc=usdc, usdt=usdt, challenge=CHALLENGE_S, horizon=HORIZON_S, **ports,
        )  # fmt: skip
        world = WholeWorld(folder, text)
        left: list[str] = []
        try:
            yield Scene(chain=chain, world=world)
        finally:
            chain.end()
            left = world.end()
        assert not left, f"these processes did not go with their scene: {left}"
    finally:
        chain.end()
