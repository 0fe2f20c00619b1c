"""Rules of the tree that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "protocol/robocompute_protocol",
    "settlement/robocompute_settlement",
    "node/robocompute_node",
    "client/robocompute",
    "client/chisel",
    "tracker/aspara",
)
MAX_LINES = 500
"""A module longer than this holds more than one thing."""
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")
MACHINE_PATHS = re.compile(r"/work/(main|shared)\b|/root/|/opt/rcvenv|/tmp/plan\b|/home/\w+/")
REGISTRIES = re.compile(
    r"\b(pypi"
    r"\.org|pythonhosted"
    r"\.org|crates"
    r"\.io|npmjs"
    r"\.(?:org|com)|deb\.debian"
    r"\.org|docker"
    r"\.io|ghcr"
    r"\.io)\b"
)
"""Hosts of package indexes: where packages come from is each machine's own configuration."""
ONES_OWN_FORMAT = {"Cargo.lock"}
"""Written by cargo, which names its index in every entry."""


def tracked_files() -> list[Path]:
    """Return what git tracks or would, without what it ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (ROOT / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return None


def test_every_module_is_short_enough_to_hold_one_thing() -> None:
    everything = [*modules(), *(p for p in tracked_files() if p.suffix in {".py", ".rs"})]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in everything
        if (lines := len(path.read_text("utf-8").splitlines())) >= MAX_LINES
    }
    assert long == {}


def test_modules_are_named_for_what_they_hold() -> None:
    vague = [
        str(path.relative_to(ROOT))
        for path in modules()
        if VAGUE.search(path.stem) or VAGUE.search(path.parent.name)
    ]
    assert vague == []


def test_every_package_exists_and_tells_its_types() -> None:
    missing = [package for package in PACKAGES if not (ROOT / package / "__init__.py").is_file()]
    untyped = [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()]
    assert (missing, untyped) == ([], [])


def test_test_modules_have_names_of_their_own_and_no_packages() -> None:
    tests = [path for path in tracked_files() if path.is_relative_to(ROOT / "tests")]
    assert [path for path in tests if path.name == "__init__.py"] == []
    names = [path.name for path in tests if path.name.startswith("test_") and path.suffix == ".py"]
    assert sorted(names) == sorted(set(names))


def test_no_tracked_file_names_a_machine_or_a_package_index() -> None:
    found: list[str] = []
    for path in tracked_files():
        text = None if path.name in ONES_OWN_FORMAT or path == Path(__file__) else text_of(path)
        for number, line in enumerate((text or "").splitlines(), start=1):
            if MACHINE_PATHS.search(line) or REGISTRIES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_nothing_large_is_tracked_by_accident() -> None:
    limit = 1_000_000  # bytes: the largest file that belongs here is the lock, at 170 kB
    large = [str(p.relative_to(ROOT)) for p in tracked_files() if p.stat().st_size > limit]
    assert large == []
