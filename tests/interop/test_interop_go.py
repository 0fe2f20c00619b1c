"""A client that was written from docs/protocol.md alone, in another language, meets our nodes.

The program joins by libp2p, finds and verifies an offer, and rents, extends, ends and is billed for a
job of a running provider. What is not its part is the chain: this test opens its payment channel there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from whole_world import ROOT, WholeWorld, found_world, wait_until

from robocompute_node.chain_link import chain_link
from robocompute_node.config_file import load_config
from robocompute_node.keys import load_wallet
from robocompute_protocol.identifiers import Address, ChannelId, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.localworld import local_seed
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Generator

SOURCES = Path(__file__).parent
BUILD_S = 900
"""libp2p is compiled once for a cache: minutes on a busy machine, about a second from then on."""
PROGRAM_S = 300
"""Seconds of patience for all of it: it takes ten where nothing else runs."""
WEALTH = MicroUnits(3_000_000)
LAMPORTS = 10**9

pytestmark = [pytest.mark.world, pytest.mark.net, pytest.mark.sandbox]


def go(*words: str, within_s: float = BUILD_S) -> subprocess.CompletedProcess[str]:
    """Run Go as it is here: it fetches no other Go, and what it compiled stays with this project."""
    environment = {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOCACHE": str(ROOT / ".cache" / "go-build"),
    }
    return subprocess.run(
        ["go", *words],
        cwd=SOURCES,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=within_s,
    )


def version_of(text: str) -> tuple[int, ...]:
    found = re.search(r"\bgo ?(\d+)\.(\d+)(?:\.(\d+))?", text)
    assert found is not None, text
    return tuple(int(part or 0) for part in found.groups())


@pytest.fixture(scope="module")
def toolchain() -> None:
    """Skip, with words, where the program cannot be built for reasons that are not its own."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: the independent client is not built")
    needed = version_of((SOURCES / "go.mod").read_text())
    here = version_of(go("version").stdout)
    if here < needed:
        pytest.skip(f"Go {needed[0]}.{needed[1]} is needed, here is {here[0]}.{here[1]}")
    fetched = go("mod", "download", within_s=300)
    if fetched.returncode != 0:
        said = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"the Go modules are not here and cannot be fetched: {said}")


@pytest.fixture(scope="module")
def program(toolchain: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("go") / "stranger"
    built = go("build", "-o", str(path), ".")
    assert built.returncode == 0, built.stderr
    return path


@pytest.mark.timeout(BUILD_S)
def test_the_document_and_the_vectors_are_enough_for_another_language(toolchain: None) -> None:
    checked = go("test", "-vet=off", "-count=1", ".")
    assert checked.returncode == 0, checked.stdout + checked.stderr


class Stranger:
    """The program, running, and the channel it pays from."""

    def __init__(self, program: Path, world: WholeWorld, seed: bytes) -> None:
        self._world = world
        self._config = load_config(world.data("client-1"))
        self.key = SigningKey(seed)
        self.wallet = SigningKey(local_seed("interop wallet"))
        self._log = (world.folder / "stranger.log").open("w+")
        self.process = subprocess.Popen(
            [
                program, "-document", ROOT / "docs" / "protocol.md",
                "-peer", world.sdk("client-1").node()["addresses"][0],
                "-seed", seed.hex(), "-payer", self.wallet.node_key.hex(),
                "-mint", self._config.chain.mint.hex(), "-patience", f"{PROGRAM_S}s",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip

    def step(self, name: str) -> dict[str, Any]:
        """Wait for what the program says next, which must be of this step."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {}
        assert said.get("step") == name, f"{said} where {name} was due: {self.complaint()}"
        return said

    def complaint(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def found(self, payee: Address, challenge_s: int) -> ChannelId:
        """Fund the stranger's wallet, open its channel, and tell the program which it is."""
        channel = trio.run(self._open, payee, challenge_s)
        assert self.process.stdin is not None
        self.process.stdin.write(channel.hex() + "\n")
        self.process.stdin.flush()
        return channel

    async def _open(self, payee: Address, challenge_s: int) -> ChannelId:
        chain, mint = self._config.chain, self._config.chain.mint
        wallet, donor = Address(self.wallet.node_key), load_wallet(self._config)
        async with httpx.AsyncClient() as rpc:
            asked: dict[str, Any] = {
                "jsonrpc": "2.0", "id": 1, "method": "requestAirdrop",
                "params": [to_base58(wallet), LAMPORTS],
            }  # fmt: skip
            (await rpc.post(chain.rpc_url[0], json=asked)).raise_for_status()
        async with SolanaSettlement(**chain_link(chain), signer_seed=donor.seed) as giving:
            await giving.withdraw_wallet(mint=mint, amount=WEALTH, destination=wallet)
        seed = local_seed("interop wallet")
        async with SolanaSettlement(**chain_link(chain), signer_seed=seed) as mine:
            await mine.deposit_wallet(mint=mint, amount=WEALTH)
            await mine.open_channel(
                payer=wallet, payee=payee, mint=mint, voucher_key=self.key.node_key, nonce=0,
                deposit=WEALTH, challenge_s=challenge_s,
            )  # fmt: skip
            return mine.channel_address(wallet, payee, mint, 0)

    async def settled(self, channel: ChannelId) -> int:
        async with SolanaSettlement(**chain_link(self._config.chain)) as chain:
            view = await chain.channel(channel)
        assert view is not None
        return view.settled

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            if pipe is not None:
                pipe.close()


@contextmanager
def stranger_in(world: WholeWorld, program: Path) -> Generator[Stranger]:
    stranger = Stranger(program, world, local_seed("interop node"))
    try:
        yield stranger
    finally:
        stranger.end()


@pytest.mark.timeout(BUILD_S)
def test_a_client_written_from_the_document_rents_a_slot_and_is_billed_for_it(
    program: Path, tmp_path: Path
) -> None:
    with found_world(tmp_path / "world") as world, stranger_in(world, program) as stranger:
        assert stranger.step("joined")["key"] == stranger.key.node_key.hex()
        provider = NodeKey(bytes.fromhex(stranger.step("offer")["provider"]))
        assert to_base58(provider) == world.sdk("provider-1").node()["node"]
        quote = stranger.step("quote")
        stranger.step("uploaded")
        payee = Address(bytes.fromhex(quote["payee"]))
        channel = stranger.found(payee, int(quote["min_challenge_s"]))
        leased = stranger.step("leased")
        assert stranger.step("output")["stdout"] == "hello, stranger"
        assert stranger.step("extended")["prepaid_ms"] == 25_000
        ended = stranger.step("ended")
        assert (ended["cause"], ended["agreement"]) == ("cancelled", leased["agreement"])
        assert ended["amount"] > 0
        wait_until(
            "the stranger's voucher settled",
            lambda: trio.run(stranger.settled, channel) == ended["amount"],
        )
        stranger.step("following")
        assert world.terminate("provider-1")
        stranger.step("withdrawn")
        assert stranger.process.wait(PROGRAM_S) == 0, stranger.complaint()
