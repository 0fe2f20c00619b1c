"""``wallet``: the owner's money, with the wallet's own key. The node need not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.money import (
    ADDRESS,
    AMOUNT,
    LIMIT,
    Done,
    MovesMoney,
    ask,
    currency_option,
    move,
    signed_name,
    unsigned_option,
    with_purse,
    write_new,
    yes_option,
)
from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig
    from robocompute_node.purse import Purse
    from robocompute_protocol.identifiers import Address
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.drafts import Draft

draft_argument = click.argument(
    "file", type=click.Path(path_type=Path, exists=True, dir_okay=False)
)


@click.group("wallet", invoke_without_command=True)
@data_option
@json_option
@click.pass_context
def wallet_command(context: click.Context, data: Path, as_json: bool) -> None:
    """Show what the wallet of DIR holds; or move it."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    from robocompute_node.purse import Use

    shown = with_purse(data, Use.READ, _describe)
    if as_json:
        say_json(shown)
        return
    say(f"Wallet {shown['wallet_address']}")
    keys = (
        "currency", "in_wallet", "available", "in_channels", "staked", "unbonding", "fees_owed",
        "allowance",
    )  # fmt: skip
    head = [
        "", "in wallet", "available", "in channels", "staked", "unbonding", "fees owed",
        "allowance",
    ]  # fmt: skip
    say_table([[held[key] for key in keys] for held in shown["holdings"]], head=head)
    for held in shown["holdings"]:
        if held["delegate"]:
            until = held["delegate_expires"]
            say(f"{held['currency']}: the key {held['delegate']} may lock money until {until}")
        if held["delegate"] not in (None, shown["node_key"]):
            say(
                f"! that is not this node's key {shown['node_key']}, which may lock no "
                f"{held['currency']}: `robocompute-node wallet delegate set` hands the allowance over"
            )
    for gas in shown["gas"]:
        hint = f" ({gas['hint']})" if gas["hint"] else ""
        say(f"SOL of the {gas['key']}: {gas['sol']}{hint}")


@wallet_command.command("deposit", cls=MovesMoney)
@click.argument("amount", type=AMOUNT)
@currency_option
@unsigned_option
@inner_data_option
@json_option
def deposit(
    data: Path, amount: MicroUnits, currency: str, unsigned: Path | None, as_json: bool
) -> None:
    """Move AMOUNT from the wallet into the settlement program, where jobs are paid from."""
    from robocompute_protocol.money import format_amount

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        sent, moved = await purse.deposit(currency, amount), format_amount(amount)
        return Done(
            sent=sent,
            told=f"{moved} {currency} deposited",
            facts={"amount": moved, "currency": currency},
        )

    move(data, act, unsigned=unsigned, as_json=as_json)


