"""Jobs that outlive their provider's daemon: a world that ends takes them along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.blobs import FileBlobStore
from robocompute_node.executor.bubblewrap import BubblewrapExecutor
from robocompute_node.executor.port import JobState
from robocompute_protocol.causes import Cause
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRACE: Final = Millis(1_000)
"""Between SIGTERM and SIGKILL: nobody waits for these jobs' results."""
END_SECONDS: Final = 10.0
"""A supervisor that has not recorded the end by then is left to its prepaid time."""


async def end_jobs(folder: Path, tell: Callable[[str], None]) -> None:
    """Stop what still runs below ``folder``/<node>/jobs; its providers account for it when woken."""
    found = await trio.to_thread.run_sync(lambda: sorted(folder.glob("*/jobs")))
    for jobs in found:
        executor = BubblewrapExecutor(data=jobs.parent, blobs=FileBlobStore(jobs.parent / "blobs"))
        for job_id in executor.jobs():
            if (await executor.status(job_id)).state in (JobState.RUNNING, JobState.FROZEN):
                tell(f"{jobs.parent.name}: stopping job {job_id}")
                await executor.stop(
                    job_id,
                    cause=Cause.PROVIDER_STOPPED,
                    detail="the local world was taken down",
                    grace=GRACE,
                )
                with trio.move_on_after(END_SECONDS):
                    await executor.wait(job_id)
