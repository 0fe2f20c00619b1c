"""How an ended task becomes one line and an exit status."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE: Final = 1
"""The command line or the upload folder is wrong, or the API key is: nothing was submitted."""
NO_PROVIDER: Final = 69
"""Nobody could take the job; nothing was charged."""
NO_FUNDS: Final = 73
"""The balance does not cover the job; nothing was charged."""
NO_NODE: Final = 74
"""The node cannot be reached, or stayed away; the job may still be running."""
PROVIDER_FAULT: Final = 75
"""The provider ended the job or was lost; the time is not charged. Running it again may help."""
REFUSED: Final = 76
"""The node refused the task, or gave it up, for another reason, which it says."""
NOT_PREPARED: Final = 78
"""The job's requirements could not be installed, or its upload not be unpacked."""
TIME_LIMIT: Final = 124
"""The job reached its time limit."""
MEMORY: Final = 137
"""The job used more memory than agreed."""
CANCELLED: Final = 130
"""The job was cancelled, by Ctrl-C or otherwise."""
TERMINATED: Final = 143
"""chisel was told to end by SIGTERM, and cancelled the job."""
NO_READER: Final = 141
"""Nobody read the output any more (a closed pipe); the job was cancelled."""

_BY_CAUSE: Final = {
    "wall_time": TIME_LIMIT,
    "cancelled": CANCELLED,
    "environment_failed": NOT_PREPARED,
    "upload_invalid": NOT_PREPARED,
    "client_lost": NO_NODE,
    "client_closed_channel": NO_NODE,
}
RESULTS_LOST: Final = "RESULTS_LOST"
"""The node's error code when a job ended but its provider went away before all was fetched."""
_BY_ERROR: Final = {"INSUFFICIENT_FUNDS": NO_FUNDS, "PROVIDER_UNAVAILABLE": NO_PROVIDER}


def exit_status(task: Mapping[str, Any]) -> int:
    """The job's own exit code when it ended by itself; otherwise one that says why it did not."""
    cause, code = task.get("cause"), task.get("exit_code")
    if task.get("ended_by") == "provider" or task.get("error") == RESULTS_LOST:
        return PROVIDER_FAULT
    if cause in _BY_CAUSE:
        return _BY_CAUSE[str(cause)]
    if isinstance(code, int):
        return 128 - code if code < 0 else code
    if cause == "memory":
        return MEMORY
    if task.get("status") == "completed":
        return 0
    if task.get("status") == "cancelled":
        return CANCELLED
    return _BY_ERROR.get(str(task.get("error")), REFUSED)


def summary(task: Mapping[str, Any]) -> str:
    """One line: how it ended, how long it ran, what it cost, who ran it."""
    parts = [_ending(task)]
    seconds = duration(task)
    if seconds is not None:
        parts.append(f"ran {seconds:.1f} s")
    cost = task.get("cost")
    if cost is not None:
        parts.append(f"cost {cost}")
    if task.get("provider"):
        parts.append(f"provider {short(str(task['provider']))}")
    line = " · ".join(parts)
    return f"{line} · task {task.get('task_id')}"


def explanation(task: Mapping[str, Any]) -> str | None:
    """What else a person needs when the job did not end by itself: who ended it, and what next."""
    if task.get("error") == RESULTS_LOST:
        return str(task.get("message"))
    if task.get("cause") in (None, "exited") and task.get("ended_by") != "provider":
        return (
            str(task["message"]) if task.get("exit_code") is None and task.get("message") else None
        )
    message = str(task.get("message") or "")
    if task.get("ended_by") == "provider":
        return (message or "the provider ended the job") + (
            "" if "again" in message else " - the same command runs it again elsewhere"
        )
    return message or None


def duration(task: Mapping[str, Any]) -> float | None:
    """Seconds between start and end, as the node saw them."""
    try:
        start = datetime.fromisoformat(str(task["started_at"]))
        end = datetime.fromisoformat(str(task["ended_at"]))
    except (KeyError, ValueError):
        return None
    return max(0.0, (end - start).total_seconds())


def short(key: str) -> str:
    """A key as people recognise it."""
    return key if len(key) <= 12 else f"{key[:4]}…{key[-4:]}"


def _ending(task: Mapping[str, Any]) -> str:
    cause, code = task.get("cause"), task.get("exit_code")
    if cause in (None, "exited") and isinstance(code, int):
        return "done, exit code 0" if code == 0 else f"exit code {code}"
    who = f" by the {task['ended_by']}" if task.get("ended_by") else ""
    why = str(cause or task.get("status") or "ended").replace("_", " ")
    return f"ended{who}: {why}"
