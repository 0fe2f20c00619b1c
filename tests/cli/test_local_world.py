from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from robocompute_node.cli.main import run_command
from robocompute_node.localnet.blueprint import read_plan
from robocompute_node.localnet.processes import Started, start, stop
from robocompute_protocol.errors import ConfigError

ROOT = Path(__file__).parents[2]
WAITS = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('deaf', flush=True); time.sleep(60)",
]


def test_the_committed_world_is_one() -> None:
    plan = read_plan(ROOT / "localnet.toml")
    assert plan.binary.is_file()
    assert [node.name for node in plan.blueprint.nodes] == ["provider-1", "client-1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[chain]", "[chian]"), "chian"),
        (('name = "client-1"', 'name = "provider-1"'), "different names"),
        (('usdc = "1000.00"', "usdc = 1000"), "usdc"),
        (('deposit = "100.00"', 'deposit = "x"'), "not an amount"),
        (("rpc_port = 8899", "rpc_port = "), "line"),
        (('backend = "embedded"', 'backend = "url"'), "needs rpc_url"),
        (('backend = "embedded"', 'backend = "embedded"\nrpc_url = "http://x"'), "alone"),
        (('backend = "embedded"', 'backend = "validator"\nws_port = 1'), "line"),
        (("ws_port = 8900", 'ws_port = 8901\nvalidator = "x"'), 'backend "validator" alone'),
        (('backend = "embedded"', 'backend = "mainframe"'), "mainframe"),
    ],
)
def test_a_world_that_makes_no_sense_is_one_line(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = tmp_path / "localnet.toml"
    path.write_text((ROOT / "localnet.toml").read_text().replace(*change))
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_validator_that_is_not_there_is_one_line_with_the_way_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBOCOMPUTE_VALIDATOR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = (ROOT / "localnet.toml").read_text().replace('"embedded"', '"validator"')
    path = tmp_path / "localnet.toml"
    path.write_text(text.replace("programs/settlement", str(ROOT / "programs" / "settlement")))
    words = ["localnet", "up", "--dir", str(tmp_path / "world"), "--config", str(path)]
    assert run_command([*words, "--free-ports", "--detach"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cargo install agave-validator" in said
    assert "ROBOCOMPUTE_VALIDATOR" in said


def test_a_validator_that_ends_at_once_shows_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(
        "#!/bin/sh\nwhile [ $1 != --ledger ]; do shift; done\nmkdir -p $2\n"
        "echo the disk is full > $2/validator.log\necho cannot start\n"
    )
    broken.chmod(0o755)
    text = (ROOT / "localnet.toml").read_text()
    text = text.replace('"embedded"', f'"validator"\nvalidator = "{broken}"')
    path = tmp_path / "localnet.toml"
    path.write_text(text.replace("programs/settlement", str(ROOT / "programs" / "settlement")))
    words = ["localnet", "up", "--dir", str(tmp_path / "world"), "--config", str(path)]
    assert run_command([*words, "--free-ports", "--detach"]) == 1
    said = capsys.readouterr().err
    assert "| the disk is full" in said
    assert said.splitlines()[-1].startswith("robocompute-node: chain ended: cannot start")


def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "11111111111111111111111111111112"
    text = (ROOT / "localnet.toml").read_text()
    text = text.replace(
        'backend = "embedded"',
        'backend = "url"\nrpc_url = "http://127.0.0.1:1"\nws_url = "ws://127.0.0.1:1"\n'
        f'program_id = "{key}"\nmints = ["{key}", "{key}"]',
    )
    path = tmp_path / "localnet.toml"
    path.write_text(text)
    words = ["localnet", "up", "--dir", str(tmp_path / "world"), "--config", str(path)]
    assert run_command([*words, "--free-ports", "--detach"]) == 1
    assert "http://127.0.0.1:1" in capsys.readouterr().err.splitlines()[-1]


def test_a_process_is_ended_and_leaves_no_zombie(tmp_path: Path) -> None:
    process = start("waits", WAITS, log=tmp_path / "log", env=os.environ)
    assert process.running()
    assert stop(process)
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = start("deaf", DEAF, log=tmp_path / "log", env=os.environ)
    while process.last_line() != "deaf":
        pass
    assert not stop(process, patience_s=0.1)
    assert not process.running()


def test_a_pid_that_belongs_to_another_program_now_is_left_alone(tmp_path: Path) -> None:
    other = start("other", WAITS, log=tmp_path / "log", env=os.environ)
    stale = Started(name="old", pid=other.pid, born=other.born - 1, log=other.log)
    assert not stale.running()
    assert stop(stale)
    assert other.running()
    os.kill(other.pid, signal.SIGKILL)
    os.waitpid(other.pid, 0)


def test_reset_deletes_nothing_that_is_no_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert run_command(["localnet", "reset", "--dir", str(tmp_path)]) == 2
    assert "nothing was deleted" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_status_and_down_of_no_world_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["localnet", "status", "--dir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("robocompute-node: no local world is up")
    assert "localnet up" in said
    assert run_command(["localnet", "reset", "--dir", str(tmp_path / "none")]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert run_command(["localnet", "down", "--dir", str(tmp_path)]) == 0
    assert "was not up" in capsys.readouterr().out
