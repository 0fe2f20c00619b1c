"""Running chains for tests: the embedded one, and Solana's own test validator where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import trio
from solders.keypair import Keypair

from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, NodeKey
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.administration import Administration
from robocompute_settlement.fake import FakeChain, FakeSettlement
from robocompute_settlement.fake_staking import FakeAdministration
from robocompute_settlement.localworld import (
    TREASURY,
    GenesisPlan,
    PlannedWallet,
    chain_command,
    found_world,
    local_address,
    local_seed,
    program_path,
    write_genesis,
)
from robocompute_settlement.solana import SolanaSettlement
from robocompute_settlement.validator import READY_S, Validator, find_validator, free_ports

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

POOL: Final = 240
LAMPORTS: Final = 10_000_000_000
TOKENS: Final = MicroUnits(1_000_000_000)
FEE_BPS: Final = 100
MIN_CHALLENGE_S: Final = 2
UNBOND_S: Final = 20
SLASH_BPS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Person:
    """A key with SOL and USDC."""

    seed: bytes

    @property
    def address(self) -> Address:
        return Address(bytes(Keypair.from_seed(self.seed).pubkey()))

    @property
    def node_key(self) -> NodeKey:
        return NodeKey(self.address)

    @property
    def signing_key(self) -> SigningKey:
        return SigningKey(self.seed)


@dataclass(slots=True, kw_only=True)
class ChainWorld:
    """A running chain, and how to restart it."""

    name: str
    folder: Path
    plan: GenesisPlan
    rpc_port: int = 0
    ws_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    people: Iterator[int] = field(default_factory=lambda: iter(range(POOL)))

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.ws_port}"

    @property
    def usdc(self) -> Address:
        return self.plan.mints[0]

    def person(self) -> Person:
        """Somebody nobody else uses."""
        return Person(local_seed(f"person-{next(self.people)}"))

    def adapter(self, person: Person, **options: Any) -> SolanaSettlement:
        return SolanaSettlement(
            rpc_urls=(self.rpc_url,),
            ws_urls=(self.ws_url,),
            program_id=self.plan.program_id,
            signer_seed=person.seed,
            **options,
        )

    def administration(self, person: Person) -> Any:
        """The administration with this key; closed like an adapter."""
        return ClosedAdministration(self.adapter(person))

    def call(self, method: str, *params: Any) -> Any:
        """A raw JSON-RPC request; the whole answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with httpx.Client(trust_env=False, timeout=10) as client:
            return client.post(self.rpc_url, json=body).json()

    async def pass_time(self, seconds: int) -> None:
        """Let the chain's clock pass ``seconds``: at once where it can be told to."""
        if self.name == "embedded":
            self.call("embeddedSkip", seconds)
        else:
            # Its clock is an estimate that lags behind ours, more so on a busy machine.
            until = self.now_s() + seconds
            while self.now_s() <= until:  # noqa: ASYNC110 - it is another process's clock
                await trio.sleep(0.5)

    def now_s(self) -> int:
        """The chain's own clock."""
        slot = self.call("getSlot", {"commitment": "confirmed"})["result"]
        return self.call("getBlockTime", slot)["result"]

    def start_embedded(self) -> None:
        """Start, or start again on the same ports."""
        command = chain_command(
            self.folder / "chain",
            self.folder / "genesis.json",
            rpc_port=self.rpc_port,
            ws_port=self.ws_port,
            faults=True,
        )
        with (self.folder / "chain.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "chain.log").read_text()
        ready = json.loads(line)
        self.rpc_port, self.ws_port = ready["rpc_port"], ready["ws_port"]

    def kill(self) -> None:
        """End the chain with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """End the chain politely. Repeatable."""
        if self.process is not None:
            self.process.terminate()
            self._reap()

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None


def deposit(world: ChainWorld, person: Person, amount: int = 1_000) -> str:
    """Pay into a wallet's balance with the program; return the transaction's signature."""

    async def write() -> str:
        async with world.adapter(person) as wallet:
            sent = await wallet.deposit_wallet(mint=world.usdc, amount=MicroUnits(amount))
            return sent.signature

    return trio.run(write)


def _plan() -> GenesisPlan:
    usdc = GenesisPlan(wallets=(), program_binary=program_path()).mints[0]
    wallets = [
        PlannedWallet(
            address=Person(local_seed(f"person-{number}")).address,
            lamports=LAMPORTS,
            tokens={usdc: TOKENS},
        )
        for number in range(POOL)
    ]
    return GenesisPlan(wallets=tuple(wallets), program_binary=program_path())


async def _found(world: ChainWorld) -> None:
    async with world.adapter(Person(world.plan.faucet_seed)) as admin:
        await found_world(
            admin,
            mints=world.plan.mints,
            treasury=local_address(TREASURY),
            fee_bps=FEE_BPS,
            min_challenge_s=MIN_CHALLENGE_S,
            unbond_s=UNBOND_S,
            slash_bps=SLASH_BPS,
        )


@contextmanager
def embedded_world(folder: Path) -> Generator[ChainWorld]:
    """An embedded chain, founded and set up."""
    world = ChainWorld(name="embedded", folder=folder, plan=_plan())
    write_genesis(world.plan, folder / "genesis.json")
    world.start_embedded()
    try:
        trio.run(_found, world)
        yield world
    finally:
        world.stop()


def validator_binary() -> Path | None:
    """Solana's test validator, where there is one."""
    try:
        return find_validator(None, os.environ)
    except ConfigError:
        return None


@contextmanager
def validator_world(folder: Path, binary: Path) -> Generator[ChainWorld]:
    """Solana's test validator with the same genesis, set up."""
    world = ChainWorld(name="validator", folder=folder, plan=_plan())
    genesis = folder / "genesis.json"
    write_genesis(world.plan, genesis)
    world.rpc_port = free_ports(2)
    world.ws_port = world.rpc_port + 1
    validator = Validator(binary=binary, folder=folder, rpc_port=world.rpc_port)
    command, environment = validator.command(genesis), validator.environment(os.environ)
    with (folder / "validator.log").open("ab") as log:
        world.process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        _wait_for(world.process, validator)
        trio.run(_found, world)
        yield world
    finally:
        world.stop()


def _wait_for(process: subprocess.Popen[bytes], validator: Validator) -> None:
    deadline = time.monotonic() + READY_S
    while not validator.ready():
        assert process.poll() is None, validator.last_words()
        assert time.monotonic() < deadline, "the validator did not answer in time"
        time.sleep(0.2)


class ClosedAdministration(Administration):
    """An administration that closes its adapter."""

    def __init__(self, chain: SolanaSettlement) -> None:
        super().__init__(chain)
        self._open = chain

    async def __aenter__(self) -> ClosedAdministration:
        await self._open.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._open.aclose()


class FakeAdapter(FakeSettlement):
    """The fake, with the parts of an adapter that only a connection needs."""

    async def __aenter__(self) -> FakeAdapter:
        await self.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await trio.lowlevel.checkpoint()

    async def connect(self) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        await trio.sleep_forever()


class OpenAdministration(FakeAdministration):
    """The fake administration, entered and left like one that has a connection."""

    async def __aenter__(self) -> OpenAdministration:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await trio.lowlevel.checkpoint()


class FakeChainWorld(ChainWorld):
    """A world without a process: ``robocompute_settlement.fake``, for tests of services."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="fake", folder=folder, plan=_plan())
        self._skipped_s = 0
        self._chain = FakeChain(
            now_s=lambda: time.monotonic() + self._skipped_s,
            mints=self.plan.mints,
            fee_bps=FEE_BPS,
            min_challenge_s=MIN_CHALLENGE_S,
            unbond_s=UNBOND_S,
            slash_bps=SLASH_BPS,
            treasury=local_address(TREASURY),
            admin=self.plan.faucet,
        )
        self._chain.found(self.plan.faucet, lamports=LAMPORTS)
        for wallet in self.plan.wallets:
            tokens = wallet.tokens[self.usdc]
            self._chain.found(wallet.address, lamports=wallet.lamports, tokens=tokens)

    def adapter(self, person: Person, **options: Any) -> Any:
        assert not options
        return FakeAdapter(self._chain, person.address)

    async def pass_time(self, seconds: int) -> None:
        await trio.lowlevel.checkpoint()
        self._skipped_s += seconds

    def now_s(self) -> int:
        return int(self._chain.now_s())

    def administration(self, person: Person) -> Any:
        return OpenAdministration(self._chain, person.address)
