from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fake_node import API_KEY, PROVIDER, FakeNode, FakeTask

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Start = Callable[..., "subprocess.Popen[bytes]"]


def talk(node: FakeNode, task: FakeTask) -> None:
    node.emit(task, "stage", stage="matching", detail="")
    node.emit(task, "match", provider=PROVIDER, price_per_hour="0.72", why="cheapest")
    node.emit(task, "stage", stage="running", detail="")
    node.output(task, "stdout", "line", "first")
    node.output(task, "stderr", "line", "wärning")
    node.output(task, "stdout", "part", "no line ")
    node.output(task, "stdout", "line", "end")
    node.output(task, "stdout", "cr", "10%")
    node.output(task, "stdout", "line", b"\xff\x00raw")
    node.output(task, "stdout", "line", "")
    task.files["work/model.json"] = b"{}"
    task.files[f"volume/train/{task.view['task_id']}/traces/train.json"] = b'{"traceEvents":[]}'
    node.end(task)


STDOUT = b"first\nno line end\n10%\r\xff\x00raw\n\n"


def test_output_arrives_to_the_byte_with_the_streams_apart(node: FakeNode, chisel: Run) -> None:
    node.script = talk
    ran = chisel("python", "train.py")
    assert ran.returncode == 0
    assert ran.stdout == STDOUT
    assert ran.stderr.startswith("wärning\n".encode())
    *_, last = ran.stderr.decode().splitlines()
    assert last.startswith("chisel: done, exit code 0 · ran 1.5 s · cost 0.000300 · provider 9xQe")


def test_the_command_arrives_exactly_as_typed(node: FakeNode, chisel: Run) -> None:
    words = ["python", "train.py", "--epochs", "10", "b  c", "", "--gpu", '"*"', "--", "-x"]
    assert chisel(*words).returncode == 0
    asked = node.only_task().asked
    assert asked["command"] == words
    assert (asked["type"], asked["gpu"], asked["name"]) == ("cpu", None, "train")
    assert asked["requirements_file"] is None


