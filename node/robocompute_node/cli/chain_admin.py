"""``chain admin``: what only the deployment's admin may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.chain_options import (
    key_option,
    place_of,
    place_options,
    read_address,
    read_key,
    settings_options,
)
from robocompute_node.cli.output import say, say_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from robocompute_settlement.administration import Administration
    from robocompute_settlement.port import ConfigView, Sent

    Act = Callable[[Administration, ConfigView], Awaitable[Sent]]


@click.group("admin")
def admin_command() -> None:
    """The deployment's settings, for its admin: the fee, times, the pause, the hand-over."""


@admin_command.command("propose")
@click.argument("address")
@place_options
@key_option
def propose(
    address: str, data: Path, rpc: str | None, program: str | None, as_json: bool,
    key: Path | None,
) -> None:  # fmt: skip
    """Name ADDRESS the next admin. It becomes that when it accepts; until then nothing changes."""
    new_admin = read_address(address, "ADDRESS")
    sent = _act(data, rpc, program, key, lambda admin, _: admin.propose_admin(new_admin))
    _say_sent(sent, f"{address} may accept now: `robocompute-node chain admin accept`", as_json)


@admin_command.command("accept")
@place_options
@key_option
def accept(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None
) -> None:
    """Become the admin, with the key that was proposed."""
    sent = _act(data, rpc, program, key, lambda admin, _: admin.accept_admin())
    _say_sent(sent, "this key is the admin now", as_json)


@admin_command.command("pause")
@place_options
@key_option
def pause(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None
) -> None:
    """Stop new deposits and channels. Withdrawals, settlements and closings go on."""
    sent = _act(data, rpc, program, key, lambda admin, now: _change(admin, now, paused=True))
    _say_sent(sent, "paused: no new deposits and channels", as_json)


@admin_command.command("unpause")
@place_options
@key_option
def unpause(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None
) -> None:
    """Take deposits and channels again."""
    sent = _act(data, rpc, program, key, lambda admin, now: _change(admin, now, paused=False))
    _say_sent(sent, "no longer paused", as_json)


@admin_command.command("set")
@place_options
@key_option
@settings_options
def set_(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Change settings; those that are not named stay. Channels keep the fee they opened with."""
    if not settings:
        raise click.UsageError("name at least one setting to change")
    sent = _act(data, rpc, program, key, lambda admin, now: _change(admin, now, **settings))
    _say_sent(sent, f"changed: {', '.join(settings)}", as_json)


async def _change(admin: Administration, now: ConfigView, **changes: Any) -> Sent:
    settings: dict[str, Any] = {
        "treasury": now.treasury,
        "slot_stake": now.slot_stake,
        "unbond_s": now.unbond_s,
        "min_challenge_s": now.min_challenge_s,
        "fee_bps": now.fee_bps,
        "slash_bps": now.slash_bps,
        "paused": now.paused,
    }
    return await admin.update_config(**(settings | changes))


def _act(data: Path, rpc: str | None, program: str | None, key: Path | None, act: Act) -> Sent:
    import trio

    from robocompute_settlement.administration import Administration

    place = place_of(data, rpc, program)
    seed = read_key(data, key).seed

    async def acted() -> Sent:
        async with place.open(seed=seed) as chain:
            return await act(Administration(chain), await chain.config())

    return trio.run(acted)


def _say_sent(sent: Sent, text: str, as_json: bool) -> None:
    if as_json:
        say_json({"signature": sent.signature, "slot": sent.slot})
    else:
        say(f"{text}; transaction {sent.signature}")
