"""A node with its discovery in a process of its own, told what to do by lines of JSON on stdin.

Answers each with one line on stdout: ``status``, ``say`` (gossip my addresses from now on),
``hear`` (wait for what somebody else gossips), ``ask`` (open a stream to a peer and have it echo).
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import trio
from discovery_world import ECHO, TOPIC, Member, member

from robocompute_node.p2p.discovery.known import Found
from robocompute_protocol.identifiers import NodeKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SAY_SECONDS = 0.3


class Chatter:
    """What the node does on demand."""

    def __init__(self, node: Member, heard: AsyncIterator[tuple[NodeKey, bytes]]) -> None:
        self._node = node
        self._heard = heard
        self.saying = trio.Event()

    async def say(self) -> None:
        await self.saying.wait()
        while True:
            addresses = list(self._node.network.addresses)
            await self._node.network.publish(TOPIC, json.dumps(addresses).encode())
            await trio.sleep(SAY_SECONDS)

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        what = asked["do"]
        if what == "say":
            self.saying.set()
            return {}
        if what == "hear":
            signer, payload = await anext(self._heard)
            return {"from": signer.hex(), "addresses": json.loads(payload)}
        if what == "ask":
            return await self._ask(NodeKey(bytes.fromhex(asked["peer"])), asked)
        if what == "known":
            peer = NodeKey(bytes.fromhex(asked["peer"]))
            self._node.discovery.found(peer, tuple(asked["addresses"]), Found.LAN)
            return {}
        return self._status()

    def _status(self) -> dict[str, Any]:
        server = self._node.network.links.server
        return {
            "key": self._node.key.hex(),
            "addresses": list(self._node.network.addresses),
            "reach": self._node.discovery.reach,
            "carried": 0 if server is None else server.carried_bytes,
            "peers": {
                each.link.peer.hex(): {
                    "found": each.found,
                    "relayed": each.link.relayed,
                    "outbound": each.link.outbound,
                }
                for each in self._node.discovery.neighbours()
            },
        }

    async def _ask(self, peer: NodeKey, asked: dict[str, Any]) -> dict[str, Any]:
        network, frame = self._node.network, bytes(65_536)
        network.add_addresses(peer, tuple(asked["addresses"]))
        echoed = 0
        async with network.open(peer, ECHO, timeout_s=30.0) as stream:
            for _ in range(asked["frames"]):
                await stream.send(frame)
                echoed += len(await stream.receive(timeout_s=60.0) or b"")
        return {"echoed": echoed}


async def main(settings: dict[str, Any]) -> None:
    async with (
        member(settings.pop("name"), **settings) as node,
        node.network.subscribe(TOPIC, lambda _peer, _payload: True) as heard,
        trio.open_nursery() as nursery,
    ):
        chatter = Chatter(node, heard)
        nursery.start_soon(chatter.say)
        reader = trio.wrap_file(sys.stdin)
        async for line in reader:
            print(json.dumps(await chatter.answer(json.loads(line))), flush=True)  # noqa: T201 the answer
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
