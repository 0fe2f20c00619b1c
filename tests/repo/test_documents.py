"""What the documents say exists, exists; what exists is in the documents."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from robocompute_protocol.causes import Cause
from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = ("robocompute_protocol", "robocompute_settlement", "robocompute_node")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "GLOSSARY.md", "CONTRIBUTING.md", "CHANGELOG.md")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))


def error_classes() -> Iterator[type[RoboComputeError]]:
    """Every error a person may meet, from every module of the node's side."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    waiting: list[type[RoboComputeError]] = [RoboComputeError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        yield error


def documents() -> list[Path]:
    return [*(ROOT / name for name in DOCUMENTS), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_make_command_in_a_document_is_a_target(path: Path) -> None:
    named = set(re.findall(r"(?:^|`)\s*make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE))
    assert named <= makefile_targets()


def test_the_readme_leads_with_the_two_commands() -> None:
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z-]+)", read("README.md"), re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == makefile_targets()


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_file_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_every_file_that_architecture_names_exists() -> None:
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|rs|toml|md|so))`", read("ARCHITECTURE.md"))
    assert named != []
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_error_code_is_documented() -> None:
    text = read("docs/protocol.md") + read("docs/rest.md")
    codes = {error.code for error in error_classes()}
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_every_cause_of_an_end_is_documented() -> None:
    text = read("docs/protocol.md") + read("docs/rest.md")
    assert [cause.value for cause in Cause if f"`{cause.value}`" not in text] == []
