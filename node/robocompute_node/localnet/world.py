"""A local world as running processes: start it, see it, end it.

``world.json`` in the world's folder says which processes were started and where they answer; it is
what ``down`` and ``status`` go by, whoever runs them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from robocompute_node.config import Role
from robocompute_node.config_file import load_config
from robocompute_node.localnet.blueprint import NAME, Plan, read_plan
from robocompute_node.localnet.chains import Endpoints, process_of
from robocompute_node.localnet.ground import (
    Ground,
    Inhabitant,
    lay_ground,
    settle_in,
    write_settings,
)
from robocompute_node.localnet.leftovers import end_jobs
from robocompute_node.localnet.processes import Started, start, stop
from robocompute_node.rest_client import NodeNotRunning, RestClient
from robocompute_protocol.errors import ConfigError, RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from robocompute_node.localnet.cluster import Tell

POLL_S: Final = 0.05
NODE_READY_S: Final = 60.0
"""A node imports libp2p and, as a provider, tries its sandbox, on a machine that may be busy."""
OFFER_SEEN_S: Final = 60.0
"""Gossip takes well under a second once two nodes have met."""


class WorldFailed(RoboComputeError):
    """The local world could not be brought up; what had been started was stopped again."""

    code = "local_world"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a process of the world answers."""

    name: str
    roles: tuple[str, ...]
    data: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a world that was started: world.json."""

    rpc_url: str
    ws_url: str
    processes: tuple[Started, ...]
    """In the order they were started."""
    nodes: tuple[Address, ...]

    def running(self) -> tuple[Started, ...]:
        return tuple(process for process in self.processes if process.running())


@dataclass(frozen=True, slots=True)
class World:
    """The local world below ``folder``."""

    folder: Path

    @property
    def record_path(self) -> Path:
        return self.folder / "world.json"

    def record(self) -> Record | None:
        """Return what was started here last, if anything.

        Raises:
            ConfigError: world.json is damaged.
        """
        try:
            return msgspec.json.decode(self.record_path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            raise ConfigError(
                f"{self.record_path} is damaged ({exc}): end its processes by hand, then remove it"
            ) from exc

    async def up(self, config: Path, *, free_ports: bool, tell: Tell) -> Record:
        """Found the world, or wake it, and return once clients see every provider's offer.

        Raises:
            WorldFailed: a process did not come up; the text is its own last line.
            ConfigError: the world's file, or a key in the folder, cannot be used.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            found = self.record()
            if found is not None and found.running():
                raise ConfigError(
                    f"the local world in {self.folder} is up already: see `robocompute-node "
                    f"localnet status --dir {self.folder}`, end it with `localnet down`"
                )
            plan = self._plan(config)
            building = _Building(world=self, plan=plan, free_ports=free_ports, tell=tell)
            try:
                return await building.build()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._stop_all, building.processes)
                self.record_path.unlink(missing_ok=True)
                raise

    def down(self, tell: Tell) -> bool:
        """End the world's processes, clients first and the chain last. False: it was not up."""
        record = self.record()
        if record is None:
            return False
        running = record.running()
        for process in reversed(record.processes):
            if process in running:
                tell(f"{process.name}: stopping (pid {process.pid})")
        self._stop_all(record.processes)
        trio.run(end_jobs, self.folder, tell)
        self.record_path.unlink(missing_ok=True)
        return bool(running)

    def reset(self, tell: Tell) -> None:
        """End the world, and delete everything in its folder: keys, money and history.

        Raises:
            ConfigError: the folder holds something that is no local world.
        """
        self.down(tell)
        if not self.folder.exists():
            return
        if not (self.folder / NAME).exists() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is no local world: nothing was deleted")
        shutil.rmtree(self.folder)

    def save(self, record: Record) -> None:
        """Keep ``record``, whole or not at all."""
        draft = self.record_path.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        draft.replace(self.record_path)

    def _plan(self, config: Path) -> Plan:
        """Read the world's own copy of its file, or make that copy."""
        copy = self.folder / NAME
        if copy.exists():
            kept = read_plan(copy)
            return Plan(path=config, text=kept.text, blueprint=kept.blueprint)
        plan = read_plan(config)
        copy.write_text(plan.text)
        return plan

    def _stop_all(self, processes: tuple[Started, ...] | list[Started]) -> None:
        for process in reversed(processes):
            stop(process)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the folder against another ``up`` at the same moment."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another command is starting the world in {self.folder}"
                ) from None
            yield
        finally:
            os.close(handle)


