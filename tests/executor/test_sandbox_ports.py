"""The way into a job's own network: its ports, and nothing else of any machine."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.executor.port import PortClosed
from robocompute_protocol.causes import Cause
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.sandbox

PORT = 8_888
SERVER = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
        self.request.sendall(b"bye")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
with Server(("127.0.0.1", {PORT}), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
SIX = """
import socket
with socket.create_server(("::1", 8888), family=socket.AF_INET6) as listener:
    print("ready", flush=True)
    while True:
        listener.accept()[0].close()
"""


async def begin(bench: Bench, program: str) -> str:
    job_id = await bench.begin(["python3", "serve.py"], files={"serve.py": program})
    await bench.said(job_id, b"ready")
    return job_id


async def received(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := await stream.receive_some(count - len(data))):
        data += more
    return data


async def test_a_port_that_a_job_opened_is_reached_and_half_closed(bench: Bench):
    job_id = await begin(bench, SERVER)
    sent = bytes(range(256)) * 8_192
    async with await bench.executor.connect(job_id, PORT) as stream, trio.open_nursery() as pair:
        pair.start_soon(stream.send_all, sent)
        assert await received(stream, len(sent)) == sent
        await stream.send_eof()
        assert await received(stream, 64) == b"bye"
    # A daemon that starts anew finds the way in too.
    again = bench.executor_again()
    async with await again.connect(job_id, PORT) as stream:
        await stream.send_all(b"again")
        assert await received(stream, 5) == b"again"


async def test_many_connections_at_once_and_one_after_the_other(bench: Bench):
    job_id = await begin(bench, SERVER)
    answers: list[bytes] = []

    async def talk(number: int) -> None:
        async with await bench.executor.connect(job_id, PORT) as stream:
            await stream.send_all(b"%04d" % number)
            answers.append(await received(stream, 4))

    for first in range(0, 40, 8):
        async with trio.open_nursery() as nursery:
            for number in range(first, first + 8):
                nursery.start_soon(talk, number)
    assert sorted(answers) == [b"%04d" % number for number in range(40)]


async def test_a_program_that_listens_on_ipv6_alone_is_reached(bench: Bench):
    job_id = await begin(bench, SIX)
    async with await bench.executor.connect(job_id, PORT) as stream:
        assert await received(stream, 1) == b""


async def test_ports_of_this_machine_are_not_ports_of_the_job(bench: Bench):
    job_id = await begin(bench, SERVER)
    with socket.create_server(("127.0.0.1", 0)) as here:
        with pytest.raises(PortClosed):
            await bench.executor.connect(job_id, here.getsockname()[1])
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.accept()


async def test_nothing_listens_and_nothing_runs_are_said(bench: Bench):
    job_id = await begin(bench, SERVER)
    with pytest.raises(PortClosed, match="refused"):
        await bench.executor.connect(job_id, PORT + 1)
    async with await bench.executor.connect(job_id, PORT) as stream:
        await bench.executor.stop(job_id, cause=Cause.CANCELLED, detail="", grace=Millis(0))
        await bench.finish(job_id)
        with suppress(trio.BrokenResourceError):  # the job's end cuts it one way or the other
            assert await received(stream, 1) == b""
    with pytest.raises(PortClosed):
        await bench.executor.connect(job_id, PORT)
