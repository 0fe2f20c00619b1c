"""Attackers in a process of their own: ``attack_process.py ADDRESS GROUP SOURCE SECONDS ROUNDS``.

Runs every attack of a group (or of ``all``), all at once, each so many times and for so many
seconds at most. Says which attack ended its how many-th round.
"""

from __future__ import annotations

import logging
import sys
from itertools import chain
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
FAULTS_OF_OURS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
"""With these an attack would not be one."""
PAUSE_S = 1.0
"""Between two rounds of one attack: three processes of attackers share the machine with one node,
where on the net each would have its own."""


async def again_and_again(
    attack: Callable[[Target], Awaitable[None]], target: Target, seconds: float, rounds: int
) -> None:
    for number in range(1, rounds + 1):
        with trio.move_on_after(seconds):
            try:
                await attack(target)
            except FAULTS_OF_OURS:
                raise
            except Exception as exc:  # noqa: BLE001 the target does not put up with it: fine
                sys.stderr.write(f"{attack.__name__}: {exc!r}\n")
        sys.stdout.write(f"{attack.__name__} {number}\n")
        sys.stdout.flush()
        await trio.sleep(PAUSE_S)


async def main(address: str, group: str, source: str, seconds: float, rounds: int) -> None:
    attacks = chain.from_iterable(GROUPS.values()) if group == "all" else GROUPS[group]
    async with trio.open_nursery() as nursery:
        for number, attack in enumerate(attacks, 1):
            target = Target(address, source=f"{source}.{number}.1")
            nursery.start_soon(again_and_again, attack, target, seconds, rounds)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(main, *sys.argv[1:4], float(sys.argv[4]), int(sys.argv[5]))  # pyright: ignore[reportArgumentType]
