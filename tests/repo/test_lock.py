"""requirements.lock is what pyproject.toml asks for, and can be installed anywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKED_EXTRAS = ("node", "tracker", "dev")
"""All but torch: jobs use torch, the project does not."""


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text("utf-8")


def locked_versions() -> dict[str, str]:
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in entries}


def test_every_requirement_is_locked_at_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in LOCKED_EXTRAS:
        wanted += project["optional-dependencies"][extra]
    versions = locked_versions()
    unmet = [
        text
        for text in wanted
        if not (requirement := Requirement(text)).specifier.contains(
            versions.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert unmet == []


def test_every_locked_package_has_a_hash() -> None:
    entries = [
        entry for entry in re.split(r"^(?=\S)", lock_text(), flags=re.MULTILINE) if entry.strip()
    ]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_names_no_index() -> None:
    assert re.search(r"https?:|--(?:extra-)?index|--find-links", lock_text()) is None


def test_the_lock_can_build_what_comes_as_source_only() -> None:
    versions = locked_versions()
    assert {"setuptools", "hatchling", "uv"} <= versions.keys()
