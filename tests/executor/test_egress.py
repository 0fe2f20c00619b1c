"""The way out of a build sandbox: what it lets through, and what hostile programs make of it."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, strategies as st

from robocompute_node.executor.egress import (
    MAX_CONNECTIONS,
    MAX_HEAD,
    Egress,
    Refused,
    Way,
    check,
    goes_through,
    is_public,
    read_head,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

PUBLIC = Way(public=True)
INSIDE = (
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fd00::2", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1",
)  # fmt: skip


@pytest.mark.parametrize("text", INSIDE)
def test_this_machine_and_what_is_around_it_are_not_the_public_internet(text: str):
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    with pytest.raises(Refused, match="not on the public internet"):
        check(PUBLIC, ("rebound.invalid", 443), [ipaddress.ip_address("1.1.1.1"), address])


def test_a_public_host_is_let_through_at_its_web_ports():
    check(PUBLIC, ("files.invalid", 443), [ipaddress.ip_address("1.1.1.1")])
    check(PUBLIC, ("files.invalid", 80), [ipaddress.ip_address("2606:4700::1111")])
    with pytest.raises(Refused, match="port 25"):
        check(PUBLIC, ("files.invalid", 25), [ipaddress.ip_address("1.1.1.1")])


def test_a_named_host_may_be_anywhere_and_nothing_else_may():
    way = Way(named=frozenset({("mirror.invalid", 3141)}))
    check(way, ("mirror.invalid", 3141), [ipaddress.ip_address("127.0.0.1")])
    for other in (("mirror.invalid", 80), ("other.invalid", 3141)):
        with pytest.raises(Refused, match="not among"):
            check(way, other, [ipaddress.ip_address("1.1.1.1")])


def test_another_proxy_is_asked_but_for_hosts_that_need_none():
    way = Way(through=("proxy.invalid", 8080), direct=frozenset({".corp.invalid", "localhost"}))
    assert goes_through(way, ("files.invalid", 443))
    assert goes_through(way, ("notcorp.invalid", 443))
    assert not goes_through(way, ("mirror.corp.invalid", 443))
    assert not goes_through(way, ("localhost", 3141))
    assert not goes_through(Way(), ("files.invalid", 443))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(head: bytes):
    with suppress(Refused):
        assert 0 <= read_head(head + b"\r\n\r\n").host[1] <= 65_535


def test_a_plain_request_loses_what_was_for_the_proxy():
    request = read_head(
        b"GET http://mirror.invalid:3141/simple/a/?x=1 HTTP/1.1\r\nHost: mirror.invalid:3141\r\n"
        b"Proxy-Authorization: Basic c2VjcmV0\r\nConnection: keep-alive\r\n\r\n"
    )
    assert request.host == ("mirror.invalid", 3141)
    assert request.head == (
        b"GET /simple/a/?x=1 HTTP/1.1\r\nConnection: close\r\nHost: mirror.invalid:3141\r\n\r\n"
    )


@asynccontextmanager
async def proxy(way: Way, folder: Path) -> AsyncGenerator[Path]:
    path = folder / "egress.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(Egress(way).serve, path)
        yield path
        nursery.cancel_scope.cancel()


async def ask(path: Path, data: bytes) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        return await receive_all(stream)


async def receive_all(stream: trio.SocketStream) -> bytes:
    received = b""
    while data := await stream.receive_some(65_536):
        received += data
    return received


async def test_bytes_go_both_ways_through_a_tunnel_to_a_named_host(tmp_path: Path):
    async def echo(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"<" + await receive_all(stream) + b">")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        port = listeners[0].socket.getsockname()[1]
        way = Way(named=frozenset({("127.0.0.1", port)}))
        async with (
            proxy(way, tmp_path) as path,
            await trio.open_unix_socket(path) as stream,
        ):
            # What follows the head at once must not be lost.
            await stream.send_all(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nearly ".encode())
            await stream.send_all(b"late")
            await stream.send_eof()
            answer = await receive_all(stream)
        nursery.cancel_scope.cancel()
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n<early late>"


async def test_this_machines_loopback_is_refused_under_every_name(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        async with proxy(PUBLIC, tmp_path) as path:
            for name in (
                "127.0.0.1",
                "localhost",
                "[::1]",
                "[::ffff:127.0.0.1]",
                "0",
                "2130706433",
            ):
                for at in (port, 80):
                    answer = await ask(path, f"CONNECT {name}:{at} HTTP/1.1\r\n\r\n".encode())
                    assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 502 ")), (name, answer)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_second_request_on_a_connection_is_not_one_to_the_proxy(tmp_path: Path):
    """It would be answered by the first one's host, which looks at no address."""
    seen: list[bytes] = []

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            seen.append(await stream.receive_some(65_536))
            await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, server, 0)
        port = listeners[0].socket.getsockname()[1]
        way = Way(named=frozenset({("127.0.0.1", port)}))
        async with proxy(way, tmp_path) as path:
            answer = await ask(path, f"GET http://127.0.0.1:{port}/a HTTP/1.1\r\n\r\n".encode())
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen == [b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n"]


async def test_a_head_without_end_is_cut_off(tmp_path: Path):
    async with proxy(PUBLIC, tmp_path) as path:
        answer = await ask(path, b"GET http://a.invalid/" + b"x" * 2 * MAX_HEAD)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_one_sandbox_holds_no_more_than_its_connections(tmp_path: Path):
    async with proxy(PUBLIC, tmp_path) as path:
        held = [await trio.open_unix_socket(path) for _ in range(MAX_CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(path, b"")).startswith(b"HTTP/1.1 503 ")
        for stream in held:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(path, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
