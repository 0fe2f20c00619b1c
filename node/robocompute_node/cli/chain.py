"""``chain``: the settlement program on a cluster: what is there, is it right, putting it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.chain_admin import admin_command
from robocompute_node.cli.chain_deploy import deploy_command
from robocompute_node.cli.chain_options import place_of, place_options, read_address
from robocompute_node.cli.options import data_option
from robocompute_node.cli.output import say, say_json, say_table
from robocompute_node.cli.recover import recover_command

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.chain_report import ChainReport
    from robocompute_node.cli.chain_options import Place


@click.group("chain")
@data_option
@click.pass_context
def chain_command(context: click.Context, data: Path) -> None:
    """The settlement program on a cluster: see it, check it, deploy it, administer it."""
    context.obj = data


@chain_command.command("status")
@place_options
def status(data: Path, rpc: str | None, program: str | None, as_json: bool) -> int:
    """Show cluster, program, settings and vaults. Exit status 1 when something is not sound."""
    report = _report(place_of(data, rpc, program))
    if as_json:
        say_json(report.json())
    else:
        _say_report(report)
    return 0 if report.sound else 1


@chain_command.command("verify")
@place_options
@click.option("--authority", metavar="ADDRESS", help="Who must hold the upgrade authority.")
def verify_(
    data: Path, rpc: str | None, program: str | None, as_json: bool, authority: str | None
) -> int:
    """Hold what is deployed against the committed build. Exit status 1 when a check fails."""
    from robocompute_node.chain_report import verify
    from robocompute_settlement.localworld import program_path

    wanted = None if authority is None else read_address(authority, "--authority")
    report = _report(place_of(data, rpc, program))
    checks = verify(report, program_path().read_bytes(), authority=wanted)
    good = all(check.good for check in checks)
    if as_json:
        told = [{"what": c.what, "good": c.good, "text": c.text} for c in checks]
        say_json({**report.json(), "good": good, "checks": told})
    else:
        for check in checks:
            say(f"{'ok   ' if check.good else 'WRONG'} {check.what}: {check.text}")
    return 0 if good else 1


chain_command.add_command(deploy_command)
chain_command.add_command(admin_command)
chain_command.add_command(recover_command)


def _report(place: Place) -> ChainReport:
    import trio

    from robocompute_node.chain_probe import require_answer
    from robocompute_node.chain_report import report_chain

    async def look() -> ChainReport:
        await require_answer(place.chain)
        async with place.open() as chain:
            return await report_chain(chain, place.program_id)

    return trio.run(look)


def _say_report(report: ChainReport) -> None:
    from robocompute_node.chain_report import authority_text

    shown: dict[str, Any] = report.json()
    rows = [
        ["cluster", f"{shown['cluster']} at {report.rpc_url}"],
        ["genesis", str(shown["genesis_hash"])],
        ["slot", str(report.slot)],
        ["program", str(shown["program_id"])],
    ]
    if report.program is None:
        rows.append(["", report.why_no_config or "not deployed: `robocompute-node chain deploy`"])
    else:
        rows.append(["upgrade authority", authority_text(report.program.authority)])
        if report.config is None:
            rows.append(["config", report.why_no_config])
    config: dict[str, Any] = shown["config"] or {}
    rows += [[key, _cell(value)] for key, value in config.items()]
    say_table(rows)
    for mint, books in zip(config.get("mints", []), report.books, strict=False):
        say()
        say(f"vault of {mint}")
        say_table([[f"  {key}", value] for key, value in books.json().items()])
        if books.surplus < 0:
            say("  THE VAULT LACKS MONEY: it holds less than it owes")


def _cell(value: object) -> str:
    if isinstance(value, list):
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return ", ".join(map(str, items))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
