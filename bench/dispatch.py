"""Submit to first output line, warm: ``chisel python hello.py`` against ``ray job submit``.

Starts a local world (embedded chain, one provider, one client) and a local ray head, both on
loopback and on free ports, runs the same script by both in turns, and stops everything again.
A run is timed from the start of the command's process to the first byte of the script's own line
on its standard output. ray is installed into an environment of its own under .cache/.

    .venv/bin/python bench/dispatch.py [--runs 20] [--no-ray] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peer import RayHead
from world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[1]
MARKER: Final = "first line of the job"
SCRIPT: Final = f'print("{MARKER}", flush=True)\n'
WARM_UPS: Final = 2
"""Jobs before the first timed one: the first opens the channel and fills every cache."""
STAGES: Final = (
    "chisel", "accepted", "matching", "funding", "uploading", "ordering", "preparing",
    "environment", "starting", "running", "output",
)  # fmt: skip
"""In the order in which a job meets them; one that takes no time may not show in every run."""
RUN_LIMIT_S: Final = 120.0
"""A run that takes longer is a failure, not a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed run. Milliseconds from the start of the command's process."""

    first_line_ms: float
    exit_ms: float
    stages_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long each stage lasted, in order, from the process's start to the first line."""


def timed(command: Sequence[str], *, env: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Run ``command`` and return when its script's line came and when it ended, in ms.

    Raises: RuntimeError, with what the command wrote, when the line never came or it failed.
    """
    marker = MARKER.encode()
    seen = b""
    first: float | None = None
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(env), cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 65_536):
                seen += data
                # ray repeats the command line before the output: the script's line stands alone.
                if first is None and any(line == marker for line in seen.splitlines()):
                    first = (time.perf_counter() - begin) * 1_000
            status = process.wait(RUN_LIMIT_S)
            end = (time.perf_counter() - begin) * 1_000
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        told = (seen + errors.read()).decode(errors="replace")
    if first is None or status != 0:
        raise RuntimeError(f"{command[0]} ended with status {status}:\n{told}")
    return first, end


def by_chisel(world: World, folder: Path) -> Run:
    """One job by chisel, with the stages that the client's node recorded."""
    begin_ns = time.time_ns()
    first, end = timed(
        [str(ROOT / ".venv/bin/chisel"), "python", "hello.py"],
        env=world.environment(), folder=folder,
    )  # fmt: skip
    return Run(
        first_line_ms=first, exit_ms=end, stages_ms=world.stages(begin_ns, first_line_ms=first)
    )


def by_ray(head: RayHead, folder: Path) -> Run:
    """One job by ray, which uploads the folder too."""
    first, end = timed(
        [str(head.ray), "job", "submit", "--working-dir", ".", "--", "python", "hello.py"],
        env=head.environment(), folder=folder,
    )  # fmt: skip
    return Run(first_line_ms=first, exit_ms=end)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Figures of all runs by one tool, JSON-ready."""
    first = sorted(run.first_line_ms for run in runs)
    stages: dict[str, list[float]] = {}
    for run in runs:
        for stage, spent in run.stages_ms.items():
            stages.setdefault(stage, []).append(spent)
    return {
        "runs": len(runs),
        "first_line_median_ms": round(statistics.median(first), 1),
        "first_line_min_ms": round(first[0], 1),
        "first_line_max_ms": round(first[-1], 1),
        "exit_median_ms": round(statistics.median(run.exit_ms for run in runs), 1),
        "stages_median_ms": {
            stage: round(statistics.median(stages[stage]), 1)
            for stage in sorted(stages, key=STAGES.index)
        },
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| | runs | first line, median | min | max | exit, median |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, figures in results.items():
        yield (
            f"| {name} | {figures['runs']} | {figures['first_line_median_ms']:,.0f} ms "
            f"| {figures['first_line_min_ms']:,.0f} | {figures['first_line_max_ms']:,.0f} "
            f"| {figures['exit_median_ms']:,.0f} ms |"
        )
    ours = results["chisel"]
    if "ray" in results:
        ratio = results["ray"]["first_line_median_ms"] / ours["first_line_median_ms"]
        yield f"\nray job submit takes {ratio:.1f} times as long."
    yield "\n| where the time goes (medians) | ms |"
    yield "| --- | --- |"
    for stage, spent in ours["stages_median_ms"].items():
        yield f"| {stage} | {spent:,.1f} |"


@contextmanager
def job_folder() -> Generator[Path]:
    """A folder with nothing but the script."""
    with tempfile.TemporaryDirectory(prefix="rc-bench-") as name:
        folder = Path(name)
        (folder / "hello.py").write_text(SCRIPT)
        yield folder


def measure(runs: int, *, with_ray: bool) -> dict[str, dict[str, Any]]:
    """Run both tools in turns, so that a noisy moment of the machine hits both."""
    with ExitStack() as stack:
        folder = stack.enter_context(job_folder())
        world = stack.enter_context(World.up())
        tools: dict[str, Callable[[], Run]] = {"chisel": lambda: by_chisel(world, folder)}
        if with_ray:
            head = stack.enter_context(RayHead.up(ROOT / ".cache/bench-ray"))
            tools["ray"] = lambda: by_ray(head, folder)
        for run in tools.values():
            for _ in range(WARM_UPS):
                run()
        done: dict[str, list[Run]] = {name: [] for name in tools}
        for number in range(1, runs + 1):
            for name, run in tools.items():
                done[name].append(run())
            latest = ", ".join(f"{n} {done[n][-1].first_line_ms:,.0f} ms" for n in tools)
            print(f"run {number}/{runs}: {latest}", file=sys.stderr, flush=True)
    return {name: summary(runs_done) for name, runs_done in done.items()}


def main() -> None:
    """Measure, print the table and the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--no-ray", action="store_true", help="leave the comparison out")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    results = measure(options.runs, with_ray=not options.no_ray)
    report = {
        "command": " ".join(["bench/dispatch.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "results": results,
    }
    print("\n".join(table(results)))
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
