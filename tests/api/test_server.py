from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.api.server import listen, serve
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from conftest import FakeNodeApi
    from robocompute_node.config import NodeConfig


async def test_while_it_runs_a_file_says_where(node: FakeNodeApi, config: NodeConfig) -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, node, config))
        told = json.loads(config.api_address_path.read_text())
        assert told == {"url": f"http://127.0.0.1:{port}", "pid": os.getpid()}
        nursery.cancel_scope.cancel()
    assert not config.api_address_path.exists()


async def test_a_taken_port_names_its_holder_and_the_setting(
    node: FakeNodeApi, config: NodeConfig
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        taken = replace(config, api=replace(config.api, port=port))
        with pytest.raises(ConfigError) as caught:
            await serve(node, taken)
    text = str(caught.value)
    assert f"port {port}" in text
    assert f"(pid {os.getpid()})" in text
    assert "[api]" in text
    assert str(config.path) in text
    assert "\n" not in text


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_one_line(config: NodeConfig, host: str) -> None:
    wrong = replace(config, api=replace(config.api, host=host))
    with pytest.raises(ConfigError, match=r"host.*\[api\]"):
        listen(wrong)


async def test_a_key_file_open_to_others_stops_the_server(
    node: FakeNodeApi, config: NodeConfig
) -> None:
    config.api_key_path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        await serve(node, config)


async def test_a_reader_that_reads_nothing_does_not_hold_up_the_stop(
    node: FakeNodeApi, config: NodeConfig
) -> None:
    key = config.api_key_path.read_text().strip()
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, node, config))
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n"
        await stream.send_all(request.encode())
        assert b"200" in await stream.receive_some()
        with trio.fail_after(5):
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
    await stream.aclose()
