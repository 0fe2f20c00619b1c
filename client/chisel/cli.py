"""The ``chisel`` command. Imports little at first: most of what it can do is not needed at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chisel import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chisel.options import Options
    from robocompute import RoboComputeClient

WORDS: Final = ("jobs", "status", "logs", "cancel", "pull")
USAGE: Final = """\
Usage:
  chisel [flags] <command> [arguments...]     run a command on somebody else's machine
  chisel jobs | status ID | logs [-f] ID | cancel ID | pull ID
  chisel --logout | --version | --help

Examples:
  chisel python my_script.py
  chisel python train.py --epochs 10
  chisel --gpu H100:2 --max-price 6.00 python -m pytest

Flags (before the command; what follows it arrives exactly as typed):
  -a, --app-name NAME        name of the job (default: the script's)
  -d, --upload-dir DIR       folder to send (default: the current one)
  -r, --requirements FILE    to install first (default: requirements.txt, if there)
  -g, --gpu N | MODEL[:N]    GPUs, like 1, H100 or A100-80GB:2 (default: none)
      --max-price AMOUNT     most to pay per hour
      --timeout TIME         end the job after 90, 30m, 2h, 1d (default: 1h)
  -e, --env NAME[=VALUE]     set in the job's environment
      --provider KEY         insist on one provider
      --wait                 wait when nobody can take the job yet
  -o, --out DIR              where results go (default: chisel-out)
      --detach               print the job's id and leave it running
  -p, --preview              show what would be sent, and send nothing
      --json                 events as JSON lines on stdout
  -i, --interactive          ask even for what has been answered
  -y, --yes                  ask nothing
      --verbose              tell each stage although nobody watches

Answers that stay the same: chisel.toml, or [tool.chisel] in pyproject.toml."""


def main() -> int:
    """Run one command line; return its exit status. Never shows a traceback for a person's error."""
    try:
        return _main(sys.argv[1:])
    except KeyboardInterrupt:
        _err("\nchisel: interrupted; nothing was submitted, nothing was charged")
        return 130
    except BrokenPipeError:
        # The reader of our own words has gone; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _main(words: Sequence[str]) -> int:
    if not words:
        print("Chisel CLI is installed and working!")
        print()
        print(USAGE)
        return 0
    first = words[0]
    if first in ("--version", "-v", "version"):
        print(f"Chisel CLI v{__version__}")
        return 0
    if first in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if first == "--logout":
        return _logout()
    from chisel.options import UsageError, parse

    try:
        options, command = parse(words)
        if command and command[0] in WORDS:
            return _word(command, options)
        if len(command) < 2:
            _err("❌ No command provided!")
            _err("Usage: chisel python <script.py> [args...]")
            return 1
        return _run(command, options)
    except (UsageError, AssertionError) as error:
        _err(f"❌ {error}")
        return 1


def _logout() -> int:
    from chisel.auth import clear_credentials, credentials_path

    if clear_credentials():
        print(f"🗑️  Cleared credentials from {credentials_path()}")
        print("✅ Successfully logged out from Chisel CLI")
    else:
        print("ℹ️  No active authentication found")  # noqa: RUF001 - as published
    return 0


def _word(command: Sequence[str], options: Options) -> int:
    from chisel.words import WORDS as TABLE
    from robocompute import RoboComputeError

    client = _client()
    if client is None:
        return 1
    with client:
        try:
            return TABLE[command[0]](client, command[1:], options)
        except RoboComputeError as error:
            return _refused(error, client, f"chisel {command[0]}")


def _run(command: list[str], options: Options) -> int:
    from chisel.command import as_seen_from, default_app_name, require_inside, script_position
    from chisel.options import saved_answers
    from chisel.questions import ask, somebody_is_there
    from chisel.upload import DigestCache, UploadError, scan

    here = Path.cwd()
    given = options
    options = options.over(saved_answers(here))
    upload_dir = Path(os.path.normpath(here / (options.upload_dir or ".")))
    if somebody_is_there() and not options.yes:
        position = script_position(command)
        if position is not None and options.upload_dir is not None:
            require_inside(Path(os.path.normpath(here / command[position])), upload_dir)
        options = ask(options, given, default_app_name(command, upload_dir), here)
        upload_dir = Path(os.path.normpath(here / (options.upload_dir or ".")))
    if not upload_dir.is_dir():
        _err(f"❌ {upload_dir} is not a folder")
        return 1
    try:
        remote = as_seen_from(command, upload_dir, here)
        upload = scan(upload_dir, cache=DigestCache.of(upload_dir, os.environ))
        from chisel.run import prepare

        name = options.app_name or default_app_name(command, upload_dir)
        task = prepare(remote, options, upload, name.replace("/", "_"))
        if options.preview:
            from chisel.questions import preview

            print("\n".join(preview(task, upload)))
            return 0
    except (UploadError, FileNotFoundError) as error:
        _err(f"❌ {error}")
        return 1

    from chisel.run import run
    from chisel.terminal import Terminal, is_watched
    from robocompute import RoboComputeError

    terminal = Terminal(chatty=options.verbose or is_watched())
    for reason, paths in upload.left_out.items():
        shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        terminal.say(f"not sent ({reason}): {shown}")
    client = _client()
    if client is None:
        return 1
    with client:
        try:
            return run(client, task, upload_dir, upload, options, terminal)
        except RoboComputeError as error:
            return _refused(error, client, "Job submission failed")
        except UploadError as error:
            _err(f"❌ {error}")
            return 1


def _client() -> RoboComputeClient | None:
    """A client with the key at hand. Whether it is right shows with the first request."""
    from chisel.auth import AUTHENTICATION_FAILED, authenticate, backend_url, known_api_key
    from robocompute import RoboComputeClient

    url = backend_url()
    key = known_api_key(url)
    if key is None:
        try:
            key = authenticate(url)
        except RuntimeError:
            _err(AUTHENTICATION_FAILED)
            _err(
                "chisel: no API key: set CHISEL_API_KEY, or ROBOCOMPUTE_HOME to the folder of your "
                "node (`robocompute-node init` makes one)"
            )
            return None
    try:
        return RoboComputeClient(key, base_url=url)
    except ValueError as error:
        _err(f"❌ CHISEL_BACKEND_URL: {error}")
        return None


def _refused(error: Exception, client: RoboComputeClient, what: str) -> int:
    """One line for ``what`` the node refused, and the exit status that goes with it."""
    from chisel import outcome
    from chisel.auth import AUTHENTICATION_FAILED
    from robocompute import (
        AuthenticationError,
        InsufficientFundsError,
        NetworkError,
        NodeUnreachableError,
        ProviderUnavailableError,
    )

    if isinstance(error, NodeUnreachableError):
        _err(
            f"chisel: {error} - is the node running? Start it with `robocompute-node run`, or set "
            "CHISEL_BACKEND_URL to where it listens"
        )
        return outcome.NO_NODE
    if isinstance(error, NetworkError):
        _err(f"chisel: {error} - `chisel jobs` shows what runs once the node is back")
        return outcome.NO_NODE
    if isinstance(error, AuthenticationError):
        _err(AUTHENTICATION_FAILED)
        _err(f"chisel: {client.base_url} says: {error}")
        return outcome.USAGE
    _err(f"❌ {what}: {error}")
    if isinstance(error, ProviderUnavailableError):
        return outcome.NO_PROVIDER
    if isinstance(error, InsufficientFundsError):
        return outcome.NO_FUNDS
    return outcome.REFUSED


def _err(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
