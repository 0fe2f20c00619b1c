"""Is the output that is here what the provider signed for in its receipt?"""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

import trio

from robocompute_node.events import READ_BATCH
from robocompute_protocol.messages import Output
from robocompute_protocol.receipts import NO_OUTPUT, chain

if TYPE_CHECKING:
    from robocompute_node.api.port import TaskEvent
    from robocompute_node.events import TaskLog
    from robocompute_protocol.messages import Receipt


async def objection_to_output(log: TaskLog, receipt: Receipt) -> str | None:
    """Return how a task's output differs from what ``receipt`` says of it, or None.

    A log that was too long to keep whole cannot be compared, and is not.
    """
    if log.full:
        return None
    after, records, digest = 0, 0, NO_OUTPUT
    while batch := log.read(after=after, limit=READ_BATCH):
        for event in batch:
            if event.kind == "output":
                digest = chain(digest, _record(event))
                records += 1
        after = batch[-1].number
        await trio.lowlevel.checkpoint()
    if records < receipt.output_records:
        return f"{receipt.output_records - records} of its output records are not here"
    if (records, digest) != (receipt.output_records, receipt.output):
        return "its output is not what the provider's receipt says it was"
    return None


def _record(event: TaskEvent) -> Output:
    data = event.data
    text = data.get("text")
    raw = b64decode(str(data["base64"])) if text is None else str(text).encode()
    return Output(
        sequence=int(str(data["sequence"])),
        stream=data["stream"],  # type: ignore[arg-type]
        kind=data["kind"],  # type: ignore[arg-type]
        at_ns=int(str(data["at_ns"])),
        data=raw,
    )
