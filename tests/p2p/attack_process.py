"""Attackers in a process of their own: ``attack_process.py ADDRESS GROUP SOURCE``.

Runs every attack of a group, all at once, each again and again, until it is stopped.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import attack_connections
import attack_gossip
import attack_streams
import trio
from attack_kit import Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GROUPS = {
    "connections": attack_connections.ATTACKS,
    "gossip": attack_gossip.ATTACKS,
    "streams": attack_streams.ATTACKS,
}
ATTACK_S = 30.0
"""An attack that got stuck in its own libp2p is given up after this long."""
PAUSE_S = 1.0
"""Between two rounds of one attack: three processes of attackers share the machine with one node,
where on the net each would have its own."""


async def again_and_again(attack: Callable[[Target], Awaitable[None]], target: Target) -> None:
    rounds = 0
    while True:
        with trio.move_on_after(ATTACK_S), suppress(Exception):
            await attack(target)
        rounds += 1
        sys.stdout.write(f"{attack.__name__} {rounds}\n")
        sys.stdout.flush()
        await trio.sleep(PAUSE_S)


async def main(address: str, group: str, source: str) -> None:
    prefix = source.rsplit(".", 1)[0]
    async with trio.open_nursery() as nursery:
        for number, attack in enumerate(GROUPS[group]):
            target = Target(address, source=f"{prefix}.{number + 1}")
            nursery.start_soon(again_and_again, attack, target)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
