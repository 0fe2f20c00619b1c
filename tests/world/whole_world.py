"""A local world for tests: chain, one provider and one client as processes on ports of their own.

Ports are fixed for a world's life, so that a process that was killed can be started again and be
found where it was. Everything is ended by its pid, and looked for afterwards.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
from world_blueprint import BLUEPRINT, PAUPER

from robocompute import RoboComputeClient
from robocompute_node.config_file import load_config
from robocompute_node.localnet.blueprint import read_plan
from robocompute_node.localnet.books import read_world_books
from robocompute_node.localnet.chains import process_of
from robocompute_node.localnet.processes import Started, start, stop
from robocompute_node.localnet.world import Record, World
from robocompute_protocol.money import parse_amount
from robocompute_settlement.validator import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from robocompute_settlement.audit import MintBooks

ROOT = Path(__file__).parents[2]
CHISEL = (sys.executable, "-c", "from chisel.cli import main; raise SystemExit(main())")
NODE = (sys.executable, "-m", "robocompute_node")
PATIENCE_S = 60.0
"""For whatever takes well under a second to some seconds: the machine may be busy."""
REPLAYED_S = 240.0
"""For a validator that was killed, and replays all since its last snapshot: 38 s were seen."""
HORIZON_S = 6
LONG_HORIZON_S = 40
LONG_FIRST_TICK_S = 10
"""Where a process is started again within them: that takes some seconds on a busy machine."""
FIRST_TICK_S = 2
CHALLENGE_S = 5
PRICE = Decimal("36.00")
"""An hour; a hundredth each second, so that money is seen to move."""
T = TypeVar("T")
_PORTS = random.Random(os.getpid())


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives away by itself."""
    while True:
        port = _PORTS.randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(what: str, look: Callable[[], T | None], *, within_s: float = PATIENCE_S) -> T:
    """Return the first truthy thing that ``look`` returns; fail saying ``what`` did not come."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"within {within_s:g} s not seen: {what}"
        time.sleep(0.05)
    return seen


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A chisel that ended."""

    status: int
    stdout: bytes
    stderr: str


