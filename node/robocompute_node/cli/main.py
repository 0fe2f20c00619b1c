"""The command tree, and how a failure becomes one line and an exit status."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import click

from robocompute_node.cli.output import say_error, say_json
from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERRUPTED: Final = 130
"""What a shell shows for a program that Ctrl-C ended."""

COMMANDS: Final[Mapping[str, str]] = {
    "init": "robocompute_node.cli.init",
    "run": "robocompute_node.cli.run",
    "status": "robocompute_node.cli.status",
    "peers": "robocompute_node.cli.peers",
    "offers": "robocompute_node.cli.status",
    "doctor": "robocompute_node.cli.doctor",
    "wallet": "robocompute_node.cli.wallet",
    "channels": "robocompute_node.cli.channels",
    "stake": "robocompute_node.cli.stake",
    "earnings": "robocompute_node.cli.earnings",
    "payout": "robocompute_node.cli.payout",
    "invoices": "robocompute_node.cli.invoices",
    "runtime": "robocompute_node.cli.runtime",
    "chain": "robocompute_node.cli.chain",
    "localnet": "robocompute_node.cli.localnet",
}
"""Where each command is: its module is imported only when it is named, or for the list of all."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("robocompute"), prog_name="robocompute-node")
def root() -> None:
    """A node of the RoboCompute network: rents GPUs for you, or lets yours."""


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; return the process's exit status. Tracebacks are for bugs only."""
    as_json = "--json" in arguments
    try:
        result = root.main(list(arguments), prog_name="robocompute-node", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        # Nobody erred who asked for no command: the list of them is the answer, as it is written.
        exc.show()
        return exc.exit_code
    except click.ClickException as exc:
        say_error(_usage(exc))
        if as_json:
            say_json(_error_json("usage", exc.format_message(), {}))
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted")
        return INTERRUPTED
    except RoboComputeError as exc:
        return _fail(exc, as_json=as_json)
    except BaseExceptionGroup as group:
        cause = _only_cause(group)
        if isinstance(cause, KeyboardInterrupt):
            say_error("interrupted")
            return INTERRUPTED
        if not isinstance(cause, RoboComputeError):
            raise
        return _fail(cause, as_json=as_json)
    return result if isinstance(result, int) else 0


def _fail(error: RoboComputeError, *, as_json: bool) -> int:
    say_error(str(error))
    if as_json:
        say_json(_error_json(error.code, str(error), error.details))
    return error.exit_status


def _error_json(code: str, message: str, details: Mapping[str, object]) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "details": dict(details)}}


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else "robocompute-node"
    return f"{message}: see `{path} --help`"


def _only_cause(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The error all leaves of ``group`` amount to: a node's error, if there is nothing else in it."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        found = _only_cause(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]
        if found is None:
            return None
        leaves.append(found)
    known = [leaf for leaf in leaves if isinstance(leaf, RoboComputeError | KeyboardInterrupt)]
    return known[0] if len(known) == len(leaves) else None