def test_flags_before_the_command_shape_the_task(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    (project / "needs.txt").write_text("numpy\n")
    ran = chisel(
        "--gpu", "4", "--app-name=my app", "-r", "needs.txt", "--max-price", "2.50", "--timeout",
        "2h", "-e", "A=b=c", "--env", "SEEN", "--wait", "--yes", "python", "-m", "pytest",
        SEEN="x y",
    )  # fmt: skip
    assert ran.returncode == 0
    asked = node.only_task().asked
    assert asked["command"] == ["python", "-m", "pytest"]
    assert (asked["type"], asked["gpu"]) == ("gpu", "A100-80GB:4")
    assert (asked["name"], asked["requirements_file"]) == ("my app", "needs.txt")
    assert (asked["max_price_per_hour"], asked["timeout_seconds"]) == ("2.50", 7200)
    assert (asked["env"], asked["wait"]) == ({"A": "b=c", "SEEN": "x y"}, True)


def test_saved_answers_hold_until_a_flag_says_otherwise(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    (project / "chisel.toml").write_text('gpu = "H100:2"\napp-name = "saved"\n[env]\nA = 1\n')
    assert chisel("-g", "cpu", "-e", "B=2", "python", "train.py").returncode == 0
    asked = node.only_task().asked
    assert (asked["gpu"], asked["name"]) == (None, "saved")
    assert asked["env"] == {"A": "1", "B": "2"}


def test_an_unknown_saved_answer_is_an_error_of_one_line(chisel: Run, project: Path) -> None:
    (project / "chisel.toml").write_text("gpus = 2\n")
    ran = chisel("python", "train.py")
    assert ran.returncode == 1
    assert b"unknown setting 'gpus'" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_the_jobs_exit_code_is_the_commands(node: FakeNode, chisel: Run) -> None:
    node.script = lambda node, task: node.end(task, status="failed", exit_code=3)
    ran = chisel("python", "train.py")
    assert ran.returncode == 3
    assert b"chisel: exit code 3" in ran.stderr


def test_a_providers_fault_says_who_why_and_what_next(node: FakeNode, chisel: Run) -> None:
    node.script = lambda node, task: node.end(
        task,
        status="failed",
        exit_code=None,
        cause="provider_lost",
        ended_by="provider",
        cost="0.000000",
        message="the provider's node went away for longer than the horizon",
    )
    ran = chisel("python", "train.py")
    assert ran.returncode == 75
    assert b"went away for longer than the horizon - the same command runs it again" in ran.stderr
    assert (
        "ended by the provider: provider lost · ran 1.5 s · cost 0.000000" in ran.stderr.decode()
    )


def test_results_come_home_with_traces_and_receipt(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    node.script = talk
    chisel("python", "train.py")
    task_id = node.only_task().view["task_id"]
    out = project / "chisel-out" / task_id
    assert (out / "work/model.json").read_bytes() == b"{}"
    assert json.loads((out / "traces/train.json").read_text()) == {"traceEvents": []}
    assert (out / f"volume/train/{task_id}/traces/train.json").exists()
    assert json.loads((out / "receipt.json").read_text()) == {"amount": "0.000300"}
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def test_results_never_land_outside_their_folder(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    def hostile(node: FakeNode, task: FakeTask) -> None:
        task.files = {"../evil": b"x", "/etc/evil": b"x", "work/../../evil": b"x", "work/ok": b"y"}
        node.end(task)

    node.script = hostile
    ran = chisel("python", "train.py")
    assert ran.returncode == 0
    assert ran.stderr.count(b"it leads out of the folder") == 3
    assert [p.name for p in project.rglob("evil")] == []
    assert next(project.rglob("ok")).read_bytes() == b"y"


def test_no_line_is_lost_or_doubled_when_connections_are_cut(node: FakeNode, chisel: Run) -> None:
    node.script = talk
    node.cut_after = [1, 4, 5, 9]
    ran = chisel("python", "train.py")
    assert ran.returncode == 0
    assert ran.stdout == STDOUT
    assert ran.stderr.count(b"reconnected, nothing is missing") == 4


def test_a_node_that_restarts_is_waited_for(node: FakeNode, start: Start) -> None:
    def begin(node: FakeNode, task: FakeTask) -> None:
        node.output(task, "stdout", "line", "before")

    node.script = begin
    process = start("python", "train.py")
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    node.stop()
    task = node.only_task()
    node.output(task, "stdout", "line", "after")
    node.end(task)
    node.start()
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (0, b"after\n")
    assert b"the job goes on, reconnecting" in stderr


def test_ctrl_c_cancels_waits_for_the_end_and_says_the_cost(node: FakeNode, start: Start) -> None:
    node.script = lambda node, task: node.output(task, "stdout", "line", "running")
    process = start("python", "train.py")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert node.only_task().cancels == 1
    assert b"cancelling the job" in stderr
    assert b"cost 0.000300" in stderr


def test_a_cancel_that_is_answered_late_is_waited_for(node: FakeNode, start: Start) -> None:
    answered = threading.Event()

    def end_first(node: FakeNode, task: FakeTask) -> None:
        node.end(task, status="cancelled", cause="cancelled", exit_code=None)
        time.sleep(1)  # the job's end reaches chisel before the answer to its cancel does
        answered.set()

    node.script = lambda node, task: node.output(task, "stdout", "line", "running")
    node.on_cancel = end_first
    process = start("python", "train.py")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert answered.is_set()
    assert b"not cancelled" not in stderr


def test_a_second_ctrl_c_leaves_at_once(node: FakeNode, start: Start) -> None:
    node.script = lambda node, task: node.output(task, "stdout", "line", "running")
    node.on_cancel = lambda node, task: None
    process = start("python", "train.py")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert b"cancelling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"chisel status" in stderr


def test_a_reader_that_goes_away_ends_the_job(node: FakeNode, start: Start) -> None:
    def chatter(node: FakeNode, task: FakeTask) -> None:
        while task.cancels == 0:
            node.output(task, "stdout", "line", "x" * 4096)
            if len(task.events) > 2_000:
                return

    node.script = chatter
    process = start("python", "train.py")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=30)
    assert process.returncode == 141
    assert node.only_task().cancels == 1


def test_a_second_run_sends_only_what_changed(node: FakeNode, chisel: Run, project: Path) -> None:
    (project / "data.bin").write_bytes(os.urandom(3 * 2**20 + 5))
    chisel("python", "train.py")
    assert len(node.blobs) == 5
    sent = node.requests.count(("POST", "/api/v1/blobs"))
    chisel("python", "train.py")
    assert node.requests.count(("POST", "/api/v1/blobs")) == sent
    (project / "train.py").write_text("print('other')\n")
    chisel("python", "train.py")
    assert len(node.blobs) == 6


def test_a_script_outside_the_upload_folder_is_refused_in_the_seeds_words(
    node: FakeNode, chisel: Run, tmp_path: Path, project: Path
) -> None:
    outside = tmp_path / "other.py"
    outside.write_text("")
    ran = chisel("python", str(outside))
    assert ran.returncode == 1
    assert f"Script {outside} is not inside upload_dir {project}" in ran.stderr.decode()
    assert not node.tasks
    assert chisel("python", "../other.py").returncode == 1


def test_an_upload_folder_that_is_none_is_named_before_the_script_is_looked_for(
    chisel: Run, tmp_path: Path
) -> None:
    ran = chisel("--upload-dir", str(tmp_path / "nowhere"), "python", "train.py")
    assert ran.returncode == 1
    assert ran.stderr.decode() == f"❌ {tmp_path / 'nowhere'} is not a folder\n"


def test_a_script_below_another_folder_runs_by_its_path_there(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    (project / "src").mkdir()
    (project / "src" / "job.py").write_text("")
    assert chisel("-d", str(project), "python", "job.py", cwd=project / "src").returncode == 0
    assert node.only_task().asked["command"] == ["python", "src/job.py"]


def test_refusals_have_exit_codes_of_their_own(node: FakeNode, chisel: Run) -> None:
    for code, status, expected in (
        ("PROVIDER_UNAVAILABLE", 503, 69),
        ("INSUFFICIENT_FUNDS", 402, 73),
        ("INVALID_REQUEST", 400, 76),
    ):
        node.refusal = (status, {"code": code, "message": f"because {code}", "details": {}})
        ran = chisel("python", "train.py")
        assert ran.returncode == expected
        assert f"because {code}" in ran.stderr.decode()
        assert len(ran.stderr.splitlines()) == 1


def test_without_a_node_one_line_says_how_to_start_it(node: FakeNode, chisel: Run) -> None:
    node.stop()
    ran = chisel("python", "train.py")
    assert ran.returncode == 74
    assert len(ran.stderr.splitlines()) == 1
    assert b"robocompute-node run" in ran.stderr
    assert b"CHISEL_BACKEND_URL" in ran.stderr


def test_a_wrong_key_is_said_in_the_seeds_words(chisel: Run) -> None:
    ran = chisel("python", "train.py", CHISEL_API_KEY="wrong")
    assert ran.returncode == 1
    assert "❌ Authentication failed. Unable to get valid API key." in ran.stderr.decode()


def test_the_nodes_own_key_is_found_on_this_machine(
    node: FakeNode, chisel: Run, tmp_path: Path
) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "api_key").write_text(API_KEY + "\n")
    home = {"CHISEL_API_KEY": "", "ROBOCOMPUTE_HOME": str(tmp_path / "node")}
    assert chisel("python", "train.py", **home).returncode == 0
    (tmp_path / "node" / "api.json").write_text(json.dumps({"url": node.url, "pid": 1}))
    assert chisel("python", "train.py", CHISEL_BACKEND_URL="", **home).returncode == 0
    assert len(node.tasks) == 2


def test_detach_prints_the_id_and_the_other_words_go_on_from_it(
    node: FakeNode, chisel: Run, project: Path
) -> None:
    node.script = talk
    task_id = chisel("--detach", "python", "train.py").stdout.decode().strip()
    assert task_id == node.only_task().view["task_id"]
    assert chisel("logs", "-f", task_id).stdout == STDOUT
    assert b"first\n" in chisel("logs", task_id).stdout
    assert task_id in chisel("jobs").stdout.decode()
    assert json.loads(chisel("--json", "status", task_id).stdout)["status"] == "completed"
    assert chisel("pull", task_id).returncode == 0
    assert (project / "chisel-out" / task_id / "receipt.json").exists()
    assert chisel("cancel", task_id).returncode == 0
    missing = chisel("status", "nonsense")
    assert missing.returncode == 76
    assert b"no task nonsense" in missing.stderr
    assert b"submission" not in missing.stderr  # nothing was submitted


def test_preview_sends_nothing(node: FakeNode, chisel: Run) -> None:
    ran = chisel("--preview", "python", "train.py")
    assert ran.returncode == 0
    assert b"train.py" in ran.stdout
    assert node.requests == []


def test_json_writes_every_event_as_one_line(node: FakeNode, chisel: Run) -> None:
    node.script = talk
    lines = [
        json.loads(line) for line in chisel("--json", "python", "train.py").stdout.splitlines()
    ]
    assert [line["number"] for line in lines] == list(range(1, 12))
    assert lines[-1]["event"] == "ended"


def test_the_word_alone_and_the_version_need_nothing(tmp_path: Path) -> None:
    for words, expected in (
        ([], "Chisel CLI is installed and working!"),
        (["--version"], "Chisel CLI v0.1.0"),
        (["-v"], "Chisel CLI v0.1.0"),
        (["version"], "Chisel CLI v0.1.0"),
        (["--logout"], "No active authentication found"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "chisel.cli", *words],
            env={"HOME": str(tmp_path)},
            capture_output=True,
            check=True,
        )
        assert expected in ran.stdout.decode()


def test_one_word_is_no_command(chisel: Run) -> None:
    ran = chisel("python")
    assert ran.returncode == 1
    assert "❌ No command provided!" in ran.stderr.decode()
    assert chisel("--nonsense", "python", "x").returncode == 1
