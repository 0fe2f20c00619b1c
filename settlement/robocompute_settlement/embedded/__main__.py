"""``python -m robocompute_settlement.embedded``: one chain in one process."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import trio
from solders.pubkey import Pubkey
from trio_websocket import WebSocketServer, serve_websocket

from robocompute_protocol.errors import RoboComputeError
from robocompute_settlement.embedded.genesis import read_genesis
from robocompute_settlement.embedded.http import HttpServer
from robocompute_settlement.embedded.ledger import open_ledger
from robocompute_settlement.embedded.methods import Methods
from robocompute_settlement.embedded.pubsub import MAX_MESSAGE_BYTES, Pubsub
from robocompute_settlement.embedded.storage import HISTORY_TRANSACTIONS, ChainStore

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST: Final = "127.0.0.1"
"""A local world's chain is nobody else's business."""
RPC_PORT: Final = 8899
WS_PORT: Final = 8900
"""Solana's own ports: clients find the websocket one above the RPC port."""


def wall_clock_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    folder: Path
    config: Path
    rpc_port: int
    ws_port: int
    history: int
    faults: bool


async def serve(options: Options) -> None:
    """Run a chain until SIGTERM or SIGINT; print one ready line when it answers.

    Raises:
        RoboComputeError: the genesis file or the store is not usable, or no longer.
    """
    genesis = read_genesis(options.config)
    with ChainStore(options.folder, history=options.history) as store:
        ledger = open_ledger(store, genesis, wall_clock_ms)
        methods = Methods(ledger, faults=options.faults)
        pubsub = Pubsub(ledger, methods)
        if options.faults:
            methods.add("embeddedCutConnections", pubsub.cut)
        server = HttpServer(ledger, methods)
        listeners = await trio.open_tcp_listeners(options.rpc_port, host=HOST)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, server.handle, listeners))
            websockets: WebSocketServer = await nursery.start(
                partial(
                    serve_websocket,
                    pubsub.handle,
                    HOST,
                    options.ws_port,
                    None,
                    handler_nursery=nursery,
                    max_message_size=MAX_MESSAGE_BYTES,
                )
            )
            nursery.start_soon(pubsub.run)
            ready = {
                "ready": True,
                "rpc_port": listeners[0].socket.getsockname()[1],
                "ws_port": websockets.port,
                "genesis_hash": str(Pubkey.from_bytes(ledger.founding.genesis_hash)),
                "slot": ledger.tick(),
            }
            print(json.dumps(ready), flush=True)  # noqa: T201 - the line a parent waits for
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()


def _first_of(exc: BaseException) -> BaseException:
    """What ended a nursery: the tasks that were only cancelled by it say nothing."""
    found = exc
    while isinstance(found, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", found).exceptions
        found = members[0]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one embedded chain; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="robocompute_settlement.embedded", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the chain is kept")
    parser.add_argument("--config", type=Path, required=True, help="the genesis file (JSON)")
    parser.add_argument("--rpc-port", type=int, default=RPC_PORT, help="0 takes a free one")
    parser.add_argument("--ws-port", type=int, default=WS_PORT, help="0 takes a free one")
    parser.add_argument(
        "--history", type=int, default=HISTORY_TRANSACTIONS, help="transactions to remember"
    )
    parser.add_argument(
        "--faults", action="store_true", help="let clients make things go wrong: for tests"
    )
    chosen = parser.parse_args(arguments)
    options = Options(
        folder=chosen.dir,
        config=chosen.config,
        rpc_port=chosen.rpc_port,
        ws_port=chosen.ws_port,
        history=chosen.history,
        faults=chosen.faults,
    )
    try:
        trio.run(serve, options)
    except (RoboComputeError, OSError, ExceptionGroup) as exc:
        cause = _first_of(exc)
        if isinstance(cause, RoboComputeError):
            print(f"embedded chain: {cause}", file=sys.stderr)  # noqa: T201
            return cause.exit_status
        if isinstance(cause, OSError):
            ports = f"ports {options.rpc_port} and {options.ws_port} of 127.0.0.1"
            print(  # noqa: T201
                f"embedded chain: cannot listen on {ports}: {cause.strerror or cause}: stop what "
                "has them, or take others (`localnet up --free-ports`)",
                file=sys.stderr,
            )
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
