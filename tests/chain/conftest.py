"""Fixtures of the settlement program's tests: the real program in an in-process chain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from settlement_world import World


@pytest.fixture
def world() -> World:
    """A chain on which the program is configured for two mints, with a fee of 2.5 %."""
    world = World()
    world.init_config()
    return world


@pytest.fixture
def bare_world() -> World:
    """A chain on which the program lies, and nobody configured it."""
    return World()
