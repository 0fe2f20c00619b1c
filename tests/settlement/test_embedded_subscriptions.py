"""What the embedded chain tells over its websocket, when, and how much it lets a client ask."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from chain_parity import Stage
from settlement_chains import deposit
from trio_websocket import ConnectionClosed
from websocket_clients import WebsocketClient, websocket

from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.embedded import http, pubsub, subscribers

if TYPE_CHECKING:
    from settlement_chains import ChainWorld

CONFIRMED = {"commitment": "confirmed"}
PROCESSED = {"commitment": "processed"}
FINALIZED = {"commitment": "finalized"}


def staged(world: ChainWorld) -> Stage:
    return Stage(world=world, sender=world.person(), receiver=world.person())


def send(stage: Stage, lamports: int) -> str:
    wire = stage.legacy(stage.pay(lamports))
    return str(stage.call("sendTransaction", wire, {"encoding": "base64", "skipPreflight": True}))


async def test_a_signature_is_told_at_the_commitment_asked_for(own_world: ChainWorld) -> None:
    stage = staged(own_world)
    own_world.call("embeddedFaults", {"confirm_slots": 2, "finality_slots": 6})
    signature = send(stage, 1_000_000)
    async with websocket(own_world.ws_port) as client:
        numbers = {
            level: await client.subscribe("signature", signature, {"commitment": level})
            for level in ("processed", "confirmed", "finalized")
        }
        told = [await client.told("signature") for _ in range(3)]
    assert [each["subscription"] for each in told] == list(numbers.values())
    assert all(each["result"]["value"] == {"err": None} for each in told)
    assert len({each["result"]["context"]["slot"] for each in told}) == 1


async def test_a_signature_that_lands_later_is_told_received_and_then_processed(
    own_world: ChainWorld,
) -> None:
    stage = staged(own_world)
    own_world.call("embeddedFaults", {"land_slots": 3})
    async with websocket(own_world.ws_port) as client:
        signature = send(stage, 1_000_000)
        options = {**PROCESSED, "enableReceivedNotification": True}
        number = await client.subscribe("signature", signature, options)
        first, second = await client.told("signature"), await client.told("signature")
        assert first["result"]["value"] == "receivedSignature"
        assert second["result"]["value"] == {"err": None}
        # It is told once, and then there is no such subscription.
        gone = await client.call("signatureUnsubscribe", number)
        assert gone["error"]["message"] == "Invalid subscription id."


async def test_logs_are_told_of_all_or_of_whoever_is_mentioned(own_world: ChainWorld) -> None:
    stage, other = staged(own_world), staged(own_world)
    async with websocket(own_world.ws_port) as client:
        everything = await client.subscribe("logs", "all", CONFIRMED)
        address = to_base58(stage.sender.address)
        mine = await client.subscribe("logs", {"mentions": [address]}, CONFIRMED)
        theirs, ours = send(other, 1_000_000), send(stage, 2_000_000)
        told = [await client.told("logs") for _ in range(3)]
    seen = {(each["subscription"], each["result"]["value"]["signature"]) for each in told}
    assert seen == {(everything, theirs), (everything, ours), (mine, ours)}
    assert all("success" in each["result"]["value"]["logs"][-1] for each in told)


async def test_a_program_subscription_hears_only_of_accounts_that_pass_its_filters(
    own_world: ChainWorld,
) -> None:
    first, second = own_world.person(), own_world.person()
    program = to_base58(own_world.plan.program_id)
    owner = {"memcmp": {"offset": 8, "bytes": to_base58(second.address)}}
    async with websocket(own_world.ws_port) as client:
        options = {**CONFIRMED, "encoding": "base64", "filters": [{"dataSize": 152}, owner]}
        await client.subscribe("program", program, options)
        for person in (first, second):
            await trio.to_thread.run_sync(deposit, own_world, person, 7)
        told = await client.told("program")
    data = base64.b64decode(told["result"]["value"]["account"]["data"][0])
    assert data[8:40] == second.address


async def test_an_unsubscribed_account_is_told_of_no_more(own_world: ChainWorld) -> None:
    stage = staged(own_world)
    async with websocket(own_world.ws_port) as client:
        address = to_base58(stage.sender.address)
        number = await client.subscribe("account", address, {**CONFIRMED, "encoding": "base64"})
        send(stage, 1_000_000)
        assert (await client.told("account"))["result"]["value"]["lamports"] < 10_000_000_000
        assert (await client.call("accountUnsubscribe", number))["result"] is True
        await client.subscribe("logs", {"mentions": [address]}, CONFIRMED)
        send(stage, 2_000_000)
        await client.told("logs")  # told after the account would have been
        assert not [each for each in client.notifications if "account" in each["method"]]


async def test_a_closed_account_is_told_of_as_an_empty_one(own_world: ChainWorld) -> None:
    stage = staged(own_world)
    address = to_base58(stage.sender.address)
    async with websocket(own_world.ws_port) as client:
        await client.subscribe("account", address, {**CONFIRMED, "encoding": "base64"})
        send(stage, 10_000_000_000 - 5_000)
        value = (await client.told("account"))["result"]["value"]
    assert (value["lamports"], value["space"], value["owner"]) == (0, 0, "1" * 32)


async def test_muted_subscriptions_say_nothing_and_cut_connections_close(
    own_world: ChainWorld,
) -> None:
    stage = staged(own_world)
    async with websocket(own_world.ws_port) as client:
        await client.subscribe("logs", "all", CONFIRMED)
        own_world.call("embeddedFaults", {"mute_subscriptions": True})
        send(stage, 1_000_000)
        own_world.call("embeddedFaults", {"mute_subscriptions": False})
        second = send(stage, 2_000_000)
        assert (await client.told("logs"))["result"]["value"]["signature"] == second
        assert own_world.call("embeddedCutConnections")["result"] == 1
        with pytest.raises(ConnectionClosed), trio.fail_after(10):
            await client.told("logs")


# --- faults of requests --------------------------------------------------------------------------


def test_requests_fail_as_a_test_asks_and_only_those_it_names(own_world: ChainWorld) -> None:
    failing = {"fail_requests": 2, "fail_code": -32005, "methods": ["getSlot"]}
    own_world.call("embeddedFaults", failing)
    assert own_world.call("getHealth")["result"] == "ok"
    assert own_world.call("getSlot")["error"]["code"] == -32005
    own_world.call("embeddedFaults", {"fail_code": 429, "methods": []})
    body = {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}
    with httpx.Client(trust_env=False) as client:
        assert client.post(own_world.rpc_url, json=body).status_code == 429
        assert client.post(own_world.rpc_url, json=body).json()["result"] == "ok"


def test_a_slow_answer_holds_up_nobody_else(own_world: ChainWorld) -> None:
    own_world.call("embeddedFaults", {"answer_delay_ms": 600_000, "methods": ["getSlot"]})
    body = {"jsonrpc": "2.0", "id": 1, "method": "getSlot"}
    with httpx.Client(trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(own_world.rpc_url, json=body, timeout=0.2)
        assert own_world.call("getHealth")["result"] == "ok"


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("blockSubscribe", ["all"], -32601),
        ("Subscribe", [], -32601),
        ("accountSubscribeX", ["1" * 32], -32601),
        ("getSlot", [], -32601),
        ("accountSubscribe", [], -32602),
        ("accountSubscribe", ["x"], -32602),
        ("accountSubscribe", ["1" * 32, {"encoding": "x"}], -32602),
        ("programSubscribe", ["1" * 32, {"filters": [1]}], -32602),
        ("logsSubscribe", ["some"], -32602),
        ("logsSubscribe", [{"mentions": ["1" * 32, "1" * 32]}], -32602),
        ("signatureSubscribe", ["1"], -32602),
        ("slotUnsubscribe", [77], -32602),
        ("slotUnsubscribe", [], -32602),
    ],
)
async def test_a_subscription_that_makes_no_sense_is_refused_and_the_connection_lives(
    hardened_world: ChainWorld, method: str, params: list[Any], code: int
) -> None:
    async with websocket(hardened_world.ws_port) as client:
        assert (await client.call(method, *params))["error"]["code"] == code
        assert await client.subscribe("root") > 0


async def test_what_is_no_request_is_answered_with_an_error(hardened_world: ChainWorld) -> None:
    async with websocket(hardened_world.ws_port) as client:
        for nonsense in ("{", "[]", "5", '{"id": 1}', '{"method": "slotSubscribe", "params": 5}'):
            await client.socket.send_message(nonsense)
            assert "error" in await answer_to(client)


async def answer_to(client: WebsocketClient) -> str:
    with trio.fail_after(30):
        return str(await client.socket.get_message())


async def test_a_connection_has_no_more_subscriptions_than_its_bound(
    hardened_world: ChainWorld,
) -> None:
    async with websocket(hardened_world.ws_port) as client:
        for _ in range(subscribers.MAX_SUBSCRIPTIONS):
            await client.subscribe("account", "1" * 32)
        refused = await client.call("accountSubscribe", "1" * 32)
        assert "Too many subscriptions" in refused["error"]["message"]


async def test_a_message_larger_than_a_request_may_be_ends_the_connection(
    hardened_world: ChainWorld,
) -> None:
    async with websocket(hardened_world.ws_port) as client:
        await client.socket.send_message(" " * (pubsub.MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed), trio.fail_after(30):
            await client.socket.get_message()


async def test_a_client_that_does_not_read_is_let_go_and_nobody_waits_for_it(
    own_world: ChainWorld,
) -> None:
    many, transfers, read = 400, 60, 0
    stage = staged(own_world)
    async with websocket(own_world.ws_port) as client:
        for _ in range(many):
            await client.subscribe("logs", "all", PROCESSED)
        await trio.to_thread.run_sync(send_many, stage, transfers)  # about 12 MB of notifications
        with trio.fail_after(60):
            try:
                while True:
                    await client.socket.get_message()
                    read += 1
            except ConnectionClosed:
                assert read < many * transfers
    assert own_world.call("getHealth")["result"] == "ok"


def send_many(stage: Stage, many: int) -> None:
    for _ in range(many):
        stage.call("requestAirdrop", to_base58(stage.receiver.address), 1_000_000)


async def test_no_more_websockets_are_served_than_the_bound(own_world: ChainWorld) -> None:
    async with trio.open_nursery() as nursery:
        opened = 0

        async def hold(*, task_status: trio.TaskStatus[None]) -> None:
            async with websocket(own_world.ws_port):
                task_status.started()
                await trio.sleep_forever()

        for _ in range(pubsub.MAX_CONNECTIONS):
            await nursery.start(hold)
            opened += 1
        assert await handshake(own_world) == 503
        nursery.cancel_scope.cancel()
    assert opened == pubsub.MAX_CONNECTIONS


async def handshake(world: ChainWorld) -> int:
    """The HTTP status that answers a further websocket."""
    headers = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }  # fmt: skip
    url = f"http://127.0.0.1:{world.ws_port}"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        return answer.status_code


async def test_no_more_http_connections_are_served_than_the_bound(own_world: ChainWorld) -> None:
    async with trio.open_nursery() as nursery:
        idle = [
            await trio.open_tcp_stream("127.0.0.1", own_world.rpc_port)
            for _ in range(http.MAX_CONNECTIONS)
        ]
        late = await trio.open_tcp_stream("127.0.0.1", own_world.rpc_port)
        with trio.fail_after(30):
            assert (await late.receive_some(100)).startswith(b"HTTP/1.1 503 ")
        for stream in (late, *idle):
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert own_world.call("getHealth")["result"] == "ok"


def test_a_batch_has_no_more_requests_than_its_bound(hardened_world: ChainWorld) -> None:
    one = {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}
    with httpx.Client(trust_env=False, timeout=20) as client:
        most = client.post(hardened_world.rpc_url, json=[one] * http.MAX_BATCH).json()
        assert [each["result"] for each in most] == ["ok"] * http.MAX_BATCH
        more = client.post(hardened_world.rpc_url, json=[one] * (http.MAX_BATCH + 1)).json()
        assert more["error"]["code"] == -32600


def test_a_body_has_no_more_bytes_than_its_bound(hardened_world: ChainWorld) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"getHealth"}'
    with httpx.Client(trust_env=False, timeout=20) as client:
        most = client.post(hardened_world.rpc_url, content=body.ljust(http.MAX_BODY_BYTES))
        assert most.json()["result"] == "ok"
        more = client.post(hardened_world.rpc_url, content=body.ljust(http.MAX_BODY_BYTES + 1))
        assert more.status_code == 413
