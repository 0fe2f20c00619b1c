"""Server-sent events: the parser alone, and a stream of a task's events that survives a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from robocompute.exceptions import NetworkError, RoboComputeError, error_of

if TYPE_CHECKING:
    from robocompute.transport import Transport

SILENCE: Final = 35.0
"""Seconds without a byte before reconnecting: the node sends a comment every 10 s."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds between attempts to reconnect, doubling: a restarting node is back within a few."""
RETRY_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
"""A node that answers so is starting, stopping or busy; it is asked again."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One dispatched event."""

    id: str
    event: str
    data: str


class EventParser:
    """Turns lines into events. Fed line by line, without line ends; never reads anything itself."""

    def __init__(self) -> None:
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, line: str) -> ServerEvent | None:
        """Take one line; return the event that it completes, if it does."""
        if not line:
            data, event = self._data, self._event
            self._data, self._event = [], ""
            if not data:
                return None
            return ServerEvent(self._id, event or "message", "\n".join(data))
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One numbered thing that happened to a task. kind: stage, output, match or ended."""

    number: int
    kind: str
    data: Mapping[str, Any]


class EventStream:
    """A task's events, each exactly once and in order, across lost connections.

    ``last`` is the number of the newest event given out: another stream can go on from there.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        *,
        after: int = 0,
        patience: float = 120.0,
        on_lost: Callable[[NetworkError], None] | None = None,
        pause: Callable[[float], None] = sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._transport = transport
        self._path = path
        self._patience = patience
        self._on_lost = on_lost
        self._pause = pause
        self._clock = clock
        self.last = after

    def __iter__(self) -> Iterator[TaskEvent]:
        """Events until and including "ended".

        Raises:
            NetworkError: no connection for ``patience`` seconds.
            RoboComputeError: the node refused, or left out an event and does so again.
        """
        heard = self._clock()
        wait = FIRST_PAUSE
        missed_before: int | None = None
        while True:
            lost: NetworkError
            try:
                for event in self._connection():
                    heard, wait = self._clock(), FIRST_PAUSE
                    if event is None or event.number <= self.last:
                        continue
                    if event.number > self.last + 1:
                        if missed_before == event.number:
                            raise RoboComputeError(
                                f"the node left out event {self.last + 1} of this task", code="GAP"
                            )
                        missed_before = event.number
                        break
                    self.last = event.number
                    yield event
                    if event.kind == "ended":
                        return
                lost = NetworkError("the node closed the event stream")
            except NetworkError as error:
                lost = error
            if self._on_lost is not None:
                self._on_lost(lost)
            if self._clock() - heard > self._patience:
                raise lost
            self._pause(wait)
            wait = min(wait * 2, LONGEST_PAUSE)

    def _connection(self) -> Iterator[TaskEvent | None]:
        """Events of one connection; None for any other sign of life."""
        with self._transport.stream(
            "GET",
            self._path,
            query={"after": str(self.last)},
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(self.last)},
            silence=SILENCE,
        ) as response:
            if response.status in RETRY_STATUSES:
                raise NetworkError(f"the node answered with HTTP status {response.status}")
            if response.status != 200:
                raise error_of(
                    response.status, json_or_none(response.read()), retry_after=None
                ) from None
            parser = EventParser()
            yield None
            for line in response.lines():
                event = parser.feed(line.decode("utf-8", "replace"))
                if event is None:
                    if line.startswith(b":"):
                        yield None
                    continue
                yield _task_event(event)


def _task_event(event: ServerEvent) -> TaskEvent:
    data = json_or_none(event.data.encode())
    if not event.id.isdigit() or not isinstance(data, Mapping):
        raise RoboComputeError("the node sent an event that is not one of a task", code="EVENT")
    return TaskEvent(int(event.id), event.event, data)  # pyright: ignore[reportUnknownArgumentType]


def json_or_none(body: bytes) -> Any:
    """The JSON in ``body``, or None where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None
