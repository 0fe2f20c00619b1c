"""What the money commands share: amounts, consent, and how a transaction is told of."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from robocompute_node.cli.output import say, say_json
from robocompute_protocol.errors import ChainUnknown, ConfigError, RoboComputeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.config import NodeConfig
    from robocompute_node.purse import Purse, Use
    from robocompute_protocol.identifiers import Address
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import Sent
    from robocompute_settlement.solana import SolanaSettlement

T = TypeVar("T")

CURRENCIES: Final = ("USDC", "USDT")
currency_option = click.option(
    "--currency", type=click.Choice(CURRENCIES), default="USDC", show_default=True
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask before money moves.")
unsigned_option = click.option(
    "--unsigned",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Send nothing: write the transaction to FILE, to be signed where the wallet's key is.",
)


class NotConfirmed(RoboComputeError):
    """Money would have moved, and nobody said yes. Nothing was sent."""

    code = "not_confirmed"
    exit_status = 2


class MovesMoney(click.Command):
    """A command about an amount: ``-5`` is a wrong amount to it, and not an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for given in args:
            if re.fullmatch(r"-[0-9][0-9.]*", given):
                raise click.UsageError(f"{given!r} is not an amount: no amount here is below zero")
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A transaction that was sent, or drafted, and what it is about."""

    sent: Sent
    told: str
    """In words, once it is done."""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """For --json: what moved, of which currency, and where to."""


class AmountType(click.ParamType["MicroUnits"]):
    """A decimal amount, read exactly."""

    name = "amount"

    def __init__(self, *, zero: bool) -> None:
        self._zero = zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MicroUnits:
        from robocompute_protocol.money import parse_amount

        if isinstance(value, int):
            return value  # pyright: ignore[reportReturnType]  converted before
        try:
            amount = parse_amount(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if not amount and not self._zero:
            self.fail("nothing would move: name an amount above zero", param, ctx)
        return amount


class AddressType(click.ParamType["Address"]):
    """A Solana address in base58."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        from robocompute_protocol.identifiers import address_from_base58

        if isinstance(value, bytes):
            return value  # pyright: ignore[reportReturnType]  converted before
        try:
            return address_from_base58(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


AMOUNT: Final = AmountType(zero=False)
LIMIT: Final = AmountType(zero=True)
"""An amount that bounds others, and may be nothing at all."""
ADDRESS: Final = AddressType()


def ask(question: str, *, yes: bool) -> None:
    """Return once the owner agreed.

    Raises:
        NotConfirmed: no, or there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{question}: nothing was sent; add --yes to do it without a terminal")
    if not click.confirm(question + "?", err=True):
        raise NotConfirmed("nothing was sent")


def with_purse(data: Path, use: Use, act: Callable[[Purse, NodeConfig], Awaitable[T]]) -> T:
    """Run ``act`` with the wallet of the node in ``data``. The node need not run.

    Raises:
        ConfigError: a setting or key file cannot be used.
        ChainError: the chain did not answer, or refused.
    """
    import trio

    from robocompute_node.chain_probe import require_chain
    from robocompute_node.config_file import load_config
    from robocompute_node.purse import open_purse

    async def acted() -> T:
        config = load_config(data)
        async with open_purse(config, use) as purse:
            await require_chain(config)
            return await act(purse, config)

    return trio.run(acted)


def with_accounts(data: Path, act: Callable[[MoneyApi, NodeConfig], Awaitable[T]]) -> T:
    """Run ``act`` with the books of the node in ``data``, which may run or not.

    Raises:
        ConfigError: a setting or key file cannot be used.
        ChainError: the chain did not answer, or refused.
    """
    import trio

    from robocompute_node.accounts_access import open_accounts
    from robocompute_node.chain_probe import require_chain
    from robocompute_node.config_file import load_config

    async def acted() -> T:
        config = load_config(data)
        await require_chain(config)
        async with open_accounts(config) as accounts:
            return await act(accounts, config)

    return trio.run(acted)


def with_node_key(data: Path, act: Callable[[SolanaSettlement], Awaitable[T]]) -> T:
    """Run ``act`` with the chain, signing as the node of ``data`` does. The node need not run.

    Raises:
        ConfigError: a setting or key file cannot be used.
        ChainError: the chain did not answer, or refused.
    """
    import trio

    from robocompute_node.chain_link import chain_link
    from robocompute_node.chain_probe import require_chain
    from robocompute_node.config_file import load_config
    from robocompute_node.keys import load_key
    from robocompute_settlement.solana import SolanaSettlement

    async def acted() -> T:
        config = load_config(data)
        await require_chain(config)
        async with SolanaSettlement(
            **chain_link(config.chain),
            signer_seed=load_key(config.node_key_path).seed,
        ) as chain:
            return await act(chain)

    return trio.run(acted)


def move(
    data: Path,
    act: Callable[[Purse, NodeConfig], Awaitable[Done]],
    *,
    unsigned: Path | None,
    as_json: bool,
) -> None:
    """Have the wallet sign one transaction, or draft it into ``unsigned``, and say what became of it.

    Raises:
        ConfigError: the wallet's secret is not here, or the file cannot be written.
        ChainError: it was not taken.
    """
    from robocompute_node.purse import Use
    from robocompute_settlement.drafting import DraftingSettlement

    if unsigned is None:
        try:
            done = with_purse(data, Use.SIGN, act)
        except ChainUnknown as exc:
            raise ChainUnknown(
                f"{exc}. Do not repeat this before two minutes are over and `robocompute-node "
                "wallet` shows that nothing has moved",
                signature=exc.signature,
                last_valid_height=exc.last_valid_height,
                details={"signature": exc.signature},
            ) from exc
        if as_json:
            say_json({"signature": done.sent.signature, "slot": done.sent.slot, **done.facts})
        else:
            say(f"{done.told}; transaction {done.sent.signature}")
        return

    async def drafted(purse: Purse, config: NodeConfig) -> tuple[bytes, Done, bool]:
        from robocompute_settlement.drafts import draft_file

        assert isinstance(purse.chain, DraftingSettlement)
        done = await act(purse, config)
        (draft,) = purse.chain.drafts
        content = draft_file(draft, config.chain.program_id)
        return content, done, config.wallet_path.exists()

    content, done, key_is_here = with_purse(data, Use.DRAFT, drafted)
    write_new(unsigned, content)
    if as_json:
        say_json({"unsigned": str(unsigned), **done.facts})
        return
    say(f"Not sent: {unsigned} is to be signed by the wallet, and sent, within about a minute:")
    key = f"--data {data}" if key_is_here else "--key KEYFILE    (where the wallet's key is)"
    say(f"  robocompute-node wallet sign {unsigned} {key}")
    say(f"  robocompute-node wallet send {signed_name(unsigned)} --data {data}")


def signed_name(draft: Path) -> Path:
    """Where the signed form of a draft goes, when nobody says otherwise."""
    return draft.with_name(draft.name + ".signed")


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        ConfigError: it is there, or cannot be written.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already and is not overwritten: name another"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written ({exc.strerror}): name another") from exc
