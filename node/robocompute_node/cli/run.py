"""``run``: the daemon in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robocompute_node.cli.options import data_option, log_level_option

if TYPE_CHECKING:
    from pathlib import Path

    import trio

    from robocompute_node.config import NodeConfig


@click.command("run")
@data_option
@log_level_option
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
def run_command(data: Path, log_level: str, log_json: bool) -> None:
    """Run the node in DIR until SIGTERM or Ctrl-C, which end it in order.

    A second Ctrl-C ends it at once; nothing that was promised is lost, for it is on disk.
    """
    import trio

    from robocompute_node.config_file import load_config
    from robocompute_node.logs import log_to_stderr

    config = load_config(data)
    log_to_stderr(log_level, as_json=log_json)
    trio.run(_run, config)


async def _run(config: NodeConfig) -> None:
    import logging

    import trio

    from robocompute_node.chain_probe import require_chain
    from robocompute_node.daemon import run_node
    from robocompute_protocol.errors import ChainBusy

    try:
        await require_chain(config)
    except ChainBusy as exc:  # what runs must go on, and the chain may come back
        logging.getLogger("robocompute_node").warning("starting without the chain: %s", exc)
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        await nursery.start(run_node, config)


async def _stop_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    """Cancel ``scope`` at the first signal; the next one finds Python's own handlers again."""
    import logging
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            logging.getLogger("robocompute_node").info("%s: stopping in order", name)
            scope.cancel()
            return
