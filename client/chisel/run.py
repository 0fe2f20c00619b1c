"""One run: send what changed, submit, follow to the end, bring the results home."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chisel import outcome
from chisel.options import DEFAULT_TIMEOUT, Options
from chisel.results import described, pull
from chisel.terminal import STDOUT, Terminal, write_all
from chisel.upload import DigestCache, Upload, UploadError, scan
from robocompute import RoboComputeClient, RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

PATIENCE: Final = 120.0
"""Seconds a node may stay away while a job runs: longer than any restart, and than the horizon."""
CANCEL_PATIENCE: Final = 60.0
"""Seconds a cancelled job may take to end: a provider stops it within 5, then results travel."""
ASK_PATIENCE: Final = 5.0
"""Seconds the node may take to answer a cancel after the job's end; it answers at once."""
SCANS: Final = 3
"""Times a folder is read again because files changed while they were sent."""


class Interrupts:
    """Ctrl-C and SIGTERM: the first cancels the job, the second leaves at once.

    Before there is a job they end chisel by KeyboardInterrupt, having changed nothing.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._client: RoboComputeClient | None = None
        self._task_id: str | None = None
        self._ended = threading.Event()
        self._asking: threading.Thread | None = None
        self.status: int | None = None
        """Exit status that the first interruption asked for."""

    def __enter__(self) -> Interrupts:
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._asking is not None:
            # Python aborts where a thread is cut off in the middle of a word at its end.
            self._asking.join(ASK_PATIENCE)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def submitting(self, client: RoboComputeClient) -> None:
        """From here on an interruption waits for the node's answer, and then cancels."""
        self._client = client

    def submitted(self, task_id: str) -> None:
        """There is a job now."""
        self._task_id = task_id
        if self.status is not None:
            self._cancel()

    def ended(self) -> None:
        """The job is over: what an interruption ends now is the fetching of results."""
        self._ended.set()

    def cancel(self, status: int, word: str) -> None:
        """Cancel the job for a reason other than a signal."""
        if self.status is None:
            self.status = status
            self._terminal.say(word)
            self._cancel()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._client is None:
            raise KeyboardInterrupt
        if self._ended.is_set():
            self._terminal.say(f"left; `chisel pull {self._task_id}` fetches the results")
            os._exit(outcome.CANCELLED)
        if self.status is None:
            self.status = outcome.CANCELLED if number == signal.SIGINT else outcome.TERMINATED
            self._terminal.say("cancelling the job … (again: leave at once)")
            self._cancel()
            return
        if self._task_id is None:
            self._terminal.say("left; if the job was created, `chisel jobs` shows it")
        else:
            self._terminal.say(f"left; `chisel status {self._task_id}` tells how the job ended")
        os._exit(self.status)

    def _cancel(self) -> None:
        # On a thread of its own, with its own connection: the main one is reading events.
        if self._task_id is not None:
            self._asking = threading.Thread(target=self._ask, args=(self._task_id,), daemon=True)
            self._asking.start()

    def _ask(self, task_id: str) -> None:
        assert self._client is not None
        try:
            self._client.tasks.cancel(task_id)
        except RoboComputeError as error:
            self._terminal.say(f"not cancelled: {error} - `chisel cancel {task_id}` tries again")
        if not self._ended.wait(CANCEL_PATIENCE):
            self._terminal.say(
                f"the end is not confirmed after {CANCEL_PATIENCE:.0f} s; left; "
                f"`chisel status {task_id}` tells how the job ended"
            )
            os._exit(self.status or outcome.CANCELLED)


def prepare(command: list[str], options: Options, upload: Upload, app_name: str) -> dict[str, Any]:
    """The task that will be asked for, without its files."""
    requirements = options.requirements
    if requirements is None:
        found = any(file.path == "requirements.txt" for file in upload.files)
        requirements = "requirements.txt" if found else ""
    elif requirements:
        requirements = requirements.removeprefix("./")
        if all(file.path != requirements for file in upload.files):
            raise UploadError(
                f"requirements file {requirements} is not among the files of {upload.root}"
            )
    gpu = options.gpu or None
    return {
        "name": app_name,
        "type": "gpu" if gpu else "cpu",
        "command": command,
        "env": dict(options.env),
        "gpu": gpu,
        "requirements_file": requirements or None,
        "max_price_per_hour": options.max_price,
        "timeout_seconds": options.timeout or DEFAULT_TIMEOUT,
        "wait": options.wait,
        "provider": options.provider,
    }