class _Building:
    """One ``up`` under way."""

    def __init__(self, *, world: World, plan: Plan, free_ports: bool, tell: Tell) -> None:
        self.processes: list[Started] = []
        self._world = world
        self._plan = plan
        self._free_ports = free_ports
        self._tell = tell
        self._nodes: list[Address] = []
        self._endpoints = Endpoints(rpc_url="", ws_url="")

    async def build(self) -> Record:
        ground = lay_ground(self._plan, self._world.folder)
        await self._start_chain()
        rpc_url = self._endpoints.rpc_url
        await settle_in(self._plan, ground, rpc_url, now_s=int(_wall_s()), tell=self._tell)
        bootstrap: tuple[str, ...] = ()
        for inhabitant in ground.inhabitants:
            addresses = await self._start_node(inhabitant, bootstrap)
            bootstrap = bootstrap or addresses
        await self._see_offers(ground)
        return self._record()

    async def _start_chain(self) -> None:
        """Start what the world's file says, or find the cluster it names."""
        log = self._world.folder / "log" / "chain.log"
        chain = process_of(
            self._plan, self._world.folder / "chain", log, free=self._free_ports, env=os.environ
        )
        if chain is None:
            named = self._plan.blueprint.chain
            self._endpoints = Endpoints(rpc_url=named.rpc_url, ws_url=named.ws_url)
            self._tell(f"chain: {named.rpc_url}, run by others")
            return
        command, environment = chain.command(), chain.environment(os.environ)
        process = self._started(start("chain", command, log=log, env=environment))
        self._tell("chain: starting")
        found: Endpoints | None = None
        with trio.move_on_after(chain.patience_s):
            while found is None:
                await self._must_run(process, chain.last_words)
                found = await trio.to_thread.run_sync(chain.ready)
        if found is None:
            self._say_tail(chain.last_words())
            raise WorldFailed(f"the chain was not ready within {chain.patience_s:g} s: see {log}")
        self._endpoints = found
        self._tell(f"chain: ready at {found.rpc_url}")

    async def _start_node(
        self, inhabitant: Inhabitant, bootstrap: tuple[str, ...]
    ) -> tuple[str, ...]:
        name = inhabitant.node.name
        write_settings(
            inhabitant,
            self._plan,
            ports_from_zero=self._free_ports,
            rpc_url=self._endpoints.rpc_url,
            ws_url=self._endpoints.ws_url,
            bootstrap=bootstrap,
        )
        config = load_config(inhabitant.config.data_dir)
        config.api_address_path.unlink(missing_ok=True)
        log = self._world.folder / "log" / f"{name}.log"
        command = [
            sys.executable, "-m", "robocompute_node", "run", "--data", str(config.data_dir),
        ]  # fmt: skip
        process = self._started(start(name, command, log=log, env=os.environ))
        with trio.move_on_after(NODE_READY_S) as patience:
            while not config.api_address_path.exists():
                await self._must_run(process)
        if patience.cancelled_caught:
            raise WorldFailed(f"{name} was not ready within {NODE_READY_S:g} s: see {log}")
        client = RestClient.of(config)
        told = await self._ask(process, client, "/node")
        roles = tuple(role.value for role in config.node.roles)
        self._nodes.append(
            Address(name=name, roles=roles, data=str(config.data_dir), url=client.url)
        )
        self._world.save(self._record())
        self._tell(f"{name}: ready at {client.url}")
        return tuple(str(address) for address in told["addresses"])

    async def _see_offers(self, ground: Ground) -> None:
        """Wait until every client has heard of every provider."""
        providers = sum(Role.PROVIDER in one.node.roles for one in ground.inhabitants)
        nodes = self.processes[-len(ground.inhabitants) :]
        for inhabitant, process in zip(ground.inhabitants, nodes, strict=True):
            if Role.CLIENT not in inhabitant.node.roles or not providers:
                continue
            others = providers - (Role.PROVIDER in inhabitant.node.roles)
            client = RestClient.of(inhabitant.config)
            seen = 0
            with trio.move_on_after(OFFER_SEEN_S):
                while seen < others:
                    await self._must_run(process)
                    seen = len((await self._ask(process, client, "/offers"))["offers"])
            if seen < others:
                raise WorldFailed(
                    f"{process.name} saw {seen} of {others} offers within {OFFER_SEEN_S:g} s: see "
                    f"{process.log}"
                )
            self._tell(f"{process.name}: sees {seen} offer{'s' if seen != 1 else ''}")

    async def _ask(self, process: Started, client: RestClient, path: str) -> Any:
        while True:
            try:
                return await trio.to_thread.run_sync(client.get, path)
            except NodeNotRunning:
                await self._must_run(process)

    def _started(self, process: Started) -> Started:
        self.processes.append(process)
        self._world.save(self._record())
        return process

    async def _must_run(self, process: Started, last_words: Callable[[], str] = str) -> None:
        """Let a moment pass, and raise if ``process`` is gone, having shown its ``last_words``."""
        await trio.sleep(POLL_S)
        if not process.running():
            self._say_tail(last_words())
            said = process.last_line().removeprefix("robocompute-node: ")
            raise WorldFailed(f"{process.name} ended: {said or 'it said nothing'} ({process.log})")

    def _say_tail(self, words: str) -> None:
        for line in words.splitlines():
            self._tell(f"  | {line}")

    def _record(self) -> Record:
        return Record(
            rpc_url=self._endpoints.rpc_url,
            ws_url=self._endpoints.ws_url,
            processes=tuple(self.processes),
            nodes=tuple(self._nodes),
        )


def _wall_s() -> float:
    return time.time()  # noqa: TID251  the composition of a world reads the clock once
