"""One call under the interpreter's own hooks, for jobs without torch.

Only the job's own code is recorded, not the standard library's nor any installed package's. A
function called often and briefly is switched off, and counted, before it makes the job slow:
sys.monitoring (3.12 on) then costs nothing for it, sys.setprofile (3.11) a look-up a call. Only the
thread that made the call is recorded.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from chisel.tracefile import write_chrome_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType

MAX_EVENTS: Final = 200_000
"""Events in one trace: 29 MB of JSON. Later ones are counted as dropped."""
HOT_CALLS: Final = 500
"""Calls of one function after which it is judged."""
HOT_NS: Final = 20_000
"""Nanoseconds a call below which such a function is switched off: its events tell nothing."""
TOP: Final = 5
"""Lines of the table a job prints."""

_GENERATOR_EXPRESSIONS = frozenset({"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"})


class InterpreterRecorder:
    """The calls of own functions between ``resume`` and ``suspend``, on the calling thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.events: list[tuple[CodeType, int, int, int]] = []
        """(code, start, duration, of it not in own functions it called), in ns, as they ended."""
        self.dropped = 0
        self._steps: list[tuple[int, int]] = []
        self._resumed = 0
        self._error: BaseException | None = None
        self._thread = threading.get_ident()
        self._switched_off: dict[str, int] = {}

    def resume(self) -> None:
        self._resumed = perf_counter_ns()
        _HOOKS.add(self)

    def suspend(self) -> None:
        _HOOKS.remove(self)
        self._steps.append((self._resumed, perf_counter_ns() - self._resumed))

    def record(self, code: CodeType, start: int, duration: int, alone: int) -> None:
        """Called by the hooks, on the thread that is recorded."""
        if start < self._resumed:
            return
        if len(self.events) < MAX_EVENTS:
            self.events.append((code, start, duration, alone))
        else:
            self.dropped += 1

    def finish(self, error: BaseException | None) -> None:
        self._error = error
        self._switched_off = {_label(code): calls for code, calls in _HOOKS.hot()}

    def save(self, path: Path) -> None:
        process = os.getpid()
        base = {"pid": process, "tid": self._thread}
        rows: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": process, "args": {"name": self._name}}
        ]
        for step, (start, duration) in enumerate(self._steps):
            arguments: dict[str, Any] = {"step": step} if len(self._steps) > 1 else {}
            if self._error is not None and step == len(self._steps) - 1:
                arguments["exception"] = type(self._error).__name__
            rows.append(
                {
                    "ph": "X",
                    "name": self._name,
                    "cat": "capture_trace",
                    "ts": start / 1e3,
                    "dur": duration / 1e3,
                    **base,
                    "args": arguments,
                }
            )
        rows.extend(
            {
                "ph": "X",
                "name": code.co_qualname,
                "cat": "python",
                "ts": start / 1e3,
                "dur": duration / 1e3,
                **base,
                "args": {"file": code.co_filename, "line": code.co_firstlineno},
            }
            for code, start, duration, _ in sorted(self.events, key=lambda event: event[1])
        )
        notes: dict[str, Any] = {
            "name": self._name,
            "profiler": "sys.monitoring" if sys.version_info >= (3, 12) else "sys.setprofile",
            "python": sys.version.split()[0],
            "events": len(self.events),
            "dropped": self.dropped,
            "switched_off": self._switched_off,
        }
        if self._error is not None:
            notes["exception"] = type(self._error).__name__
        write_chrome_trace(path, rows, notes)

    def top(self) -> list[tuple[str, int, float]]:
        """(function, calls, milliseconds not in own functions it called), the dearest first."""
        totals: dict[CodeType, tuple[int, int]] = {}
        for code, _, _, alone in self.events:
            calls, spent = totals.get(code, (0, 0))
            totals[code] = (calls + 1, spent + alone)
        dearest = sorted(totals.items(), key=lambda item: item[1][1], reverse=True)[:TOP]
        return [(_label(code), calls, spent / 1e6) for code, (calls, spent) in dearest]


