from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_node import API_KEY

from robocompute import (
    AuthenticationError,
    InsufficientFundsError,
    NetworkError,
    NodeUnreachableError,
    RateLimitError,
    RoboComputeClient,
    RoboComputeError,
    TaskNotFoundError,
)
from robocompute.client import api_base
from robocompute.sse import EventParser, EventStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_node import FakeNode, FakeTask

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(node: FakeNode) -> Iterator[RoboComputeClient]:
    with RoboComputeClient(API_KEY, base_url=node.url, pause=lambda _: None) as client:
        yield client


def lines(node: FakeNode, task: FakeTask) -> None:
    node.emit(task, "stage", stage="running", detail="")
    for number in range(20):
        node.output(task, "stdout", "line", f"line {number}")
    node.end(task)


@pytest.mark.parametrize(
    "given",
    ["http://h:1", "http://h:1/", "http://h:1/api", "http://h:1/api/v1", "http://h:1/api/v1/"],
)
def test_an_address_may_be_given_in_every_published_form(given: str) -> None:
    assert api_base(given) == "http://h:1/api/v1"


def test_tasks_are_made_found_listed_and_cancelled(
    node: FakeNode, client: RoboComputeClient
) -> None:
    node.script = lambda node, task: None
    task = client.tasks.create(name="n", command=["python", "x.py"], type="cpu")
    assert task.status == task["status"] == "pending"
    assert client.tasks.get(task.task_id) == task
    assert [known.task_id for known in client.tasks.list()] == [task.task_id]
    assert client.tasks.cancel(task.task_id).status == "cancelled"
    assert client.wallet.get_balance()["usdc_balance"] == "12.000000"


def test_a_command_in_one_string_is_refused_before_it_is_sent(
    client: RoboComputeClient, node: FakeNode
) -> None:
    with pytest.raises(TypeError, match=r"\['python', 'x.py'\]"):
        client.tasks.create(name="n", command="python x.py")
    assert not node.tasks


def test_a_repeated_create_makes_one_task(node: FakeNode, client: RoboComputeClient) -> None:
    first = client.tasks.create(name="n", command=["x"], idempotency_key="k")
    second = client.tasks.create(name="n", command=["x"], idempotency_key="k")
    assert first.task_id == second.task_id
    assert len(node.tasks) == 1


def test_a_node_that_is_starting_is_asked_again(node: FakeNode, client: RoboComputeClient) -> None:
    node.busy = 3
    assert client.wallet.get_balance()["usdt_balance"] == "0.000000"
    node.busy = 9
    with pytest.raises(RoboComputeError, match="starting"):
        client.wallet.get_balance()


def test_updates_have_a_status_and_every_number_once(
    node: FakeNode, client: RoboComputeClient
) -> None:
    node.script = lines
    node.cut_after = [1, 2, 7, 21]
    task = client.tasks.create(name="n", command=["x"])
    updates = list(client.tasks.stream(task.task_id))
    assert [update.number for update in updates] == list(range(1, 23))
    assert {update.status for update in updates[:-1]} == {"running"}
    assert (updates[-1].event, updates[-1].status) == ("ended", "completed")
    logs = client.tasks.get_logs(task.task_id, lines=3)
    assert isinstance(logs, dict)
    assert [record["message"] for record in logs["logs"]] == ["line 17", "line 18", "line 19"]


def test_an_event_that_stays_missing_is_an_error_and_not_silence(
    node: FakeNode, client: RoboComputeClient
) -> None:
    node.script = lines
    node.skip = {5}
    task = client.tasks.create(name="n", command=["x"])
    with pytest.raises(RoboComputeError, match="left out event 5"):
        list(client.tasks.events(task.task_id))


def test_patience_with_a_node_that_stays_away_has_an_end(
    node: FakeNode, client: RoboComputeClient
) -> None:
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    node.stop()
    stream = EventStream(
        client.transport, "/tasks/x/stream", patience=5, pause=pause, clock=lambda: now[0]
    )
    with pytest.raises(NetworkError):
        list(stream)
    assert 5 < now[0] < 7


def test_refusals_are_exceptions_of_their_own(node: FakeNode, client: RoboComputeClient) -> None:
    with pytest.raises(TaskNotFoundError) as missing:
        client.tasks.get("nope")
    assert missing.value.task_id == "nope"
    details = {"required": "5.000000", "available": "1.000000", "currency": "USDC"}
    node.refusal = (402, {"code": "INSUFFICIENT_FUNDS", "message": "m", "details": details})
    with pytest.raises(InsufficientFundsError) as poor:
        client.tasks.create(name="n", command=["x"])
    assert (poor.value.required, poor.value.available, poor.value.currency) == (
        "5.000000",
        "1.000000",
        "USDC",
    )
    node.refusal = (429, {"code": "RATE_LIMIT_EXCEEDED", "message": "m"})
    with pytest.raises(RateLimitError) as busy:
        client.tasks.create(name="n", command=["x"])
    assert busy.value.retry_after == 7
    with (
        RoboComputeClient("wrong", base_url=node.url) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.validate()
    node.stop()
    with (
        RoboComputeClient(API_KEY, base_url=node.url) as late,
        pytest.raises(NodeUnreachableError),
    ):
        late.validate()


def test_an_error_can_be_made_as_the_published_tests_do() -> None:
    error = InsufficientFundsError("m", details={"required": "1"})
    assert (error.details, error.code, str(error)) == (
        {"required": "1"},
        "INSUFFICIENT_FUNDS",
        "m",
    )


def test_events_are_parsed_as_the_standard_says() -> None:
    parser = EventParser()
    text = ": comment\nid: 7\nevent: output\ndata: a\ndata:b\n\nignored: x\n\ndata: c\n\n"
    found = [event for line in text.split("\n") if (event := parser.feed(line))]
    assert [(e.id, e.event, e.data) for e in found] == [
        ("7", "output", "a\nb"),
        ("7", "message", "c"),
    ]


def test_importing_the_client_loads_no_http_library() -> None:
    code = (
        "import sys, robocompute; print({'httpx','httpcore','requests','trio'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "set()\n"
