"""Fixtures of the settlement adapter: running chains that its contract tests are held against."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from settlement_chains import (
    ChainWorld,
    FakeChainWorld,
    embedded_world,
    validator_binary,
    validator_world,
)
from settlement_pair import make_pair

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from settlement_pair import Pair


@pytest.fixture(
    scope="session",
    params=["embedded", "fake", pytest.param("validator", marks=pytest.mark.chain)],
)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChainWorld]:
    """A chain with the program set up, and a pool of wallets that hold SOL and USDC."""
    folder = tmp_path_factory.mktemp(str(request.param))
    if request.param == "fake":
        yield FakeChainWorld(folder)
        return
    if request.param == "embedded":
        with embedded_world(folder) as running:
            yield running
        return
    binary = validator_binary()
    if binary is None:
        pytest.skip("no solana-test-validator: name one in ROBOCOMPUTE_VALIDATOR, or install it")
    with validator_world(folder, binary) as running:
        IDLE.append(running)
        try:
            yield running
        finally:
            IDLE.remove(running)
            rest(running, frozen=False)


IDLE: list[ChainWorld] = []
"""Validators that live as long as the session, and take a core whether anybody asks or not."""
ON_IT = "[validator"


def rest(world: ChainWorld, *, frozen: bool) -> None:
    """Stop a validator's clock, or let it go on: to it, no time has passed."""
    if world.process is not None:
        world.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Wake what the next test runs on."""
    if ON_IT in item.nodeid:
        for world in IDLE:
            rest(world, frozen=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Leave the core to others while nobody needs a validator."""
    if nextitem is None or ON_IT not in nextitem.nodeid:
        for world in IDLE:
            rest(world, frozen=True)


@pytest.fixture
async def pair(world: ChainWorld) -> AsyncGenerator[Pair]:
    """A funded client with a delegate, and a registered provider."""
    async with make_pair(world) as made:
        yield made


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[ChainWorld]:
    """An embedded chain of one test's own, to be faulted, killed and restarted."""
    with embedded_world(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def hardened_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    """An embedded chain that several tests may ask nonsense of."""
    with embedded_world(tmp_path_factory.mktemp("hardened")) as running:
        yield running
