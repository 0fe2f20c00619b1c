"""Makes the money commands' world beside these tests importable, and the chains it stands on."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(TESTS / "settlement"))
