"""Nodes behind real address translation: each finds out that nobody can dial it, takes a relay, and
is reached by the other."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from nat_ground import SERVER_IP, forward_port, two_houses, why_not

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

NODE = Path(__file__).with_name("nat_node.py")
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def houses() -> Generator[dict[str, str]]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with two_houses() as namespaces:
        yield namespaces


class Remote:
    """A node in a namespace, to be asked things."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._held = b""

    async def do(self, what: str, **more: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        await stdin.send_all(json.dumps({"do": what, **more}).encode() + b"\n")
        while b"\n" not in self._held:
            data = await stdout.receive_some()
            assert data, "the node is gone"
            self._held += data
        line, self._held = self._held.split(b"\n", 1)
        return json.loads(line)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            status = await self.do("status")
            if condition(status):
                return status
            await trio.sleep(0.3)


@asynccontextmanager
async def node_in(namespace: str, **settings: Any) -> AsyncGenerator[Remote]:
    command = ["ip", "netns", "exec", namespace, sys.executable, str(NODE), json.dumps(settings)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Remote(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_two_nodes_behind_two_routers_meet_through_a_public_relay(
    houses: dict[str, str],
) -> None:
    listen = ["/ip4/0.0.0.0/tcp/4001"]
    with trio.fail_after(PATIENCE_S):
        async with node_in(houses["server"], name="relay", relay=True, listen=listen) as relay:
            at = await _public_address(relay)
            inside = {"listen": listen, "bootstrap": [at]}
            async with (
                node_in(houses["house-a"], name="a", **inside) as a,
                node_in(houses["house-b"], name="b", **inside) as b,
            ):
                await _both_are_reached_through_the_relay(a, b)
                await _an_offer_is_heard_and_taken_up(a, b)
                status = await relay.do("status")
                assert status["carried"] > 2 * 4 * 65_536


async def _public_address(relay: Remote) -> str:
    addresses = (await relay.do("status"))["addresses"]
    return next(filter(lambda each: SERVER_IP in each, addresses))


async def _both_are_reached_through_the_relay(a: Remote, b: Remote) -> None:
    for each in (a, b):
        status = await each.until(lambda status: _circuits(status) != [])
        assert status["reach"] == "not"  # it found out by itself
        assert all(f"/ip4/{SERVER_IP}/" in address for address in _circuits(status))


def _circuits(status: dict[str, Any]) -> list[str]:
    return [each for each in status["addresses"] if "/p2p-circuit" in each]


async def _an_offer_is_heard_and_taken_up(a: Remote, b: Remote) -> None:
    await b.do("say")
    key = (await b.do("status"))["key"]
    while True:
        offer = await a.do("hear")
        if offer["from"] == key:
            break
    answer = await a.do("ask", peer=key, addresses=_circuits(offer), frames=4)
    assert answer["echoed"] == 4 * 65_536
    status = await a.do("status")
    assert status["peers"][key]["relayed"]


async def test_a_node_that_can_be_dialled_takes_no_relay_and_a_port_that_is_forwarded_is_found(
    houses: dict[str, str],
) -> None:
    listen = ["/ip4/0.0.0.0/tcp/4001"]
    with trio.fail_after(PATIENCE_S):
        async with node_in(houses["server"], name="relay", relay=True, listen=listen) as relay:
            at = await _public_address(relay)
            await trio.to_thread.run_sync(forward_port, houses["router-a"], "10.1.0.2")
            async with node_in(houses["house-a"], name="c", listen=listen, bootstrap=[at]) as c:
                status = await c.until(lambda status: status["reach"] == "direct")
                assert any("/ip4/11.0.0.2/tcp/4001/" in each for each in status["addresses"])
                assert _circuits(status) == []
