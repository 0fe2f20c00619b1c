"""The wheel holds every package and the program, and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "robocompute_protocol",
    "robocompute_settlement",
    "robocompute_node",
    "robocompute",
    "chisel",
    "aspara",
}
PROGRAM = "robocompute_settlement/program/settlement.so"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_six_packages_and_no_other(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_every_module_of_the_tree_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    folders = [path for path in ROOT.glob("*/*") if path.name in PACKAGES]
    expected = {
        str(path.relative_to(folder.parent)) for folder in folders for path in folder.rglob("*.py")
    }
    assert expected <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_the_wheel_carries_the_very_program_that_is_committed(wheel: zipfile.ZipFile) -> None:
    committed = (ROOT / "programs/settlement/settlement.so").read_bytes()
    assert hashlib.sha256(wheel.read(PROGRAM)).digest() == hashlib.sha256(committed).digest()


def test_the_wheel_has_both_commands(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(entry_points).decode()
    assert "chisel = chisel.cli:main" in text
    assert "robocompute-node = robocompute_node.__main__:main" in text


def test_the_wheel_has_no_tests_and_no_sources_of_the_program(wheel: zipfile.ZipFile) -> None:
    assert [
        name
        for name in wheel.namelist()
        if name.startswith("tests/") or "/test_" in name or name.endswith((".rs", ".toml"))
    ] == []
