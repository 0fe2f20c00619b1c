"""Putting the committed program on a real cluster with the command, interrupting it, upgrading it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from solders.keypair import Keypair

from robocompute_node.cli.main import run_command
from robocompute_node.keys import make_key
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_settlement import loader
from robocompute_settlement.deployment import Deployer
from robocompute_settlement.localworld import GenesisPlan, program_path, write_genesis
from robocompute_settlement.solana import SolanaSettlement
from robocompute_settlement.validator import READY_S, Validator, find_validator, free_ports

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SOL = 10**9
NODE = (sys.executable, "-m", "robocompute_node")


@contextmanager
def running_validator(folder: Path) -> Generator[tuple[Validator, GenesisPlan]]:
    """A validator with two mints and no program at all at its genesis."""
    try:
        binary = find_validator(None, os.environ)
    except ConfigError as exc:
        pytest.skip(str(exc))
    plan = GenesisPlan(wallets=(), program_binary=program_path())
    genesis = folder / "genesis.json"
    write_genesis(plan, genesis)
    without = json.loads(genesis.read_text()) | {"programs": []}
    genesis.write_text(json.dumps(without))
    validator = Validator(binary=binary, folder=folder, rpc_port=free_ports(2))
    environment = validator.environment(os.environ)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            validator.command(genesis), stdout=log, stderr=log, env=environment
        )
    try:
        deadline = time.monotonic() + READY_S
        while not validator.ready():
            assert process.poll() is None, validator.last_words()
            assert time.monotonic() < deadline, "the validator did not answer in time"
            time.sleep(0.1)
        yield validator, plan
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Validator, GenesisPlan]]:
    with running_validator(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def chain(validator: Validator, program_id: Address, seed: bytes) -> SolanaSettlement:
    return SolanaSettlement(rpc_urls=(validator.rpc_url,), program_id=program_id, signer_seed=seed)


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = run_command([*words, "--json"])
    return status, json.loads(capsys.readouterr().out)


async def airdrop(validator: Validator, address: Address, lamports: int) -> None:
    async with chain(validator, address, bytes(32)) as cluster:
        await cluster.rpc.request_airdrop(address, lamports)
        with trio.fail_after(30):
            while True:
                if await cluster.lamports(address) >= lamports:
                    return
                await trio.sleep(0.2)


@pytest.mark.chain
def test_the_program_is_deployed_after_an_interruption_verified_and_upgraded(
    cluster: tuple[Validator, GenesisPlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validator, plan = cluster
    admin = make_key(tmp_path / "admin.json")
    program = make_key(tmp_path / "program.json")
    elf = program_path().read_bytes()
    place = ["--data", str(tmp_path), "--rpc", validator.rpc_url]
    there = [*place, "--program", to_base58(program.address)]
    key = ["--key", str(admin.path)]
    trio.run(airdrop, validator, admin.address, 2 * SOL)
    assert ask(capsys, "chain", "verify", *there)[0] == 1

    command = [*NODE, "chain", "deploy", *there, *key, "--program-key", str(program.path), "--yes"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if line.startswith("wrote 16"):
                break
        killed.kill()

    async def missing() -> int:
        async with chain(validator, program.address, admin.seed) as signer:
            planned = await Deployer(signer, Keypair.from_seed(admin.seed)).plan(
                elf, program.address
            )
            assert planned is not None
            assert planned.buffer_lamports == 0
            return len(planned.missing)

    pieces = -(-len(elf) // loader.WRITE_BYTES)
    assert 0 < trio.run(missing) <= pieces - 16
    usdc, usdt = map(to_base58, plan.mints)
    settings = ["--mint", usdc, "--mint", usdt, "--unbond-s", "30", "--min-challenge-s", "5"]
    status, done = ask(capsys, "chain", "deploy", *there, *key, "--program-key",
                       str(program.path), *settings, "--yes")  # fmt: skip
    assert status == 0, done
    assert done["signature"]
    assert done["config_signature"]
    status, told = ask(capsys, "chain", "verify", *there, "--authority", to_base58(admin.address))
    assert (status, told["good"]) == (0, True), told
    status, told = ask(capsys, "chain", "verify", *there, "--authority", usdc)
    assert [check["what"] for check in told["checks"] if not check["good"]] == [
        "upgrade authority"
    ]

    larger = tmp_path / "larger.so"
    larger.write_bytes(elf + bytes(range(1, 101)))
    status, done = ask(capsys, "chain", "deploy", *there, *key, "--binary", str(larger), "--yes")
    assert (status, done["config_signature"]) == (0, ""), done
    status, told = ask(capsys, "chain", "verify", *there)
    assert [check["what"] for check in told["checks"] if not check["good"]] == ["program"]
    assert told["program"]["room"] == len(elf) + loader.MIN_EXTENSION
    assert ask(capsys, "chain", "status", *there)[1]["sound"]
    again = ask(capsys, "chain", "deploy", *there, *key, "--binary", str(larger))[1]
    assert (again["signature"], again["cost_lamports"]) == ("", 0)

    thief = make_key(tmp_path / "thief.json")
    status, told = ask(capsys, "chain", "deploy", *there, "--key", str(thief.path), "--yes")
    assert status == 1
    assert to_base58(admin.address) in told["error"]["message"]


@pytest.mark.chain
def test_what_cannot_be_paid_or_is_no_program_is_one_line(
    cluster: tuple[Validator, GenesisPlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validator, plan = cluster
    owner = make_key(tmp_path / "owner.json")
    place = ["--data", str(tmp_path), "--rpc", validator.rpc_url, "--key", str(owner.path)]
    status, told = ask(capsys, "chain", "deploy", *place, "--yes")
    assert status == 1
    assert "send it the rest" in told["error"]["message"]
    mint = to_base58(plan.mints[0])
    status, told = ask(capsys, "chain", "deploy", *place, "--program", mint, "--yes")
    assert status == 1
    assert "no upgradeable program" in told["error"]["message"]
