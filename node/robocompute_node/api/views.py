"""Tasks, files and output records as REST shows them: money exact, times in ISO UTC."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from robocompute_protocol.money import format_amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.api.port import TaskView
    from robocompute_protocol.messages import FileEntry, Usage

LEVEL_OF: Final[Mapping[str, str]] = {"stdout": "info", "stderr": "error", "supervisor": "notice"}
"""The published SDK's word for where a line came from."""


def iso(milliseconds: int) -> str:
    """Write a moment: 2026-01-31T12:00:00.000Z."""
    moment = datetime.fromtimestamp(milliseconds / 1_000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_json(task: TaskView) -> dict[str, object]:
    """Return a task; what is not known yet is null. Environment values are never shown."""
    return {
        "task_id": task.task_id,
        "name": task.name,
        "command": list(task.argv),
        "status": task.status.value,
        "stage": task.stage,
        "stage_detail": task.stage_detail,
        "created_at": iso(task.created_ms),
        "started_at": None if task.started_ms is None else iso(task.started_ms),
        "ended_at": None if task.ended_ms is None else iso(task.ended_ms),
        "provider": task.provider,
        "price_per_hour": _amount(task.price_per_hour),
        "prepaid": format_amount(task.prepaid),
        "cost": _amount(task.cost),
        "exit_code": task.exit_code,
        "cause": None if task.cause is None else task.cause.value,
        "ended_by": None if task.ended_by is None else task.ended_by.value,
        "message": task.message,
        "error": task.error,
        "task_hash": None if task.task_hash is None else task.task_hash.hex(),
        "agreement": task.agreement,
        "usage": None if task.usage is None else _usage(task.usage),
    }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "cpu_ms": usage.cpu_ms,
        "memory_bytes": usage.memory_bytes,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "gpu_utilisation": list(usage.gpu_utilisation),
    }


def file_json(file: FileEntry) -> dict[str, object]:
    """Return one artifact."""
    return {"path": file.path, "size": file.size, "mode": file.mode}


def log_json(output: Mapping[str, Any]) -> dict[str, object]:
    """Return an output event's data as a log record. Bytes that are not UTF-8 are replaced."""
    text = output.get("text")
    if text is None:
        text = base64.b64decode(output.get("base64", "")).decode(errors="replace")
    return {
        "sequence": output["sequence"],
        "stream": output["stream"],
        "kind": output["kind"],
        "timestamp": iso(int(output["at_ns"]) // 1_000_000),
        "message": str(text),
        "level": LEVEL_OF.get(str(output["stream"]), "info"),
    }


def _amount(value: int | None) -> str | None:
    return None if value is None else format_amount(value)