@wallet_command.command("withdraw", cls=MovesMoney)
@click.argument("amount", type=AMOUNT)
@click.option(
    "--to",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Another wallet, or a token account. Default: this wallet.",
)
@currency_option
@yes_option
@unsigned_option
@inner_data_option
@json_option
def withdraw(
    data: Path,
    amount: MicroUnits,
    to: Address | None,
    currency: str,
    yes: bool,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Pay AMOUNT out of the settlement program."""
    pay_out(data, amount, to, currency, yes=yes, unsigned=unsigned, as_json=as_json)


def pay_out(
    data: Path,
    amount: MicroUnits | None,
    to: Address | None,
    currency: str,
    *,
    yes: bool,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Pay ``amount``, or all that is free, to a wallet or token account; ask first."""
    from robocompute_protocol.identifiers import to_base58
    from robocompute_protocol.money import format_amount

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        payment = await purse.payment(currency, amount, to or purse.wallet)
        if to is None:
            where = "the wallet itself"
        elif payment.token_account:
            where = f"the token account {to_base58(to)}"
        else:
            where = f"the wallet {to_base58(to)}"
        paid, left = format_amount(payment.amount), format_amount(payment.left)
        question = f"Pay {paid} {currency} to {where}, leaving {left}"
        ask(question, yes=yes or unsigned is not None)
        return Done(
            sent=await purse.pay(payment),
            told=f"{paid} {currency} paid to {where}",
            facts={"amount": paid, "currency": currency, "to": to_base58(payment.to)},
        )

    move(data, act, unsigned=unsigned, as_json=as_json)


# --- the delegate -------------------------------------------------------------------------------


@wallet_command.group("delegate")
def delegate() -> None:
    """What the node's own key may do with the money: lock it in channels, never withdraw it."""


@delegate.command("set")
@click.option(
    "--allowance",
    type=LIMIT,
    default="100.00",
    show_default=True,
    help="Most it may lock in all.",
)
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 3_650))
@currency_option
@unsigned_option
@inner_data_option
@json_option
def delegate_set(
    data: Path,
    allowance: MicroUnits,
    days: int,
    currency: str,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Let the node's key open payment channels, up to an allowance and for a time."""
    import time

    from robocompute_protocol.money import format_amount

    now_s = int(time.time())  # noqa: TID251  the command reads the clock once

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        sent = await purse.delegate(currency, allowance, now_s=now_s, days=days)
        limit = format_amount(allowance)
        return Done(
            sent=sent,
            told=f"the node's key may lock up to {limit} {currency} for {days} days",
            facts={"allowance": limit, "currency": currency},
        )

    move(data, act, unsigned=unsigned, as_json=as_json)


@delegate.command("revoke")
@currency_option
@unsigned_option
@inner_data_option
@json_option
def delegate_revoke(data: Path, currency: str, unsigned: Path | None, as_json: bool) -> None:
    """Take the allowance away. Channels that are open stay open, and what is in them stays spent."""

    async def act(purse: Purse, _config: NodeConfig) -> Done:
        sent = await purse.revoke(currency)
        return Done(sent=sent, told="no key but the wallet's may lock money now")

    move(data, act, unsigned=unsigned, as_json=as_json)


# --- signing elsewhere --------------------------------------------------------------------------


@wallet_command.command("sign")
@draft_argument
@click.option(
    "--key",
    metavar="KEYFILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The wallet's key file. Default: wallet.json of DIR.",
)
@click.option(
    "--program-id",
    type=ADDRESS,
    metavar="ADDRESS",
    help="The settlement program. Default: that of DIR; where no node is, it is shown and asked.",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the signed transaction goes. Default: FILE.signed.",
)
@yes_option
@inner_data_option
@json_option
def sign(
    data: Path,
    file: Path,
    key: Path | None,
    program_id: Address | None,
    out: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign FILE, which `--unsigned` wrote. Needs no chain and no node: only the wallet's key.

    What the transaction does, and pays, is read off what is signed, and shown first. What this
    version does not know is not signed.
    """
    from robocompute_node.config import CONFIG_NAME, WALLET_NAME
    from robocompute_node.config_file import load_config
    from robocompute_node.keys import NAME_A_KEY, load_key
    from robocompute_protocol.identifiers import to_base58
    from robocompute_settlement.drafts import describe, draft_file, program_of, sign_draft

    config = load_config(data) if (data / CONFIG_NAME).exists() else None
    draft = _read(file)
    secret = load_key(key or data / WALLET_NAME, otherwise=NAME_A_KEY)
    known = config.chain.program_id if program_id is None and config is not None else program_id
    program = known or program_of(draft.message)
    lines = describe(draft.message, program)
    for line in lines:
        say(f"  {line}") if not as_json else None
    if known is None and yes:
        raise click.UsageError(
            f"no node here knows the settlement program, and the file names {to_base58(program)}: "
            "where that is right, add --program-id with it"
        )
    ask("Sign this" if known else f"Sign this, for the program {to_base58(program)}", yes=yes)
    signed = sign_draft(draft, secret.seed, program)
    target = out or signed_name(file)
    write_new(target, draft_file(signed, program))
    if as_json:
        say_json({"signed": str(target), "what": list(lines)})
    else:
        say(f"Signed: {target}. Where the chain is: robocompute-node wallet send {target}")


@wallet_command.command("send")
@draft_argument
@inner_data_option
@json_option
def send(data: Path, file: Path, as_json: bool) -> None:
    """Send FILE, a transaction that `--unsigned` wrote and the wallet signed."""
    from robocompute_node.purse import Use
    from robocompute_settlement.drafts import describe, signature_of

    draft = _read(file)
    signature = signature_of(draft)

    async def act(purse: Purse, config: NodeConfig) -> tuple[bool, tuple[str, ...]]:
        told = describe(draft.message, config.chain.program_id)
        return await purse.send(draft), told

    before, told = with_purse(data, Use.READ, act)
    if as_json:
        say_json({"signature": signature, "sent_before": before, "what": list(told)})
        return
    for line in told:
        say(f"  {line}")
    say(f"{'done before' if before else 'done'}; transaction {signature}")


def _read(file: Path) -> Draft:
    from robocompute_settlement.drafts import MAX_DRAFT_BYTES, read_draft

    with file.open("rb") as opened:
        return read_draft(opened.read(MAX_DRAFT_BYTES))


async def _describe(purse: Purse, _config: NodeConfig) -> dict[str, Any]:
    from robocompute_node.api.views import iso
    from robocompute_protocol.identifiers import to_base58
    from robocompute_protocol.money import format_amount

    return {
        "wallet_address": to_base58(purse.wallet),
        "node_key": to_base58(purse.node_key),
        "holdings": [
            {
                "currency": held.symbol,
                "in_wallet": format_amount(held.in_wallet),
                "available": format_amount(held.available),
                "in_channels": format_amount(held.in_channels),
                "staked": format_amount(held.staked),
                "unbonding": format_amount(held.unbonding),
                "fees_owed": format_amount(held.fees_owed),
                "allowance": format_amount(held.allowance),
                "delegate": to_base58(held.delegate) if any(held.delegate) else None,
                "delegate_expires": (
                    iso(held.delegate_expires_s * 1000) if any(held.delegate) else None
                ),
            }
            for held in await purse.holdings()
        ],
        "gas": [
            {
                "key": gas.name,
                "address": to_base58(gas.address),
                "sol": gas.sol,
                "hint": gas.hint or None,
            }
            for gas in await purse.gas()
        ],
    }