def run(
    client: RoboComputeClient,
    task: Mapping[str, Any],
    upload_dir: Path,
    upload: Upload,
    options: Options,
    terminal: Terminal,
) -> int:
    """Run one task to its end; return the exit status of this process.

    Raises:
        RoboComputeError: the node refused it, or cannot be reached any more.
        KeyboardInterrupt: interrupted before it was submitted.
    """
    with Interrupts(terminal) as interrupts:
        upload = send(client, upload_dir, upload, terminal)
        interrupts.submitting(client)
        created = client.tasks.create(
            **task, upload=upload.manifest(), idempotency_key=secrets.token_hex(16)
        )
        task_id = str(created["task_id"])
        interrupts.submitted(task_id)
        if options.detach:
            write_all(STDOUT, f"{task_id}\n".encode())
            return 0
        if terminal.chatty:
            terminal.say(f"task {task_id}")
        ended = follow(client, task_id, options, terminal, interrupts)
        interrupts.ended()
        fetch(client, task_id, Path(options.out), terminal)
        finish(ended, terminal)
        return outcome.exit_status(ended) if interrupts.status is None else interrupts.status


def send(
    client: RoboComputeClient, upload_dir: Path, upload: Upload, terminal: Terminal
) -> Upload:
    """Send the chunks that the node lacks; return the upload as it was sent."""
    for attempt in range(SCANS):
        missing = client.blobs.missing(upload.chunks())
        if not missing:
            return upload
        if terminal.chatty:
            terminal.say(
                f"sending {len(missing)} of {len(upload.chunks())} chunks to the node "
                f"({len(upload.files)} files, {upload.size / 1e6:.1f} MB)"
            )
        try:
            client.blobs.put(upload.read(set(missing)))
        except UploadError:
            if attempt == SCANS - 1:
                raise
            upload = scan(upload_dir, cache=DigestCache.of(upload_dir, os.environ))
        else:
            return upload
    raise AssertionError


def follow(
    client: RoboComputeClient,
    task_id: str,
    options: Options,
    terminal: Terminal,
    interrupts: Interrupts | None,
) -> Mapping[str, Any]:
    """Show a task's events until it ends; return the ended task."""
    lost = False

    def on_lost(error: Exception) -> None:
        nonlocal lost
        if not lost:
            terminal.say(f"lost the node ({error}); the job goes on, reconnecting …")
        lost = True

    open_stdout = True
    for event in client.tasks.events(task_id, patience=PATIENCE, on_lost=on_lost):
        if lost:
            terminal.say("reconnected, nothing is missing")
            lost = False
        try:
            if options.json:
                line = {"number": event.number, "event": event.kind, "data": event.data}
                if open_stdout:
                    write_all(STDOUT, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            elif event.kind == "output":
                if open_stdout or event.data.get("stream") != "stdout":
                    terminal.output(event.data)
            elif event.kind == "stage":
                terminal.stage(str(event.data.get("stage", "")), str(event.data.get("detail", "")))
            elif event.kind == "match" and terminal.chatty:
                provider = outcome.short(str(event.data.get("provider", "")))
                terminal.say(
                    f"matched {provider} at {event.data.get('price_per_hour')} an hour"
                    f" ({event.data.get('why', '')})"
                )
        except BrokenPipeError:
            open_stdout = False
            if interrupts is not None:
                interrupts.cancel(
                    outcome.NO_READER, "nobody reads the output any more; cancelling the job …"
                )
        if event.kind == "ended":
            return event.data if "exit_code" in event.data else client.tasks.get(task_id)
    raise RoboComputeError("the node ended the stream before the task ended")


def fetch(client: RoboComputeClient, task_id: str, out: Path, terminal: Terminal) -> None:
    """Bring results home. What fails here does not change how the job ended."""
    try:
        pulled = pull(client, task_id, out)
    except (RoboComputeError, OSError) as error:
        terminal.say(f"results not fetched: {error} - `chisel pull {task_id}` tries again")
        return
    if terminal.chatty or pulled.refused:
        for line in described(pulled):
            terminal.say(line)
    if pulled.receipt is None:
        terminal.say(f"no receipt yet - `chisel pull {task_id}` fetches it when there is one")


def finish(task: Mapping[str, Any], terminal: Terminal) -> None:
    """The last words about a task."""
    more = outcome.explanation(task)
    if more:
        terminal.say(more)
    terminal.say(outcome.summary(task))
