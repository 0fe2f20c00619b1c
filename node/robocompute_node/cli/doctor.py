"""``doctor``: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robocompute_node.cli.options import data_option, json_option
from robocompute_node.cli.output import say, say_json

if TYPE_CHECKING:
    from pathlib import Path

MARKS = {"good": "ok     ", "less": "less   ", "missing": "MISSING"}


@click.command("doctor")
@data_option
@json_option
def doctor_command(data: Path, as_json: bool) -> int:
    """Check what the node in DIR needs. Exit status 1 when something is missing."""
    from robocompute_node.diagnosis import Verdict, diagnose_now

    findings = diagnose_now(data)
    bad = any(finding.verdict is Verdict.MISSING for finding in findings)
    if as_json:
        say_json(
            {
                "ok": not bad,
                "findings": [
                    {"what": f.what, "verdict": f.verdict.value, "text": f.text} for f in findings
                ],
            }
        )
    else:
        for finding in findings:
            say(f"{MARKS[finding.verdict.value]} {finding.what}: {finding.text}")
    return 1 if bad else 0
