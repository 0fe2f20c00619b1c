"""What running a stranger's program costs: raw python, bubblewrap, a container, in turns in one run.

Start to first line and to recorded end; print to reader; a daemon that takes over running jobs; an
environment cold, found; and a flood of output through the supervisor with its memory watched. All
on this machine, without chain and network. Containers need root and Podman; else they are left out.

    .venv/bin/python bench/execution.py [--runs 15] [--flood-mib 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "executor"))

from podman_engine import IMAGE, import_python, missing, podman

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.bubblewrap import BubblewrapExecutor
from robocompute_node.executor.container import ContainerExecutor
from robocompute_node.executor.folder import JobFolder
from robocompute_node.executor.images import Allowed
from robocompute_node.executor.port import JobOrder
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import FileEntry, Manifest, Requirements, TaskSpec
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from robocompute_node.executor.supervised import SupervisedJobs

LONG: Final = Millis(3_600_000)
HELLO: Final = "print('hello', flush=True)"
STAMPS: Final = (
    "import time\nfor _ in range(100): print(time.time_ns(), flush=True); time.sleep(0.02)"
)
FLOOD: Final = (
    "import sys\nline = b'x' * 99 + b'\\n'\nfor _ in range({lines}): sys.stdout.buffer.write(line)"
)
SLEEP: Final = "import time; print('up', flush=True); time.sleep(3600)"
RATE: Final = 1 << 30
"""Bytes a second that output may come at here: more than any pipe carries."""
ADOPTED: Final = 8
"""Running jobs that a new daemon takes over at once."""


async def quiet(_stage: str, _detail: str) -> None:
    """Tell nobody of progress."""
    await trio.lowlevel.checkpoint()


class Bench:
    """One executor, and jobs on it."""

    def __init__(self, executor: SupervisedJobs, name: str) -> None:
        self.executor = executor
        self.name = name

    async def begin(self, code: str, *, requirements: str | None = None) -> str:
        job_id = secrets.token_hex(16)
        blobs = self.executor.blobs
        files: tuple[FileEntry, ...] = ()
        if requirements is not None:
            data = requirements.encode()
            chunks = (blobs.put(data),)
            files = (FileEntry(path="r.txt", mode=0o644, size=len(data), chunks=chunks),)
        task = TaskSpec(
            app_name="bench",
            argv=("python", "-c", code),
            requirements=Requirements(executor=self.name, disk_mib=4_096),
            upload=Digest(bytes(32)),
            requirements_file=None if requirements is None else "r.txt",
            wall_ms=LONG,
            output_rate=RATE,
            image=IMAGE if self.name == "container" else None,
        )
        order = JobOrder(job_id=job_id, task=task)
        await self.executor.prepare(order, Manifest(files=files), quiet)
        await self.executor.start(job_id, prepaid=LONG, reserve=Millis(0))
        return job_id

    async def start_ms(self) -> tuple[float, float]:
        """From the order to the first line, and to the recorded end."""
        began = time.perf_counter()
        job_id = await self.begin(HELLO)
        first = 0.0
        async for _ in self.executor.records(job_id, start=0):
            first = first or time.perf_counter() - began
        await self.executor.wait(job_id)
        end = time.perf_counter() - began
        await self.executor.remove(job_id)
        return first * 1_000, end * 1_000

    async def print_to_reader_ms(self) -> float:
        """Median from print() in the job to the record in this process."""
        job_id = await self.begin(STAMPS)
        late = [
            (time.time_ns() - int(record.data)) / 1e6
            async for record in self.executor.records(job_id, start=0)
            if record.stream == "stdout"
        ]
        await self.executor.remove(job_id)
        return statistics.median(late)


def raw_ms() -> tuple[float, float]:
    """The same program by this machine's Python and nothing else."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", HELLO], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    first = time.perf_counter() - began
    child.wait()
    child.stdout.close()
    return first * 1_000, (time.perf_counter() - began) * 1_000


async def adopt_ms(bench: Bench, folder: Path) -> float:
    """A new daemon beside running jobs: until it knows the state of each."""
    job_ids = [await bench.begin(SLEEP) for _ in range(ADOPTED)]
    began = time.perf_counter()
    again = BubblewrapExecutor(folder, bench.executor.blobs)
    for job_id in again.jobs():
        await again.status(job_id)
    took = (time.perf_counter() - began) * 1_000
    for job_id in job_ids:
        await again.remove(job_id)
    return took / ADOPTED


