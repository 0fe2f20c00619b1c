"""Ten minutes of every attack at once beside honest traffic: nothing honest is lost, memory is flat.

``SOAK_P2P_SECONDS`` shortens it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attack_kit import ECHO, TOPIC
from attack_process import GROUPS
from attack_victim import HONEST_MARK

from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.identity import node_key_of, peer_id_from

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_protocol.identifiers import NodeKey

pytestmark = [pytest.mark.net, pytest.mark.soak, pytest.mark.timeout(3_600)]

SECONDS = float(os.environ.get("SOAK_P2P_SECONDS", "600"))
OFFER_EVERY_S = 0.5
AGAIN_S = (10.0, 40.0)
"""An offer is announced again, as every sender does: gossip is lossy, and a connection may be
lost and made anew while an offer lives."""
ATTACK_S = 30.0
"""An attack that got stuck in its own libp2p is given up after this long."""
SETTLE_S = 60.0
"""After the attack, for what is still under way to arrive."""
GROWTH_MB = 24.0
"""The median memory of the last fifth of the attack over that of the second fifth, at most."""
PEAK_MB = 160.0
"""Memory over that of the idle node, at most: 64 MB of unread bytes, queues, and the tables."""
ANSWERED = 0.8
"""Share of an honest peer's questions that are answered in time, on a machine that all attackers
share with the node."""
HERE = Path(__file__).parent


@asynccontextmanager
async def process(script: str, *arguments: str) -> AsyncGenerator[trio.Process]:
    command = [sys.executable, str(HERE / script), *arguments]
    made = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        yield made
    finally:
        made.kill()
        with trio.CancelScope(shield=True):
            await made.wait()


async def lines_of(made: trio.Process) -> AsyncGenerator[str]:
    assert made.stdout is not None
    held = b""
    async for data in made.stdout:
        held += data
        *whole, held = held.split(b"\n")
        for line in whole:
            yield line.decode()


class Honest:
    """Two honest nodes that know each other only through the node attacked."""

    def __init__(self, address: str) -> None:
        self.teller = Libp2pNetwork(sha256(b"teller").digest(), bootstrap=[address])
        self.hearer = Libp2pNetwork(sha256(b"hearer").digest(), bootstrap=[address])
        self.victim: NodeKey = node_key_of(peer_id_from(address.rsplit("/", 1)[1]))
        self.told = 0
        self.announced_again = 0
        """Of the announcements, those that the hearer still needed."""
        self.heard: set[bytes] = set()
        self.asked = 0
        self.answered = 0
        self.failed: list[str] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.teller.run)
            await nursery.start(self.hearer.run)
            await nursery.start(self._hear)
            task_status.started()
            nursery.start_soon(self._ask)
            await trio.sleep_forever()

    async def _hear(self, task_status: trio.TaskStatus[None]) -> None:
        async with self.hearer.subscribe(TOPIC, lambda _peer, _payload: True) as messages:
            task_status.started()
            async for signer, payload in messages:
                if signer == self.teller.key:
                    self.heard.add(payload)

    async def tell(self, nursery: trio.Nursery) -> None:
        self.told += 1
        nursery.start_soon(self._announce, HONEST_MARK + str(self.told).encode())

    async def _announce(self, offer: bytes) -> None:
        await self.teller.publish(TOPIC, offer)
        began = trio.current_time()
        for after in AGAIN_S:
            await trio.sleep_until(began + after)
            if offer not in self.heard:
                self.announced_again += 1
            await self.teller.publish(TOPIC, offer)

    async def _ask(self) -> None:
        while True:
            self.asked += 1
            word = str(self.asked).encode()
            try:
                async with self.teller.open(self.victim, ECHO, timeout_s=20.0) as stream:
                    await stream.send(word)
                    assert await stream.receive(timeout_s=20.0) == word
                self.answered += 1
            except Exception as exc:  # noqa: BLE001 counted, and shown in the end
                self.failed.append(f"{self.asked}: {exc}")
            await trio.sleep(1.0)


async def test_a_node_survives_every_attack_at_once_and_loses_no_honest_offer(
    nursery: trio.Nursery, record_property: Any
) -> None:
    samples: list[dict[str, Any]] = []
    rounds: dict[str, int] = {}

    async def watch(made: trio.Process, task_status: trio.TaskStatus[str]) -> None:
        async for line in lines_of(made):
            samples.append(json.loads(line))
            if len(samples) == 1:
                task_status.started(samples[0]["address"])

    async def count(made: trio.Process) -> None:
        async for line in lines_of(made):
            name, _, number = line.partition(" ")
            rounds[name] = int(number)

    async with process("attack_victim.py", sha256(b"victim").hexdigest()) as victim:
        address: str = await nursery.start(watch, victim)
        honest = Honest(address)
        await nursery.start(honest.run)
        with trio.fail_after(60):
            while not honest.heard:  # the mesh forms
                await honest.tell(nursery)
                await trio.sleep(0.5)
        honest.told = 0
        idle_mb = samples[-1]["rss"]
        endless = (str(ATTACK_S), str(10**9))
        started = trio.current_time()
        async with (
            process("attack_process.py", address, "connections", "127.1", *endless) as one,
            process("attack_process.py", address, "streams", "127.2", *endless) as two,
            process("attack_process.py", address, "gossip", "127.3", *endless) as three,
        ):
            for each in (one, two, three):
                nursery.start_soon(count, each)
            while trio.current_time() - started < SECONDS:
                await honest.tell(nursery)
                await trio.sleep(OFFER_EVERY_S)
            assert victim.poll() is None
            during = [each["rss"] for each in samples]
        told = {HONEST_MARK + str(each).encode() for each in range(1, honest.told + 1)}
        with trio.move_on_after(SETTLE_S):
            while not (told <= honest.heard and samples[-1]["offers"] >= len(told)):  # noqa: ASYNC110
                await trio.sleep(0.5)
        last = samples[-1]
        nursery.cancel_scope.cancel()

    fifth = max(1, len(during) // 5)
    early = statistics.median(during[fifth : 2 * fifth])
    late = statistics.median(during[-fifth:])
    report = {
        "offers": (len(told), len(told - honest.heard), last["offers"]),
        "announced_again": honest.announced_again,
        "asked": (honest.asked, honest.answered, honest.failed[:5]),
        "memory": (idle_mb, early, late, max(during)),
        "rounds": rounds,
        "last": last,
    }
    record_property("report", report)
    sys.stdout.write(json.dumps(report, indent=1, default=str) + "\n")
    assert set(rounds) == {attack.__name__ for group in GROUPS.values() for attack in group}
    assert last["starts"] == 1
    assert last["junk"] == 0
    assert not told - honest.heard
    assert last["offers"] >= len(told)
    assert honest.answered >= ANSWERED * honest.asked
    assert late - early < GROWTH_MB
    assert max(during) - idle_mb < PEAK_MB