class _Open:
    """A frame that was entered and not left."""

    __slots__ = ("frame", "inner", "start")

    def __init__(self, frame: FrameType, start: int) -> None:
        self.frame = frame
        self.start = start
        self.inner = 0


class _ThreadState(threading.local):
    """What one thread has: the recorders that are on, innermost last, and its open frames."""

    def __init__(self) -> None:
        self.recorders: list[InterpreterRecorder] = []
        self.stack: list[_Open] = []
        self.previous: Any = None


class _Calls:
    """What both kinds of hooks share: which code is left alone, and who listens."""

    def __init__(self) -> None:
        self.local = _ThreadState()
        self.lock = threading.Lock()
        self.active = 0
        self.ignored: set[CodeType] = set()
        """Code that is not the job's own, or is hot."""
        self.totals: dict[CodeType, list[int]] = {}
        self.off: dict[CodeType, int] = {}

    def hot(self) -> Iterable[tuple[CodeType, int]]:
        with self.lock:
            return list(self.off.items())

    def reset(self) -> None:
        self.ignored.difference_update(self.off)
        self.totals.clear()
        self.off.clear()

    def enter(self, frame: FrameType, code: CodeType) -> None:
        """Open a frame of code that is not ignored."""
        total = self.totals.get(code)
        if total is None:
            if not is_own_code(code):
                self.ignored.add(code)
                return
            self.totals[code] = [0, 0]
        self.local.stack.append(_Open(frame, perf_counter_ns()))

    def leave(self, frame: FrameType, code: CodeType) -> None:
        """Close a frame, if it was opened: a frame of hot code was not, but its caller may be."""
        stack = self.local.stack
        if not stack:
            return
        if stack[-1].frame is not frame:
            if code in self.ignored or not any(opened.frame is frame for opened in stack):
                return
            while stack[-1].frame is not frame:
                stack.pop()
        opened = stack.pop()
        duration = perf_counter_ns() - opened.start
        alone = duration - opened.inner
        if stack:
            stack[-1].inner += duration
        for recorder in self.local.recorders:
            recorder.record(code, opened.start, duration, alone)
        total = self.totals.setdefault(code, [0, 0])
        total[0] += 1
        total[1] += alone
        if total[0] >= HOT_CALLS and total[1] < HOT_NS * total[0]:
            self.off[code] = total[0]
            self.ignored.add(code)


