from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aspara
from aspara.exceptions import NotYetAvailableError, RunAlreadyExistsError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ASPARA_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("ASPARA_STORAGE_BACKEND", raising=False)
    yield tmp_path
    aspara.finish(quiet=True)


def rows(data: Path, project: str, run: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (data / project / f"{run}.jsonl").read_text().splitlines()
    ]


def meta(data: Path, project: str, run: str) -> dict[str, Any]:
    return json.loads((data / project / f"{run}.meta.json").read_text())


class Scalar:
    """As numpy and torch have them: no number, but with one inside."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


def test_steps_go_on_by_themselves_and_from_where_they_are_set(data: Path) -> None:
    aspara.init(project="p", name="r")
    aspara.log({"a": 1}, commit=False)
    aspara.log({"b": 2.5})
    aspara.log({"c": 3}, step=10)
    aspara.log({"d": 4})
    found = rows(data, "p", "r")
    assert [(row["step"], row["metrics"]) for row in found] == [
        (0, {"a": 1}),
        (0, {"b": 2.5}),
        (10, {"c": 3}),
        (11, {"d": 4}),
    ]
    assert all(type(row["timestamp"]) is int for row in found)


def test_every_row_is_on_disk_when_log_returns_even_if_the_program_is_killed(data: Path) -> None:
    code = (
        "import aspara, os, signal\n"
        "aspara.init(project='p', name='killed')\n"
        "for step in range(200): aspara.log({'loss': step / 3})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "tracker"), "ASPARA_DATA_DIR": str(data)},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL
    assert [row["step"] for row in rows(data, "p", "killed")] == list(range(200))
    assert meta(data, "p", "killed")["status"] == "wip"


def test_threads_never_mix_their_lines(data: Path) -> None:
    run = aspara.init(project="p", name="r")

    def work(number: int) -> None:
        for step in range(100):
            run.log({f"t{number}": float(step)}, step=step)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(data, "p", "r")) == 800


def test_what_has_a_number_inside_is_one(data: Path) -> None:
    aspara.init(project="p", name="r")
    aspara.log(
        {
            "bool": True,
            "scalar": Scalar(0.5),
            "flag": Scalar(False),
            "decimal": Decimal("1.25"),
            "fraction": Fraction(1, 4),
            "step": 7,
            "big": 2**60,
        }
    )
    (row,) = rows(data, "p", "r")
    assert row["metrics"] == {
        "bool": 1,
        "scalar": 0.5,
        "flag": 0,
        "decimal": 1.25,
        "fraction": 0.25,
        "step": 7,
        "big": 2**60,
    }


@pytest.mark.parametrize("value", ["0.5", b"1", None, [1.0], {"a": 1}, 1j, object()])
def test_what_is_no_number_is_refused_and_nothing_is_written(data: Path, value: object) -> None:
    aspara.init(project="p", name="r")
    with pytest.raises(ValueError, match="Unsupported value type for 'a': <class"):
        aspara.log({"fine": 1.0, "a": value})
    assert rows(data, "p", "r") == []


def test_nan_and_infinity_stand_apart_so_that_every_line_is_json(data: Path) -> None:
    aspara.init(project="p", name="r")
    aspara.log({"a": float("nan"), "b": float("inf"), "c": Scalar(float("-inf")), "d": 1.0})
    text = (data / "p" / "r.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert row["metrics"] == {"d": 1.0}
    assert row["nonfinite"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


def test_names_of_metrics_are_not_empty(data: Path) -> None:
    aspara.init(project="p", name="r")
    with pytest.raises(ValueError, match="Metric name cannot be empty"):
        aspara.log({"": 1.0})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
        ("2026-01-01T00:00:00", 1_767_225_600_000),
        (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600_000),
        (1_767_225_600_000, 1_767_225_600_000),
        (1_767_225_600_000.7, 1_767_225_600_000),
    ],
)
def test_timestamps_are_taken_in_every_documented_form(
    data: Path, given: Any, expected: int
) -> None:
    aspara.init(project="p", name="r")
    aspara.log({"a": 1}, timestamp=given)
    assert rows(data, "p", "r")[0]["timestamp"] == expected
    with pytest.raises(ValueError, match="timestamp"):
        aspara.log({"a": 1}, timestamp="yesterday")


def test_without_a_run_or_after_its_end_logging_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"No active run\. Call aspara\.init\(\) first\."):
        aspara.log({"a": 1})
    run = aspara.init(project="p", name="r")
    aspara.finish()
    aspara.finish()
    with pytest.raises(RuntimeError, match="Cannot log to a finished run"):
        run.log({"a": 1})
    with pytest.raises(RuntimeError, match="Cannot modify a finished run"):
        run.set_tags(["x"])


def test_meta_tells_how_the_run_ended(data: Path) -> None:
    run = aspara.init(project="p", name="r", config={"lr": 0.1}, tags=["a"], notes="n")
    run.config.epochs = 3
    run.summary["best"] = Scalar(0.9)
    started = meta(data, "p", "r")
    assert (started["status"], started["is_finished"]) == ("wip", False)
    run.finish(exit_code=2)
    ended = meta(data, "p", "r")
    assert ended["config"] == {"lr": 0.1, "epochs": 3}
    assert ended["summary"] == {"best": 0.9}
    assert (ended["status"], ended["exit_code"], ended["is_finished"]) == ("failed", 2, True)
    assert (ended["tags"], ended["notes"], ended["run_id"]) == (["a"], "n", run.id)
    assert len(run.id) == 16
    assert ended["finish_time"] >= ended["start_time"]


def test_the_files_are_their_owners_alone(data: Path) -> None:
    aspara.init(project="p", name="r")
    for name in ("r.jsonl", "r.meta.json", "metadata.json"):
        assert stat.S_IMODE((data / "p" / name).stat().st_mode) == 0o600


def test_a_run_is_not_overwritten_but_can_be_resumed_with_all_it_knew(data: Path) -> None:
    first = aspara.init(project="p", name="r", config={"lr": 1}, tags=["t"], notes="why")
    aspara.log({"a": 1})
    aspara.log({"a": 2}, step=41)
    first.summary["best"] = 2
    with pytest.raises(RunAlreadyExistsError, match="Use resume=True to continue"):
        aspara.init(project="p", name="r")
    again = aspara.init(project="p", name="r", config={"more": 2}, resume=True)
    aspara.log({"a": 3})
    assert (again.id, again.tags, again.notes) == (first.id, ["t"], "why")
    assert again.config.to_dict() == {"lr": 1, "more": 2}
    assert again.summary["best"] == 2
    assert [row["step"] for row in rows(data, "p", "r")] == [0, 41, 42]


def test_a_line_torn_by_a_power_cut_does_not_spoil_the_next(data: Path) -> None:
    aspara.init(project="p", name="r").finish()
    with (data / "p" / "r.jsonl").open("ab") as file:
        file.write(b'{"timestamp":1,"st')
    aspara.init(project="p", name="r", resume=True)
    aspara.log({"a": 1})
    assert json.loads((data / "p" / "r.jsonl").read_text().splitlines()[-1])["step"] == 0


def test_the_next_init_finishes_the_run_before_it(data: Path) -> None:
    aspara.init(project="p", name="one")
    aspara.init(project="p", name="two")
    assert meta(data, "p", "one")["status"] == "completed"


def test_the_context_manager_tells_an_exception_from_an_end(data: Path) -> None:
    with aspara.init(project="p", name="good"):
        aspara.log({"a": 1})
    with pytest.raises(KeyError), aspara.init(project="p", name="bad"):
        raise KeyError
    assert meta(data, "p", "good")["exit_code"] == 0
    assert meta(data, "p", "bad")["exit_code"] == 1


@pytest.mark.parametrize(("ending", "status"), [("", "completed"), ("1/0", "failed")])
def test_a_program_that_just_ends_finishes_its_run(data: Path, ending: str, status: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"import aspara\naspara.init(project='p', name='r')\n{ending}"],
        env={"PYTHONPATH": str(ROOT / "tracker"), "ASPARA_DATA_DIR": str(data)},
        capture_output=True,
        check=False,
    )
    assert meta(data, "p", "r")["status"] == status


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".hidden", "ä", "a.wal", "x" * 300])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Invalid run name"):
        aspara.init(project="p", name=name)
    with pytest.raises(ValueError, match="Invalid project name"):
        aspara.init(project=name or "a.b", name="r")


def test_a_dot_inside_a_runs_name_is_fine_and_no_name_makes_one(data: Path) -> None:
    assert aspara.init(project="p", name="resnet18-adam-lr0.01").name == "resnet18-adam-lr0.01"
    made = aspara.init()
    assert made.project == "default"
    adjective, noun, number = made.name.split("-")
    assert adjective.isalpha()
    assert noun.isalpha()
    assert 1 <= int(number) <= 999


def test_artifacts_are_copied_and_stay_in_the_runs_folder(data: Path, tmp_path: Path) -> None:
    run = aspara.init(project="p", name="r")
    source = tmp_path / "model.bin"
    source.write_bytes(b"one")
    run.log_artifact(source, description="d", category="model")
    source.write_bytes(b"three")
    run.log_artifact(str(source), category="model")
    (entry,) = meta(data, "p", "r")["artifacts"]
    assert (entry["stored_path"], entry["file_size"]) == ("artifacts/model.bin", 5)
    assert (data / "p" / "r" / "artifacts" / "model.bin").read_bytes() == b"three"
    for wrong in ("../../../escaped.txt", "/etc/x", "..", "a/b"):
        with pytest.raises(ValueError, match="Invalid artifact name"):
            run.log_artifact(source, name=wrong)
    for call, text in (
        (("",), "File path cannot be empty"),
        ((str(tmp_path / "no"),), "File does not exist"),
        ((str(tmp_path),), "Path is not a file"),
        ((str(source), ""), "Artifact name cannot be empty"),
    ):
        with pytest.raises(ValueError, match=text):
            run.log_artifact(*call)
    with pytest.raises(ValueError, match=r"Invalid category: zzz\. Must be one of: code, model"):
        run.log_artifact(source, category="zzz")
    assert list(data.rglob("escaped.txt")) == []


def test_config_and_summary_read_and_write_as_documented() -> None:
    run = aspara.init(project="p", name="r", config={"lr": 0.01})
    run.config.update({"epochs": 100})
    run.config["batch"] = 32
    assert (run.config.lr, run.config["epochs"], "batch" in run.config) == (0.01, 100, True)
    assert repr(run.config) == "Config({'lr': 0.01, 'epochs': 100, 'batch': 32})"
    with pytest.raises(AttributeError, match="Config has no attribute 'nope'"):
        _ = run.config.nope
    run.summary.update({"loss": 0.1})
    assert repr(run.summary) == "Summary({'loss': 0.1})"
    assert aspara.config() is run.config


def test_what_is_not_here_yet_says_what_works_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotYetAvailableError, match="use 'jsonl'"):
        aspara.init(storage_backend="polars")
    with pytest.raises(NotYetAvailableError, match="leave it out"):
        aspara.init(tracker_uri="http://localhost:3142")
    with pytest.raises(ValueError, match=r"Valid values are: \['jsonl', 'polars'\]"):
        aspara.init(storage_backend="csv")
    monkeypatch.setenv("ASPARA_STORAGE_BACKEND", "x")
    with pytest.raises(ValueError, match="Invalid ASPARA_STORAGE_BACKEND value: 'x'"):
        aspara.init()


def test_the_data_folder_is_found_where_documented(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aspara.init(project="p", name="given", dir=tmp_path / "given")
    assert (tmp_path / "given" / "p" / "given.jsonl").exists()
    monkeypatch.setenv("ASPARA_DATA_DIR", "/etc/")
    with pytest.raises(ValueError, match="cannot be set to system directory: /etc"):
        aspara.init(project="p", name="r")
    monkeypatch.delenv("ASPARA_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    aspara.init(project="p", name="xdg")
    assert (tmp_path / "xdg" / "aspara" / "p" / "xdg.jsonl").exists()


def test_it_tells_where_things_are_on_stdout(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aspara.init(project="p", name="r")
    aspara.finish()
    assert capsys.readouterr().out.splitlines() == [
        "aspara: Run 'r' initialized in project 'p'",
        f"aspara: Data directory: {data}",
        f"aspara: Writing metrics to: {data}/p/r.jsonl",
        "aspara: View results with: aspara dashboard",
        "aspara: Run 'r' finished with exit code 0",
    ]


def test_a_project_keeps_its_metadata(data: Path) -> None:
    aspara.init(project="p", name="one", project_tags=["x"])
    created = json.loads((data / "p" / "metadata.json").read_text())["created_at"]
    aspara.init(project="p", name="two", project_tags=["y", "x"])
    found = json.loads((data / "p" / "metadata.json").read_text())
    assert (found["tags"], found["created_at"]) == (["x", "y"], created)
    assert list((data / "p").glob(".*")) == []
