"""A provider that sells its slot to whoever comes: the real node, but for what it forgets.

Started in the place of Python itself, with ``-m robocompute_node`` and what follows as arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from forgetful_slots import Forgetful

from robocompute_node.cli.main import run_command
from robocompute_node.services import lettings

if __name__ == "__main__":
    lettings.SlotTable = Forgetful
    raise SystemExit(run_command(sys.argv[3:]))
