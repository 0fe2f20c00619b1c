"""The node attacked, in a process of its own: ``attack_victim.py SEED``.

Prints a JSON line when it is up, and one each second after: its memory, what it heard, its status.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attack_gossip import JUNK_MARK
from attack_kit import DEAF, ECHO, TOPIC

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream
    from robocompute_protocol.identifiers import NodeKey

HONEST_MARK = b"offer "
BAD_MARK = b"bad"


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive(timeout_s=60.0)) is not None:
        await stream.send(frame)


async def deaf(stream: FrameStream) -> None:
    del stream
    await trio.sleep(30.0)


def choosy(_peer: NodeKey, payload: bytes) -> bool:
    if payload.startswith(b"boom"):
        raise KeyError("a bug in a validator")
    return not payload.startswith(BAD_MARK)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4_096 / 1_048_576


async def main(seed: bytes) -> None:
    node = Libp2pNetwork(seed, bounds=PeerBounds(write_deadline_s=10.0, linger_s=5.0))
    node.serve(ECHO, echo)
    node.serve(DEAF, deaf)
    offers: set[bytes] = set()
    junk = 0

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        nonlocal junk
        async with node.subscribe(TOPIC, choosy) as messages:
            task_status.started()
            async for _, payload in messages:
                if payload.startswith(HONEST_MARK):
                    offers.add(payload)
                junk += payload.startswith((JUNK_MARK, BAD_MARK, b"boom"))

    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await nursery.start(listen)
        while True:
            line: dict[str, object] = {
                "address": node.addresses[0],
                "rss": resident_mb(),
                "offers": len(offers),
                "junk": junk,
                "files": open_files(),
                **asdict(node.status()),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            await trio.sleep(1.0)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    trio.run(main, bytes.fromhex(sys.argv[1]))
