"""``capture_trace``: nothing at all on your own machine, one Chrome trace a call in a job.

Which profiler a call gets is decided when it begins: torch.profiler when torch is imported by then,
or when the function's own body imports it and it is installed; the interpreter's own hooks
otherwise. One torch profiler can run in a process at a time; a traced call inside another, or beside
it in a second thread, gets the interpreter's hooks.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import CodeType
from typing import Any, Final, TypeVar, cast, overload

from chisel.tracefile import TraceFolder, announce, trace_folder

F = TypeVar("F", bound=Callable[..., Any])

_TORCH_SLOT: Final = threading.Lock()
"""Held by the one call that torch.profiler is recording: Kineto is one to a process."""


@overload
def capture_trace(trace_name: F, /) -> F: ...
@overload
def capture_trace(
    trace_name: str | None = None,
    record_shapes: bool = False,
    profile_memory: bool = False,
    **profiler_options: Any,
) -> Callable[[F], F]: ...
def capture_trace(
    trace_name: Any = None,
    record_shapes: bool = False,
    profile_memory: bool = False,
    **profiler_options: Any,
) -> Any:
    """Decorate a function whose calls are to be traced: ``@capture_trace`` or with arguments.

    Outside a job it returns the very function it was given. In a job each call writes
    ``/volume/<app>/<job>/traces/<name>.json``, the second ``<name>-2.json`` and so on, also when the
    call raises; tracing never changes what the function returns or raises. Functions, methods,
    coroutines and (async) generators are all traced over their whole life.

    ``record_shapes``, ``profile_memory`` and any further option go to ``torch.profiler.profile``.
    """
    if trace_name is None or isinstance(trace_name, str):
        options = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            **profiler_options,
        }

        def decorate(function: Any) -> Any:
            return _decorated(function, trace_name, options)

        return decorate
    return _decorated(trace_name, None, {})


def _decorated(function: Any, name: str | None, options: dict[str, Any]) -> Any:
    if os.environ.get("CHISEL_BACKEND_RUN") != "1":
        return function
    if isinstance(function, (staticmethod, classmethod)):
        made: Any = type(cast("object", function))
        return made(_decorated(cast("Any", function).__func__, name, options))
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"capture_trace decorates functions, and {function!r} is none")
    label = name or str(getattr(function, "__name__", type(function).__name__))
    folder = trace_folder(os.environ)
    if folder is None:
        announce("⚠️  No job ID found, skipping trace")
        return function
    return _wrapped(function, _Plan(label, folder, options, _uses_torch(function)))


class _Plan:
    """What is known of a traced function before it is called."""

    def __init__(
        self, name: str, folder: TraceFolder, options: dict[str, Any], wants_torch: bool
    ) -> None:
        self._name = name
        self._folder = folder
        self._options = options
        self._wants_torch = wants_torch

    def begin(self) -> _Call:
        """Start tracing one call. The recorder runs only while it is entered."""
        number = self._folder.next_number(self._name)
        if self._torch_is_there() and _TORCH_SLOT.acquire(blocking=False):
            try:
                from chisel.torchtrace import TorchRecorder

                recorder: Any = TorchRecorder(self._name, self._options)
            except Exception as error:  # noqa: BLE001 - a broken torch must not end the job
                _TORCH_SLOT.release()
                announce(f"⚠️  torch.profiler cannot be used ({error}); tracing without it")
            else:
                return _Call(self._name, number, self._folder, recorder, _TORCH_SLOT)
        from chisel.interpreter import InterpreterRecorder

        return _Call(self._name, number, self._folder, InterpreterRecorder(self._name), None)

    def _torch_is_there(self) -> bool:
        if "torch" in sys.modules:
            return True
        if not self._wants_torch:
            return False
        from importlib.util import find_spec

        return find_spec("torch") is not None


class _Call:
    """One call being traced."""

    def __init__(
        self,
        name: str,
        number: int,
        folder: TraceFolder,
        recorder: Any,
        slot: threading.Lock | None,
    ) -> None:
        self._name = name
        self._number = number
        self._folder = folder
        self._recorder = recorder
        self._slot = slot
        folder.say_started(name, number)

    def __enter__(self) -> None:
        self._recorder.resume()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._recorder.suspend()

    def end(self, error: BaseException | None) -> None:
        """Write the trace. Never raises: a full disk ends a trace, not a job."""
        try:
            self._recorder.finish(error)
            path = self._folder.write(self._name, self._number, self._recorder.save)
            self._folder.say_written(self._name, self._number, path, self._recorder.top())
        except Exception as problem:  # noqa: BLE001 - nor may a full disk
            announce(f"⚠️  the trace of {self._name} was not written: {problem}")
        finally:
            if self._slot is not None:
                self._slot.release()


def _wrapped(function: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
            return await _Stepped(function(*args, **kwargs).__await__(), plan.begin())

        return run_coroutine
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def run_async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            call = plan.begin()
            failure: BaseException | None = None
            source = cast("AsyncGenerator[Any, Any]", function(*args, **kwargs))
            step: Awaitable[Any] = source.asend(None)
            try:
                while True:
                    try:
                        value = await _Stepped(step.__await__(), call, ends=False)
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield value
                    except GeneratorExit:
                        await source.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed on
                        step = source.athrow(error)
                    else:
                        step = source.asend(sent)
            except BaseException as error:
                failure = None if isinstance(error, GeneratorExit) else error
                raise
            finally:
                call.end(failure)

        return run_async_generator
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def run_generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _driven(function(*args, **kwargs), plan.begin(), ends=True))

        return run_generator

    @functools.wraps(function)
    def run_function(*args: Any, **kwargs: Any) -> Any:
        call = plan.begin()
        failure: BaseException | None = None
        try:
            with call:
                return function(*args, **kwargs)
        except BaseException as error:
            failure = error
            raise
        finally:
            call.end(failure)

    return run_function


class _Stepped:
    """Awaits another awaitable with the recorder on only while it really runs."""

    def __init__(self, steps: Any, call: _Call, *, ends: bool = True) -> None:
        self._steps = steps
        self._call = call
        self._ends = ends

    def __await__(self) -> Generator[Any, Any, Any]:
        return _driven(self._steps, self._call, ends=self._ends)


def _driven(steps: Any, call: _Call, *, ends: bool) -> Generator[Any, Any, Any]:
    """Drive ``steps`` as ``yield from`` would, inside ``call`` at each step."""
    failure: BaseException | None = None
    try:
        with call:
            value = next(steps)
        while True:
            try:
                sent = yield value
            except GeneratorExit:
                with call:
                    steps.close()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on
                with call:
                    value = steps.throw(error)
            else:
                with call:
                    value = next(steps) if sent is None else steps.send(sent)
    except StopIteration as stop:
        return stop.value
    except BaseException as error:
        failure = None if isinstance(error, GeneratorExit) else error
        raise
    finally:
        if ends:
            call.end(failure)


def _uses_torch(function: Any) -> bool:
    """Whether the function's own code names torch: then it will import it, if it has not yet."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return isinstance(code, CodeType) and _names_torch(code)


def _names_torch(code: CodeType) -> bool:
    if any(name == "torch" or name.startswith("torch.") for name in code.co_names):
        return True
    return any(_names_torch(inner) for inner in code.co_consts if isinstance(inner, CodeType))
