"""News of the chain for one listener, from tasks that tell of changes while it listens."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from robocompute_settlement.port import Changed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


@asynccontextmanager
async def listening(
    *tellers: Callable[[trio.MemorySendChannel[Changed]], Awaitable[None]],
) -> AsyncGenerator[trio.MemoryReceiveChannel[Changed]]:
    """Run each of ``tellers`` with the sending end inside the block, and cancel them at its end.

    What is raised inside the block leaves it as it is.
    """
    send, receive = trio.open_memory_channel[Changed](0)
    failure: Exception | None = None
    async with send, receive, trio.open_nursery() as nursery:
        for teller in tellers:
            nursery.start_soon(teller, send)
        try:
            yield receive
        except Exception as exc:  # noqa: BLE001 - goes on below, not as part of a group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
