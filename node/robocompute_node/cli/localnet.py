"""``localnet``: the local world of localnet.toml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.options import json_option
from robocompute_node.cli.output import say, say_error, say_json, say_progress, say_table

if TYPE_CHECKING:
    import trio

    from robocompute_node.localnet.processes import Started
    from robocompute_node.localnet.world import Record, World

dir_option = click.option(
    "--dir",
    "folder",
    default="./.localnet",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the world is kept.",
)


@click.group("localnet")
def localnet_command() -> None:
    """A whole world on this machine: chain, providers and clients."""


@localnet_command.command("up")
@dir_option
@click.option(
    "--config",
    default="localnet.toml",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The world's file; read when the world is founded, then its copy in the folder counts.",
)
@click.option("--free-ports", is_flag=True, help="Take free ports, whatever the file says.")
@click.option("--detach", is_flag=True, help="Return when all is up; end it with localnet down.")
@json_option
def up(folder: Path, config: Path, free_ports: bool, detach: bool, as_json: bool) -> int:
    """Found the world, or wake it, and stay until Ctrl-C."""
    import trio

    world = _world(folder)
    return trio.run(_up, world, config.absolute(), free_ports, detach, as_json)


async def _up(world: World, config: Path, free_ports: bool, detach: bool, as_json: bool) -> int:
    import signal

    import trio

    record = await world.up(config, free_ports=free_ports, tell=say_progress)
    shown = await trio.to_thread.run_sync(_describe, world, record)
    if as_json:
        say_json(shown)
    else:
        _say_world(shown)
    if detach:
        return 0
    say_progress("Ctrl-C ends the world; it is kept, and `localnet up` wakes it again.")
    gone: list[str] = []
    async with trio.open_nursery() as nursery:
        for process in record.processes:
            nursery.start_soon(_note_end, process, gone, nursery.cancel_scope)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(world.down, say_progress)
    if gone:
        from robocompute_node.localnet.world import WorldFailed

        raise WorldFailed(f"{gone[0]}, so the world was stopped")
    return 0


async def _note_end(process: Started, gone: list[str], scope: trio.CancelScope) -> None:
    """Wait for the end of ``process``, which nobody here asked for."""
    from robocompute_node.localnet.processes import ended

    await ended(process)
    gone.append(f"{process.name} ended by itself: {process.last_line()} ({process.log})")
    scope.cancel()


@localnet_command.command("down")
@dir_option
@json_option
def down(folder: Path, as_json: bool) -> None:
    """End the world's processes in order. It is kept; `localnet up` wakes it again."""
    was_up = _world(folder).down(say_progress)
    if as_json:
        say_json({"was_up": was_up})
    else:
        say("The local world is down." if was_up else "The local world was not up.")


@localnet_command.command("status")
@dir_option
@json_option
def status(folder: Path, as_json: bool) -> int:
    """Show the world's processes, addresses and balances. Exit status 1 when it is not all up."""
    world = _world(folder)
    record = world.record()
    shown: dict[str, Any] = (
        {"up": False, "processes": [], "nodes": []} if record is None else _describe(world, record)
    )
    if as_json:
        say_json(shown)
    elif record is None:
        say_error(f"no local world is up in {folder}: `robocompute-node localnet up` starts it")
    else:
        _say_world(shown)
    return 0 if shown["up"] else 1


@localnet_command.command("reset")
@dir_option
@json_option
def reset(folder: Path, as_json: bool) -> None:
    """End the world and delete its folder: keys, money and history."""
    was_there = folder.exists()
    _world(folder).reset(say_progress)
    if as_json:
        say_json({"reset": str(folder), "was_there": was_there})
    elif not was_there:
        say(f"There is no {folder}: nothing was deleted.")
    else:
        say(f"{folder} is gone; the next `localnet up` founds a new world.")


def _world(folder: Path) -> World:
    from robocompute_node.localnet.world import World

    return World(folder.absolute())


def _describe(world: World, record: Record) -> dict[str, Any]:
    """Return the world for --json: the nodes' own words about their balances, if they answer."""
    from robocompute_node.config_file import load_config
    from robocompute_node.rest_client import RestClient
    from robocompute_protocol.errors import RoboComputeError

    nodes: list[dict[str, Any]] = []
    pids = {process.name: process.pid for process in record.processes}
    for node in record.nodes:
        data = Path(node.data)
        try:
            wallet = RestClient.of(load_config(data)).get("/wallet/balance")
        except RoboComputeError as exc:
            wallet = {"error": str(exc)}
        nodes.append(
            {
                "name": node.name,
                "roles": list(node.roles),
                "url": node.url,
                "pid": pids.get(node.name),
                "data": node.data,
                "api_key_file": str(data / "api_key"),
                "wallet": wallet,
            }
        )
    return {
        "up": len(record.running()) == len(record.processes),
        "dir": str(world.folder),
        "rpc_url": record.rpc_url,
        "ws_url": record.ws_url,
        "processes": [
            {"name": p.name, "pid": p.pid, "running": p.running(), "log": p.log}
            for p in record.processes
        ],
        "nodes": nodes,
        "books": _books(record),
    }


def _books(record: Record) -> dict[str, str] | None:
    import trio

    from robocompute_node.config_file import load_config
    from robocompute_node.localnet.books import read_world_books
    from robocompute_protocol.errors import ChainError

    if not record.nodes:
        return None
    try:
        books = trio.run(read_world_books, load_config(Path(record.nodes[0].data)))
    except ChainError:
        return None
    return books.json()


def _say_world(shown: dict[str, Any]) -> None:
    running = {process["name"]: process for process in shown["processes"]}
    chain = running.get("chain", {})
    rows = [["chain", "", shown["rpc_url"], _pid(chain), "", ""]]
    for node in shown["nodes"]:
        wallet = node["wallet"]
        rows.append(
            [
                node["name"],
                ", ".join(node["roles"]),
                node["url"],
                _pid(running.get(node["name"], {})),
                str(wallet.get("available", "")),
                str(wallet.get("usdc_balance", "")),
            ]
        )
    say_table(rows, head=["name", "role", "answers at", "pid", "in program", "in wallet"])
    books = shown["books"]
    if books is not None:
        say()
        say(
            f"vault {books['vault']} = available {books['available']} + fees owed "
            f"{books['fees_owed']} + channels {books['channels']} + staked {books['staked']}"
            f" + surplus {books['surplus']}"
        )
    for node in shown["nodes"]:
        if "client" in node["roles"]:
            say()
            say(f"export ROBOCOMPUTE_HOME={node['data']}")
            say(f"export CHISEL_BACKEND_URL={node['url']}")
            say(f"export CHISEL_API_KEY=$(cat {node['api_key_file']})")


def _pid(process: dict[str, Any]) -> str:
    return str(process["pid"]) if process.get("running") else "not running"
