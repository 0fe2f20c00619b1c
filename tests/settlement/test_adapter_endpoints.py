"""Endpoints that are slow, broken, behind, hostile or of another chain, over real HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hostile_endpoint import (
    GENESIS,
    HostileServer,
    Reply,
    answer,
    drips,
    error,
    floods,
    hangs_up,
    hostile_server,
    http,
    says,
)

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Digest
from robocompute_settlement.endpoint import MAX_ANSWER_BYTES, Endpoint
from robocompute_settlement.endpoints import COOL_S, VERIFY_S, Endpoints
from robocompute_settlement.port import Commitment
from robocompute_settlement.refusals import BlockhashExpired
from robocompute_settlement.rpc import Rpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CONFIRMED = Commitment.CONFIRMED
WALLET = bytes(range(32))


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """Time that passes forty times as fast, so that real sockets and long deadlines go together."""
    return trio.testing.MockClock(rate=40)


def held(lamports: int, slot: int = 1_000) -> Reply:
    """A balance at a slot."""
    return says(lambda request: answer(request, {"context": {"slot": slot}, "value": lamports}))


def absent(slot: int = 1_000) -> Reply:
    """No account at a slot."""
    return held_value(None, slot)


def held_value(value: Any, slot: int = 1_000) -> Reply:
    return says(lambda request: answer(request, {"context": {"slot": slot}, "value": value}))


@asynccontextmanager
async def asking(
    *servers: HostileServer, genesis_hash: bytes | None = None, requests_per_s: float = 1e6
) -> AsyncGenerator[Rpc]:
    endpoints = tuple(Endpoint(each.url, requests_per_s=requests_per_s) for each in servers)
    expected = None if genesis_hash is None else Digest(genesis_hash)
    rpc = Rpc(Endpoints(endpoints, genesis_hash=expected))
    try:
        yield rpc
    finally:
        await rpc.aclose()


NO_ANSWERS: dict[str, Reply] = {
    "an error page": says(lambda _: http(b"<html>Oops</html>", status="200 OK")),
    "a failing gateway": says(lambda _: http(b"<html>502</html>", status="502 Bad Gateway")),
    "a failing server": says(lambda _: http(b"", status="500 Internal Server Error")),
    "half of an answer": hangs_up(lambda request: answer(request, 7)[:-4]),
    "half of its JSON": says(lambda _: http(b'{"jsonrpc": "2.0", "id": 1, "resu')),
    "no JSON-RPC": says(lambda _: http(b"[1, 2]")),
    "deep JSON": says(lambda _: http(b"[" * 100_000)),
    "no text": says(lambda _: http(b'{"id": 1, "result": "\xff\xfe"}')),
    "another's answer": says(lambda request: answer(request, 7, id=request["id"] + 1)),
    "no HTTP": says(lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "a closed connection": hangs_up(),
    "a redirection": says(
        lambda _: http(b"", status="302 Found", headers=("Location: http://127.0.0.1:1/",))
    ),
    "a body that is not what it says": hangs_up(
        lambda _: http(b"zzz", headers=("Content-Encoding: gzip",))
    ),
    "one byte a second": drips(lambda request: answer(request, 7)),
    "no end": floods(8 * MAX_ANSWER_BYTES),
    "an internal error": says(lambda request: error(request, -32603)),
    "an unhealthy node": says(lambda request: error(request, -32005)),
}


@pytest.mark.parametrize("reply", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_a_read_without_an_answer_is_busy_and_another_endpoint_is_asked(
    reply: Reply, quick_clock: trio.testing.MockClock
) -> None:
    async with hostile_server() as bad, hostile_server() as good:
        bad.then, good.then = reply, held(5)
        async with asking(bad) as alone:
            with pytest.raises(ChainBusy):
                await alone.lamports(WALLET, CONFIRMED)
        async with asking(bad, good) as both:
            assert await both.lamports(WALLET, CONFIRMED) == 5


SENT: dict[str, tuple[Reply, type[ChainError] | None]] = {
    **{name: (reply, ChainUnknown) for name, reply in NO_ANSWERS.items()},
    "an unhealthy node": (NO_ANSWERS["an unhealthy node"], ChainBusy),
    "a redirection": (NO_ANSWERS["a redirection"], ChainBusy),
    "a signature": (says(lambda request: answer(request, "1" * 64)), None),
    "taken before": (
        says(lambda request: error(request, -32002, {"err": "AlreadyProcessed"})), None,
    ),
    "too old": (
        says(lambda request: error(request, -32002, {"err": "BlockhashNotFound"})),
        BlockhashExpired,
    ),
    "a refusal": (
        says(
            lambda request: error(
                request, -32002, {"err": {"InstructionError": [0, {"Custom": 6011}]}, "logs": []}
            )
        ),
        ChainRefused,
    ),
    "a bad signature": (says(lambda request: error(request, -32003)), ChainRefused),
    "fewer requests": (says(lambda _: http(b"", status="429 Too Many Requests")), ChainBusy),
    "forbidden": (says(lambda _: http(b"", status="403 Forbidden")), ChainBusy),
    "fewer requests, as an error": (says(lambda request: error(request, 429)), ChainBusy),
    "being behind": (says(lambda request: error(request, -32016)), ChainBusy),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "meaning"), SENT.values(), ids=SENT)
async def test_what_an_answer_to_a_transaction_means(
    reply: Reply, meaning: type[ChainError] | None, quick_clock: trio.testing.MockClock
) -> None:
    async with hostile_server() as server, asking(server) as rpc:
        server.then = reply
        if meaning is None:
            await rpc.send(b"a transaction")
            return
        with pytest.raises(ChainError) as found:
            await rpc.send(b"a transaction")
        assert type(found.value) is meaning
        assert len(server.asked) == 1


async def test_one_endpoint_that_may_have_a_transaction_makes_it_unknown() -> None:
    async with hostile_server() as first, hostile_server() as second, asking(first, second) as rpc:
        first.then = says(lambda request: error(request, -32002, {"err": "BlockhashNotFound"}))
        second.then = hangs_up()
        with pytest.raises(ChainUnknown):
            await rpc.send(b"a transaction")
        second.then = says(lambda request: answer(request, "1" * 64))
        await rpc.send(b"a transaction")


async def test_an_endpoint_that_is_not_there_is_busy_in_reads_and_writes() -> None:
    async with hostile_server() as server:
        gone = server
    async with asking(gone) as rpc:
        with pytest.raises(ChainBusy, match="cannot be reached"):
            await rpc.lamports(WALLET, CONFIRMED)
        with pytest.raises(ChainBusy):
            await rpc.send(b"a transaction")


async def test_an_endpoint_that_is_behind_does_not_hide_an_account(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as first, hostile_server() as second:
        first.replies.append(held(5, slot=2_000))
        first.then = _minding_the_slot(1_900)
        second.then = _minding_the_slot(1_999)
        async with asking(first, second) as rpc:
            assert await rpc.lamports(WALLET, CONFIRMED) == 5
            waiting_since = trio.current_time()
            with pytest.raises(ChainBusy):
                await rpc.account(WALLET, CONFIRMED)
            assert trio.current_time() - waiting_since > 5
            # Nobody has that slot: it was nonsense, and the best there is counts from now on.
            second.then = absent(slot=1_999)
            assert await rpc.account(WALLET, CONFIRMED) is None
            assert second.asked[-1]["params"][-1]["minContextSlot"] == 1_999


def _minding_the_slot(own: int) -> Reply:
    """What a real node does with ``minContextSlot``."""

    def make(request: Any) -> bytes:
        if request["params"][-1].get("minContextSlot", 0) > own:
            return error(request, -32016, {"contextSlot": own})
        return answer(request, {"context": {"slot": own}, "value": None})

    return says(make)


async def test_an_endpoint_that_catches_up_is_believed(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as server, asking(server) as rpc:
        server.replies.extend([held(5, slot=2_000), *[_minding_the_slot(1_990)] * 3])
        server.then = absent(slot=2_001)
        assert await rpc.lamports(WALLET, CONFIRMED) == 5
        assert await rpc.account(WALLET, CONFIRMED) is None
        assert len(server.asked) == 5


async def test_what_is_final_has_a_slot_of_its_own() -> None:
    async with hostile_server() as server, asking(server) as rpc:
        server.replies.extend([held(5, slot=2_000), held(4, slot=1_968)])
        server.then = held(4, slot=1_969)
        await rpc.lamports(WALLET, CONFIRMED)
        await rpc.lamports(WALLET, Commitment.FINALIZED)
        await rpc.lamports(WALLET, Commitment.FINALIZED)
        floors = [each["params"][-1].get("minContextSlot") for each in server.asked]
        assert floors == [None, None, 1_968]


async def test_another_chain_is_never_asked_for_anything_else() -> None:
    async with hostile_server() as other, hostile_server() as good:
        other.genesis = bytes(32)
        other.then, good.then = held(1_000_000), held(5)
        async with asking(other, good, genesis_hash=GENESIS) as rpc:
            for _ in range(3):
                assert await rpc.lamports(WALLET, CONFIRMED) == 5
            await rpc.send(b"a transaction")
            assert other.asked == []
        async with asking(other, genesis_hash=GENESIS) as rpc:
            with pytest.raises(ChainRefused, match="is another one"):
                await rpc.lamports(WALLET, CONFIRMED)


async def test_a_chain_that_was_founded_anew_behind_the_same_address_is_noticed(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as server, asking(server) as rpc:
        server.then = held(5)
        assert await rpc.lamports(WALLET, CONFIRMED) == 5
        server.genesis = bytes(32)
        server.replies.append(hangs_up())
        with pytest.raises(ChainRefused, match="is another one"):
            await rpc.lamports(WALLET, CONFIRMED)
    async with hostile_server() as server, asking(server) as rpc:
        server.then = held(5)
        assert await rpc.lamports(WALLET, CONFIRMED) == 5
        server.genesis = bytes(32)
        await trio.sleep(VERIFY_S + 1)
        with pytest.raises(ChainRefused, match="is another one"):
            await rpc.lamports(WALLET, CONFIRMED)


async def test_reads_stay_away_from_an_endpoint_that_failed_and_come_back(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as first, hostile_server() as second, asking(first, second) as rpc:
        first.replies.append(hangs_up())
        first.then, second.then = held(1), held(2)
        assert await rpc.lamports(WALLET, CONFIRMED) == 2
        assert await rpc.lamports(WALLET, CONFIRMED) == 2
        await trio.sleep(COOL_S + 5)
        assert await rpc.lamports(WALLET, CONFIRMED) == 1


async def test_reads_prefer_an_endpoint_that_keeps_up(
    nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    async with hostile_server() as first, hostile_server() as second, asking(first, second) as rpc:
        first.then = says(lambda request: answer(request, 1_000))
        second.then = says(lambda request: answer(request, 1_100))
        nursery.start_soon(rpc.endpoints.run)
        while not (first.asked and second.asked):  # noqa: ASYNC110 - the servers' lists
            await trio.sleep(0.5)
        await trio.sleep(1)
        assert rpc.endpoints.usable()[0].endpoint.url == second.url
        nursery.cancel_scope.cancel()


async def test_fewer_requests_are_made_when_an_endpoint_asks_for_that(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as server, asking(server) as rpc:
        server.replies.append(
            says(lambda _: http(b"", status="429 Too Many", headers=("Retry-After: 8",)))
        )
        server.then = held(5)
        started = trio.current_time()
        assert await rpc.lamports(WALLET, CONFIRMED) == 5
        assert trio.current_time() - started >= 8


async def test_an_endpoint_that_wants_a_pause_is_left_for_another(
    quick_clock: trio.testing.MockClock,
) -> None:
    async with hostile_server() as first, hostile_server() as second, asking(first, second) as rpc:
        first.then = says(
            lambda _: http(b"", status="429 Too Many", headers=("Retry-After: 3600",))
        )
        second.then = held(5)
        for _ in range(4):
            assert await rpc.lamports(WALLET, CONFIRMED) == 5
        assert len(first.asked) == 1
