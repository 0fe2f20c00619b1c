"""What falls over comes up again, with all that was registered, and is counted."""

from __future__ import annotations

import logging
from hashlib import sha256
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.supervision import (
    RESTART_MAX_S,
    RESTART_MIN_S,
    STEADY_S,
    Supervisor,
)

if TYPE_CHECKING:
    from robocompute_node.p2p.port import FrameStream

ECHO = "/test/echo/1"
TOPIC = "/test/topic/1"


async def test_waits_grow_to_their_bound_and_start_anew_after_a_steady_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = Supervisor("the part")
    starts: list[float] = []
    lives = chain([0.0] * 8, [STEADY_S + 1], repeat(0.0))

    async def part() -> None:
        starts.append(trio.current_time())
        supervisor.came_up()
        await trio.sleep(next(lives))
        raise RuntimeError("a bug")

    with trio.move_on_after(200):
        await supervisor.run(part)
    waits = [later - sooner for sooner, later in pairwise(starts)]
    assert waits[0] == pytest.approx(RESTART_MIN_S)
    assert waits[1] == pytest.approx(2 * RESTART_MIN_S)
    assert waits[7] == pytest.approx(RESTART_MAX_S)
    assert waits[8] == pytest.approx(STEADY_S + 1 + RESTART_MIN_S)
    assert supervisor.starts == len(starts)
    assert supervisor.last_failure == "RuntimeError: a bug"
    assert autojump_clock.current_time() >= 0


async def test_what_never_came_up_is_no_accident_and_is_raised() -> None:
    async def part() -> None:
        raise ValueError("a setting")

    with pytest.raises(ValueError, match="a setting"):
        await Supervisor("the part").run(part)


async def test_what_ends_by_itself_is_started_again_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = Supervisor("the part")

    async def part() -> None:
        supervisor.came_up()
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(1):
        await supervisor.run(part)
    assert supervisor.starts > 1
    assert supervisor.last_failure == "it ended by itself"
    assert autojump_clock.current_time() >= 1


async def fail() -> None:
    raise RuntimeError("a bug in libp2p")


def wound(node: Any, place: str) -> None:
    """Let an exception out somewhere inside a running host."""
    swarm, pubsub = node._swarm, node._gossip._pubsub
    if place == "gossip":
        pubsub.manager.run_task(fail)
    elif place == "the router":
        pubsub.router.manager.run_task(fail)
    elif place == "the listener":
        swarm.background_nursery.start_soon(fail)
    elif place == "a connection":
        swarm.get_connections()[0].muxed_conn._nursery.start_soon(fail)


@pytest.mark.net
async def test_wherever_the_host_dies_it_comes_back_with_its_state(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def echo(stream: FrameStream) -> None:
        while (frame := await stream.receive()) is not None:
            await stream.send(frame)

    one = Libp2pNetwork(sha256(b"one").digest())
    one.serve(ECHO, echo)
    with trio.fail_after(100):
        await nursery.start(one.run)
        other = Libp2pNetwork(sha256(b"other").digest(), bootstrap=one.addresses)
        await nursery.start(other.run)
        addresses = one.addresses
        async with (
            one.subscribe(TOPIC, lambda _peer, _payload: True) as of_one,
            other.subscribe(TOPIC, lambda _peer, _payload: True) as of_other,
        ):
            places = ("gossip", "the router", "the listener", "a connection")
            for number, place in enumerate(places, 2):
                while not one.peers():  # noqa: ASYNC110
                    await trio.sleep(0.02)
                with caplog.at_level(logging.ERROR):
                    wound(one, place)
                    while one._host is not None:  # pyright: ignore[reportPrivateUsage]
                        await trio.lowlevel.checkpoint()
                    await one.publish(TOPIC, place.encode())  # while no host runs
                    while one.starts < number:  # noqa: ASYNC110
                        await trio.sleep(0.02)
                assert one.addresses == addresses
                async for signer, payload in of_other:
                    if payload == place.encode():
                        assert signer == one.key
                        break
                async with other.open(one.key, ECHO) as stream:
                    await stream.send(place.encode())
                    assert await stream.receive() == place.encode()
                await heard_from(other, of_one, b"to " + place.encode())
                assert "libp2p failed, starting it again" in caplog.text
                caplog.clear()
        assert one.status().starts == len(places) + 1
        assert one.status().last_failure == "RuntimeError: a bug in libp2p"
    nursery.cancel_scope.cancel()


async def heard_from(node: Libp2pNetwork, messages: Any, payload: bytes) -> None:
    async def announce() -> None:
        while True:
            await node.publish(TOPIC, payload)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        async for _, got in messages:
            if got == payload:
                break
        nursery.cancel_scope.cancel()
