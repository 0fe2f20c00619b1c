"""``stake``: what a provider has bonded for its slots. The node need not run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.money import (
    AMOUNT,
    Done,
    MovesMoney,
    currency_option,
    move,
    unsigned_option,
    with_purse,
)
from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.config import NodeConfig
    from robocompute_node.purse import Purse
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import Sent

slots_option = click.option(
    "--slots", type=click.IntRange(1, 62), metavar="N", help="As much as N slots need."
)


@click.group("stake", invoke_without_command=True)
@data_option
@currency_option
@json_option
@click.pass_context
def stake_command(context: click.Context, data: Path, currency: str, as_json: bool) -> None:
    """Show what the wallet of DIR has staked, what it backs and what threatens it; or change it."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    from robocompute_node.purse import Use

    async def look(purse: Purse, config: NodeConfig) -> dict[str, Any]:
        return await _describe(purse, config, currency)

    shown = with_purse(data, Use.READ, look)
    if as_json:
        say_json(shown)
        return
    if not shown["registered"]:
        say(f"The wallet {shown['wallet_address']} has no stake in {currency}.")
        say("  robocompute-node stake register    makes one")
        return
    say(f"Stake {shown['stake']}")
    rows = [
        ["bonded", f"{shown['bonded']} {currency}"],
        ["slots", f"{_any(shown['slots_covered'])} backed, {shown['slots_wanted']} let here"],
        ["a slot needs", f"{shown['slot_stake']} {currency}"],
        ["unbonding", _unbonding(shown, currency)],
        ["slashed so far", f"{shown['slashed']} {currency}"],
        ["node key", shown["node_key"]],
    ]
    if shown["prev_key"]:
        rows.append(["key before", f"{shown['prev_key']} until {shown['rotated_at']}"])
    say_table([[f"  {name}", text] for name, text in rows])
    for threat in shown["threats"]:
        say(f"! {threat}")


def _any(slots: int | None) -> str:
    return "any number" if slots is None else str(slots)


def _unbonding(shown: dict[str, Any], currency: str) -> str:
    if shown["unbonding"] == "0.000000":
        return "nothing"
    when = "can be claimed now" if shown["claimable"] else f"until {shown['unbond_at']}"
    return f"{shown['unbonding']} {currency}, {when}"


@stake_command.command("register")
@currency_option
@unsigned_option
@inner_data_option
@json_option
def register(data: Path, currency: str, unsigned: Path | None, as_json: bool) -> None:
    """Make the wallet a provider whose leases this node's key signs."""

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        return Done(sent=await purse.register(currency), told="registered")

    move(data, act, unsigned=unsigned, as_json=as_json)


