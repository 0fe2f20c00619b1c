"""Tunnels as the owner's clients ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx


async def task_of(client: httpx.AsyncClient) -> str:
    body = {"name": "app", "type": "cpu", "command": ["python", "serve.py"]}
    return str((await client.post("/tasks", json=body)).json()["task_id"])


async def test_a_tunnel_is_opened_listed_and_closed(client: httpx.AsyncClient) -> None:
    path = f"/tasks/{await task_of(client)}/tunnels"
    assert (await client.get(path)).json() == {"tunnels": []}
    made = await client.post(path, json={"port": 8_888})
    assert made.status_code == 201
    tunnel = made.json()
    assert (tunnel["port"], tunnel["host"]) == (8_888, "127.0.0.1")
    assert (await client.get(path)).json() == {"tunnels": [tunnel]}
    chosen = await client.post(path, json={"port": 6_006, "local_port": 16_006})
    assert chosen.json()["local_port"] == 16_006
    left = await client.delete(f"{path}/8888")
    assert left.json() == {"tunnels": [chosen.json()]}
    assert (await client.delete(f"{path}/8888")).json() == left.json()


@pytest.mark.parametrize(
    "body",
    [{}, {"port": 0}, {"port": 65_536}, {"port": "http"}, {"port": 80, "local_port": -1}, {"port": 80, "x": 1}],
)  # fmt: skip
async def test_what_is_no_port_is_refused(client: httpx.AsyncClient, body: object) -> None:
    path = f"/tasks/{await task_of(client)}/tunnels"
    assert (await client.post(path, json=body)).status_code == 400
    assert (await client.get(path)).json() == {"tunnels": []}


async def test_a_task_that_nobody_knows_has_no_tunnels(client: httpx.AsyncClient) -> None:
    assert (await client.get("/tasks/nothing/tunnels")).status_code == 404
    assert (await client.delete("/tasks/nothing/tunnels/80")).status_code == 404
