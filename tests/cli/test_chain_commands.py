"""The ``chain`` commands on the embedded chain, and what they say of what is wrong."""

from __future__ import annotations

import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import trio

from robocompute_node.chain_report import verify
from robocompute_node.cli.chain import chain_command
from robocompute_node.cli.chain_deploy import DEFAULTS
from robocompute_node.cli.main import run_command
from robocompute_node.core.deployment_policy import objection_to_times
from robocompute_node.keys import KeyFile, make_key
from robocompute_node.localnet.chains import LOCAL, EmbeddedProcess
from robocompute_node.localnet.processes import start, stop
from robocompute_protocol.identifiers import Digest, to_base58
from robocompute_protocol.money import format_amount
from robocompute_settlement.clusters import DEVNET, MAINNET, cluster_name, sol_text
from robocompute_settlement.loader import DeployedProgram
from robocompute_settlement.localworld import (
    GenesisPlan,
    found_world,
    local_seed,
    program_path,
    write_genesis,
)
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Generator

DOCS = Path(__file__).parents[2] / "docs" / "chain.md"
DAY_S = 86_400


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[str]]:
    """An embedded chain with the program set up, as options."""
    folder = tmp_path_factory.mktemp("embedded")
    plan = GenesisPlan(
        wallets=(), program_binary=program_path(), program_id=LOCAL.program_id, mints=LOCAL.mints
    )
    write_genesis(plan, folder / "genesis.json")
    process = EmbeddedProcess(folder, folder / "log", rpc_port=0, ws_port=0)
    started = start("chain", process.command(), log=folder / "log", env=os.environ)

    async def found() -> str:
        with trio.fail_after(60):
            while True:
                answers = process.ready()
                if answers is not None:
                    break
                await trio.sleep(0.05)
        async with SolanaSettlement(
            rpc_urls=(answers.rpc_url,), program_id=LOCAL.program_id, signer_seed=plan.faucet_seed
        ) as admin:
            await found_world(admin, mints=LOCAL.mints, treasury=plan.faucet, min_challenge_s=5)
        return answers.rpc_url

    try:
        yield ["--rpc", trio.run(found), "--program", to_base58(LOCAL.program_id)]
    finally:
        stop(started)


