"""Worlds of real processes: one to share, one to maltreat, and bare ones for those that end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scene_world import Scene, found_scene
from whole_world import LONG_FIRST_TICK_S, LONG_HORIZON_S, WholeWorld, found_world

Found = Callable[..., WholeWorld]


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Generator[WholeWorld]:
    """A world that tests share: none of them ends a process of it."""
    with found_world(tmp_path_factory.mktemp("calm"), pauper=True) as world:
        yield world


@pytest.fixture(scope="session")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Generator[WholeWorld]:
    """A world whose processes are killed, and started again by the test that did it."""
    folder = tmp_path_factory.mktemp("rough")
    with found_world(folder, horizon_s=LONG_HORIZON_S, first_tick_s=LONG_FIRST_TICK_S) as world:
        yield world


@pytest.fixture
def found(tmp_path: Path) -> Generator[Found]:
    """Found a world for this test alone."""
    with ExitStack() as worlds:

        def make(*, close_lost_after_s: int = 3_600) -> WholeWorld:
            world = found_world(tmp_path / "own", close_lost_after_s=close_lost_after_s)
            return worlds.enter_context(world)

        yield make


@pytest.fixture(
    scope="session",
    params=[pytest.param("validator", marks=[pytest.mark.chain, pytest.mark.soak]), "embedded"],
)
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Scene]:
    """A provider and two clients on each kind of chain. Each test leaves them as it found them."""
    with found_scene(str(request.param), tmp_path_factory.mktemp(str(request.param))) as scene:
        yield scene
