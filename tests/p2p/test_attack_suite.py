"""Every attack once, all at once, beside an honest peer: the short form of ``test_attack_soak``."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from attack_gossip import JUNK_MARK
from attack_kit import DEAF, ECHO, TOPIC
from attack_process import GROUPS
from attack_victim import choosy, echo

from robocompute_node.p2p.bounds import PeerBounds
from robocompute_node.p2p.host import Libp2pNetwork

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream

SCRIPT = Path(__file__).with_name("attack_process.py")
BOUNDS = PeerBounds(linger_s=1.0, write_deadline_s=2.0, unread_s=1.0)
ATTACK_S = 90.0
"""On an idle machine all are over in ten seconds; they must get through on a busy one as well."""


@pytest.mark.net
@pytest.mark.timeout(300)
async def test_all_attacks_at_once_neither_stop_a_node_nor_are_heard(
    nursery: trio.Nursery,
) -> None:
    victim = Libp2pNetwork(sha256(b"victim").digest(), bounds=BOUNDS)
    heard: list[bytes] = []

    async def deaf(stream: FrameStream) -> None:
        del stream
        await trio.sleep(2.0)

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with victim.subscribe(TOPIC, choosy) as messages:
            task_status.started()
            async for _, payload in messages:
                heard.append(payload)

    victim.serve(ECHO, echo)
    victim.serve(DEAF, deaf)
    with trio.fail_after(240):
        await nursery.start(victim.run)
        await nursery.start(listen)
        honest = Libp2pNetwork(sha256(b"honest").digest(), bootstrap=victim.addresses)
        await nursery.start(honest.run)
        while honest.key not in victim.peers():  # noqa: ASYNC110
            await trio.sleep(0.02)
        arguments = [victim.addresses[0], "all", "127.9", str(ATTACK_S), "1"]
        ended = await trio.run_process(
            [sys.executable, str(SCRIPT), *arguments], capture_stdout=True
        )
        word = b"honest still"
        while word not in heard:
            await honest.publish(TOPIC, word)
            await trio.sleep(0.1)
        async with honest.open(victim.key, ECHO) as stream:
            await stream.send(word)
            assert await stream.receive() == word
    done = {line.split()[0] for line in ended.stdout.decode().splitlines()}
    assert done == {attack.__name__ for group in GROUPS.values() for attack in group}
    status = victim.status()
    assert status.starts == 1
    assert status.gossip_dropped
    assert status.connections_refused
    assert not [each for each in heard if each.startswith((JUNK_MARK, b"b"))]
    replayed = [each for each in heard if each.startswith(b"replayed")]
    assert len(replayed) == len(set(replayed))
    nursery.cancel_scope.cancel()