@stake_command.command("add", cls=MovesMoney)
@click.argument("amount", type=AMOUNT, required=False)
@slots_option
@currency_option
@unsigned_option
@inner_data_option
@json_option
def add(
    data: Path,
    amount: MicroUnits | None,
    slots: int | None,
    currency: str,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Bond AMOUNT more of what is free in the program, or what N slots in all still lack."""
    _one_of(amount is not None, slots is not None)

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        added = await _wanted(purse, currency, amount, slots)
        sent = await purse.add_stake(currency, added)
        return _done(sent, added, currency, "staked")

    move(data, act, unsigned=unsigned, as_json=as_json)


@stake_command.command("remove", cls=MovesMoney)
@click.argument("amount", type=AMOUNT, required=False)
@slots_option
@click.option("--all", "everything", is_flag=True, help="All that is bonded.")
@currency_option
@unsigned_option
@inner_data_option
@json_option
def remove(
    data: Path,
    amount: MicroUnits | None,
    slots: int | None,
    everything: bool,
    currency: str,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Begin to take AMOUNT, the stake of N slots, or all out.

    It counts for no slot from now on, can still be slashed while it waits, and waits anew with
    everything that is on its way out already. `stake claim` takes it in the end.
    """
    _one_of(amount is not None, slots is not None, everything)

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        taken = amount
        if everything:
            found = await purse.stake(currency)
            taken = None if found is None else found.bonded
        elif slots is not None:
            taken = _times(slots, (await purse.chain.config()).slot_stake)
        taken = taken or _times(0, 0)
        sent = await purse.remove_stake(currency, taken)
        told = "on its way out: `robocompute-node stake` shows until when"
        return _done(sent, taken, currency, told)

    move(data, act, unsigned=unsigned, as_json=as_json)


@stake_command.command("claim")
@currency_option
@unsigned_option
@inner_data_option
@json_option
def claim(data: Path, currency: str, unsigned: Path | None, as_json: bool) -> None:
    """Take what has waited long enough; it is free in the program then, to be withdrawn."""
    now_s = int(time.time())  # noqa: TID251  the command reads the clock once

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        claimed = await purse.claimable(currency, now_s=now_s)
        sent = await purse.claim_stake(currency)
        return _done(sent, claimed, currency, "claimed into the balance")

    move(data, act, unsigned=unsigned, as_json=as_json)


@stake_command.command("rotate-key")
@currency_option
@unsigned_option
@inner_data_option
@json_option
def rotate_key(data: Path, currency: str, unsigned: Path | None, as_json: bool) -> None:
    """Let the key that is in node.key now sign the stake's leases.

    Once in an unbonding period. The node must not run with the old key any more.
    """

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        sent = await purse.rotate_key(currency)
        return Done(sent=sent, told="this node's key signs the leases now")

    move(data, act, unsigned=unsigned, as_json=as_json)


def _done(sent: Sent, amount: MicroUnits, currency: str, told: str) -> Done:
    return Done(
        sent=sent,
        told=f"{_text(amount)} {currency} {told}",
        facts={"amount": _text(amount), "currency": currency},
    )


def _one_of(*given: bool) -> None:
    if sum(given) != 1:
        raise click.UsageError("name one: an AMOUNT or an option that says how much")


def _times(slots: int, each: int) -> MicroUnits:
    from robocompute_protocol.money import MicroUnits

    return MicroUnits(slots * each)


def _text(amount: MicroUnits) -> str:
    from robocompute_protocol.money import format_amount

    return format_amount(amount)


async def _wanted(
    purse: Purse, currency: str, amount: MicroUnits | None, slots: int | None
) -> MicroUnits:
    """Return what is to be added: ``amount``, or what ``slots`` in all still lack."""
    from robocompute_protocol.errors import ChainRefused

    if amount is not None:
        return amount
    assert slots is not None
    found = await purse.stake(currency)
    each = (await purse.chain.config()).slot_stake
    bonded = 0 if found is None else found.bonded
    if found is not None and slots * each <= bonded:
        raise ChainRefused(f"{slots} slots are backed already: {_text(found.bonded)} is staked")
    return _times(1, slots * each - bonded)


async def _describe(purse: Purse, config: NodeConfig, currency: str) -> dict[str, Any]:
    from robocompute_node.api.views import iso
    from robocompute_node.core.stake_report import report_on
    from robocompute_protocol.identifiers import to_base58
    from robocompute_protocol.money import format_amount

    found = await purse.stake(currency)
    if found is None:
        return {"registered": False, "wallet_address": to_base58(purse.wallet)}
    program = await purse.chain.config()
    report = report_on(
        found,
        slot_stake=program.slot_stake,
        slash_bps=program.slash_bps,
        node_key=purse.node_key,
        slots_wanted=config.provider.slots if config.is_provider else 0,
        now_s=int(time.time()),  # noqa: TID251  the command reads the clock once
    )
    return {
        "registered": True,
        "wallet_address": to_base58(purse.wallet),
        "stake": to_base58(found.stake),
        "currency": currency,
        "bonded": format_amount(found.bonded),
        "slot_stake": format_amount(program.slot_stake),
        "slots_covered": report.slots_covered,
        "slots_wanted": report.slots_wanted,
        "missing": format_amount(report.missing),
        "unbonding": format_amount(found.unbonding),
        "unbond_at": iso(found.unbond_at_s * 1000) if found.unbonding else None,
        "claimable": report.claimable,
        "slashed": format_amount(found.slashed),
        "node_key": to_base58(found.node_key),
        "prev_key": to_base58(found.prev_key) if any(found.prev_key) else None,
        "rotated_at": iso(found.rotated_at_s * 1000) if found.rotated_at_s else None,
        "threats": list(report.threats),
    }
