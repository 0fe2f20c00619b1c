"""``runtime``: what jobs find installed on this provider before they ask for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_progress, say_table
from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.executor.builder import Builder


class RuntimeNotChanged(RoboComputeError):
    """The packages could not be installed; the runtime is as it was."""

    code = "runtime_not_changed"


@click.group("runtime")
@data_option
@click.pass_context
def runtime_command(context: click.Context, data: Path) -> None:
    """The base runtime: packages that every job on this provider finds."""
    context.obj = data


@runtime_command.command("add")
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE…")
@inner_data_option
@json_option
def add(data: Path, packages: tuple[str, ...], as_json: bool) -> None:
    """Install packages for all jobs, such as torch. Jobs that run now see them appear."""
    import trio

    from robocompute_node.executor.builder import BuildFailed

    builder = _builder(data)

    async def progress(_stage: str, text: str) -> None:
        say_progress(text)

    try:
        trio.run(builder.add_to_base, packages, progress)
    except BuildFailed as exc:
        raise RuntimeNotChanged(
            f"{', '.join(packages)} could not be installed: {str(exc).splitlines()[-1]}"
        ) from exc
    _say_packages(builder, as_json=as_json)


@runtime_command.command("list")
@inner_data_option
@json_option
def listing(data: Path, as_json: bool) -> None:
    """Show what is installed for all jobs."""
    builder = _builder(data)
    builder.base.ensure()
    _say_packages(builder, as_json=as_json)


def _builder(data: Path) -> Builder:
    import os
    import shutil
    from pathlib import Path

    from robocompute_node.config import NodeConfig
    from robocompute_node.executor.builder import Builder
    from robocompute_node.executor.runtime import BaseRuntime, Interpreter
    from robocompute_node.executor.spawn import Spawner

    config = NodeConfig(data_dir=data)  # for its paths: the runtime may be there before the node
    config.runtimes_dir.mkdir(parents=True, exist_ok=True)
    return Builder(
        base=BaseRuntime(config.runtimes_dir / "base", Interpreter.of_this_process()),
        bwrap=shutil.which("bwrap") or "/usr/bin/bwrap",
        spawner=Spawner(),
        environment=os.environ,
        home=Path.home(),
        cache=config.envs_dir / "cache",
    )


def _say_packages(builder: Builder, *, as_json: bool) -> None:
    base = builder.base
    packages = dict(sorted(base.packages().items()))
    if as_json:
        say_json({"offered": list(base.offered()), "packages": packages})
        return
    say(f"Offered: {', '.join(base.offered())}")
    say_table([[name, version] for name, version in packages.items()])
