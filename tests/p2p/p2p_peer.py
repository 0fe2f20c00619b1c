"""A node in a process of its own, to be killed by the tests: ``p2p_peer.py SEED LISTEN[,LISTEN]``.

Prints its address when it is up, then echoes frames until it is stopped.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from robocompute_node.p2p.host import Libp2pNetwork

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def main(seed: bytes, listen: str) -> None:
    node = Libp2pNetwork(seed, listen=listen.split(","))
    node.serve("/test/echo/1", echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        sys.stdout.write(node.addresses[0] + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, bytes.fromhex(sys.argv[1]), sys.argv[2])