class RunningChisel:
    """A chisel whose output goes to files, so that both streams can be read while it runs."""

    def __init__(self, folder: Path, command: Sequence[str], env: dict[str, str]) -> None:
        self._out, self._err = folder.with_suffix(".stdout"), folder.with_suffix(".stderr")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def stdout(self) -> bytes:
        return self._out.read_bytes()

    def stderr(self) -> str:
        return self._err.read_text()

    def saw(self, line: bytes) -> None:
        """Wait until ``line`` is on stdout."""
        self._wait(lambda: line in self.stdout(), f"{line!r} on chisel's stdout")

    def said(self, words: str) -> None:
        """Wait until ``words`` are on stderr."""
        self._wait(lambda: words in self.stderr(), f"{words!r} on chisel's stderr")

    def _wait(self, seen: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            ended = self.process.poll() is not None
            there = seen()
            assert there or not ended, f"chisel ended without {what}: {self.stderr()}"
            return there

        wait_until(what, look)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, within_s: float = PATIENCE_S) -> Ran:
        """Wait for chisel's own end."""
        status = self.process.wait(within_s)
        return Ran(status=status, stdout=self.stdout(), stderr=self.stderr())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class WholeWorld:
    """A world that is up."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder = folder
        self._world = World(folder / "world")
        self._plan = folder / "plan.toml"
        self._plan.write_text(plan)
        self._jobs = 0
        self._chisels: list[RunningChisel] = []
        self._started: list[Started] = []
        self._clients: dict[str, RoboComputeClient] = {}
        self.record: Record = trio.run(self._up)

    async def _up(self) -> Record:
        said: list[str] = []
        record = await self._world.up(self._plan, free_ports=False, tell=said.append)
        self._started.extend(record.processes)
        return record

    # --- nodes ----------------------------------------------------------------------------------

    def data(self, name: str) -> Path:
        return self._world.folder / name

    def sdk(self, name: str = "client-1") -> RoboComputeClient:
        """A client of a node, kept until the node is started again or the world ends."""
        if name not in self._clients:
            config = load_config(self.data(name))
            url = msgspec.json.decode(config.api_address_path.read_bytes())["url"]
            key = config.api_key_path.read_text().strip()
            self._clients[name] = RoboComputeClient(key, base_url=url)
        return self._clients[name]

    def _hang_up(self, name: str) -> None:
        client = self._clients.pop(name, None)
        if client is not None:
            client.close()

    def log(self, name: str) -> str:
        return (self._world.folder / "log" / f"{name}.log").read_text()

    def process(self, name: str) -> Started:
        return next(one for one in reversed(self._started) if one.name == name)

    def provider(self) -> dict[str, Any]:
        """What the provider says of its slots, jobs and earnings."""
        return self.sdk("provider-1").node()["provider"]

    def kill(self, name: str) -> None:
        """End a process without a chance to say anything."""
        process = self.process(name)
        assert process.running()
        os.kill(process.pid, signal.SIGKILL)
        self.gone(name)

    def gone(self, name: str) -> None:
        """Wait for the very end of a process that was killed."""
        # Its first thread may be gone before the others, and with them its locks, are.
        os.waitpid(self.process(name).pid, 0)

    def terminate(self, name: str) -> bool:
        """End a process in order. True: it obeyed."""
        return stop(self.process(name))

    def start(self, name: str, *, under: Sequence[str] = (), also: Sequence[str] = ()) -> None:
        """Start a process that ended, as it was started first; return when it answers.

        ``under`` runs it instead of Python alone, and ``also`` are more arguments for it.
        """
        log = self._world.folder / "log" / f"{name}.log"
        if name == "chain":
            chain = process_of(
                read_plan(self._plan), self.data(name), log, free=False, env=os.environ
            )
            assert chain is not None
            environment = chain.environment(os.environ)
            command = [*(under or chain.command()[:1]), *chain.command()[1:], *also]
            running = start(name, command, log=log, env=environment)
            self._started.append(running)

            def answers() -> bool:
                assert running.running(), running.last_line()
                return chain.ready() is not None

            wait_until("the chain's answer", answers, within_s=REPLAYED_S)
            return
        self._hang_up(name)
        address = load_config(self.data(name)).api_address_path
        address.unlink(missing_ok=True)
        command = [*(under or NODE[:1]), *NODE[1:], "run", "--data", str(self.data(name)), *also]
        process = start(name, command, log=log, env=os.environ)
        self._started.append(process)

        def up() -> bool:
            assert process.running(), process.last_line()
            return address.exists()

        wait_until(f"{name}'s address", up)

    def supervisors(self) -> list[Path]:
        """The supervisors of the provider's jobs, as their folders in /proc."""
        jobs = str(self.data("provider-1") / "jobs")
        return [
            process
            for process in processes_naming(jobs)
            if b"supervise.py" in (process / "cmdline").read_bytes()
        ]

    # --- jobs -----------------------------------------------------------------------------------

    def job_folder(self, program: str, name: str = "job.py") -> Path:
        """A new folder with one program in it."""
        self._jobs += 1
        folder = self.folder / f"job-{self._jobs}"
        folder.mkdir()
        (folder / name).write_text(program)
        return folder

    def chisel(
        self,
        folder: Path,
        *words: str,
        client: str = "client-1",
        env: dict[str, str] | None = None,
    ) -> RunningChisel:
        """Start chisel in ``folder``."""
        sdk = self.sdk(client)
        key = load_config(self.data(client)).api_key_path.read_text().strip()
        environment = {
            **os.environ,
            "CHISEL_BACKEND_URL": sdk.base_url,
            "CHISEL_API_KEY": key,
            "HOME": str(self.folder),
            **(env or {}),
        }
        running = RunningChisel(folder, [*CHISEL, *words], environment)
        self._chisels.append(running)
        return running

    def run(self, program: str, *arguments: str) -> tuple[Ran, Path]:
        """Run a program to its end; return how chisel ended, and the folder it ran in."""
        folder = self.job_folder(program)
        return self.chisel(folder, "python", "job.py", *arguments).end(), folder

    def newest_task(self, client: str = "client-1") -> dict[str, Any]:
        return dict(self.sdk(client).tasks.list(limit=1)[0])

    # --- money ----------------------------------------------------------------------------------

    def books(self) -> MintBooks:
        """The program's books, from the chain alone."""
        config = load_config(self.data(self.record.nodes[0].name))
        return trio.run(read_world_books, config)

    def wealth(self, name: str) -> int:
        """All that a node's wallet owns, wherever it lies, in micro-units."""
        balance = self.sdk(name).wallet.get_balance()
        owned = ("usdc_balance", "available", "locked", "staked")
        return sum(parse_amount(str(balance[part])) for part in owned)

    def settled(self) -> dict[str, Any]:
        """Wait until the provider has settled what it earned; return its earnings."""

        def look() -> dict[str, Any]:
            earnings: dict[str, Any] = self.provider()["earnings"]
            return earnings if Decimal(earnings["unsettled"]) == 0 else {}

        return wait_until("everything settled", look)

    def paid_on(self) -> None:
        """Wait until the running job is paid beyond its first tick: now an outage may be long."""

        def look() -> bool:
            return any(
                job["prepaid_ms"] > LONG_FIRST_TICK_S * 1_000 for job in self.provider()["jobs"]
            )

        wait_until("a second payment", look)

    def slots_free(self) -> None:
        wait_until("a free slot", lambda: self.provider()["slots_taken"] == 0)

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """End every process of this world; return those that did not go by themselves."""
        for name in list(self._clients):
            self._hang_up(name)
        for chisel in self._chisels:
            if chisel.process.poll() is None:
                chisel.kill()
        for process in reversed(self._started):
            stop(process)
        inside = processes_inside(self.folder)
        left = [_words(process) for process in (*processes_naming(str(self.folder)), *inside)]
        for process in (*processes_naming(str(self.folder)), *inside):
            kill(process)
        return left


