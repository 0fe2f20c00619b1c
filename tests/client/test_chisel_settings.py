from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from fake_node import API_KEY

from chisel import outcome
from chisel.auth import (
    authenticate,
    clear_credentials,
    credentials_path,
    is_authenticated,
    known_api_key,
    save_credentials,
)
from chisel.command import as_seen_from, default_app_name, script_position
from chisel.options import Options, UsageError, gpu, parse, saved_answers
from chisel.results import UnsafePath, place

if TYPE_CHECKING:
    from pathlib import Path

    from fake_node import FakeNode


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("CHISEL_API_KEY", "CHISEL_BACKEND_URL", "ROBOCOMPUTE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


def test_keys_are_looked_for_in_the_documented_order(home: Path) -> None:
    url = "http://127.0.0.1:8000"
    assert known_api_key(url, {}) is None
    (home / ".robocompute").mkdir()
    (home / ".robocompute" / "api_key").write_text("node\n")
    assert known_api_key(url, {}) == "node"
    save_credentials({"api_key": "saved", "email": None})
    assert known_api_key(url, {}) == "saved"
    assert known_api_key(url, {"CHISEL_API_KEY": "said"}) == "said"


def test_a_nodes_own_key_never_leaves_this_machine(home: Path) -> None:
    (home / ".robocompute").mkdir()
    (home / ".robocompute" / "api_key").write_text("node\n")
    assert known_api_key("https://example.org", {}) is None
    save_credentials({"api_key": "saved", "backend": "https://example.org"})
    assert known_api_key("https://example.org", {}) == "saved"
    assert known_api_key("http://127.0.0.1:8000", {}) == "node"


def test_credentials_are_their_owners_alone_and_can_be_cleared(home: Path) -> None:
    save_credentials({"api_key": "k", "email": "e"})
    assert credentials_path() == home / ".chisel" / "credentials.json"
    assert stat.S_IMODE(credentials_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials_path().parent.stat().st_mode) == 0o700
    assert json.loads(credentials_path().read_text()) == {"api_key": "k", "email": "e"}
    assert [clear_credentials(), clear_credentials()] == [True, False]


def test_being_authenticated_means_that_the_backend_says_so_now(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHISEL_BACKEND_URL", node.url)
    assert not is_authenticated()
    monkeypatch.setenv("CHISEL_API_KEY", API_KEY)
    assert is_authenticated()
    assert authenticate(node.url + "/") == API_KEY
    monkeypatch.setenv("CHISEL_API_KEY", "wrong")
    assert not is_authenticated()
    monkeypatch.setenv("CHISEL_API_KEY", API_KEY)
    node.stop()
    assert not is_authenticated()
    with pytest.raises(RuntimeError) as failed:
        authenticate()
    assert str(failed.value) == "❌ Authentication failed. Unable to get valid API key."


def test_flags_end_where_the_command_begins() -> None:
    options, command = parse(["-g", "2", "--wait", "python", "x.py", "-g", "3", "--wait"])
    assert (options.gpu, options.wait) == ("A100-80GB:2", True)
    assert command == ["python", "x.py", "-g", "3", "--wait"]
    assert parse(["--", "--odd"])[1] == ["--odd"]
    assert parse(["--gpu=", "x"])[0].gpu == ""


@pytest.mark.parametrize(
    "words",
    [["--nope"], ["--gpu"], ["--timeout", "soon"], ["--timeout", "0"], ["--max-price", "-1"],
     ["-e", "1A=2"], ["-e", "NOT_SET_ANYWHERE"], ["-g", "H100:0"], ["--wait=yes"]],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_gpus_are_named_as_tasks_name_them() -> None:
    assert [gpu(text) for text in ("cpu", "", "1", "H100", "A100-80GB:8", "RTX 4090:2")] == [
        "",
        "",
        "A100-80GB:1",
        "H100:1",
        "A100-80GB:8",
        "RTX 4090:2",
    ]


def test_saved_answers_are_read_from_either_file(tmp_path: Path) -> None:
    assert saved_answers(tmp_path) == Options()
    (tmp_path / "pyproject.toml").write_text('[tool.chisel]\ntimeout = "2h"\nmax-price = 2.5\n')
    assert saved_answers(tmp_path) == Options(timeout=7200, max_price="2.5")
    (tmp_path / "chisel.toml").write_text("gpu = 1\n")
    assert saved_answers(tmp_path) == Options(gpu="A100-80GB:1")
    (tmp_path / "chisel.toml").write_text("gpu = [\n")
    with pytest.raises(UsageError, match="cannot be read"):
        saved_answers(tmp_path)


@pytest.mark.parametrize(
    ("command", "position"),
    [
        (["python", "a.py", "-m"], 1),
        (["python3.11", "-u", "-W", "error", "-X", "dev", "a.py"], 6),
        (["/usr/bin/python", "-OO", "a.py"], 2),
        (["python", "-m", "pytest"], None),
        (["python", "-um", "pytest"], None),
        (["python", "-c", "pass"], None),
        (["python", "-"], None),
        (["jupyter", "notebook"], None),
    ],
)
def test_the_script_of_a_command_is_found(command: list[str], position: int | None) -> None:
    assert script_position(command) == position


def test_only_the_scripts_path_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("")
    words = ["python", "a.py", "a.py", "../x"]
    assert as_seen_from(words, tmp_path, tmp_path / "sub") == [
        "python",
        "sub/a.py",
        "a.py",
        "../x",
    ]
    absolute = ["python", str(tmp_path / "sub" / "a.py")]
    assert as_seen_from(absolute, tmp_path, tmp_path) == ["python", "sub/a.py"]
    assert as_seen_from(["python", "./sub/a.py"], tmp_path, tmp_path)[1] == "./sub/a.py"
    with pytest.raises(FileNotFoundError):
        as_seen_from(["python", "b.py"], tmp_path, tmp_path)
    assert default_app_name(words, tmp_path) == "a"
    assert default_app_name(["python", "-m", "x"], tmp_path) == tmp_path.name


def test_a_link_that_leads_out_is_not_inside(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "out.py").write_text("")
    (tmp_path / "up" / "a.py").symlink_to(tmp_path / "out.py")
    with pytest.raises(
        AssertionError, match=r"^Script .*/up/a\.py is not inside upload_dir .*/up$"
    ):
        as_seen_from(["python", "a.py"], tmp_path / "up", tmp_path / "up")


@pytest.mark.parametrize(
    ("task", "status"),
    [
        ({"exit_code": 0, "cause": "exited", "ended_by": "client"}, 0),
        ({"exit_code": 137, "cause": "exited", "ended_by": "client"}, 137),
        ({"exit_code": -9, "cause": "exited", "ended_by": "client"}, 137),
        ({"exit_code": 143, "cause": "wall_time", "ended_by": "client"}, 124),
        ({"exit_code": None, "cause": "memory", "ended_by": "client"}, 137),
        ({"exit_code": None, "cause": "cancelled", "ended_by": "client"}, 130),
        ({"exit_code": None, "cause": "environment_failed", "ended_by": "client"}, 78),
        ({"exit_code": None, "cause": "client_lost", "ended_by": "client"}, 74),
        ({"exit_code": 0, "cause": "provider_stopped", "ended_by": "provider"}, 75),
        ({"exit_code": None, "status": "cancelled", "provider": None}, 130),
        ({"exit_code": 0, "cause": "exited", "ended_by": "client", "error": "RESULTS_LOST"}, 75),
        ({"exit_code": None, "status": "failed", "error": "PROVIDER_UNAVAILABLE"}, 69),
        ({"exit_code": None, "status": "failed", "error": "INSUFFICIENT_FUNDS"}, 73),
        ({"exit_code": None, "status": "failed", "provider": "x", "ended_by": "client"}, 76),
    ],
)
def test_every_end_has_its_exit_status(task: dict[str, object], status: int) -> None:
    assert outcome.exit_status(task) == status


@pytest.mark.parametrize(
    "path", ["/x", "../x", "a/../../x", "a//x", "", ".", "a/.", "a\\x", "a\0"]
)
def test_a_result_is_placed_only_below_its_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafePath):
        place(tmp_path, path)


def test_a_result_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath):
        place(folder, "work/x")
    (folder / "file").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafePath):
        place(folder, "file")
