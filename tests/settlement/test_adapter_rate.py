"""How often an endpoint is asked: bounded over time, writes first, pauses honoured."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from robocompute_settlement.endpoint import Endpoint, Unanswered
from robocompute_settlement.rate import MAX_PAUSE_S, RateLimiter


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter, started = RateLimiter(per_s=2, burst=3), trio.current_time()
    times: list[float] = []
    for _ in range(7):
        await limiter.take(urgent=False)
        times.append(trio.current_time() - started)
    assert times == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5, 2.0])


async def test_a_quiet_time_saves_no_more_than_a_burst(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = RateLimiter(per_s=2, burst=3)
    await trio.sleep(1_000)
    started = trio.current_time()
    for _ in range(5):
        await limiter.take(urgent=False)
    assert trio.current_time() - started == pytest.approx(1.0)


async def test_writes_go_before_reads_that_waited_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter, order = RateLimiter(per_s=1, burst=1), list[str]()
    await limiter.take(urgent=False)

    async def ask(name: str, *, urgent: bool) -> None:
        await limiter.take(urgent=urgent)
        order.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask("first read", urgent=False))
        nursery.start_soon(lambda: ask("second read", urgent=False))
        await trio.sleep(0.1)
        nursery.start_soon(lambda: ask("write", urgent=True))
        nursery.start_soon(lambda: ask("another write", urgent=True))
    assert set(order[:2]) == {"write", "another write"}


async def test_a_cancelled_write_keeps_no_read_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = RateLimiter(per_s=1, burst=1)
    await limiter.take(urgent=False)
    with trio.move_on_after(0.5):
        await limiter.take(urgent=True)
    started = trio.current_time()
    await limiter.take(urgent=False)
    assert trio.current_time() - started == pytest.approx(0.5)


async def test_a_pause_holds_everything_and_has_an_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter, started = RateLimiter(per_s=100, burst=10), trio.current_time()
    limiter.pause(1e9)
    assert limiter.paused_s == pytest.approx(MAX_PAUSE_S)
    await limiter.take(urgent=True)
    assert trio.current_time() - started == pytest.approx(MAX_PAUSE_S)
    assert limiter.paused_s == 0


async def test_a_long_pause_is_told_at_once_instead_of_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint("http://127.0.0.1:1/")
    endpoint._limiter.pause(30)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(Unanswered) as found:
        await endpoint.ask("getSlot", [])
    assert not found.value.reached
    await endpoint.aclose()
