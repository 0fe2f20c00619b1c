"""Jobs in real containers: what they see, what ends them, and what is left of them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from podman_engine import IMAGE

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.container import ContainerExecutor, engine_sockets
from robocompute_node.executor.container_box import process_here
from robocompute_node.executor.engine import Engine, EngineError
from robocompute_node.executor.folder import JobFolder
from robocompute_node.executor.images import Allowed
from robocompute_node.executor.port import JobExit, JobOrder, PrepareFailed
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import FileEntry, Manifest, Requirements, TaskSpec
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(400)]

LONG = Millis(600_000)
VOLUMES = "localhost/volumes:1"
"""An image with a volume, made of ``IMAGE``."""


@dataclass
class Yard:
    """A real executor of containers, and short words for its use."""

    folder: Path
    socket: str
    executor: ContainerExecutor

    async def prepare(
        self,
        code: str,
        *,
        image: str = IMAGE,
        files: dict[str, bytes] | None = None,
        requirements_file: str | None = None,
        memory_mib: int = 256,
        wall_ms: int = LONG,
        output_rate: int = 64 << 20,
    ) -> str:
        job_id = secrets.token_hex(16)
        blobs = self.executor.blobs
        entries = tuple(
            FileEntry(path=path, mode=0o644, size=len(data), chunks=(blobs.put(data),))
            for path, data in (files or {}).items()
        )
        task = TaskSpec(
            app_name="app",
            argv=("python", "-c", code),
            env=(("MINE", "42"),),
            requirements=Requirements(executor="container", memory_mib=memory_mib, disk_mib=64),
            upload=Digest(bytes(32)),
            requirements_file=requirements_file,
            wall_ms=Millis(wall_ms),
            output_rate=output_rate,
            image=image,
        )
        order = JobOrder(job_id=job_id, task=task)
        await self.executor.prepare(order, Manifest(files=entries), quiet)
        return job_id

    async def begin(self, code: str, **options: object) -> str:
        job_id = await self.prepare(code, **options)  # type: ignore[arg-type]
        await self.executor.start(job_id, prepaid=LONG, reserve=Millis(0))
        return job_id

    async def run(self, code: str, **options: object) -> tuple[JobExit, list[bytes]]:
        job_id = await self.begin(code, **options)
        said = [record.data async for record in self.executor.records(job_id, start=0)]
        return await self.executor.wait(job_id), said

    async def said(self, job_id: str, word: bytes) -> None:
        async for record in self.executor.records(job_id, start=0):
            if word in record.data:
                return
        raise AssertionError(f"the job ended without saying {word!r}")

    def containers(self) -> list[str]:
        """Names of ours that the engine knows, running or not."""
        listed = Engine(self.socket).call("GET", "/containers/json", query={"all": "1"})
        return [name for each in listed for name in each["Names"]]


async def quiet(_stage: str, _detail: str) -> None:
    await trio.lowlevel.checkpoint()


@pytest.fixture
async def yard(engine: str, tmp_path: Path) -> AsyncIterator[Yard]:
    executor = ContainerExecutor(
        tmp_path / "data",
        FileBlobStore(tmp_path / "blobs"),
        sockets=(engine,),
        allowed=Allowed(local=(IMAGE, VOLUMES)),
    )
    assert await executor.probe() == ("container",)
    yard = Yard(tmp_path, engine, executor)
    yield yard
    for job_id in executor.jobs():
        await executor.remove(job_id)
    assert yard.containers() == []
    assert [*(tmp_path / "data" / "jobs").iterdir()] == []


SEES = """
import os, socket, sys
status = {line.split(":")[0]: line.split(":")[1].strip() for line in open("/proc/self/status")}
print(os.getuid() >= 200000, status["CapEff"] == "0" * 16, status["NoNewPrivs"])
print(sorted(name for name in os.listdir("/sys/class/net")))
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except OSError as exc:
    print("no network", type(exc).__name__)
try:
    open("/usr/new", "w")
except OSError as exc:
    print(exc.strerror)
