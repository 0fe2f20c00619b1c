"""One call under torch.profiler. Imported only where torch is; the one module that knows it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from chisel.tracefile import write_chrome_trace

if TYPE_CHECKING:
    from pathlib import Path

_TORCH: Final[Any] = importlib.import_module("torch")
_PROFILER: Final[Any] = importlib.import_module("torch.profiler")
TOP: Final = 5
"""Lines of the table a job prints."""


class TorchRecorder:
    """Records from the first ``resume`` until ``finish``, waiting included; CPU, and CUDA if there.

    Stacks are off unless asked for with ``with_stack``: they make a body 1.6 times slower.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        activities: list[Any] = [_PROFILER.ProfilerActivity.CPU]
        if _TORCH.cuda.is_available():
            activities.append(_PROFILER.ProfilerActivity.CUDA)
        self._name = name
        self._profile: Any = _PROFILER.profile(**{"activities": activities, **options})
        self._range: Any = None

    def resume(self) -> None:
        if self._range is None:
            self._profile.start()
            self._range = _PROFILER.record_function(self._name)
            self._range.__enter__()

    def suspend(self) -> None:
        """Nothing: the profiler belongs to the process, and stays on while the call waits."""

    def finish(self, error: BaseException | None) -> None:
        if self._range is None:
            return
        self._range.__exit__(None, None, None)
        if error is not None:
            self._profile.add_metadata_json("exception", f'"{type(error).__name__}"')
        self._profile.stop()

    def save(self, path: Path) -> None:
        if self._range is None:
            write_chrome_trace(path, [], {"name": self._name})
            return
        self._profile.export_chrome_trace(str(path))

    def top(self) -> list[tuple[str, int, float]]:
        """(operator, calls, own milliseconds), the dearest first."""
        if self._range is None:
            return []
        rows: list[tuple[str, int, float]] = []
        for row in self._profile.key_averages():
            own = float(getattr(row, "self_device_time_total", 0.0) or 0.0)
            rows.append((str(row.key), int(row.count), max(own, row.self_cpu_time_total) / 1e3))
        return sorted(rows, key=lambda row: row[2], reverse=True)[:TOP]
