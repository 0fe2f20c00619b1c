"""A world on a cluster of somebody else's: what its keys need there, and what they lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainError, ChainRefused, ConfigError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import MicroUnits, format_amount
from robocompute_settlement.clusters import sol_text

if TYPE_CHECKING:
    from robocompute_node.localnet.chains import Deployment
    from robocompute_protocol.identifiers import Address
    from robocompute_settlement.solana import SolanaSettlement

Tell = Callable[[str], None]
"""Told in a few words what was done."""
ENOUGH_SHARE: Final = 4
"""A key that still holds a quarter of its SOL is not given more."""
AIRDROP_S: Final = 30.0
POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a key of the world must have before its node starts. The money is USDC."""

    who: str
    address: Address
    lamports: int
    deposit: MicroUnits = MicroUnits(0)
    stake: MicroUnits = MicroUnits(0)


async def require_cluster(
    needs: list[Need], deployment: Deployment, chain: SolanaSettlement, tell: Tell
) -> None:
    """See that the deployment is there and every need is met; ask for SOL where it is given away.

    Raises:
        ChainError: the cluster does not answer.
        ConfigError: something is missing; each thing was told in a line of its own.
    """
    missing = await _missing_of_deployment(deployment, chain)
    for need in needs:
        missing += await _missing_of(need, deployment, chain, tell)
    for line in missing:
        tell(f"missing: {line}")
    if missing:
        raise ConfigError(
            f"the cluster lacks {len(missing)} thing{'s' if len(missing) > 1 else ''} of this "
            f"world's: {missing[0]}",
            details={"missing": missing},
        )


async def _missing_of_deployment(deployment: Deployment, chain: SolanaSettlement) -> list[str]:
    try:
        config = await chain.config()
    except ChainRefused as exc:
        return [f"the settlement program: {exc} (`robocompute-node chain deploy` puts it there)"]
    return [
        f"the program takes no mint {to_base58(mint)}: correct mints in [chain]"
        for mint in deployment.mints
        if mint not in config.mints
    ]


async def _missing_of(
    need: Need, deployment: Deployment, chain: SolanaSettlement, tell: Tell
) -> list[str]:
    missing: list[str] = []
    where = to_base58(need.address)
    enough = need.lamports // ENOUGH_SHARE
    held = await chain.lamports(need.address)
    if held < enough:
        held = await _airdrop(need, chain, tell)
    if held < enough:
        sol = f"{sol_text(held)} SOL, not {sol_text(need.lamports)}"
        missing.append(f"{need.who} {where} has {sol}: send it the rest")
    if need.deposit or need.stake:
        usdc = deployment.mints[0]
        balance = await chain.balance(need.address, usdc)
        stake = await chain.stake_of(need.address, usdc)
        wanted = need.stake - (0 if stake is None else stake.bonded)
        if balance is None:
            wanted += need.deposit
        else:
            wanted -= balance.available
        tokens = await chain.token_balance(need.address, usdc)
        if tokens < wanted:
            missing.append(
                f"{need.who} {where} has {format_amount(tokens)} USDC, not "
                f"{format_amount(wanted)}: send it the rest"
            )
    return missing


async def _airdrop(need: Need, chain: SolanaSettlement, tell: Tell) -> int:
    """Ask the cluster's faucet, and return what is there in the end."""
    try:
        await chain.rpc.request_airdrop(need.address, need.lamports)
    except ChainError:
        return await chain.lamports(need.address)  # a cluster that gives nothing away
    tell(f"{need.who}: asked for {sol_text(need.lamports)} SOL")
    held = 0
    with trio.move_on_after(AIRDROP_S):
        while held < need.lamports // ENOUGH_SHARE:
            await trio.sleep(POLL_S)
            held = await chain.lamports(need.address)
    return held
