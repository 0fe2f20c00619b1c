"""Environments built from requirements, with this machine's own package index."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.supervised import Caps
from robocompute_protocol.causes import Cause
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.sandbox

IMPORT = "import iniconfig, sys; print(iniconfig.__file__, sys.prefix)"
BUILDING = ("environment", "Installing collected packages…")


async def test_an_environment_is_built_once_shared_and_read_only(bench: Bench):
    files = {"requirements.txt": "iniconfig\nchisel\n"}
    options = {"files": files, "requirements_file": "requirements.txt"}
    end, records = await bench.run(("python", "-c", IMPORT), **options)
    assert end.exit_code == 0, records
    assert records[0].data.startswith(b"/env/job/lib/python3.")
    assert BUILDING in bench.notes
    assert ("environment", "left out: chisel") in bench.notes
    assert any("iniconfig==" in detail for _, detail in bench.notes)

    bench.notes.clear()
    write = "import iniconfig; open(iniconfig.__file__, 'a')"
    end, records = await bench.run(("python", "-c", write), **options)
    assert end.exit_code == 1
    assert b"Read-only file system" in records[-1].data or b"denied" in records[-1].data
    assert BUILDING not in bench.notes
    kept = [path.name for path in (bench.data / "envs").iterdir()]
    assert not [name for name in kept if name.endswith((".new", ".build"))]


async def test_two_jobs_that_want_the_same_environment_build_it_once(bench: Bench):
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_prepare_iniconfig, bench)
    assert bench.notes.count(BUILDING) == 1
    assert len(bench.executor.jobs()) == 3


async def _prepare_iniconfig(bench: Bench) -> None:
    await bench.prepare(
        ("true",),
        files={"r/r.txt": "-r more.txt", "r/more.txt": "iniconfig"},
        requirements_file="r/r.txt",
    )


async def test_requirements_that_cannot_be_met_are_the_clients_fault_in_the_tools_words(
    bench: Bench,
):
    with pytest.raises(PrepareFailed) as caught:
        await bench.prepare(
            ("true",),
            files={"requirements.txt": "iniconfig==99.99.99\n"},
            requirements_file="requirements.txt",
        )
    assert caught.value.cause is Cause.ENVIRONMENT_FAILED
    assert "iniconfig==99.99.99" in str(caught.value)


async def test_a_requirements_file_that_was_not_sent_is_the_clients_fault(bench: Bench):
    with pytest.raises(PrepareFailed, match="not in the upload") as caught:
        await bench.prepare(("true",), requirements_file="requirements.txt")
    assert caught.value.cause is Cause.ENVIRONMENT_FAILED


async def test_an_upload_cannot_make_the_provider_ask_its_own_network(bench: Bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for line in (f"iniconfig @ {address}/x.whl", f"-e {address}/x", f"{address}/x.whl"):
            with pytest.raises(PrepareFailed):
                await bench.prepare(("true",), files={"r.txt": line}, requirements_file="r.txt")
        options = f"--index-url {address}/simple\n--find-links {address}\niniconfig\n"
        await bench.prepare(("true",), files={"r.txt": options}, requirements_file="r.txt")
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_environments_make_room_for_new_ones_but_not_those_that_jobs_have(bench: Bench):
    bench.caps = Caps(pids=128, environment_bytes=1)
    bench.executor = bench.executor_again()

    async def prepare(name: str) -> str:
        files = {"r.txt": f"{name}\n"}
        return await bench.prepare(("true",), files=files, requirements_file="r.txt")

    def kept() -> int:
        return len(list((bench.data / "envs").glob("*.lock")))

    first = await prepare("iniconfig")
    second = await prepare("wcwidth")
    assert kept() == 2
    await bench.executor.remove(first)
    third = await prepare("pluggy")
    assert kept() == 2
    for job_id in (second, third):
        await bench.executor.start(job_id, prepaid=Millis(60_000), reserve=Millis(0))
        assert (await bench.executor.wait(job_id)).exit_code == 0


async def test_a_cancelled_build_is_taken_away_and_can_be_repeated(bench: Bench):
    async def cancel_at_first_word(stage: str, detail: str) -> None:
        await trio.lowlevel.checkpoint()
        if (stage, detail) == BUILDING:
            scope.cancel()

    bench.progress, progress = cancel_at_first_word, bench.progress
    with trio.CancelScope() as scope:
        await _prepare_iniconfig(bench)
    assert scope.cancelled_caught
    bench.progress = progress
    await _prepare_iniconfig(bench)
    kept = [path.name for path in (bench.data / "envs").iterdir()]
    assert not [name for name in kept if name.endswith((".new", ".build"))]


async def test_the_base_runtime_takes_packages_that_every_job_then_finds(bench: Bench):
    runtime, builder = bench.executor.runtime, bench.executor.environments.builder
    before = await bench.prepare(("python", "-c", "import iniconfig"))
    assert runtime.offered()[0].startswith("python3.")
    await builder.add_to_base(["iniconfig"], bench.progress)
    assert runtime.offered()[1:] == ("iniconfig",)
    await bench.executor.start(before, prepaid=Millis(60_000), reserve=Millis(0))
    assert (await bench.executor.wait(before)).exit_code == 0

    files = {"r.txt": "iniconfig\nwcwidth\n"}
    code = "import iniconfig, wcwidth; print(iniconfig.__file__, wcwidth.__file__)"
    _, records = await bench.run(("python", "-c", code), files=files, requirements_file="r.txt")
    places = records[0].data.decode().split()
    assert places[0].startswith("/env/base/")
    assert places[1].startswith("/env/job/")
