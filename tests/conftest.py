"""What holds for all tests, and how they are dealt out where several workers run them at once.

A file's tests stay together, for they share what is costly to found. What is shared by several
files, or bears no second one beside it on the machine, goes to one worker whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdist.remote import Producer

# Random input without a stopwatch: a slow machine is no failure.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")

VALIDATOR: Final = "on Solana's validator"
"""It takes more than a core: never two at once."""
SHARED: Final = (
    ("test_embedded_parity.py", VALIDATOR),
    ("[validator", VALIDATOR),
    ("world/test_scenario_", "in a scene"),
    ("world/test_world_jobs.py", "in the calm world"),
    ("world/test_world_money.py", "in the calm world"),
    ("world/test_world_start_faults.py", "in the calm world"),
    ("world/test_world_chain_outage.py", "in the rough world"),
    ("world/test_world_client_kills.py", "in the rough world"),
    ("world/test_world_provider_kills.py", "in the rough world"),
)
"""Parts of tests' names, and what all tests with that part in their names share."""
SLOWEST: Final = ("[validator", "test_embedded_parity.py", "tests/world/", "tests/settlement/")
"""Parts of the names of tests that wait most: they begin, so that no worker waits for them last."""


class DealtByWorld(LoadFileScheduling):
    """Deals out files, except that tests that share a world stay with one worker."""

    def _split_scope(self, nodeid: str) -> str:
        for part, world in SHARED:
            if part in nodeid:
                return world
        return super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> DealtByWorld | None:
    """Deal tests out as above wherever files were to be dealt out."""
    return DealtByWorld(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest first where several workers run them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.nodeid, SLOWEST))


def _rank(nodeid: str, parts: Sequence[str]) -> int:
    return next((rank for rank, part in enumerate(parts) if part in nodeid), len(parts))
