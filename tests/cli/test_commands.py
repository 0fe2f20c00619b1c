from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from robocompute_node.cli.main import COMMANDS, run_command

DOCS = Path(__file__).parents[2] / "docs" / "node.md"


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("robocompute-node: ")
    return text


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_init_makes_a_node_once_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", "--data", str(tmp_path / "n"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert sorted(first["made"]) == ["api_key", "config.toml", "node.key", "wallet.json"]
    files = {path: path.read_bytes() for path in (tmp_path / "n").iterdir()}
    assert (
        run_command(["init", "--data", str(tmp_path / "n"), "--role", "provider", "--json"]) == 0
    )
    again = json.loads(capsys.readouterr().out)
    assert again["made"] == []
    assert again["wallet_address"] == first["wallet_address"]
    assert {path: path.read_bytes() for path in (tmp_path / "n").iterdir()} == files


@pytest.mark.parametrize(
    "command", [["run"], ["status"], ["peers"], ["offers"], ["wallet"], ["wallet", "deposit", "1"]]
)
def test_without_a_node_every_command_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run_command([*command, "--data", str(tmp_path / "none")]) == 2
    assert "robocompute-node init" in one_line(capsys.readouterr().err)


def test_a_corrupt_file_is_one_line_and_the_same_error_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("[api\n")
    assert run_command(["status", "--data", str(tmp_path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert "line 1" in one_line(err)
    assert json.loads(out)["error"]["code"] == "config"


def test_a_chain_that_is_down_is_one_line_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run_command(["init", "--data", str(tmp_path), "--rpc-url", url]) == 0
    capsys.readouterr()
    for command in (
        ["wallet"],
        ["wallet", "withdraw", "1"],
        ["channels"],
        ["stake"],
        ["earnings"],
    ):
        assert run_command([*command, "--data", str(tmp_path)]) == 1
        said = one_line(capsys.readouterr().err)
        assert url in said
        assert "localnet up" in said


def test_a_node_that_is_not_running_is_one_line_with_the_command_that_starts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", "--data", str(tmp_path)]) == 0
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace("# port = 8000", f"port = {free_port()}"))
    capsys.readouterr()
    assert run_command(["status", "--data", str(tmp_path)]) == 1
    assert f"robocompute-node run --data {tmp_path}" in one_line(capsys.readouterr().err)


def test_a_wrong_argument_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["nonsense"],
        ["init", "--rôle"],
        ["wallet", "deposit", "1,5"],
        ["runtime", "add"],
    ):
        assert run_command(words) == 2
        assert "--help" in one_line(capsys.readouterr().err)
    assert run_command(["init", "--data", str(tmp_path), "--mint", "x"]) == 2
    assert "mint in [chain] must be" in one_line(capsys.readouterr().err)


def test_the_doctor_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run_command(["init", "--data", str(tmp_path), "--rpc-url", url]) == 0
    (tmp_path / "wallet.json").chmod(0o644)
    capsys.readouterr()
    assert run_command(["doctor", "--data", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = {finding["what"]: finding for finding in told["findings"]}
    assert told["ok"] is False
    assert found["settings"]["verdict"] == "good"
    assert found["chain"]["verdict"] == "missing"
    assert "chmod 600" in found["wallet"]["text"]
    assert {"bubblewrap", "uv", "cgroups"} <= set(found)


@pytest.mark.parametrize("words", [[], ["localnet"], ["chain"]])
def test_no_command_is_answered_with_the_list_of_them(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(" ".join(["Usage: robocompute-node", *words, "[OPTIONS] COMMAND"]))
    assert "\n  status " in said


def test_every_command_is_documented() -> None:
    text = DOCS.read_text()
    for command in COMMANDS:
        assert f"`robocompute-node {command}" in text