@pytest.fixture
def admin(tmp_path: Path) -> KeyFile:
    return make_key(tmp_path / "admin.json", seed=local_seed("faucet"))


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = run_command([*words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_status_adds_the_vaults_up_from_every_account(
    place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = ask(capsys, "chain", "status", *place)
    assert (status, shown["sound"], shown["cluster"]) == (0, True, "other")
    assert [books["surplus"] for books in shown["books"]] == ["0.000000"] * 2
    assert shown["config"]["min_challenge_s"] == 5
    assert run_command(["chain", "status", *place]) == 0
    assert "vault of" in capsys.readouterr().out


def test_verify_tells_a_program_that_differs_in_one_byte(
    place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(capsys, "chain", "verify", *place)[1]["good"]
    elf = program_path().read_bytes()

    async def checks(elf: bytes) -> dict[str, bool]:
        from robocompute_node.chain_report import report_chain

        async with SolanaSettlement(rpc_urls=(place[1],), program_id=LOCAL.program_id) as chain:
            report = await report_chain(chain, LOCAL.program_id)
        return {check.what: check.good for check in verify(report, elf)}

    assert all(trio.run(checks, elf).values())
    assert not trio.run(checks, elf[:-1] + bytes([elf[-1] ^ 1]))["program"]
    assert not trio.run(checks, elf[: len(elf) // 2])["program"]


def test_status_verify_and_the_file_of_the_build_name_one_hash(
    place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    elf = program_path().read_bytes()
    assert elf.endswith(b"\0")  # so that the zeros behind it do not tell where it ends
    committed = sha256(elf).hexdigest()
    status, told = ask(capsys, "chain", "verify", *place)
    assert (status, told["program"]["sha256"]) == (0, committed)
    assert committed in told["checks"][0]["text"]
    assert ask(capsys, "chain", "status", *place)[1]["program"]["sha256"] == committed


def test_a_deployed_binary_ends_where_its_own_header_says() -> None:
    elf = program_path().read_bytes()

    def binary(code: bytes) -> bytes:
        return DeployedProgram(
            program_id=LOCAL.program_id, authority=None, slot=1, code=code
        ).binary

    for room in (0, 1, 10_240):
        assert binary(elf + bytes(room)) == elf
    # Bytes behind the section table belong to the program as well, and what is no ELF is as it is.
    assert binary(elf + b"x" + bytes(9)) == elf + b"x"
    assert binary(b"\x7fELF" + bytes(99)) == b"\x7fELF"
    assert binary(b"small\0\0") == b"small"


def test_the_admin_pauses_changes_and_hands_over(
    place: list[str], admin: KeyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ["--key", str(admin.path)]
    heir = make_key(tmp_path / "heir.json")

    def config() -> dict[str, Any]:
        return ask(capsys, "chain", "status", *place)[1]["config"]

    assert ask(capsys, "chain", "admin", "pause", *place, *key)[0] == 0
    assert config()["paused"] is True
    before = config()
    assert ask(capsys, "chain", "admin", "set", "--fee-bps", "7", *place, *key)[0] == 0
    assert config() == before | {"fee_bps": 7}
    assert ask(capsys, "chain", "admin", "unpause", *place, *key)[0] == 0
    assert config()["paused"] is False
    address = to_base58(heir.address)
    heirs = ["--key", str(heir.path)]

    def refused(*words: str) -> str:
        status, told = ask(capsys, "chain", "admin", *words)
        assert (status, told["error"]["code"]) == (1, "chain_refused")
        return told["error"]["message"]

    assert f"the admin is {to_base58(admin.address)}, not {address}" in refused(
        "pause", *place, *heirs
    )
    assert f"propose {address}" in refused("accept", *place, *heirs)
    assert run_command(["chain", "admin", "propose", "1" * 32, *place, *key]) == 2
    assert "nobody has the key" in capsys.readouterr().err
    assert ask(capsys, "chain", "admin", "propose", address, *place, *key)[0] == 0
    assert config()["pending_admin"] == address
    assert f"proposed as the next admin is {address}" in refused("accept", *place, *key)
    assert config()["admin"] == to_base58(admin.address)


def test_an_embedded_chain_takes_no_deployment_and_says_what_does(
    place: list[str], admin: KeyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.so"
    small.write_bytes(program_path().read_bytes()[:2_000])
    status, told = ask(
        capsys, "chain", "deploy", "--data", str(tmp_path), *place[:2], "--key", str(admin.path),
        "--binary", str(small), "--yes",
    )  # fmt: skip
    assert status == 1
    assert "validator" in told["error"]["message"]


def test_a_deployment_is_asked_for_before_it_costs_anything(
    place: list[str], admin: KeyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "nothing here"
    words = ["chain", "deploy", "--data", str(data), *place[:2], "--key", str(admin.path)]
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert re.search(r"costs 0\.\d+ SOL", said)
    assert "add --yes" in said
    # Not even the key of the program's address is made before somebody agreed.
    assert not data.exists()


def test_the_defaults_that_deploy_names_are_those_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["chain", "deploy", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, value in DEFAULTS.items():
        shown = format_amount(value) if name == "slot_stake" else str(value)
        option = "--" + name.replace("_", "-")
        assert f"{option} {shown.removesuffix('0000')}" in said
        assert f"| `{option} " in DOCS.read_text()


def test_wrong_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    program = to_base58(LOCAL.program_id)
    for words in (
        ["status", "--rpc", "nowhere", "--program", program],
        ["status", "--rpc", "http://127.0.0.1:1", "--program", "x"],
        ["admin", "set", "--rpc", "http://127.0.0.1:1", "--program", program],
        ["admin", "set", "--fee-bps", "501"],
    ):
        assert run_command(["chain", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert (
        run_command(["chain", "status", "--rpc", "http://127.0.0.1:1", "--program", program]) == 1
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "does not answer" in said
    assert "--rpc URL" in said


def test_without_a_node_the_options_that_do_without_are_named(
    place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--data", str(tmp_path)]
    for words, options in (
        (["status"], "--rpc URL and --program ADDRESS"),
        (["status", *place[:2]], "--program ADDRESS"),
        (["deploy"], "--rpc URL"),
        (["deploy", *place[:2]], "--key FILE"),
        (["admin", "pause", *place], "--key FILE"),
    ):
        assert run_command(["chain", *words, *nowhere]) == 2
        assert f"there is no node in {tmp_path}: add {options}, or" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_on_mainnet_short_times_are_refused_and_elsewhere_not() -> None:
    week, day = 7 * DAY_S, DAY_S
    assert objection_to_times(MAINNET, unbond_s=week, min_challenge_s=day) is None
    for unbond_s, challenge_s in ((week - 1, day), (week, day - 1), (0, 0)):
        objection = objection_to_times(MAINNET, unbond_s=unbond_s, min_challenge_s=challenge_s)
        assert objection is not None
        for cluster in (DEVNET, Digest(bytes(32))):
            assert (
                objection_to_times(cluster, unbond_s=unbond_s, min_challenge_s=challenge_s) is None
            )


def test_clusters_have_names_and_sol_is_written_to_the_lamport() -> None:
    assert [cluster_name(one) for one in (MAINNET, DEVNET, Digest(bytes(32)))] == [
        "mainnet-beta", "devnet", "other",
    ]  # fmt: skip
    assert [sol_text(n) for n in (0, 1, 10**9, 1_500_000_000)] == ["0", "0.000000001", "1", "1.5"]


def test_every_chain_command_and_option_is_documented() -> None:
    text = DOCS.read_text()

    def walk(command: click.Command, name: str) -> None:
        if isinstance(command, click.Group):
            for word, inner in command.commands.items():
                walk(inner, f"{name} {word}")
            return
        assert f"`robocompute-node {name}" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in text, (name, parameter.opts)

    walk(chain_command, "chain")
