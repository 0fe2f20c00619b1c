from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    import httpx

TASK = {"name": "app", "type": "cpu", "command": ["python", "train.py"]}


async def test_without_the_key_nothing_is_told(client: httpx.AsyncClient, port: int) -> None:
    for given in (None, "Bearer wrong", "Basic abc", "Bearer"):
        client.headers.pop("Authorization", None)
        headers = {} if given is None else {"Authorization": given}
        answer = await client.get("/node", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_and_the_description_need_no_key(
    client: httpx.AsyncClient, port: int
) -> None:
    client.headers.pop("Authorization")
    assert (await client.get(f"http://127.0.0.1:{port}/health")).json() == {"status": "ok"}
    described = (await client.get("/openapi.json")).json()
    assert "/api/v1/tasks/{task_id}/stream" in described["paths"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000"])
async def test_a_name_that_is_not_this_machines_is_refused(
    client: httpx.AsyncClient, host: str
) -> None:
    answer = await client.get("/node", headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "HOST_NOT_ALLOWED"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
async def test_names_of_this_machine_are_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/node", headers={"Host": host})).status_code == 200


async def test_a_foreign_pages_write_is_refused_even_with_the_key(
    client: httpx.AsyncClient, port: int
) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = await client.post("/tasks", json=TASK, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ORIGIN_NOT_ALLOWED")
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/tasks", json=TASK, headers=own)).status_code == 201


async def test_a_body_over_its_limit_is_refused_before_it_is_read(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/node", content=b"x" * 70_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "REQUEST_TOO_LARGE"


async def test_a_body_that_does_not_say_its_length_is_cut_at_the_limit(
    client: httpx.AsyncClient, port: int
) -> None:
    sender = await trio.open_tcp_stream("127.0.0.1", port)
    await sender.send_all(
        b"POST /api/v1/blobs/missing HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        b"Authorization: " + client.headers["Authorization"].encode() + b"\r\n\r\n"
    )
    answer = b""
    async with trio.open_nursery() as nursery:

        async def pour() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await sender.send_all(b"10000\r\n" + b" " * 65_536 + b"\r\n")

        nursery.start_soon(pour)
        with trio.fail_after(10):
            while b"}}" not in answer:
                answer += await sender.receive_some()
        nursery.cancel_scope.cancel()
    await sender.aclose()
    assert b"REQUEST_TOO_LARGE" in answer


async def test_every_answer_says_not_to_keep_or_guess_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/node")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
