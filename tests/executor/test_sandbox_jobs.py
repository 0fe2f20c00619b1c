"""Real programs in real sandboxes: what goes in and what comes out."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from robocompute_node.executor.port import JobState, PrepareFailed
from robocompute_protocol.causes import Cause
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.sandbox

WORDS = ("a b", "q\"'`$(x)", "new\nline", "", "  ", "é🚀", "--", "-c", "*", "\\n", "\t")


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return ("python", "-c", code, *arguments)


async def test_every_word_of_a_command_arrives_as_it_was(bench: Bench):
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    end, records = await bench.run(python(code, *WORDS))
    assert tuple(json.loads(records[0].data)) == WORDS
    assert end.exit_code == 0


async def test_output_and_errors_are_kept_apart_and_in_order(bench: Bench):
    code = """
import sys, time
for n in range(3):
    print("out", n); time.sleep(0.02)
    print("err", n, file=sys.stderr); time.sleep(0.02)
"""
    _, records = await bench.run(python(code))
    assert [(record.stream, record.data.decode()) for record in records] == [
        (stream, f"{word} {n}")
        for n in range(3)
        for stream, word in (("stdout", "out"), ("stderr", "err"))
    ]


@pytest.mark.parametrize(
    ("code", "expected", "detail"),
    [
        ("raise SystemExit(3)", 3, "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "ended by signal 9"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "ended by signal 11"),
        ("import os; os._exit(255)", 255, "exit code 255"),
    ],
)
async def test_the_exit_code_is_the_one_a_shell_shows(
    code: str, expected: int, detail: str, bench: Bench
):
    end, _ = await bench.run(python(code))
    assert (end.exit_code, end.cause, end.detail) == (expected, Cause.EXITED, detail)


async def test_a_command_that_is_not_there_is_127_and_says_so(bench: Bench):
    end, records = await bench.run(("no-such-program", "x"))
    assert (end.exit_code, end.cause) == (127, Cause.EXITED)
    assert "no-such-program: not found" in records[0].data.decode()


async def test_redraws_and_prompts_are_records_of_their_own(bench: Bench):
    code = """
import sys, time
for n in range(3): sys.stderr.write(f"\\r{n * 50}%"); sys.stderr.flush()
sys.stderr.write("\\n")
sys.stdout.write("Name? "); sys.stdout.flush(); time.sleep(0.4); print("Ada")
sys.stdout.write("no newline at the end")
"""
    _, records = await bench.run(python(code))
    assert [(r.kind, r.data) for r in records if r.stream == "stderr"] == [
        ("cr", b""),
        ("cr", b"0%"),
        ("cr", b"50%"),
        ("line", b"100%"),
    ]
    assert [(r.kind, r.data) for r in records if r.stream == "stdout"] == [
        ("part", b"Name? "),
        ("line", b"Ada"),
        ("part", b"no newline at the end"),
    ]


async def test_a_job_finds_its_files_its_names_and_its_places(bench: Bench):
    code = """
import json, os, sys
import chisel, aspara, pkg.mod
print(json.dumps({
    "cwd": os.getcwd(), "file": open("data/in.txt").read(), "chisel": chisel.__file__,
    "aspara": aspara.__file__, "pkg": pkg.mod.X, "env": dict(os.environ), "python": sys.executable,
}))
"""
    files = {"main.py": code, "data/in.txt": "input", "pkg/__init__.py": "", "pkg/mod.py": "X = 5"}
    job_id = await bench.begin(
        ("python3", "-m", "main"),
        files=files,
        env={
            "MINE": "1",
            "HOME": "/elsewhere",
            "PYTHONPATH": "/job/lib",
            "CHISEL_JOB_ID": "forged",
        },
    )
    _, records = await bench.finish(job_id)
    found = json.loads(records[0].data)
    assert found["cwd"] == "/job"
    assert found["file"] == "input"
    assert found["pkg"] == 5
    assert found["chisel"].startswith("/env/parts/chisel/")
    assert found["aspara"].startswith("/env/parts/aspara/")
    assert found["python"] == "/env/base/bin/python3"
    wanted = {
        "MINE": "1",
        "HOME": "/job",
        "CHISEL_BACKEND_RUN": "1",
        "CHISEL_JOB_ID": job_id,
        "CHISEL_BACKEND_APP_NAME": "app",
        "ASPARA_DATA_DIR": "/volume/aspara",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": "/env/parts:/job/lib",
    }
    assert wanted.items() <= found["env"].items()


async def test_an_isolated_python_finds_the_parts_too(bench: Bench):
    end, _ = await bench.run(("python", "-I", "-c", "import chisel, aspara"))
    assert end.exit_code == 0


async def test_a_trace_and_changed_files_come_back_and_the_upload_does_not(bench: Bench):
    code = """
