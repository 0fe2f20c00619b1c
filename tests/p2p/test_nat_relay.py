"""Nodes behind real address translation: each finds out that nobody can dial it, takes a relay, and
is reached by the other."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from nat_ground import SERVER_IP, forwarded_port, two_houses, why_not
from nat_remote import Remote, node_in

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def houses() -> Generator[dict[str, str]]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with two_houses() as namespaces:
        yield namespaces


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
    with forwarded_port(houses["router-a"], "10.1.0.2"), trio.fail_after(PATIENCE_S):
        async with node_in(houses["server"], name="relay", relay=True, listen=listen) as relay:
            at = await _public_address(relay)
            async with node_in(houses["house-a"], name="c", listen=listen, bootstrap=[at]) as c:
                status = await c.until(lambda status: status["reach"] == "direct")
                assert any("/ip4/11.0.0.2/tcp/4001/" in each for each in status["addresses"])
                assert _circuits(status) == []


@pytest.mark.soak
async def test_when_the_relay_is_killed_and_comes_back_both_are_reached_again(
    houses: dict[str, str],
) -> None:
    listen = ["/ip4/0.0.0.0/tcp/4001"]
    relay_at: dict[str, Any] = {"name": "relay", "relay": True, "listen": listen}
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            async with node_in(houses["server"], **relay_at) as relay:
                inside = {"listen": listen, "bootstrap": [await _public_address(relay)]}
                a = await stack.enter_async_context(node_in(houses["house-a"], name="a", **inside))
                b = await stack.enter_async_context(node_in(houses["house-b"], name="b", **inside))
                await _both_are_reached_through_the_relay(a, b)
            for each in (a, b):
                await each.until(lambda status: _circuits(status) == [])
            async with node_in(houses["server"], **relay_at):
                await _both_are_reached_through_the_relay(a, b)
                await _an_offer_is_heard_and_taken_up(a, b)
