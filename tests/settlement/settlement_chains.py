"""Running chains for tests: the embedded one, and Solana's own test validator where there is one."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import trio
from solders.keypair import Keypair

from robocompute_protocol.identifiers import Address, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.embedded.genesis import genesis_accounts, read_genesis
from robocompute_settlement.fake import FakeChain, FakeSettlement
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

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from solders.pubkey import Pubkey

POOL: Final = 120
LAMPORTS: Final = 10_000_000_000
TOKENS: Final = MicroUnits(1_000_000_000)
FEE_BPS: Final = 100
MIN_CHALLENGE_S: Final = 2
START_S: Final = 60.0


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
            rpc_url=self.rpc_url,
            ws_url=self.ws_url,
            program_id=self.plan.program_id,
            signer_seed=person.seed,
            **options,
        )

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
            await trio.sleep(seconds + 1)

    def start_embedded(self) -> None:
        """Start, or start again on the same ports."""
        command = chain_command(
            self.folder / "chain",
            self.folder / "genesis.json",
            rpc_port=self.rpc_port,
            ws_port=self.ws_port,
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


def validator_binary() -> str | None:
    """Solana's test validator, where there is one."""
    return os.environ.get("ROBOCOMPUTE_VALIDATOR") or shutil.which("solana-test-validator")


def _free_ports() -> tuple[int, int]:
    """An RPC port whose successor, where the validator puts its websocket, is free too."""
    for _ in itertools.repeat(None, 100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port, port + 1
    message = "no two free ports beside each other"
    raise RuntimeError(message)


@contextmanager
def validator_world(folder: Path, binary: str) -> Generator[ChainWorld]:
    """Solana's test validator with the same genesis, set up."""
    world = ChainWorld(name="validator", folder=folder, plan=_plan())
    write_genesis(world.plan, folder / "genesis.json")
    faucet = Keypair.from_seed(world.plan.faucet_seed)
    _write_accounts(folder, faucet.pubkey())
    world.rpc_port, world.ws_port = _free_ports()
    (faucet_port, gossip_port) = _free_ports()
    command = [
        binary, "--reset", "--quiet", "--ledger", str(folder / "ledger"),
        "--bind-address", "127.0.0.1", "--rpc-port", str(world.rpc_port),
        "--faucet-port", str(faucet_port), "--gossip-port", str(gossip_port),
        "--account-dir", str(folder / "accounts"),
        "--upgradeable-program", to_base58(world.plan.program_id),
        str(world.plan.program_binary), str(faucet.pubkey()),
    ]  # fmt: skip
    with (folder / "validator.log").open("ab") as log:
        world.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_for(world)
        trio.run(_found, world)
        yield world
    finally:
        world.stop()


def _write_accounts(folder: Path, faucet: Pubkey) -> None:
    accounts = folder / "accounts"
    accounts.mkdir()
    genesis = read_genesis(folder / "genesis.json")
    programs = {program.address for program in genesis.programs}
    for address, account in genesis_accounts(genesis, faucet):
        if str(address) in programs or len(account.data) > 1_000:
            continue
        (accounts / f"{address}.json").write_text(
            json.dumps(
                {
                    "pubkey": str(address),
                    "account": {
                        # The validator adds all lamports up, and the faucet's are too many for it.
                        "lamports": min(account.lamports, 10**15),
                        "data": [base64.b64encode(account.data).decode(), "base64"],
                        "owner": str(account.owner),
                        "executable": False,
                        "rentEpoch": 0,
                    },
                }
            )
        )


def _wait_for(world: ChainWorld) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert world.process is not None
        assert world.process.poll() is None, (world.folder / "validator.log").read_text()[-2000:]
        try:
            slot = world.call("getSlot", {"commitment": "confirmed"})
            if slot.get("result", 0) > 2:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    message = "the validator did not answer in time"
    raise RuntimeError(message)


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
            treasury=local_address(TREASURY),
            admin=self.plan.faucet,
        )
        for wallet in self.plan.wallets:
            tokens = wallet.tokens[self.usdc]
            self._chain.found(wallet.address, lamports=wallet.lamports, tokens=tokens)

    def adapter(self, person: Person, **options: Any) -> Any:
        assert not options
        return FakeAdapter(self._chain, person.address)

    async def pass_time(self, seconds: int) -> None:
        await trio.lowlevel.checkpoint()
        self._skipped_s += seconds