import os, pathlib
place = pathlib.Path("/volume", os.environ["CHISEL_BACKEND_APP_NAME"], os.environ["CHISEL_JOB_ID"], "traces")
place.mkdir(parents=True)
(place / "fit.json").write_text("[]")
pathlib.Path("made.txt").write_text("made")
pathlib.Path("in.txt").write_text("more")
"""
    files = {"main.py": code, "in.txt": "same", "other.txt": "other"}
    job_id = await bench.begin(("python", "main.py"), files=files)
    await bench.finish(job_id)
    _, manifest = await bench.executor.collect(job_id)
    assert [entry.path for entry in manifest.files] == [
        f"volume/app/{job_id}/traces/fit.json",
        "work/in.txt",
        "work/made.txt",
    ]


async def test_links_made_by_a_job_bring_nothing_of_the_host_home(bench: Bench):
    code = """
import os
os.symlink("/etc/shadow", "/volume/leak"); os.symlink("/root", "/volume/home")
os.symlink("/etc/hostname", "/job/l"); os.link("/job/l", "/job/hard", follow_symlinks=False)
os.mkfifo("/volume/pipe"); os.makedirs("/job/closed/deep"); os.chmod("/job/closed", 0)
"""
    job_id = await bench.begin(python(code))
    end, _ = await bench.finish(job_id)
    assert end.exit_code == 0
    _, manifest = await bench.executor.collect(job_id)
    assert [entry.path for entry in manifest.files] == ["volume/LEFT_OUT.txt"]


@pytest.mark.parametrize("path", ["../escaped", "/tmp/escaped", "a/../../escaped"])
async def test_an_upload_cannot_write_outside_its_folder(path: str, bench: Bench):
    with pytest.raises(PrepareFailed):
        await bench.prepare(("true",), files={path: "x"})
    assert list(bench.data.rglob("escaped")) == []


async def test_words_no_program_can_be_started_with_are_refused(bench: Bench):
    for options in ({"argv": ("a\0b",)}, {"argv": ("a",), "env": {"A=B": "x"}}):
        with pytest.raises(PrepareFailed) as caught:
            await bench.prepare(**options)  # type: ignore[arg-type]
        assert caught.value.cause is Cause.UPLOAD_INVALID


async def test_a_cancel_reaches_every_process_of_the_job(bench: Bench):
    code = """
import os, sys, time, signal
def bye(*_): print("bye", len(sys.argv)); sys.exit(5)
signal.signal(signal.SIGTERM, bye)
if os.fork() == 0: sys.argv.append("child")
print("up"); time.sleep(60)
"""
    job_id = await bench.begin(python(code))
    await bench.said(job_id, b"up")
    await bench.executor.stop(
        job_id, cause=Cause.CANCELLED, detail="by the user", grace=Millis(5_000)
    )
    end, records = await bench.finish(job_id)
    assert (end.exit_code, end.cause) == (5, Cause.CANCELLED)
    assert any(record.data.startswith(b"bye") for record in records)


async def test_a_daemon_that_a_job_leaves_behind_ends_with_it(bench: Bench):
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
"""
    job_id = await bench.begin(python(code))
    end, _ = await bench.finish(job_id)
    assert end.exit_code == 0
    assert (await bench.executor.status(job_id)).state is JobState.ENDED


async def test_a_sandbox_that_cannot_start_is_the_providers_fault(bench: Bench):
    job_id = await bench.prepare(("true",))
    spec = bench.data / "jobs" / job_id / "spec.json"
    spec.write_text(spec.read_text().replace('"/volume"', '"/proc/1/nowhere"'))
    with pytest.raises(PrepareFailed) as caught:
        await bench.executor.start(job_id, prepaid=Millis(60_000), reserve=Millis(0))
    assert caught.value.cause is Cause.SANDBOX_FAILED
    assert "nowhere" in str(caught.value)
    end = await bench.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (None, Cause.SANDBOX_FAILED)


async def test_a_shell_command_works_as_one(bench: Bench):
    end, records = await bench.run(("sh", "-c", shlex.join(["echo", "a b"]) + "; exit 4"))
    assert (records[0].data, end.exit_code) == (b"a b", 4)
