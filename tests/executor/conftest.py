from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from podman_engine import import_python, missing, podman, refusal

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.bubblewrap import BubblewrapExecutor
from robocompute_node.executor.port import JobExit, JobOrder
from robocompute_node.executor.supervised import Caps
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import (
    FileEntry,
    Manifest,
    Output,
    Requirements,
    TaskSpec,
)
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

LONG = Millis(600_000)
CGROUPS = Path("/sys/fs/cgroup")


def leftovers(data: Path, job_ids: Sequence[str]) -> list[str]:
    """Groups, mounts and processes of these jobs, and of environments' builds, still there."""
    folders = [data / "jobs" / job_id for job_id in job_ids]
    folders += [
        path.with_name(f"{path.stem}.new.build") for path in (data / "envs").glob("*.lock")
    ]
    folders.append(data / "runtimes" / "base.build")
    found: list[str] = []
    for folder in folders:
        name = "rc-" + sha256(str(folder).encode()).hexdigest()[:16]
        found += [str(path) for path in CGROUPS.glob(f"**/{name}")]
    found += [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(data) in line
    ]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(data).encode() in path.read_bytes():
                found.append(str(path))
    return found


@dataclass
class Bench:
    """A real executor on a folder of its own, and short words for its use."""

    data: Path
    blobs: FileBlobStore
    caps: Caps = field(default_factory=lambda: Caps(pids=128))
    notes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def __post_init__(self) -> None:
        self.executor = self.executor_again()

    def executor_again(self) -> BubblewrapExecutor:
        """As a daemon that starts anew makes it."""
        return BubblewrapExecutor(
            self.data, self.blobs, environment=dict(os.environ), caps=self.caps
        )

    def leftovers(self, job_ids: Sequence[str]) -> list[str]:
        return leftovers(self.data, job_ids)

    def upload(self, files: Mapping[str, str | bytes]) -> Manifest:
        entries: list[FileEntry] = []
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entries.append(
                FileEntry(path=path, mode=0o644, size=len(data), chunks=(self.blobs.put(data),))
            )
        return Manifest(files=tuple(entries))

    async def progress(self, stage: str, detail: str) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append((stage, detail))

    async def prepare(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        requirements_file: str | None = None,
        wall_ms: int = LONG,
        env: Mapping[str, str] | None = None,
        output_rate: int = 64 << 20,
        memory_mib: int = 512,
        disk_mib: int = 256,
    ) -> str:
        job_id = secrets.token_hex(16)
        order = JobOrder(
            job_id=job_id,
            task=TaskSpec(
                app_name="app",
                argv=tuple(argv),
                env=tuple((env or {}).items()),
                requirements=Requirements(memory_mib=memory_mib, disk_mib=disk_mib),
                upload=Digest(bytes(32)),
                requirements_file=requirements_file,
                wall_ms=Millis(wall_ms),
                output_rate=output_rate,
            ),
        )
        await self.executor.prepare(order, self.upload(files or {}), self.progress)
        return job_id

    async def begin(
        self, argv: Sequence[str], *, prepaid: int = LONG, reserve: int = 0, **options: object
    ) -> str:
        job_id = await self.prepare(argv, **options)  # type: ignore[arg-type]
        await self.executor.start(job_id, prepaid=Millis(prepaid), reserve=Millis(reserve))
        return job_id

    async def finish(self, job_id: str) -> tuple[JobExit, list[Output]]:
        """All output and the end, checked against each other."""
        records = [record async for record in self.executor.records(job_id, start=0)]
        end = await self.executor.wait(job_id)
        assert [record.sequence for record in records] == list(range(end.records))
        return end, records

    async def run(self, argv: Sequence[str], **options: object) -> tuple[JobExit, list[Output]]:
        return await self.finish(await self.begin(argv, **options))  # type: ignore[arg-type]

    async def said(self, job_id: str, word: bytes) -> None:
        """Return once the job has printed ``word``."""
        async for record in self.executor.records(job_id, start=0):
            if word in record.data:
                return
        raise AssertionError(f"the job ended without saying {word!r}")


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The socket of a container engine of the tests' own, which has the image ``podman_engine.IMAGE``."""
    if absent := missing():
        pytest.skip(absent)
    with podman() as socket:
        import_python(socket)
        if words := refusal(socket):
            pytest.skip(words)
        yield socket


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "data", FileBlobStore(tmp_path / "blobs"))
    yield bench
    job_ids = bench.executor.jobs()
    for job_id in job_ids:
        await bench.executor.remove(job_id)
    assert list((tmp_path / "data" / "jobs").iterdir()) == []
    with trio.move_on_after(2):
        # A supervisor records the end, lets go of its lock, and is gone a moment later.
        while leftovers(bench.data, job_ids):  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert leftovers(bench.data, job_ids) == []
