"""What a running job uses, about once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.cards import CardGone
from robocompute_node.executor.folder import SupervisorGone
from robocompute_node.executor.spec import Spec
from robocompute_protocol.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.cards import Cards
    from robocompute_node.executor.folder import JobFolder

_EVERY_S: Final = 1.0


class UsageReader:
    """One measurement a second until the job ends."""

    def __init__(self, folder: JobFolder, cards: Cards, *, finished: Callable[[], bool]) -> None:
        self._folder = folder
        self._cards = cards
        self._finished = finished
        self._begun = False
        self._gpus: tuple[str, ...] | None = None

    def __aiter__(self) -> UsageReader:
        return self

    async def __anext__(self) -> Usage:
        while not self._finished():
            if self._begun:
                await trio.sleep(_EVERY_S)
            self._begun = True
            try:
                answer = await self._folder.ask({"op": "usage"})
            except SupervisorGone:
                await trio.sleep(_EVERY_S)
                continue
            if self._gpus is None:
                self._gpus = tuple(Spec.from_json(self._folder.spec.read_text()).gpus)
            busy: tuple[int, ...] = ()
            if self._gpus:
                busy = await trio.to_thread.run_sync(self._busy, self._gpus)
            return Usage(
                cpu_ms=answer["cpu_ms"],
                memory_bytes=answer["memory_bytes"],
                peak_memory_bytes=answer["peak_memory_bytes"],
                gpu_utilisation=busy,
            )
        raise StopAsyncIteration

    def _busy(self, uuids: tuple[str, ...]) -> tuple[int, ...]:
        """How busy each card is; nothing where the driver does not say it of all."""
        try:
            found = [self._cards.reading(uuid).busy_percent for uuid in uuids]
        except CardGone:
            return ()
        told = [min(100, percent) for percent in found if percent is not None]
        return tuple(told) if len(told) == len(uuids) else ()

    async def aclose(self) -> None:
        """For ``contextlib.aclosing``; nothing is held open between calls."""
        await trio.lowlevel.checkpoint()
