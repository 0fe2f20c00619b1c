"""Nodes in network namespaces, each a process, and what is asked of them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

NODE = Path(__file__).with_name("nat_node.py")


class Remote:
    """A node in a namespace, to be asked things."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._held = b""

    async def do(self, what: str, **more: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        await stdin.send_all(json.dumps({"do": what, **more}).encode() + b"\n")
        while b"\n" not in self._held:
            data = await stdout.receive_some()
            assert data, "the node is gone"
            self._held += data
        line, self._held = self._held.split(b"\n", 1)
        return json.loads(line)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            status = await self.do("status")
            if condition(status):
                return status
            await trio.sleep(0.3)


@asynccontextmanager
async def node_in(namespace: str, **settings: Any) -> AsyncGenerator[Remote]:
    command = ["ip", "netns", "exec", namespace, sys.executable, str(NODE), json.dumps(settings)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Remote(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
