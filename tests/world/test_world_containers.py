"""A task with an image, from the SDK to the receipt, on whole nodes and a real engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from whole_world import wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from podman_engine import IMAGE, import_python, missing, podman, refusal

from robocompute import ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from whole_world import WholeWorld

pytestmark = [pytest.mark.world, pytest.mark.sandbox, pytest.mark.timeout(400)]

PROGRAM = "import os, sys; print('hello from', os.getcwd()); open('/volume/r', 'w').write('1'); sys.exit(3)"
SMALL = {"cpu_cores": 1, "ram_gb": 0.25, "storage_gb": 0.25}


def ended(world: WholeWorld, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        task = dict(world.sdk().tasks.get(task_id))
        return task if task["ended_at"] else {}

    return wait_until("the task's end", look)


def test_a_task_with_an_image_runs_in_a_container_and_is_paid_for(
    found: Callable[[], WholeWorld],
) -> None:
    if absent := missing():
        pytest.skip(absent)
    world = found()
    tasks = world.sdk().tasks
    asked: dict[str, Any] = {
        "name": "boxed",
        "type": "cpu",
        "command": ["python", "-c", PROGRAM],
        "resource_requirements": SMALL,
        "docker_image": IMAGE,
    }
    with pytest.raises(ProviderUnavailableError, match="executor"):
        tasks.create(**asked)
    with podman() as socket:
        import_python(socket)
        if words := refusal(socket):
            pytest.skip(words)
        assert world.terminate("provider-1")
        config = world.data("provider-1") / "config.toml"
        text = config.read_text()
        start = text.index("[containers]")
        section = f'[containers]\nengine = "{socket}"\nlocal_images = ["{IMAGE}"]\n'
        config.write_text(text[:start].rstrip() + "\n\n" + section)
        world.start("provider-1")
        task = ended(world, tasks.create(**asked, wait=True)["task_id"])
        assert (task["exit_code"], task["cause"]) == (3, "exited"), task
        said = tasks.get_logs(task["task_id"])
        assert "hello from" in str(said)
        asked["docker_image"] = "localhost/other:1"
        private = ended(world, tasks.create(**asked, wait=True)["task_id"])
        assert private["status"] == "failed"
        assert "pulls no images from localhost" in private["message"]
        assert world.terminate("provider-1")
