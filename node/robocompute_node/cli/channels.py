"""``channels``: where money is locked, with whom, and how it comes back. The node may run or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.money import (
    Done,
    ask,
    move,
    unsigned_option,
    with_accounts,
    with_node_key,
    with_purse,
    yes_option,
)
from robocompute_node.cli.options import data_option, inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table
from robocompute_protocol.errors import ChainRefused, RoboComputeError

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.config import NodeConfig
    from robocompute_node.purse import Purse
    from robocompute_protocol.identifiers import ChannelId
    from robocompute_settlement.port import ChannelView, Sent
    from robocompute_settlement.solana import SolanaSettlement

channel_argument = click.argument("channel", metavar="ID")


class UnknownChannel(RoboComputeError):
    """No channel of this wallet has that id."""

    code = "unknown_channel"


@click.group("channels", invoke_without_command=True)
@data_option
@click.option("--all", "everything", is_flag=True, help="Closed ones too.")
@json_option
@click.pass_context
def channels_command(context: click.Context, data: Path, everything: bool, as_json: bool) -> None:
    """Show the payment channels of the wallet of DIR; or close them."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    told = with_accounts(data, _listed)
    rows = [
        row for row in told["channels"] if everything or row["state"] != "closed" or row["alarm"]
    ]
    if as_json:
        say_json({**told, "channels": rows})
        return
    for alarm in told["alarms"]:
        if alarm["channel"] is None:
            say(f"! {alarm['kind']}: {alarm['text']}")
    if not rows:
        say("No channels: nothing of this wallet's money is locked in one, and none pays it.")
        return
    head = ["channel", "role", "peer", "state", "deposit", "voucher", "settled", "unsettled"]
    cells = [["" if row[key] is None else str(row[key]) for key in head] for row in rows]
    say_table(cells, head=head)
    for row in rows:
        if row["close_at"]:
            say(f"{row['channel']} closes at {row['close_at']}")
        if row["alarm"]:
            say(f"! {row['channel']}: {row['alarm']}")


@channels_command.command("show")
@channel_argument
@inner_data_option
@json_option
def show(data: Path, channel: str, as_json: bool) -> None:
    """Show everything about one channel."""
    found = [row for row in with_accounts(data, _listed)["channels"] if row["channel"] == channel]
    if not found:
        raise UnknownChannel(
            f"no channel {channel} here: `robocompute-node channels --all` lists them"
        )
    if as_json:
        say_json(found[0] if len(found) == 1 else found)
        return
    for row in found:
        say_table(
            [[f"  {key}", "" if value is None else str(value)] for key, value in row.items()]
        )


@channels_command.command("close")
@channel_argument
@click.option(
    "--with-wallet",
    is_flag=True,
    help="Sign with the wallet's key, where the node's key may not act for it (any more).",
)
@yes_option
@unsigned_option
@inner_data_option
@json_option
def close(
    data: Path, channel: str, with_wallet: bool, yes: bool, unsigned: Path | None, as_json: bool
) -> None:
    """Close a channel and bring the rest back to its payer.

    Its payer asks for the close, and has the rest back after the challenge time: a running node
    finishes it by itself, else `channels finalize` does. Its payee settles and closes at once,
    signed by the wallet's key.
    """
    from robocompute_node.purse import Use

    async def look(purse: Purse, _config: NodeConfig) -> tuple[ChannelView, bool]:
        view = await _view(purse.chain, channel)
        return view, view.payer == purse.wallet

    async def begin(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
        return dict(await accounts.close_channel(channel))

    async def request(purse: Purse, _config: NodeConfig) -> Done:
        return Done(sent=await purse.chain.request_close(view), told="asked to close")

    async def close_now(purse: Purse, _config: NodeConfig) -> Done:
        return Done(sent=await purse.chain.close_by_payee(view), told="settled and closed")

    view, pays = with_purse(data, Use.READ, look)
    drafts = pays and unsigned is not None  # the payee settles first, which moves money
    ask(f"Close the channel {channel}, so that no job is paid over it any more", yes=yes or drafts)
    if pays and (with_wallet or unsigned is not None):
        move(data, request, unsigned=unsigned, as_json=as_json)
        return
    if not pays:  # who cannot sign finds out before any job is refused on the channel
        with_purse(data, Use.SIGN if unsigned is None else Use.DRAFT, look)
    told = with_accounts(data, begin)
    if not pays:
        if told["unsettled"] != "0.000000":
            raise ChainRefused(
                f"{told['unsettled']} could not be settled and would be lost: try again once "
                "`robocompute-node earnings settle` went through"
            )
        move(data, close_now, unsigned=unsigned, as_json=as_json)
    elif as_json:
        say_json(told)
    else:
        say(f"asked to close: the rest comes back after {told['close_at']}")


@channels_command.command("finalize")
@channel_argument
@inner_data_option
@json_option
def finalize(data: Path, channel: str, as_json: bool) -> None:
    """Bring the rest of a channel back whose challenge time is over. Anybody may; the node pays."""

    async def act(chain: SolanaSettlement) -> Sent:
        view = await _view(chain, channel)
        if not view.closing:
            raise ChainRefused(
                f"nobody asked to close it: `robocompute-node channels close {channel}` first"
            )
        return await chain.finalize_close(view)

    sent = with_node_key(data, act)
    if as_json:
        say_json({"signature": sent.signature, "slot": sent.slot})
    else:
        say(f"closed, the rest is back in its payer's balance; transaction {sent.signature}")


@channels_command.command("accept")
@click.argument("name", metavar="ID|ALARM")
@yes_option
@inner_data_option
@json_option
def accept(data: Path, name: str, yes: bool, as_json: bool) -> None:
    """Take what an alarm tells as it is, and end it.

    ID is a channel with an alarm: it is used again. ALARM is one of the wallet's: balance_low,
    slashed or nonce_back. What the chain holds now is right from then on, and only more of the same
    is an alarm again.
    """

    async def end(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
        return dict(await accounts.accept_alarms(name))

    standing = [
        alarm
        for alarm in with_accounts(data, _listed)["alarms"]
        if name == (alarm["channel"] or alarm["kind"])
    ]
    if not as_json:
        for alarm in standing:
            say(f"! {alarm['kind']}: {alarm['text']}")
    if standing:
        ask(f"Accept this on {name} as it is, so that it is no alarm any more", yes=yes)
    told = with_accounts(data, end)
    if as_json:
        say_json(told)
    else:
        say(f"accepted: {', '.join(alarm['kind'] for alarm in told['accepted'])}")


async def _listed(accounts: MoneyApi, _config: NodeConfig) -> dict[str, Any]:
    return dict(await accounts.channels())


async def _view(chain: SolanaSettlement, text: str) -> ChannelView:
    view = await chain.channel(_channel(text))
    if view is None:
        raise UnknownChannel(f"there is no channel {text} on the chain: it was closed already")
    return view


def _channel(text: str) -> ChannelId:
    from robocompute_protocol.identifiers import ChannelId, address_from_base58

    try:
        return ChannelId(bytes(address_from_base58(text)))
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="ID") from None
