from __future__ import annotations

import functools
import inspect
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chisel import capture_trace
from chisel.interpreter import HOT_CALLS, is_own_code
from chisel.tracefile import sanitised

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path
    from types import CodeType


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is a job."""
    monkeypatch.setenv("CHISEL_BACKEND_RUN", "1")
    monkeypatch.setenv("CHISEL_JOB_ID", "ab12")
    monkeypatch.setenv("CHISEL_BACKEND_APP_NAME", "my app")
    monkeypatch.setenv("CHISEL_VOLUME", str(tmp_path))
    return tmp_path / "my_app" / "ab12" / "traces"


def events(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def inner(value: int) -> int:
    return value + 1


@pytest.mark.parametrize(
    "decorator",
    [capture_trace, capture_trace(), capture_trace("name"), capture_trace(trace_name="name")],
)
def test_outside_a_job_the_very_same_function_comes_back(
    decorator: Callable[[Any], Any],
) -> None:
    assert decorator(inner) is inner


def test_a_call_in_a_job_writes_one_chrome_trace(traces: Path) -> None:
    @capture_trace(trace_name="work")
    def work(base: int, *, trace_name: int) -> int:
        return inner(base) + trace_name

    assert work(1, trace_name=2) == 4
    assert [path.name for path in traces.iterdir()] == ["work.json"]
    names = [event["name"] for event in events(traces / "work.json")]
    assert names[0] == "work"
    assert "inner" in names
    assert all(event["dur"] >= 0 for event in events(traces / "work.json"))


def test_the_wrapper_keeps_name_document_and_signature(traces: Path) -> None:
    @capture_trace
    def documented(a: int, b: str = "x") -> None:
        """Says so."""

    assert (documented.__name__, documented.__doc__) == ("documented", "Says so.")
    assert list(inspect.signature(documented).parameters) == ["a", "b"]


def test_calls_are_numbered_from_the_second_on(traces: Path) -> None:
    @capture_trace(trace_name="again")
    def again() -> None:
        return None

    for _ in range(3):
        again()
    assert sorted(p.name for p in traces.iterdir()) == [
        "again-2.json",
        "again-3.json",
        "again.json",
    ]


def test_a_name_can_lead_nowhere_else(traces: Path) -> None:
    for name in ("../../etc/x", "", "...", "a/b", "-", "ä b", "x" * 400):
        assert "/" not in sanitised(name)
        assert not sanitised(name).startswith(".")

    @capture_trace(trace_name="../../escaped")
    def work() -> None:
        return None

    work()
    assert [path.name for path in traces.iterdir()] == ["_.._escaped.json"]


def test_an_exception_goes_on_and_its_trace_is_written(traces: Path) -> None:
    @capture_trace
    def fails() -> None:
        raise ValueError("as it should")

    with pytest.raises(ValueError, match="as it should"):
        fails()
    (call, *_) = events(traces / "fails.json")
    assert call["args"]["exception"] == "ValueError"


def test_methods_of_every_kind_are_traced(traces: Path) -> None:
    class Model:
        @capture_trace(trace_name="method")
        def method(self, by: int) -> int:
            return self.start + by

        @capture_trace(trace_name="class")
        @classmethod
        def made(cls) -> Model:
            return cls()

        @staticmethod
        @capture_trace(trace_name="static")
        def static(value: int) -> int:
            return value

        start = 2

    assert (Model().method(3), Model.static(1)) == (5, 1)
    assert isinstance(Model.made(), Model)
    assert {p.stem for p in traces.iterdir()} == {"method", "class", "static"}


async def test_coroutines_are_traced_only_while_they_run(traces: Path) -> None:
    @capture_trace
    async def work() -> int:
        first = inner(1)
        await trio.lowlevel.checkpoint()
        return inner(first)

    assert inspect.iscoroutinefunction(work)
    results: list[int] = []

    async def collect() -> None:
        results.append(await work())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(collect)
    assert results == [3, 3, 3]
    for name in ("work.json", "work-2.json", "work-3.json"):
        names = [event["name"] for event in events(traces / name)]
        assert names.count("inner") == 2
        assert names.count("work") == 2


def test_generators_keep_what_is_sent_thrown_and_returned(traces: Path) -> None:
    @capture_trace(trace_name="gen")
    def gen() -> Generator[int, int, str]:
        total = 0
        try:
            while True:
                total += yield inner(total)
        except KeyError:
            return "thrown"

    assert inspect.isgeneratorfunction(gen)
    steps = gen()
    assert [next(steps), steps.send(4), steps.send(5)] == [1, 5, 10]
    with pytest.raises(StopIteration) as stopped:
        steps.throw(KeyError())
    assert stopped.value.value == "thrown"
    assert [event["name"] for event in events(traces / "gen.json")].count("inner") == 3


def test_a_generator_left_early_is_closed_and_traced(traces: Path) -> None:
    closed: list[bool] = []

    @capture_trace(trace_name="gen")
    def gen() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            closed.append(True)

    steps = gen()
    next(steps)
    steps.close()
    assert closed == [True]
    assert "exception" not in events(traces / "gen.json")[0]["args"]


async def test_async_generators_are_traced(traces: Path) -> None:
    @capture_trace(trace_name="agen")
    async def agen() -> AsyncGenerator[int, int]:
        sent = yield inner(0)
        await trio.lowlevel.checkpoint()
        yield inner(sent)

    assert inspect.isasyncgenfunction(agen)
    source = agen()
    assert [await source.asend(None), await source.asend(6)] == [1, 7]  # pyright: ignore[reportArgumentType]
    with pytest.raises(StopAsyncIteration):
        await source.asend(0)
    assert [event["name"] for event in events(traces / "agen.json")].count("inner") == 2


def test_a_traced_call_inside_another_has_a_trace_of_its_own(traces: Path) -> None:
    @capture_trace(trace_name="inside")
    def inside() -> int:
        return inner(1)

    @capture_trace(trace_name="outside")
    def outside() -> int:
        return inner(0) + inside() + inner(0)

    assert outside() == 4
    assert [e["name"] for e in events(traces / "outside.json")].count("inner") == 3
    assert [e["name"] for e in events(traces / "inside.json")].count("inner") == 1
    assert sys.getprofile() is None


def test_calls_at_the_same_time_never_share_a_file(traces: Path) -> None:
    barrier = threading.Barrier(8)

    @capture_trace(trace_name="same")
    def same(value: int) -> int:
        barrier.wait()
        return inner(value)

    threads = [threading.Thread(target=same, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(traces.iterdir())
    assert len(found) == 8
    for path in found:
        assert [event["name"] for event in events(path)].count("inner") == 1


def test_a_hot_tiny_function_is_switched_off_and_counted(traces: Path) -> None:
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    @capture_trace
    def work() -> int:
        return fib(18)

    assert work() == 2584
    document = json.loads((traces / "work.json").read_text())
    assert document["metadata"]["events"] < HOT_CALLS + 50
    (calls,) = document["metadata"]["switched_off"].values()
    assert calls >= HOT_CALLS
    outermost = max(
        (e for e in events(traces / "work.json") if e["name"].endswith("fib")),
        key=lambda event: event["dur"],
    )
    whole = events(traces / "work.json")[0]
    assert outermost["dur"] > whole["dur"] / 2


def test_only_own_code_is_recorded(traces: Path) -> None:
    @capture_trace
    def work() -> str:
        functools.reduce(lambda a, b: a + b, range(3))
        return json.dumps({"a": [inner(1)]}, indent=2)

    work()
    files = {event["args"].get("file") for event in events(traces / "work.json")[1:]}
    assert files == {__file__}


def test_a_volume_that_cannot_be_written_does_not_harm_the_job(
    tmp_path: Path,
    traces: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHISEL_VOLUME", str(tmp_path / "file"))

    @capture_trace
    def work() -> int:
        return 5

    assert work() == 5
    captured = capsys.readouterr()
    assert "was not written" in captured.err
    assert captured.out == ""


def test_a_job_without_an_id_is_not_traced(
    traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CHISEL_JOB_ID")
    assert capture_trace(inner) is inner
    assert "No job ID found, skipping trace" in capsys.readouterr().err


def test_the_first_call_shows_where_the_time_went_on_stderr_only(
    traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @capture_trace
    def work() -> int:
        return inner(1)

    work()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line[0] for line in captured.err.splitlines() if line[0] != " "] == ["🔍", "⚡", "💾"]


def test_a_class_is_refused(traces: Path) -> None:
    with pytest.raises(TypeError, match="decorates functions"):
        capture_trace(type("Model", (), {}))


def test_a_package_of_another_environment_is_not_own_code() -> None:
    def code(file: str) -> CodeType:
        return compile("def f(): pass", file, "exec")

    assert is_own_code(code("/job/train.py"))
    assert not is_own_code(code("/runtime/lib/python3/site-packages/numpy/core.py"))
    assert not is_own_code(code(json.__file__))