print(open("data.txt").read(), os.environ["MINE"], os.getcwd(), os.path.exists("/etc/shadow"))
print([name for name in ("containerenv", ".dockerenv") if os.path.exists(f"/run/{name}.sock")])
print(len([pid for pid in os.listdir("/proc") if pid.isdigit()]) < 5)
open("made.txt", "w").write("work"); open("/volume/result.txt", "w").write("volume")
import chisel
"""


async def test_a_container_sees_its_own_files_and_nothing_of_the_host(yard: Yard) -> None:
    job_id = await yard.begin(SEES, files={"data.txt": b"hello"})
    said = [record.data async for record in yard.executor.records(job_id, start=0)]
    end = await yard.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (0, Cause.EXITED), said
    assert said == [
        b"True True 1",
        b"['lo']",
        b"no network OSError",
        b"Read-only file system",
        b"hello 42 /job False",
        b"[]",
        b"True",
    ]
    _, manifest = await yard.executor.collect(job_id)
    assert sorted(entry.path for entry in manifest.files) == [
        "volume/result.txt",
        "work/made.txt",
    ]


async def test_what_takes_too_much_memory_is_ended_for_that(yard: Yard) -> None:
    end, _ = await yard.run("x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))")
    assert (end.cause, end.detail) == (
        Cause.MEMORY,
        "used more memory than the 256 MiB agreed",
    )


async def test_what_runs_too_long_or_fills_the_disk_is_ended_for_that(yard: Yard) -> None:
    end, _ = await yard.run("import time; time.sleep(600)", wall_ms=1_500)
    assert end.cause is Cause.WALL_TIME
    end, _ = await yard.run(
        "import time\nfor n in range(30): open(f'f{n}', 'wb').write(bytes(b'x' * (4 << 20)))\n"
        "time.sleep(600)"
    )
    assert end.cause is Cause.DISK


async def test_a_fork_bomb_is_held_and_ends_with_its_job(yard: Yard) -> None:
    yard.executor.caps = type(yard.executor.caps)(pids=32)
    job_id = await yard.begin(
        "import os, time\n"
        "try:\n    while True:\n        if not os.fork(): time.sleep(600)\n"
        "except OSError: print('held', flush=True); time.sleep(600)"
    )
    await yard.said(job_id, b"held")
    await yard.executor.stop(job_id, cause=Cause.CANCELLED, detail="stop", grace=Millis(0))
    assert (await yard.executor.wait(job_id)).cause is Cause.CANCELLED


async def test_no_byte_of_much_output_is_lost_behind_a_rate(yard: Yard) -> None:
    job_id = await yard.begin(
        "for n in range(40_000): print(f'{n:06d}' + 'x' * 90)", output_rate=2 << 20
    )
    whole = bytearray()
    async for record in yard.executor.records(job_id, start=0):
        whole += record.data + (b"\n" if record.kind == "line" else b"")
    assert (await yard.executor.wait(job_id)).exit_code == 0
    assert whole == b"".join(f"{n:06d}{'x' * 90}\n".encode() for n in range(40_000))


async def test_a_new_daemon_finds_the_job_and_its_output(yard: Yard) -> None:
    job_id = await yard.begin(
        "import time\nprint('before', flush=True)\n"
        "while not __import__('os').path.exists('/volume/go'): time.sleep(0.02)\nprint('after')"
    )
    await yard.said(job_id, b"before")
    again = ContainerExecutor(yard.folder / "data", yard.executor.blobs, sockets=(yard.socket,))
    assert again.jobs() == (job_id,)
    (yard.folder / "data" / "jobs" / job_id / "volume" / "go").touch()
    said = [record.data async for record in again.records(job_id, start=0)]
    assert (said, (await again.wait(job_id)).exit_code) == ([b"before", b"after"], 0)


async def test_a_job_whose_supervisor_is_killed_is_lost_and_its_container_goes(
    yard: Yard,
) -> None:
    job_id = await yard.begin("import time; print('up', flush=True); time.sleep(600)")
    await yard.said(job_id, b"up")
    assert len(yard.containers()) == 1
    folder = JobFolder(yard.folder / "data" / "jobs" / job_id)
    os.kill(folder.state()["supervisor"], signal.SIGKILL)
    end = await yard.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (None, Cause.UNKNOWN)
    assert yard.containers() == []


async def test_an_image_of_the_owners_is_nobody_elses(yard: Yard) -> None:
    engine = Engine(yard.socket)
    engine.call("POST", f"/images/{IMAGE}/tag", query={"repo": "localhost/secret", "tag": "1"})
    with pytest.raises(PrepareFailed, match="pulls no images from localhost") as caught:
        await yard.prepare("print()", image="localhost/secret:1")
    assert caught.value.cause is Cause.ENVIRONMENT_FAILED
    digest = engine.call("GET", f"/images/{IMAGE}/json")["Id"].removeprefix("sha256:")
    for by_number in (digest, digest[:12]):
        with pytest.raises(PrepareFailed, match="not the name of an image"):
            await yard.prepare("print()", image=by_number)


async def test_the_longest_name_of_an_image_is_refused_in_words(yard: Yard) -> None:
    (yard.folder / "data" / "images").mkdir()  # as after the first image that was pulled
    longest = "a" * (256 - 72) + "@sha256:" + "0" * 64
    with pytest.raises(PrepareFailed, match="cannot be had"):
        await yard.prepare("print()", image=longest)


VOLUME = """
import os
room = os.statvfs("/data")
open("/data/file", "w").write("kept")
print(room.f_blocks * room.f_frsize <= 256 << 20, open("/data/file").read())
"""


async def test_an_image_s_volumes_get_no_disk_that_nobody_measures(yard: Yard) -> None:
    engine, (name, tag) = Engine(yard.socket), VOLUMES.split(":")
    made = engine.call("POST", "/containers/create", body={"Image": IMAGE, "Cmd": ["true"]})
    where = {"container": made["Id"], "repo": name, "tag": tag, "changes": "VOLUME /data"}
    engine.call("POST", "/commit", query=where, body={})
    engine.remove(made["Id"])
    assert engine.call("GET", f"/images/{VOLUMES}/json")["Config"]["Volumes"] == {"/data": {}}
    _, said = await yard.run(VOLUME, image=VOLUMES)
    assert said == [b"True kept"]


async def test_a_requirements_file_has_no_place_in_an_image(yard: Yard) -> None:
    with pytest.raises(PrepareFailed, match="brings its own packages"):
        await yard.prepare("print()", files={"r.txt": b"x"}, requirements_file="r.txt")


async def test_a_program_that_is_not_there_is_said_to_be_so(yard: Yard) -> None:
    job_id = await yard.prepare("print()")
    spec = yard.folder / "data" / "jobs" / job_id / "spec.json"
    spec.write_text(spec.read_text().replace('"python"', '"no-such-program"'))
    await yard.executor.start(job_id, prepaid=LONG, reserve=Millis(0))
    said = [record.data async for record in yard.executor.records(job_id, start=0)]
    end = await yard.executor.wait(job_id)
    assert (end.exit_code, end.cause) == (1, Cause.EXITED), said
    assert b"No such file" in b"".join(said)


async def test_an_engine_that_does_not_answer_is_not_offered(tmp_path: Path) -> None:
    executor = ContainerExecutor(
        tmp_path / "data", FileBlobStore(tmp_path / "blobs"), sockets=(str(tmp_path / "none"),)
    )
    assert await executor.probe() == ()
    assert "no engine" in executor.objection
    (tmp_path / "none").touch()
    assert await executor.probe() == ()
    assert "did not answer" in executor.objection


def test_engines_are_looked_for_where_their_owner_says_or_where_they_usually_are() -> None:
    environment = {"DOCKER_HOST": "unix:///x.sock", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert engine_sockets("auto", environment)[:2] == ("/x.sock", "/run/user/7/podman/podman.sock")
    assert engine_sockets("/my.sock", environment) == ("/my.sock",)
    assert engine_sockets("off", environment) == ()
    assert engine_sockets("auto", {"DOCKER_HOST": "tcp://10.0.0.1:1"})[0].startswith("/run/")


def test_a_process_of_another_container_or_of_the_host_is_taken_for_nobodys() -> None:
    with pytest.raises(EngineError, match="another machine"):
        process_here(os.getpid(), "f" * 64)
    assert process_here(0, "f" * 64) is None
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert process_here(ended.pid, "f" * 64) is None