async def environment_ms(bench: Bench) -> dict[str, float]:
    """A requirements file with one small pure package: built, then found."""
    took: dict[str, float] = {}
    for name in ("cold", "found"):
        began = time.perf_counter()
        job_id = await bench.begin("import six", requirements="six\n")
        took[name] = (time.perf_counter() - began) * 1_000
        assert (await bench.executor.wait(job_id)).exit_code == 0
        await bench.executor.remove(job_id)
    return took


def resident_kib(pid: int) -> int:
    """Return what a process holds in memory; 0 when it is gone."""
    if not Path(f"/proc/{pid}").exists():
        return 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def flood(bench: Bench, folder: Path, mib: int) -> dict[str, float]:
    """MB/s from the job through the supervisor's log to a reader, and the supervisor's memory."""
    lines = mib * (1 << 20) // 100
    began = time.perf_counter()
    job_id = await bench.begin(FLOOD.format(lines=lines))
    supervisor = int(JobFolder(folder / "jobs" / job_id).state()["supervisor"])
    memory: list[int] = []
    size = 0
    async for record in bench.executor.records(job_id, start=0):
        size += len(record.data) + 1
        if record.sequence % 50_000 == 0:
            memory.append(resident_kib(supervisor))
    took = time.perf_counter() - began
    end = await bench.executor.wait(job_id)
    await bench.executor.remove(job_id)
    return {
        "mb_s": size / took / 1e6,
        "records": end.records,
        "lost": lines - end.records,
        "supervisor_mib_first": memory[1] / 1_024 if len(memory) > 1 else 0.0,
        "supervisor_mib_most": max(memory, default=0) / 1_024,
    }


async def measure(runs: int, flood_mib: int, engine: str | None, folder: Path) -> dict[str, Any]:
    """Take every figure, what is compared in turns."""
    blobs = FileBlobStore(folder / "blobs")
    sandboxes = BubblewrapExecutor(folder, blobs, environment=dict(os.environ))
    assert await sandboxes.probe(), "this machine makes no sandbox: robocompute-node doctor"
    benches = [Bench(sandboxes, "bubblewrap")]
    if engine is not None:
        containers = ContainerExecutor(
            folder / "containers", blobs, sockets=(engine,), allowed=Allowed(local=(IMAGE,))
        )
        assert await containers.probe(), containers.objection
        benches.append(Bench(containers, "container"))
    starts: dict[str, list[tuple[float, float]]] = {"raw python": []}
    starts |= {bench.name: [] for bench in benches}
    for _ in range(runs):
        starts["raw python"].append(raw_ms())
        for bench in benches:
            starts[bench.name].append(await bench.start_ms())
    return {
        "start": {
            name: {
                "first_line_ms": statistics.median(first for first, _ in times),
                "end_ms": statistics.median(end for _, end in times),
            }
            for name, times in starts.items()
        },
        "print_to_reader_ms": {bench.name: await bench.print_to_reader_ms() for bench in benches},
        "adopt_ms_a_job": await adopt_ms(benches[0], folder),
        "environment_ms": await environment_ms(benches[0]),
        "flood": await flood(benches[0], folder, flood_mib),
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures for a person."""
    raw = found["start"]["raw python"]
    print("start                first line        end recorded")
    for name, times in found["start"].items():
        first, end = times["first_line_ms"], times["end_ms"]
        ratio = f"x {first / raw['first_line_ms']:.1f}", f"x {end / raw['end_ms']:.1f}"
        print(f"  {name:<14} {first:8.0f} ms {ratio[0]:>7} {end:8.0f} ms {ratio[1]:>7}")
    for name, late in found["print_to_reader_ms"].items():
        print(f"print() to reader, {name}: median {late:.1f} ms")
    print(f"a running job taken over by a new daemon: {found['adopt_ms_a_job']:.1f} ms")
    built = found["environment_ms"]
    print(
        f"environment: cold {built['cold']:.0f} ms, found {built['found']:.0f} ms (with the start)"
    )
    flooded = found["flood"]
    print(
        f"flood: {flooded['mb_s']:.0f} MB/s to the reader, {flooded['records']:,} lines, "
        f"{flooded['lost']} lost; supervisor {flooded['supervisor_mib_first']:.0f} MiB at first, "
        f"{flooded['supervisor_mib_most']:.0f} at most"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="timed starts of each (default 15)")
    parser.add_argument("--flood-mib", type=int, default=200, help="output of the flood")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rc-bench-")))
        engine = None
        if absent := missing():
            print(f"no containers: {absent}")
        else:
            engine = stack.enter_context(podman())
            import_python(engine)
        found = trio.run(measure, chosen.runs, chosen.flood_mib, engine, folder)
    show(found)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
