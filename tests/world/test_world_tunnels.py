"""A server in a job, reached from its owner's machine through two nodes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest
from whole_world import wait_until

from robocompute_node.config_file import load_config

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

SERVER = """
import http.server, socketserver, threading
from pathlib import Path

Path("page.html").write_text("from inside " * 10_000)

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            self.wfile.write(line.upper())
        self.wfile.write(b"BYE\\n")

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

echo = Server(("127.0.0.1", 8889), Echo)
threading.Thread(target=echo.serve_forever, daemon=True).start()
pages = http.server.ThreadingHTTPServer(("127.0.0.1", 8888), http.server.SimpleHTTPRequestHandler)
print("ready", flush=True)
pages.serve_forever()
"""


def owner(world: WholeWorld) -> httpx.Client:
    config = load_config(world.data("client-1"))
    key = config.api_key_path.read_text().strip()
    return httpx.Client(
        base_url=world.sdk().base_url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_a_page_and_a_long_conversation_of_a_job_are_had_through_two_nodes(
    calm: WholeWorld,
) -> None:
    chisel = calm.chisel(calm.job_folder(SERVER), "python", "job.py")
    with owner(calm) as node:
        chisel.saw(b"ready")
        path = f"/tasks/{calm.newest_task()['task_id']}/tunnels"
        made = [node.post(path, json={"port": port}) for port in (8888, 8889)]
        assert [answer.status_code for answer in made] == [201, 201]
        pages, echo = (answer.json()["local_port"] for answer in made)
        for _ in range(3):
            page = httpx.get(f"http://127.0.0.1:{pages}/page.html", timeout=60)
            assert page.text == "from inside " * 10_000
        converse(echo)
        assert len(node.get(path).json()["tunnels"]) == 2
        left = node.delete(f"{path}/8888").json()["tunnels"]
        assert [tunnel["port"] for tunnel in left] == [8889]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{pages}/page.html", timeout=60)
        chisel.interrupt()
        chisel.end()
        wait_until("tunnels close", lambda: not node.get(path).json()["tunnels"])


def converse(port: int) -> None:
    """Talk as a page's web socket does, a word there and a word back, and end our half first."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as talk,
        talk.makefile("rwb") as lines,
    ):
        for number in range(200):
            lines.write(b"word %d\n" % number)
            lines.flush()
            assert lines.readline() == b"WORD %d\n" % number
        talk.shutdown(socket.SHUT_WR)
        assert lines.readline() == b"BYE\n"
        assert lines.read() == b""
