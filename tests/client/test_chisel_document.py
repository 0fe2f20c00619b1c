from __future__ import annotations

import re
from pathlib import Path

from chisel import GPUType, cli, options, outcome
from chisel.words import WORDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "chisel.md").read_text()


def test_every_flag_is_in_the_document_and_in_the_help() -> None:
    flags = set(re.findall(r'"(--[a-z-]+)"', Path(options.__file__).read_text()))
    assert len(flags) > 10
    for flag in flags:
        assert f"`{flag}" in DOCUMENT, flag
        assert flag in cli.USAGE, flag


def test_every_word_is_in_the_document_and_in_the_help() -> None:
    assert tuple(WORDS) == cli.WORDS
    for word in WORDS:
        assert f"`chisel {word}" in DOCUMENT
        assert word in cli.USAGE


def test_every_exit_status_is_in_the_document() -> None:
    rows = set(re.findall(r"^\| ([0-9, ]+) \|", DOCUMENT, re.MULTILINE))
    documented = {int(number) for row in rows for number in row.split(",")}
    stated = {value for value in vars(outcome).values() if isinstance(value, int)}
    assert stated - {True, False} <= documented | {0, 1}


def test_a_gpu_type_is_what_the_flag_takes() -> None:
    for kind in GPUType:
        assert options.gpu(kind.value) == kind.value
