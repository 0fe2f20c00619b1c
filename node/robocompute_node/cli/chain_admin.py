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
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from robocompute_protocol.identifiers import Address
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
    if not any(new_admin):
        raise click.BadParameter(
            "nobody has the key of that; to take a proposal back, propose the admin itself",
            param_hint="ADDRESS",
        )
    sent = _act(data, rpc, program, key, lambda admin, _: admin.propose_admin(new_admin))
    _say_sent(sent, f"{address} may accept now: `robocompute-node chain admin accept`", as_json)


@admin_command.command("accept")
@place_options
@key_option
def accept(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None
) -> None:
    """Become the admin, with the key that was proposed."""
    sent = _act(data, rpc, program, key, lambda admin, _: admin.accept_admin(), proposed=True)
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


def _act(
    data: Path, rpc: str | None, program: str | None, key: Path | None, act: Act, *,
    proposed: bool = False,
) -> Sent:  # fmt: skip
    """Do what only the admin may or, with ``proposed``, only who was proposed as the next.

    Raises:
        ChainRefused: another key signs, or the program refuses.
    """
    import trio

    from robocompute_node.chain_probe import require_answer
    from robocompute_settlement.administration import Administration

    place = place_of(data, rpc, program)
    seed = read_key(data, key).seed

    async def acted() -> Sent:
        await require_answer(place.chain)
        async with place.open(seed=seed) as chain:
            now = await chain.config()
            _require_key(chain.signer, now, proposed=proposed)
            return await act(Administration(chain), now)

    return trio.run(acted)


def _require_key(signer: Address, now: ConfigView, *, proposed: bool) -> None:
    admin = to_base58(now.admin)
    if not proposed and signer != now.admin:
        raise ChainRefused(
            f"the admin is {admin}, not {to_base58(signer)}: sign with its key, --key FILE"
        )
    if proposed and not any(now.pending_admin):
        raise ChainRefused(
            f"nobody is proposed: the admin {admin} does that with `robocompute-node chain admin "
            f"propose {to_base58(signer)}`"
        )
    if proposed and signer != now.pending_admin:
        raise ChainRefused(
            f"proposed as the next admin is {to_base58(now.pending_admin)}, not "
            f"{to_base58(signer)}: sign with its key, --key FILE"
        )


def _say_sent(sent: Sent, text: str, as_json: bool) -> None:
    if as_json:
        say_json({"signature": sent.signature, "slot": sent.slot})
    else:
        say(f"{text}; transaction {sent.signature}")
