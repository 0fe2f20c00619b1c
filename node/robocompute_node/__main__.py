"""``robocompute-node``: the daemon and the commands around it."""

from __future__ import annotations

import sys

from robocompute_node.cli.main import run_command


def main() -> None:
    """Run the command line; ends the process with the command's exit status."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
