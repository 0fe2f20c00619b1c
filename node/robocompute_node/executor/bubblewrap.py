"""The executor that runs jobs in bubblewrap sandboxes on this machine's own files."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robocompute_node.executor import beneath, cgroups, requirements
from robocompute_node.executor.builder import Builder
from robocompute_node.executor.environments import JOB, Environments
from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.runtime import BASE, BaseRuntime, Interpreter
from robocompute_node.executor.spec import Bind, Spec
from robocompute_node.executor.supervised import (
    SupervisedJobs,
    chosen_environment,
    given_environment,
    probe_task,
)
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.executor.port import JobOrder, Progress
    from robocompute_node.executor.requirements import Wanted
    from robocompute_node.executor.supervised import Laid
    from robocompute_protocol.messages import Manifest, TaskSpec

log = logging.getLogger(__name__)

NAME: Final = "bubblewrap"
_MAX_REQUIREMENTS_BYTES: Final = 1_048_576


@dataclass
class BubblewrapExecutor(SupervisedJobs):
    """Runs jobs on the files of this machine, in sandboxes of bubblewrap's."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str], kw_only=True)
    """The daemon's own environment: pip's and uv's settings are read from it, jobs never see it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bwrap = shutil.which("bwrap") or "/usr/bin/bwrap"
        runtimes = self.data / "runtimes"
        runtimes.mkdir(exist_ok=True)
        self.runtime = BaseRuntime(runtimes / "base", Interpreter.of_this_process())
        self.environments = Environments(
            root=self.data / "envs",
            builder=Builder(
                base=self.runtime,
                bwrap=self._bwrap,
                spawner=self.spawner,
                environment=self.environment,
                home=Path.home(),
                cache=self.data / "envs" / "cache",
            ),
            room_bytes=self.caps.environment_bytes,
            in_use=self._environments_in_use,
        )

    async def probe(self) -> tuple[str, ...]:
        """Run a tiny job. Call this before the first real one: it also claims cgroups."""
        cgroups.delegate()
        task = probe_task(NAME, ("python", "-c", "print(6 * 7)"))
        fault = await self.fault(task, says=b"42")
        if fault:
            log.warning("no sandbox can be offered: %s", fault)
            return ()
        return (NAME,)

    async def equip(self, order: JobOrder, job: Laid, progress: Progress) -> None:
        """See ``SupervisedJobs``: the environment is found, or built."""
        wanted = self._wanted(job.work, order.task, job.upload)
        self.runtime.ensure()
        async with self.environments.found_or_built(wanted, progress) as environment:
            self.record(job, self._spec(order, environment, job))

    def _wanted(self, work: Path, task: TaskSpec, upload: Manifest) -> Wanted:
        if task.requirements_file is None:
            return requirements.NOTHING
        names = {entry.path for entry in upload.files}

        def load(path: str) -> str:
            if path not in names:
                raise PrepareFailed(
                    f"the requirements file {path!r} is not in the upload",
                    cause=Cause.ENVIRONMENT_FAILED,
                )
            root = beneath.open_root(work)
            try:
                with open(beneath.open_regular(root, path.encode()), "rb") as file:
                    return file.read(_MAX_REQUIREMENTS_BYTES).decode("utf-8", "replace")
            finally:
                os.close(root)

        return requirements.read(task.requirements_file, load)

    def _environments_in_use(self) -> frozenset[str]:
        """The environments that the jobs here were prepared with, ended ones too."""
        binds = (bind for spec in self.specs() for bind in spec.binds)
        return frozenset(Path(bind.source).name for bind in binds if bind.target == JOB)

    def _spec(self, order: JobOrder, environment: Path | None, job: Laid) -> Spec:
        task = order.task
        binds = self.runtime.binds()
        if environment is not None:
            binds.append(Bind(str(environment), JOB))
        return Spec(
            bwrap=self._bwrap,
            argv=task.argv,
            env=_job_environment(order, has_environment=environment is not None),
            binds=binds + job.binds(),
            cwd="/job",
            gpus=order.gpu_uuids,
            limits=self.limits(task),
            measured=[str(job.work), str(job.volume)],
            uid=job.uid,
        )


def _job_environment(order: JobOrder, *, has_environment: bool) -> dict[str, str]:
    """Return all variables of a job; the task may add to them and change the first few."""
    chosen = chosen_environment(order)
    places = [f"{JOB}/bin"] if has_environment else []
    return {
        **chosen,
        **given_environment(order, chosen),
        "PATH": ":".join([*places, f"{BASE}/bin", "/usr/local/bin", "/usr/bin", "/bin"]),
        "VIRTUAL_ENV": JOB if has_environment else BASE,
    }