class _ProfileHooks(_Calls):
    """sys.setprofile, for Python 3.11: a function of each thread."""

    def add(self, recorder: InterpreterRecorder) -> None:
        with self.lock:
            if self.active == 0:
                self.reset()
            self.active += 1
        if not self.local.recorders:
            self.local.stack.clear()
            self.local.previous = sys.getprofile()
        self.local.recorders.append(recorder)
        sys.setprofile(self._callback())

    def remove(self, recorder: InterpreterRecorder) -> None:
        sys.setprofile(None)
        self.local.recorders.remove(recorder)
        with self.lock:
            self.active -= 1
        sys.setprofile(self._callback() if self.local.recorders else self.local.previous)

    def _callback(self) -> Callable[[FrameType, str, Any], None]:
        """This thread's: it is called for every call of anything, so it looks up very little."""
        ignored, stack, enter, leave = self.ignored, self.local.stack, self.enter, self.leave

        def event(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                code = frame.f_code
                if code not in ignored:
                    enter(frame, code)
            elif (
                event == "return"
                and stack
                and (stack[-1].frame is frame or frame.f_code not in ignored)
            ):
                leave(frame, frame.f_code)

        return event


def _monitoring() -> Any:
    """``sys.monitoring``, which the oldest Python here does not have."""
    return getattr(sys, "monitoring")  # noqa: B009 - the type checker knows that too


class _MonitoringHooks(_Calls):
    """sys.monitoring, from Python 3.12 on: one tool of the process, asked on every thread."""

    def add(self, recorder: InterpreterRecorder) -> None:
        with self.lock:
            if self.active == 0:
                self.reset()
                self._start()
            self.active += 1
        if not self.local.recorders:
            self.local.stack.clear()
        self.local.recorders.append(recorder)

    def remove(self, recorder: InterpreterRecorder) -> None:
        self.local.recorders.remove(recorder)
        with self.lock:
            self.active -= 1
            if self.active == 0:
                self._stop()

    def _start(self) -> None:
        monitoring = _monitoring()
        tool = monitoring.PROFILER_ID
        monitoring.use_tool_id(tool, "chisel")
        events = monitoring.events
        callbacks: dict[int, Any] = {
            events.PY_START: self._started,
            events.PY_RESUME: self._started,
            events.PY_THROW: self._thrown,
            events.PY_RETURN: self._returned,
            events.PY_YIELD: self._returned,
            events.PY_UNWIND: self._unwound,
        }
        wanted = 0
        for event, callback in callbacks.items():
            monitoring.register_callback(tool, event, callback)
            wanted |= event
        self._disable = monitoring.DISABLE
        self._wanted = tuple(callbacks)
        monitoring.set_events(tool, wanted)
        monitoring.restart_events()

    def _stop(self) -> None:
        monitoring = _monitoring()
        tool = monitoring.PROFILER_ID
        monitoring.set_events(tool, 0)
        for event in self._wanted:
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)

    # Each callback is called by the interpreter from the frame that the event is about.

    def _started(self, code: CodeType, offset: int) -> Any:
        if code in self.ignored:
            return self._disable
        if self.local.recorders:
            self.enter(sys._getframe(1), code)  # pyright: ignore[reportPrivateUsage]
        return None

    def _thrown(self, code: CodeType, offset: int, error: BaseException) -> None:
        # Not a local event: it cannot be disabled for one code object.
        if self.local.recorders and code not in self.ignored:
            self.enter(sys._getframe(1), code)  # pyright: ignore[reportPrivateUsage]

    def _returned(self, code: CodeType, offset: int, value: object) -> Any:
        stack = self.local.stack
        if stack and (stack[-1].frame.f_code is code or code not in self.ignored):
            self.leave(sys._getframe(1), code)  # pyright: ignore[reportPrivateUsage]
        if code in self.ignored and not self._is_open(code):
            return self._disable
        return None

    def _unwound(self, code: CodeType, offset: int, error: BaseException) -> None:
        if self.local.stack:
            self.leave(sys._getframe(1), code)  # pyright: ignore[reportPrivateUsage]

    def _is_open(self, code: CodeType) -> bool:
        stack = self.local.stack
        return bool(stack) and (
            stack[-1].frame.f_code is code or any(o.frame.f_code is code for o in stack)
        )


def is_own_code(code: CodeType) -> bool:
    """Whether the job's author wrote it: neither the standard library, nor installed, nor ours."""
    if code.co_name in _GENERATOR_EXPRESSIONS:
        return False
    file = code.co_filename
    if file.startswith("<"):
        return file in ("<stdin>", "<string>")
    if "/site-packages/" in file or "/dist-packages/" in file:
        return False  # also those of another environment, reached through a .pth file
    tracker = getattr(sys.modules.get("aspara"), "__file__", None)
    ours = (str(Path(tracker).parent) + os.sep,) if tracker else ()
    return not str(Path(file).absolute()).startswith((*_FOREIGN, *ours))


def _label(code: CodeType) -> str:
    return f"{code.co_qualname} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _foreign_folders() -> tuple[str, ...]:
    paths = {
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    } | {str(Path(__file__).parent)}
    return tuple(path.rstrip(os.sep) + os.sep for path in paths if path)


_FOREIGN: Final = _foreign_folders()
_HOOKS: Final = _MonitoringHooks() if sys.version_info >= (3, 12) else _ProfileHooks()