@contextmanager
def found_world(
    folder: Path,
    *,
    pauper: bool = False,
    horizon_s: int = HORIZON_S,
    first_tick_s: int = FIRST_TICK_S,
    close_lost_after_s: int = 3_600,
    channel_deposit: str = "5.00",
    second_deposit: str = "0.01",
    backend: str = "embedded",
) -> Generator[WholeWorld]:
    """Found a world, and end it: no process of it is left."""
    folder.mkdir(exist_ok=True)
    text = BLUEPRINT + (PAUPER if pauper else "")
    numbers = {
        "binary": ROOT / "programs" / "settlement" / "settlement.so",
        "challenge": CHALLENGE_S,
        "price": PRICE,
        "horizon": horizon_s,
        "first_tick": first_tick_s,
        "close_lost_after": close_lost_after_s,
        "channel_deposit": channel_deposit,
        "second_deposit": second_deposit,
        "backend": backend,
    }
    ports = {
        name: free_port()
        for name in (
            "chain_rpc", "chain_ws", "provider_api", "provider_p2p", "client_api", "client_p2p",
        )
    }  # fmt: skip
    if backend == "validator":
        ports["chain_rpc"] = free_ports(2)
        ports["chain_ws"] = ports["chain_rpc"] + 1
    world = WholeWorld(folder, text.format(**numbers, **ports))
    try:
        yield world
    finally:
        left = world.end()
    assert not left, f"these processes did not go with their world: {left}"


def processes_naming(folder: str) -> list[Path]:
    """Processes whose command line names ``folder``, ourselves and our parents left out."""
    ours = _ancestors()
    found: list[Path] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) not in ours:
            try:
                if folder.encode() in (process / "cmdline").read_bytes():
                    found.append(process)
            except OSError:
                continue
    return found


def processes_inside(folder: Path) -> list[Path]:
    """Processes that see part of ``folder`` mounted: those in its sandboxes."""
    mount = next(above for above in folder.parents if above.is_mount())
    # A mount is told by its path within its own file system. The whole of it, for other runs of
    # these tests have folders whose last parts are called the same.
    part = f"/{folder.relative_to(mount)}/".encode()
    found: list[Path] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if part in (process / "mountinfo").read_bytes():
                    found.append(process)
            except OSError:
                continue
    return found


def kill(process: Path) -> None:
    """End one process for good, given its folder in /proc."""
    try:
        handle = os.pidfd_open(int(process.name))
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone"


def _ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found
